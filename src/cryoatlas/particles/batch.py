"""Batches of prepared images, in any order, read ahead of the work.

A particle may have several images, its *views*, taken after known tilts of the specimen (`particles.pairs`).
They stand in adjacent rows of a batch, in the order of the tilts; a batch is cut between particles only.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.symmetry import NO_SYMMETRY, point_group
from cryoatlas.imaging.projection import plane_frequencies
from cryoatlas.particles.buffer import ImageBuffer
from cryoatlas.particles.order import Order
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.prefetch import prefetched
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.particles.transfer import Transfer
from cryoatlas.shapes import Array, Float, Int, Tensor


@dataclass(frozen=True)
class Batch:
    """Some images with everything that the model needs to predict them.

    Its length is the number of its particles; its tensors have a row for each image.
    """

    index: Int[Tensor, "image"]
    """Position of each image's particle in its `ParticleSet`."""
    images: Float[Tensor, "image pixel"]
    """Hartley coefficients in a disc, normalised and windowed, odd phase errors undone."""
    ctf: Float[Tensor, "image pixel"] | None
    """What the signal of each coefficient is multiplied by; None for images without CTF."""
    pose: Pose | None
    """Of each image, its tilt included."""
    pixel_size: Float[Tensor, "image"]
    """Å."""
    magnification: Float[Tensor, "image 2 2"] | None = None
    """M of images whose magnification depends on direction; None where it does not."""
    tilts: Float[Tensor, "view 3 3"] | None = None
    """T of each view of a particle (C18), float64; None where every particle has one image."""
    symmetry: Float[Tensor, "element 3 3"] | None = None
    """g of the molecule's point group, float64; None where it has no symmetry."""

    def __len__(self) -> int:
        return len(self.index) // self.views

    def __getitem__(self, some: slice) -> "Batch":
        """All images of some of the particles, in a row."""
        first, end, step = some.indices(len(self))
        assert step == 1, "images are taken as they lie"
        rows = slice(first * self.views, end * self.views)
        present = {name: value for name, value in vars(self).items() if value is not None}
        for of_all in ("tilts", "symmetry"):
            present.pop(of_all, None)
        return replace(self, **{name: value[rows] for name, value in present.items()})

    @property
    def views(self) -> int:
        """Images of each particle."""
        return 1 if self.tilts is None else len(self.tilts)

    @property
    def particles(self) -> Int[Tensor, "particle"]:
        """Position of each particle in its `ParticleSet`."""
        return self.index[:: self.views]

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device."""
        return Batch(
            self.index.to(device),
            self.images.to(device),
            None if self.ctf is None else self.ctf.to(device),
            None if self.pose is None else self.pose.to(device),
            self.pixel_size.to(device),
            None if self.magnification is None else self.magnification.to(device),
            None if self.tilts is None else self.tilts.to(device),
            None if self.symmetry is None else self.symmetry.to(device),
        )

    def plane(self, disc: Disc) -> Float[Tensor, "image pixel 2"]:
        """Where the coefficients lie in the plane of the specimen's transform, Å⁻¹."""
        return plane_frequencies(disc, self.pixel_size, self.magnification)


@runtime_checkable
class Loader(Protocol):
    """What makes batches of a set of particles: of their only images, or of several of each."""

    particles: ParticleSet
    """The set, one row for each particle."""
    preprocessor: Preprocessor
    disc: Disc
    batch_size: int
    """Particles of a batch."""
    views: int
    """Images of each particle."""
    device: torch.device

    def batches(
        self, order: Order | Sequence[int] | Int[Tensor, "some"] | Int[Array, "some"]
    ) -> Iterator[Batch]:
        """Batches of the particles at these positions, in this order."""
        ...

    def batch(self, index: Int[Tensor, "image"]) -> Batch:
        """One batch, made here and now."""
        ...


class ParticleLoader:
    """Makes batches of a set of particles in any order, never holding more than a few of them.

    Reading, transforming and evaluating the CTF happen on a thread of their own, one batch ahead. An
    `Order` that comes in chunks is read on a second thread, one chunk ahead, and its images wait in a buffer
    of the order's size: with the chunks on their way about 600 MiB. Batches depend on the order alone: the
    same order gives the same batches, bit for bit.

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
        self.views = 1
        self.device = torch.device(device)
        self._transfer = Transfer(particles, disc, self.device)
        self._symmetry = _symmetry(particles, self.device)

    def batches(
        self, order: Order | Sequence[int] | Int[Tensor, "some"] | Int[Array, "some"]
    ) -> Generator[Batch, None, None]:
        """Batches of the images at these positions, in this order.

        Errors of reading are raised where the batch would have come (of a chunk, its first batch).
        Leaving the loop early stops the threads.
        """
        if isinstance(order, Order) and order.chunks:
            return prefetched(self._batches_of_chunks(order))
        listed = order.positions if isinstance(order, Order) else order
        positions = torch.as_tensor(np.asarray(listed), dtype=torch.int64)
        return prefetched(self.batch(part) for part in positions.split(self.batch_size) if len(part))

    def batch(self, index: Int[Tensor, "image"]) -> Batch:
        """One batch, made here and now."""
        return self._prepare(index, self.particles.images(index))

    def _batches_of_chunks(self, order: Order) -> Iterator[Batch]:
        # A batch may begin with images that left the buffer before its last chunk came in.
        capacity = order.buffer_images + self.batch_size
        waiting = ImageBuffer(len(self.particles), capacity, self.particles.box_size)
        with closing(prefetched((chunk, self.particles.images(chunk)) for chunk in order.chunks)) as chunks:
            for part in order.positions.split(self.batch_size):
                while not waiting.holds(part.numpy()).all():
                    waiting.put(*next(chunks))
                yield self._prepare(part, waiting.take(part.numpy()))

    def _prepare(self, index: Int[Tensor, "image"], pixels: Float[Tensor, "image box box"]) -> Batch:
        pixels = pixels.to(self.device)
        images, ctf = self._transfer(index, self.preprocessor.transform(pixels, self.disc))
        pose = self.particles.pose
        return Batch(
            index=index.to(self.device),
            images=images,
            ctf=ctf,
            pose=None if pose is None else pose[index].to(self.device, torch.float32),
            pixel_size=self.particles.pixel_size[index].to(self.device, torch.float32),
            magnification=self._transfer.magnification(index),
            symmetry=self._symmetry,
        )


def _symmetry(particles: ParticleSet, device: torch.device) -> Float[Tensor, "element 3 3"] | None:
    if particles.symmetry == NO_SYMMETRY:
        return None
    return point_group(particles.symmetry).to(device)
