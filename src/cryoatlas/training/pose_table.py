r"""Poses of all particles while they are being found, and batches that carry them.

The training loop takes batches with poses. Where poses are known they come with the images; here they
are drawn at random (the first epochs, which give a first map of the right size) or found against the
map of the moment, a chunk of images at a time, right before the network learns from that chunk.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.distributions import Independent

from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.grids import rotation_spacing
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import geodesic_angle, random_rotations
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.imaging.volume import Volume
from cryoatlas.models.basis import interpolate_volumes
from cryoatlas.models.vae import VAE
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.particles.batch import Batch
from cryoatlas.poses.branch_and_bound import Effort
from cryoatlas.poses.config import SearchConfig
from cryoatlas.poses.find import find_poses
from cryoatlas.poses.view import View
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.training.objective import centre_images

STAND_IN_ERROR = 0.02
"""Relative error of slices up to which sums of a few maps stand in for the network's volumes."""
STAND_IN_MAPS = 8
"""At most so many maps of a chunk; what that costs and gives: benchmarks/speed/search_own_z.py."""


@dataclass
class PoseTable:
    """The pose of every particle, by its position in the particle set; float64, on the CPU."""

    rotation: Float[Tensor, "every_particle 3 3"]
    shift: Float[Tensor, "every_particle 2"]
    """Å."""
    loss: Float[Tensor, "every_particle"]
    """Misfit at that pose when it was found; infinite where none was sought yet."""
    turned: Float[Tensor, "every_particle"]
    """By how much the last search changed the rotation, radians."""

    @classmethod
    def random(cls, count: int, seed: int) -> "PoseTable":
        """Rotations uniform on SO(3), no shifts."""
        rotation = random_rotations(count, np.random.default_rng((seed, count)))
        nothing = torch.full((count,), torch.inf, dtype=torch.float64)
        return cls(rotation, torch.zeros(count, 2, dtype=torch.float64), nothing, nothing.clone())

    @property
    def pose(self) -> Pose:
        """All of them."""
        return Pose(self.rotation, self.shift)

    def at(self, batch: Batch) -> Pose:
        """Those of the images of a batch, on its device, in float32."""
        return self.of(batch.particles, batch.images.device).of_views(batch.tilts)

    def of(self, index: Int[Tensor, "particle"], device: torch.device) -> Pose:
        """Those of some particles, in float32."""
        where = index.cpu()
        return Pose(self.rotation[where], self.shift[where]).to(device, torch.float32)

    def put(self, index: Int[Tensor, "particle"], pose: Pose, loss: Float[Tensor, "particle"]) -> None:
        """Remember what was found of some particles."""
        index, pose = index.cpu(), pose.to("cpu", torch.float64)
        self.turned[index] = geodesic_angle(self.rotation[index], pose.rotation)
        self.rotation[index], self.shift[index] = pose.rotation, pose.shift
        self.loss[index] = loss.cpu().double()

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"rotation": self.rotation, "shift": self.shift, "loss": self.loss, "turned": self.turned}

    @classmethod
    def restore(cls, tensors: dict[str, Tensor]) -> "PoseTable":
        """From a checkpoint's tensors."""
        return cls(**{name: value.cpu().clone() for name, value in tensors.items()})


def with_table_poses(chunks: Iterable[Batch], table: PoseTable, batch_size: int) -> Iterator[Batch]:
    """Batches of `batch_size` with the poses that the table has."""
    for chunk in chunks:
        yield from split(replace(chunk, pose=table.at(chunk)), batch_size)


def with_found_poses(
    chunks: Iterable[Batch],
    table: PoseTable,
    vae: VAE,
    config: SearchConfig,
    batch_size: int,
    seed: tuple[int, ...],
    on_effort: Callable[[Effort], None],
) -> Iterator[Batch]:
    """Batches with poses found against the volume that `vae` has when their chunk's turn comes.

    Args:
        chunks: images; each chunk is searched together, so that one map serves many images.
        seed: of the rotations of the grids, another one for each chunk.
        on_effort: told what the search of each chunk did.
    """
    for chunk in chunks:
        on_effort(search_chunk(chunk, table, vae, config, seed))
        yield from split(replace(chunk, pose=table.at(chunk)), batch_size)


@torch.no_grad()
def search_chunk(
    chunk: Batch, table: PoseTable, vae: VAE, config: SearchConfig, seed: tuple[int, ...]
) -> Effort:
    """Find the poses of some particles against their volumes of `vae`, and put them into the table.

    Returns:
        What the search did.
    """
    # From the chunk itself, so that a run that is resumed turns its grids alike.
    generator = np.random.default_rng((*seed, int(chunk.index[0])))
    band = config.band(config.subdivisions, vae.shape.box_size)
    volume, z = volumes_of(chunk, table, vae, band)
    views = views_of(chunk, vae.disc, vae.noise, vae.shape.pixel_size)
    found = find_poses(volume, views, config, z=z, turn=random_rotations(1, generator)[0])
    table.put(chunk.particles, found.pose, found.loss)
    return found.effort()


def volumes_of(
    chunk: Batch, table: PoseTable, vae: VAE, band: float
) -> tuple[Volume, Float[Tensor, "particle latent"] | None]:
    """What the particles of a chunk are searched against, ready to be cut: one map, or V(z) of each.

    z is what the encoder makes of the images at the poses that the table has. The network is evaluated in
    full at a few of these z only: maps weighed and added stand in for the others (`interpolate_volumes`).
    """
    posterior = latents_of(chunk, table, vae)
    if posterior is None:
        return VoxelVolume.from_map(vae.decoder.map(None, band), vae.shape.pixel_size), None
    stand_in = interpolate_volumes(
        vae.decoder,
        posterior.mean,
        band=band,
        tolerance=STAND_IN_ERROR,
        most=STAND_IN_MAPS,
        map_of=lambda z: vae.decoder.map(z, band),
    )
    return stand_in.volume, stand_in.z


def latents_of(chunk: Batch, table: PoseTable, vae: VAE) -> Independent | None:
    """q(z | X) of the particles of a chunk at the poses that the table has; None for a single volume."""
    if vae.encoder is None:
        return None
    centred = centre_images(replace(chunk, pose=table.at(chunk)), vae.disc)
    return vae.encode(centred.images, centred.ctf, centred.plane, centred.rotation)


def views_of(batch: Batch, disc: Disc, noise: NoiseModel, pixel_size: float) -> list[View]:
    """A batch as pose search sees it: for each tilt the images of all particles, whose losses add up."""
    tilts = [None] if batch.tilts is None else list(batch.tilts)
    return [
        View.of(
            batch.images[number :: batch.views],
            None if batch.ctf is None else batch.ctf[number :: batch.views],
            disc,
            noise,
            pixel_size,
            tilt,
            batch.symmetry,
        )
        for number, tilt in enumerate(tilts)
    ]


def search_at_band(config: SearchConfig, band: float) -> SearchConfig:
    """The search of a run's options for a volume that is known up to a band only (cycles per box).

    Grids finer than what the band can tell apart are left out: 60°/band between rotations moves the
    band's edge by one coefficient.
    """
    needed = math.ceil(math.log2(rotation_spacing(config.base_level) * band / math.radians(60)))
    return replace(
        config,
        band_start=min(config.band_start, band),
        band_end=band,
        subdivisions=max(1, min(config.subdivisions, needed)),
    )


def split(chunk: Batch, size: int) -> Iterator[Batch]:
    """A batch in smaller ones, of so many particles."""
    for start in range(0, len(chunk), size):
        yield chunk[start : start + size]
