r"""The negative evidence lower bound, with one sample of z per image.

.. math:: -\log p(X\,|\,z, \phi) + \beta\,\mathrm{KL}(q(z\,|\,X)\,\|\,N(0, I))
"""

from dataclasses import dataclass

import torch
from torch.distributions import kl_divergence

from cryoatlas.fourier.lattice import Disc
from cryoatlas.imaging.projection import central_slices, plane_frequencies
from cryoatlas.imaging.shift import shift_hartley
from cryoatlas.models.vae import VAE
from cryoatlas.particles.batch import Batch
from cryoatlas.shapes import Float, Tensor
from cryoatlas.training.schedule import Draw


@dataclass(frozen=True)
class Loss:
    """Terms of the objective, one value per image, in nats."""

    misfit: Float[Tensor, "image"]
    """½ Σ |X − ĝ S A V|²/σ² over the band: −log p(X|z) without its constant."""
    kl: Float[Tensor, "image"]
    beta: float

    @property
    def total(self) -> Float[Tensor, ""]:
        """What is minimised: the mean over images."""
        return (self.misfit + self.beta * self.kl).mean()


@dataclass(frozen=True)
class CentredBatch:
    """A batch with shifts undone: S(−t) X̂, its CTF and where its coefficients lie in the plane."""

    images: Float[Tensor, "image pixel"]
    ctf: Float[Tensor, "#image #pixel"]
    plane: Float[Tensor, "image pixel 2"]
    rotation: Float[Tensor, "image 3 3"]


def centre_images(batch: Batch, disc: Disc) -> CentredBatch:
    """Undo the shifts of a batch whose coefficients are those of `disc`."""
    assert batch.pose is not None, "work with known poses reads particle sets with poses only"
    plane = plane_frequencies(disc, batch.pixel_size)
    images = shift_hartley(batch.images, plane, -batch.pose.shift)
    ctf = torch.ones(1, 1, device=images.device) if batch.ctf is None else batch.ctf
    return CentredBatch(images, ctf, plane, batch.pose.rotation)


def misfit(
    vae: VAE, batch: CentredBatch, z: Float[Tensor, "image latent"] | None, draw: Draw
) -> Float[Tensor, "image"]:
    """½ Σ |X − ĝ A(R) V̂(z)|²/σ² over a draw of coefficients, weighted to stand for the whole band."""
    keep = draw.keep
    ctf = batch.ctf if batch.ctf.shape[-1] == 1 else batch.ctf[:, keep]
    predicted = ctf * central_slices(vae.decoder, batch.plane[:, keep], batch.rotation, z)
    precision = draw.weight / vae.noise.on(vae.disc)[keep]
    return 0.5 * ((batch.images[:, keep] - predicted).square() * precision).sum(-1)


def elbo(vae: VAE, batch: CentredBatch, draw: Draw, beta: float, generator: torch.Generator) -> Loss:
    """The objective of a batch; z is one reparameterised sample from the encoder for each image."""
    posterior = vae.encode(batch.images, batch.ctf, batch.plane, batch.rotation)
    if posterior is None:
        value = misfit(vae, batch, None, draw)
        return Loss(value, torch.zeros_like(value), beta)
    noise = torch.randn(posterior.mean.shape, generator=generator, device=generator.device)
    z = posterior.mean + posterior.stddev * noise.to(posterior.mean)
    return Loss(misfit(vae, batch, z, draw), kl_divergence(posterior, vae.prior), beta)
