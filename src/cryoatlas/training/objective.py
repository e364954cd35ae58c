r"""The negative evidence lower bound, with one sample of z per particle.

.. math:: -\log p(X\,|\,z, \phi) + \beta\,\mathrm{KL}(q(z\,|\,X)\,\|\,N(0, I))

Noise is Gaussian with a variance for each shell, and the contrast of the image integrated out
(`imaging.contrast`). Images of one particle, its views, have one z, and their misfits add up. All
normalisations are kept: a loss stays comparable when the variances change.
"""

import math
from dataclasses import dataclass

import torch
from torch.distributions import kl_divergence

from cryoatlas.fourier.lattice import Disc
from cryoatlas.imaging.contrast import Contrast, fit_contrast, misfit_over_contrasts
from cryoatlas.imaging.projection import central_slices, plane_frequencies
from cryoatlas.imaging.shift import shift_hartley
from cryoatlas.models.vae import VAE
from cryoatlas.particles.batch import Batch
from cryoatlas.shapes import Float, Tensor
from cryoatlas.training.schedule import Draw


@dataclass(frozen=True)
class Loss:
    """Terms of the objective, one value per particle, in nats."""

    misfit: Float[Tensor, "particle"]
    """−log p(X|z) of the coefficients in the band, of all images of the particle."""
    kl: Float[Tensor, "particle"]
    beta: float
    compared: "Compared"
    """What the misfit was computed of."""

    @property
    def total(self) -> Float[Tensor, ""]:
        """What is minimised: the mean over particles."""
        return (self.misfit + self.beta * self.kl).mean()


@dataclass(frozen=True)
class CentredBatch:
    """A batch with shifts undone: S(−t) X̂, its CTF and where its coefficients lie in the plane."""

    images: Float[Tensor, "image pixel"]
    ctf: Float[Tensor, "#image #pixel"]
    plane: Float[Tensor, "image pixel 2"]
    rotation: Float[Tensor, "image 3 3"]
    views: int = 1
    """Images of each particle, in adjacent rows."""


def centre_images(batch: Batch, disc: Disc) -> CentredBatch:
    """Undo the shifts of a batch whose coefficients are those of `disc`."""
    assert batch.pose is not None, "work with known poses reads particle sets with poses only"
    images = shift_hartley(batch.images, plane_frequencies(disc, batch.pixel_size), -batch.pose.shift)
    ctf = torch.ones(1, 1, device=images.device) if batch.ctf is None else batch.ctf
    return CentredBatch(images, ctf, batch.plane(disc), batch.pose.rotation, batch.views)


@dataclass(frozen=True)
class Compared:
    """Images and their predictions of contrast 1, on a draw of coefficients."""

    observed: Float[Tensor, "image kept"]
    predicted: Float[Tensor, "image kept"]
    draw: Draw
    views: int = 1
    """Images of each particle, in adjacent rows."""

    def contrast(self, vae: VAE) -> Contrast:
        """Posterior of the images' contrasts, from these coefficients alone."""
        precision = 1 / vae.noise.on(vae.disc)[self.draw.keep]
        return fit_contrast(self.observed, self.predicted, precision, vae.contrast_variance)

    def misfit(self, vae: VAE) -> Float[Tensor, "particle"]:
        """−log p(X|z) of the band that the draw stands for: half a χ², contrasts integrated out, and the
        normalisation of the noise, summed over the images of each particle. A contrast is an image's own."""
        variance = vae.noise.on(vae.disc)[self.draw.keep]
        normaliser = 0.5 * (self.draw.weight * torch.log(2 * math.pi * variance)).sum()
        precision = self.draw.weight / variance
        by_image = normaliser + misfit_over_contrasts(
            self.observed, self.predicted, precision, self.contrast(vae), vae.contrast_variance
        )
        return by_image.unflatten(0, (-1, self.views)).sum(1)


def compare(
    vae: VAE, batch: CentredBatch, z: Float[Tensor, "particle latent"] | None, draw: Draw
) -> Compared:
    """Images beside ĝ A(R) V̂(z) on a draw of coefficients; all images of a particle with its z."""
    keep = draw.keep
    ctf = batch.ctf if batch.ctf.shape[-1] == 1 else batch.ctf[:, keep]
    by_image = z if z is None or batch.views == 1 else z.repeat_interleave(batch.views, 0)
    predicted = ctf * central_slices(vae.decoder, batch.plane[:, keep], batch.rotation, by_image)
    return Compared(batch.images[:, keep], predicted, draw, batch.views)


def elbo(vae: VAE, batch: CentredBatch, draw: Draw, beta: float, generator: torch.Generator) -> Loss:
    """The objective of a batch; z is one reparameterised sample from the encoder for each particle."""
    posterior = vae.encode(batch.images, batch.ctf, batch.plane, batch.rotation)
    if posterior is None:
        compared = compare(vae, batch, None, draw)
        value = compared.misfit(vae)
        return Loss(value, torch.zeros_like(value), beta, compared)
    noise = torch.randn(posterior.mean.shape, generator=generator, device=generator.device)
    z = posterior.mean + posterior.stddev * noise.to(posterior.mean)
    compared = compare(vae, batch, z, draw)
    return Loss(compared.misfit(vae), kl_divergence(posterior, vae.prior), beta, compared)
