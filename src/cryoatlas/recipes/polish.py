r"""Refining poses against back-projected maps, each half set against its own.

Round by round: two half maps from the poses of the moment, filtered by their correlation, and a few
Gauss–Newton steps of every image towards the map of *its* half, up to the resolution at which the
half maps agree. What one half reads into its noise the other does not confirm.
"""

import torch

from cryoatlas.fourier.shells import shell_grid
from cryoatlas.fourier.transform import hartley_volume, inverse_hartley_volume
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.particles.batch import Batch, Loader
from cryoatlas.particles.order import storage_order
from cryoatlas.poses.refinement import refine
from cryoatlas.progress import Progress
from cryoatlas.recipes.backprojection import backproject
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.training.pose_table import PoseTable, views_of, with_table_poses

STEPS = 3
"""Gauss–Newton steps in each round."""
AGREEMENT = 0.143
"""Half maps count as known up to the first shell whose correlation is lower."""
LEAST_BAND = 8.0
"""Cycles per box; less does not fix a pose."""


def polish_poses(
    loader: Loader,
    table: PoseTable,
    noise: NoiseModel,
    pixel_size: float,
    progress: Progress,
    note: str = "refining poses",
) -> Float[Tensor, "shell"]:
    """One round: improve the poses of a table in place.

    Args:
        loader: of all images.
        noise: of their coefficients.
        pixel_size: of the maps, Å.

    Returns:
        The half maps' correlation before the round.
    """
    particles = loader.particles
    count, done = len(particles), 0
    halves = particles.half_sets()
    order = storage_order(particles)
    reconstruction = backproject(
        with_table_poses(loader.batches(order), table, loader.batch_size),
        loader.disc,
        pixel_size,
        count,
        half_sets=halves,
        noise=noise,
    )
    support = loader.preprocessor.support.to(loader.device)
    volumes = [
        VoxelVolume.from_map(_filtered(half, reconstruction.fsc) * support, pixel_size)
        for half in reconstruction.half_maps
    ]
    band = known_band(reconstruction.fsc)
    for batch in loader.batches(order):
        _refine_batch(batch, table, volumes, halves, noise, loader, band)
        done += len(batch)
        progress(done, count, note)
    return reconstruction.fsc


def known_band(fsc: Float[Tensor, "shell"]) -> float:
    """Radius up to which half maps agree, cycles per box."""
    below = (fsc[1:] < AGREEMENT).nonzero()
    first = int(below[0]) + 1 if len(below) else len(fsc) - 1
    return max(LEAST_BAND, float(first))


def _filtered(
    half_map: Float[Tensor, "box box box"], fsc: Float[Tensor, "shell"]
) -> Float[Tensor, "box box box"]:
    """A half map times its Wiener weight: SNR/(1 + SNR) of one half is the correlation of both."""
    box = half_map.shape[-1]
    shells = shell_grid(box, 3).to(half_map.device)
    known = torch.cat([fsc.clamp(0, 1).to(half_map), half_map.new_zeros(1)])
    # The corners of the grid, beyond the last shell, are noise.
    weight = known[shells.clamp(max=len(fsc))]
    return inverse_hartley_volume(weight * hartley_volume(half_map))


@torch.no_grad()
def _refine_batch(
    batch: Batch,
    table: PoseTable,
    volumes: list[VoxelVolume],
    halves: Int[Tensor, "every_image"],
    noise: NoiseModel,
    loader: Loader,
    band: float,
) -> None:
    views = views_of(batch, loader.disc, noise, volumes[0].pixel_size)
    particles = batch.particles
    pose = table.of(particles, batch.images.device)
    for number, volume in enumerate(volumes):
        mine = (halves[particles.cpu()] == number).nonzero().squeeze(-1).to(particles.device)
        if len(mine):
            refined, loss = refine(volume, [view[mine] for view in views], pose[mine], STEPS, band=band)
            table.put(particles[mine], refined, loss)
