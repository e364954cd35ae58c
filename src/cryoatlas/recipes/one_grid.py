"""What slices of one map on one grid ask of a set of images."""

from cryoatlas.errors import MetadataError
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.particles.batch import Batch, Loader
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.poses.view import View
from cryoatlas.training.pose_table import views_of

SAME_PIXEL = 1e-4
"""Relative difference up to which pixel sizes count as one."""


def require_one_grid(particles: ParticleSet, instead: str | None = None) -> None:
    """Refuse images of several pixel sizes: slices of one map must serve them all.

    Args:
        instead: what takes them as they are, if anything.

    Raises:
        MetadataError: naming the smallest and the largest.
    """
    sizes = particles.pixel_size
    low, high = float(sizes.min()), float(sizes.max())
    if high > low * (1 + SAME_PIXEL):
        otherwise = "" if instead is None else f", or use {instead}, which takes them as they are"
        raise MetadataError(
            f"the images of {particles.path} have pixel sizes from {low:g} to {high:g} Å, but one map "
            f"is to serve them all: bring them to one grid with `cryoatlas prepare`{otherwise}."
        )


def views_on_grid(batch: Batch, loader: Loader, noise: NoiseModel, band: float | None = None) -> list[View]:
    """The images of a batch as they are compared with slices, on the grid that all images have.

    Args:
        band: only frequencies inside this radius, cycles per box; default all.
    """
    views = views_of(batch, loader.disc, noise, float(loader.particles.pixel_size.median()))
    return views if band is None else [view.inside(band) for view in views]
