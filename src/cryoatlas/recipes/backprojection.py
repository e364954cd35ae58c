"""Back-projection with known poses: map, half maps, FSC; the check that poses and CTF were read rightly."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from cryoatlas.fourier.correlation import fourier_shell_correlation, signal_to_noise
from cryoatlas.fourier.lattice import Disc
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.imaging.projection import slice_frequencies
from cryoatlas.models.voxel import Backprojector
from cryoatlas.particles.batch import Batch, ParticleLoader
from cryoatlas.particles.order import storage_order
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.progress import Progress, silent
from cryoatlas.recipes.device import choose_device
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.training.objective import centre_images


@dataclass(frozen=True)
class Reconstruction:
    """What back-projection gives."""

    map: Float[Tensor, "box box box"]
    """From all images, Wiener filtered by the half-map FSC, zero where images are windowed away."""
    half_maps: tuple[Float[Tensor, "box box box"], Float[Tensor, "box box box"]]
    """From the two half sets, unfiltered."""
    fsc: Float[Tensor, "shell"]
    """Between the half maps."""


@torch.no_grad()
def backproject(
    batches: Iterable[Batch],
    disc: Disc,
    pixel_size: float,
    count: int,
    *,
    support: Float[Tensor, "box box box"] | None = None,
    weights: Float[Tensor, "every_image"] | None = None,
    half_sets: Int[Tensor, "every_image"] | None = None,
    noise: NoiseModel | None = None,
    progress: Progress = silent,
) -> Reconstruction:
    """Reconstruct from images with poses, in one pass.

    Args:
        batches: every image once; all images of a particle have its number.
        disc: of the batches' coefficients.
        pixel_size: of the map, Å. Images of other pixel sizes are placed at their own frequencies.
        count: number of particles, for `progress` only.
        support: multiplies the map, not the half maps: where density can be (`Preprocessor.support`).
        weights: of each image by its number, such as a kernel in a state coordinate; default 1.
        half_sets: 0 or 1 for each image by its number (`ParticleSet.half_sets`); default by turns.
        noise: what the images' coefficients are weighted by; default all alike.
    """
    halves: list[Backprojector] | None = None
    done = 0
    by_shell = torch.ones(1) if noise is None else 1 / noise.on(disc)
    for batch in batches:
        centred = centre_images(batch, disc)
        if halves is None:
            by_shell = by_shell.to(centred.images)
            halves = [Backprojector(disc.box_size, pixel_size, like=centred.images) for _ in range(2)]
        group = [None] if batch.symmetry is None else list(batch.symmetry.to(centred.rotation))
        weight = torch.ones(len(batch.index)) if weights is None else weights[batch.index.cpu()]
        member = batch.index.cpu() % 2 if half_sets is None else half_sets[batch.index.cpu()]
        for number, half in enumerate(halves):
            mine = ((member == number) & (weight > 0)).to(batch.index.device).nonzero().squeeze(-1)
            if len(mine):
                ctf = centred.ctf if len(centred.ctf) == 1 else centred.ctf[mine]
                precision = weight[mine.cpu()][:, None].to(centred.images) * by_shell
                rotation = centred.rotation[mine]
                plane = centred.plane if len(centred.plane) == 1 else centred.plane[mine]
                for element in group:
                    turned = rotation if element is None else rotation @ element
                    half.add(centred.images[mine], slice_frequencies(plane, turned), ctf, precision)
        done += len(batch)
        progress(done, count, "")
    assert halves is not None, "read_particles refuses empty particle sets"
    first, second = halves[0].solve(), halves[1].solve()
    fsc = fourier_shell_correlation(first, second)
    map_ = (halves[0] + halves[1]).solve(signal_to_noise(fsc))
    return Reconstruction(map_ if support is None else map_ * support.to(map_), (first, second), fsc)


def backproject_particles(
    particles: ParticleSet,
    *,
    device: str = "auto",
    batch_size: int = 256,
    weights: Float[Tensor, "every_image"] | None = None,
    progress: Progress = silent,
) -> Reconstruction:
    """Reconstruct from a particle set, streaming it from disk; densities in the units of the files.

    Raises:
        MetadataError: the particles have no poses, or are images of one particle in a tilt series.
        ConfigError: there is no such device.
    """
    particles.require_pose()
    disc = Disc(particles.box_size)
    preprocessor = Preprocessor.fit(particles)
    loader = ParticleLoader(particles, preprocessor, disc, batch_size, device=choose_device(device))
    count = len(particles)
    pixel_size = float(particles.pixel_size.median())
    batches = loader.batches(storage_order(particles))
    result = backproject(
        batches,
        disc,
        pixel_size,
        count,
        support=preprocessor.support,
        weights=weights,
        half_sets=particles.half_sets(),
        progress=progress,
    )
    scale = preprocessor.std
    first, second = result.half_maps
    return Reconstruction(result.map * scale, (first * scale, second * scale), result.fsc)
