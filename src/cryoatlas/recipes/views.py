"""Batches as pose search sees them: one `View` for each way in which the particles were looked at."""

from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.particles.batch import Batch, ParticleLoader
from cryoatlas.poses.view import View
from cryoatlas.shapes import Int, Tensor


def views_of(batch: Batch, loader: ParticleLoader, noise: NoiseModel) -> list[View]:
    """The images of a batch, whitened."""
    pixel_size = float(loader.particles.pixel_size.median())
    return [View.of(batch.images, batch.ctf, loader.disc, noise, pixel_size)]


def particles_of(batch: Batch) -> Int[Tensor, "particle"]:
    """Positions of a batch's particles in their set."""
    return batch.index
