"""Tilt pairs (M9): a second image of every particle, taken after a known tilt about the images' x axis.

Both images show one particle in one state and one pose, which tells the hand that single images cannot, and
says of each particle what one direction hides (convention C18).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import torch

from cryoatlas.errors import ConfigError, ImageDataError, MetadataError
from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.rotations import about_x
from cryoatlas.particles.batch import Batch, Loader, ParticleLoader
from cryoatlas.particles.order import Order
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.shapes import Array, Float, Int, Tensor

SAME_PIXEL = 1e-4
"""Relative difference up to which the pixel sizes of a pair count as one."""


@dataclass(frozen=True)
class TiltedImages:
    """The second images of some particles, in the particles' order."""

    particles: ParticleSet
    angle_deg: float
    """By which the specimen was turned about the images' x axis before they were taken, degrees."""

    @property
    def tilts(self) -> Float[Tensor, "view 3 3"]:
        """T of both images, float64: particles of pose (R, t) are seen at (T R, t)."""
        return torch.stack([torch.eye(3, dtype=torch.float64), about_x(math.radians(self.angle_deg))])


def pair(particles: ParticleSet, tilted: ParticleSet, angle_deg: float) -> TiltedImages:
    """The second images of particles, after a look whether they can be that.

    Args:
        particles: the first images.
        tilted: the second, in the same order.
        angle_deg: tilt of the specimen between them, degrees.

    Raises:
        ConfigError: the angle is 0 or not within ±180°.
        MetadataError: the files differ in the number of images, in pixel sizes, or in having a CTF.
        ImageDataError: they differ in box size.
    """
    if not 0 < abs(angle_deg) <= 180:
        raise ConfigError(f"the tilt angle must lie within ±180° and not be 0, got {angle_deg:g}.")
    first, second = particles.path, tilted.path
    if len(tilted) != len(particles):
        raise MetadataError(
            f"{second} has {len(tilted)} images and {first} has {len(particles)}, but every particle needs "
            "one in each: give two files with the same particles in the same order."
        )
    if tilted.box_size != particles.box_size:
        raise ImageDataError(
            f"the images of {second} have {tilted.box_size} px and those of {first} {particles.box_size} px, "
            "but pairs need one box size: bring both files to it with `cryoatlas prepare`."
        )
    _check_pixel_sizes(particles, tilted)
    if (tilted.ctf is None) != (particles.ctf is None):
        without, has = (second, first) if tilted.ctf is None else (first, second)
        raise MetadataError(
            f"{without} has no CTF parameters, which {has} has, but pairs need them in both or in neither: "
            "give files of one kind."
        )
    return TiltedImages(tilted, angle_deg)


def _check_pixel_sizes(particles: ParticleSet, tilted: ParticleSet) -> None:
    ratio = (tilted.pixel_size / particles.pixel_size).numpy()
    other = np.flatnonzero(np.abs(ratio - 1) > SAME_PIXEL).tolist()
    if other:
        row = other[0]
        first, second = (
            f"{each.tables.particles.row_name(row)} has a pixel size of {float(each.pixel_size[row]):g} Å"
            for each in (particles, tilted)
        )
        raise MetadataError(
            f"{second}, but {first}, and they are a pair; {len(other)} of {len(particles)} pairs differ. "
            "Correct the pixel sizes, or bring both files to one grid with `cryoatlas prepare`."
        )


class ViewLoader:
    """A `Loader` of several images of each particle, one loader for each view.

    Args:
        loaders: of one box, preprocessing, batch size and device; the sets have the same particles in the
            same order. The first one's set counts as the particles', with its poses; poses of the others
            are not looked at.
        tilts: T of each view (C18).
    """

    def __init__(self, loaders: Sequence[ParticleLoader], tilts: Float[Tensor, "view 3 3"]) -> None:
        first = loaders[0]
        self.particles = first.particles
        self.preprocessor = first.preprocessor
        self.disc = first.disc
        self.batch_size = first.batch_size
        self.views = len(loaders)
        self.device = first.device
        self._loaders = tuple(loaders)
        self._tilts = tilts.to(self.device)

    def batches(
        self, order: Order | Sequence[int] | Int[Tensor, "some"] | Int[Array, "some"]
    ) -> Iterator[Batch]:
        """Batches of all images of the particles at these positions, in this order."""
        with ExitStack() as stack:
            views = [stack.enter_context(closing(loader.batches(order))) for loader in self._loaders]
            for batches in zip(*views, strict=True):
                yield self._joined(batches)

    def batch(self, index: Int[Tensor, "image"]) -> Batch:
        """One batch, made here and now."""
        return self._joined([loader.batch(index) for loader in self._loaders])

    def _joined(self, batches: Sequence[Batch]) -> Batch:
        first = batches[0]
        ctf = [batch.ctf for batch in batches if batch.ctf is not None]
        assert len(ctf) in (0, len(batches)), "`pair` refuses views of which one has a CTF"
        return Batch(
            index=first.index.repeat_interleave(len(batches)),
            images=_interleaved([batch.images for batch in batches]),
            ctf=_interleaved(ctf) if ctf else None,
            pose=None if first.pose is None else first.pose.of_views(self._tilts),
            pixel_size=_interleaved([batch.pixel_size for batch in batches]),
            magnification=_magnification(batches),
            tilts=self._tilts,
            symmetry=first.symmetry,
        )


def _interleaved(parts: list[Tensor]) -> Tensor:
    """Rows of all views by turns."""
    return torch.stack(parts, 1).flatten(0, 1)


def _magnification(batches: Sequence[Batch]) -> Float[Tensor, "image 2 2"] | None:
    """None if no view has one; 1 in those that have none beside one that has."""
    if all(batch.magnification is None for batch in batches):
        return None
    one = torch.eye(2, device=batches[0].images.device).expand(len(batches[0]), 2, 2)
    return _interleaved([one if batch.magnification is None else batch.magnification for batch in batches])


def make_loader(
    particles: ParticleSet,
    preprocessor: Preprocessor,
    disc: Disc,
    batch_size: int,
    device: torch.device | str = "cpu",
    tilted: TiltedImages | None = None,
) -> Loader:
    """The loader of particles with one image each, or two if the second ones are given.

    Both are prepared alike, with the scale of the first: relative contrasts stay what they are.
    """
    sets = [particles] if tilted is None else [particles, tilted.particles]
    loaders = [ParticleLoader(each, preprocessor, disc, batch_size, device) for each in sets]
    return loaders[0] if tilted is None else ViewLoader(loaders, tilted.tilts)
