"""Batches of prepared images, in any order, read one batch ahead of the work."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.projection import plane_frequencies
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.prefetch import prefetched
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.particles.transfer import Transfer
from cryoatlas.shapes import Array, Float, Int, Tensor


@dataclass(frozen=True)
class Batch:
    """Some images with everything that the model needs to predict them."""

    index: Int[Tensor, "image"]
    """Position of each image in its `ParticleSet`."""
    images: Float[Tensor, "image pixel"]
    """Hartley coefficients in a disc, normalised and windowed, odd phase errors undone."""
    ctf: Float[Tensor, "image pixel"] | None
    """What the signal of each coefficient is multiplied by; None for images without CTF."""
    pose: Pose | None
    pixel_size: Float[Tensor, "image"]
    """Å."""
    magnification: Float[Tensor, "image 2 2"] | None = None
    """M of images whose magnification depends on direction; None where it does not."""

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device."""
        return Batch(
            self.index.to(device),
            self.images.to(device),
            None if self.ctf is None else self.ctf.to(device),
            None if self.pose is None else self.pose.to(device),
            self.pixel_size.to(device),
            None if self.magnification is None else self.magnification.to(device),
        )

    def plane(self, disc: Disc) -> Float[Tensor, "image pixel 2"]:
        """Where the coefficients lie in the plane of the specimen's transform, Å⁻¹."""
        return plane_frequencies(disc, self.pixel_size, self.magnification)


class ParticleLoader:
    """Makes batches of a set of particles in any order, never holding more than two of them.

    Reading, transforming and evaluating the CTF happen on a thread of their own, one batch ahead.
    Batches depend on the order alone: the same order gives the same batches, bit for bit.

    Args:
        particles: the set.
        preprocessor: fitted to it.
        disc: the coefficients kept; of the box of the images.
        batch_size: images of a batch; the last one of an order may be smaller.
        device: where transforms and CTFs are computed and batches handed over.
    """

    def __init__(
        self,
        particles: ParticleSet,
        preprocessor: Preprocessor,
        disc: Disc,
        batch_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if disc.box_size != particles.box_size:
            raise ValueError(f"a disc of box {disc.box_size} does not fit images of {particles.box_size} px")
        if batch_size < 1:
            raise ValueError(f"a batch holds at least one image, got {batch_size}")
        self.particles = particles
        self.preprocessor = preprocessor
        self.disc = disc
        self.batch_size = batch_size
        self.device = torch.device(device)
        self._transfer = Transfer(particles, disc, self.device)

    def batches(self, order: Sequence[int] | Int[Tensor, "some"] | Int[Array, "some"]) -> Iterator[Batch]:
        """Batches of the images at these positions, in this order.

        Errors of reading are raised where the batch would have come. Leaving the loop early stops the
        thread.
        """
        positions = torch.as_tensor(np.asarray(order), dtype=torch.int64)
        return prefetched(self.batch(part) for part in positions.split(self.batch_size) if len(part))

    def batch(self, index: Int[Tensor, "image"]) -> Batch:
        """One batch, made here and now."""
        pixels = self.particles.images(index).to(self.device)
        images, ctf = self._transfer(index, self.preprocessor.transform(pixels, self.disc))
        pose = self.particles.pose
        return Batch(
            index=index.to(self.device),
            images=images,
            ctf=ctf,
            pose=None if pose is None else pose[index].to(self.device, torch.float32),
            pixel_size=self.particles.pixel_size[index].to(self.device, torch.float32),
            magnification=self._transfer.magnification(index),
        )


def random_order(count: int, seed: int, epoch: int) -> Int[Tensor, "image"]:
    """A permutation of 0 … count − 1 that depends on seed and epoch alone, so that runs can resume."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(count))
