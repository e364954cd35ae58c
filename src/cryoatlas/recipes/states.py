"""States with poses known and no network (`--recipe subspace`), from particles to a run folder.

The consensus map first; then passes over the images that solve components, each half set by the latents that
the other's maps tell (`subspace.known_poses`); then one that gives every image its z, a chart of what z means
(`subspace.chart`), and one that chooses how wide a kernel volumes are made with (`subspace.states`).
"""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cryoatlas.fourier.correlation import signal_to_noise
from cryoatlas.fourier.lattice import Disc
from cryoatlas.particles.batch import Batch, Loader
from cryoatlas.particles.order import storage_order
from cryoatlas.particles.pairs import make_loader, pair
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.progress import Interrupted, Progress, StopRequested, never, silent
from cryoatlas.recipes import run as runs
from cryoatlas.recipes import states_file
from cryoatlas.recipes.device import choose_device
from cryoatlas.recipes.noise import spectra
from cryoatlas.recipes.one_grid import require_one_grid, views_on_grid
from cryoatlas.recipes.pose_rounds import known_band
from cryoatlas.recipes.states_file import Kept
from cryoatlas.recipes.train import consensus_map
from cryoatlas.recipes.volumes import Latents, posed, state_sums
from cryoatlas.shapes import Float, Tensor
from cryoatlas.subspace.chart import NODES, Chart, fit_chart
from cryoatlas.subspace.config import StatesConfig
from cryoatlas.subspace.expectation import Known
from cryoatlas.subspace.known_poses import HalfSets, Pass
from cryoatlas.subspace.model import Subspace, mean_square
from cryoatlas.subspace.states import StateSums, held_out_errors

logger = logging.getLogger(__name__)

LEAST_PASSED = 0.05
"""Signal of a shell is told by what the consensus' Wiener filter passed, and not from less than this part."""


def reconstruct_states(
    particles: ParticleSet,
    config: StatesConfig,
    out: Path | str,
    *,
    tilted: ParticleSet | None = None,
    tilt_angle_deg: float = 45.0,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    progress: Progress = silent,
    stop_requested: StopRequested = never,
    folder_is_ready: bool = False,
) -> runs.Run:
    """Find components, latents and the kernel of states of images with poses; write a run folder.

    Args:
        particles: with poses.
        config: of the engine.
        out: the run folder.
        tilted, tilt_angle_deg: a second image of each particle, as for `recipes.train.train`.
        resume: continue the run in `out`, started with the same options, after its last finished pass.
        overwrite: replace what `out` holds.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        stop_requested: asked after each chunk of images; a pass that is stopped is done again.
        folder_is_ready: `out` was made by the caller, who may have put something into it.

    Raises:
        MetadataError: the particles lack poses or have several pixel sizes, or `tilted` is not theirs.
        OutputError: `out` is not empty and neither `resume` nor `overwrite` is set.
        ConfigError: `resume` with other options, or an unknown device.
        Interrupted: `stop_requested` said yes.
    """
    particles.require_pose()
    require_one_grid(particles)
    _warn_of_magnification(particles)
    second = None if tilted is None else pair(particles, tilted, tilt_angle_deg)
    place = choose_device(device)
    begun = runs.begin(
        Path(out),
        config,
        particles,
        second,
        resume=resume,
        overwrite=overwrite,
        folder_is_ready=folder_is_ready,
    )
    disc = Disc(particles.box_size)
    loader = make_loader(particles, begun.preprocessor, disc, config.chunk, place, second)
    work = _Work(loader, config, begun.folder, progress, stop_requested)
    started = time.perf_counter()
    kept = states_file.load(begun.folder / runs.CHECKPOINTS)
    kept = _first_maps(work) if kept is None else kept.to(place)
    runs.append_log(begun.folder, {"event": "start", "epoch": int(kept.epoch), "device": str(place)})
    for epoch in range(int(kept.epoch), config.epochs):
        kept = _solve_components(work, kept, epoch)
        states_file.save(begun.folder / runs.CHECKPOINTS, kept)
    _finish(work, kept)
    runs.append_log(begun.folder, {"event": "end", "seconds": time.perf_counter() - started})
    return runs.open_run(begun.folder)


@dataclass(frozen=True)
class _Work:
    """What every step needs."""

    loader: Loader
    config: StatesConfig
    folder: Path
    progress: Progress
    stop_requested: StopRequested

    @property
    def count(self) -> int:
        """Of particles."""
        return len(self.loader.particles)

    def batches(self, done: int, total: int, note: str) -> Iterator[Batch]:
        """All batches, with progress told after each.

        Args:
            done, total: images before this pass and in all of its phase.
        """
        for batch in self.loader.batches(storage_order(self.loader.particles)):
            yield batch
            done += len(batch)
            self.progress(done, total, note)
            if self.stop_requested():
                raise Interrupted(f"stopped in {note}; going on begins that pass again")


def _warn_of_magnification(particles: ParticleSet) -> None:
    if particles.aberrations is not None and particles.aberrations.is_anisotropic:
        logger.warning(
            "states take magnification to be alike in all directions, which it is not in %s (rlnMagMat); "
            "--recipe default models it",
            particles.path,
        )


@torch.no_grad()
def _first_maps(work: _Work) -> Kept:
    """The consensus map, what it says of signal and noise, and components of random phases."""
    loader, config = work.loader, work.config
    noise = spectra(loader).noise
    pixel_size = float(loader.particles.pixel_size.median())
    found = consensus_map(loader, pixel_size, noise, work.folder, work.progress)
    fsc = found.fsc.to(found.map)
    ratio = signal_to_noise(fsc)
    signal = mean_square(found.map) / (ratio / (1 + ratio)).clamp(min=LEAST_PASSED)
    signal = signal.clamp(min=1e-6 * float(signal.max()))
    random = torch.Generator().manual_seed(config.seed)
    mean = Subspace(found.map[None], pixel_size)
    maps = HalfSets.both(mean.with_random_components(config.components, config.component_start, random))
    known = known_band(fsc)
    return Kept(
        **states_file.of_maps(maps),
        **states_file.of_chart(Chart.of_axes(config.latent, config.components)),
        consensus=found.map,
        noise=noise.variance,
        signal=signal,
        known=torch.tensor(known, dtype=torch.float64),
        epoch=torch.tensor(0),
        band=torch.tensor(config.band(config.epochs, known), dtype=torch.float64),
        bandwidth=torch.tensor(0.0, dtype=torch.float64),
    )


@torch.no_grad()
def _solve_components(work: _Work, kept: Kept, epoch: int) -> Kept:
    """One pass of expectation–maximisation."""
    loader, config, started = work.loader, work.config, time.perf_counter()
    band = config.band(epoch, float(kept.known))
    pixel_size = float(loader.particles.pixel_size.median())
    sums = Pass(kept.maps, band, loader.disc.box_size, pixel_size)
    halves, total = loader.particles.half_sets(), config.epochs * work.count
    note = f"components, pass {epoch + 1} of {config.epochs}"
    for batch in work.batches(epoch * work.count, total, note):
        index = batch.particles.cpu()
        views = views_on_grid(batch, loader, kept.noise_model, band)
        sums.add(views, posed(loader, index), halves[index].to(loader.device))
    maps = sums.solve(kept.signal, config.component_share, epoch >= config.epochs - config.settled)
    entry = {"epoch": epoch, "band_px": band, "mean_evidence": sums.evidence / work.count}
    runs.append_log(work.folder, {"event": "epoch", **entry, "seconds": time.perf_counter() - started})
    return replace(kept, **states_file.of_maps(maps), epoch=torch.tensor(epoch + 1))


@torch.no_grad()
def _finish(work: _Work, kept: Kept) -> None:
    """Latents, their chart, the kernel's width, and what is written of them."""
    config = work.config
    maps = kept.maps.on_principal_axes()
    kept = replace(kept, **states_file.of_maps(maps))
    known, misfit = _latents(work, kept)
    curved = config.curved and config.latent in NODES and config.components > config.latent
    chart = fit_chart(known, config.latent) if curved else Chart.of_axes(config.latent, config.components)
    mean, covariance = chart.read(known)
    latents = Latents(mean, covariance, known.mean)
    kept = replace(kept, **states_file.of_chart(chart))
    kept = replace(kept, bandwidth=torch.tensor(_bandwidth(work, kept, latents), dtype=torch.float64))
    states_file.save(work.folder / runs.CHECKPOINTS, kept)
    std = covariance.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    inferred = {"z": mean, "z_std": std, "misfit": misfit, "contrast": torch.ones(work.count)}
    runs.write_latents(work.folder, inferred, z_cov=covariance, components=known.mean)
    runs.write_run_particles(work.folder, work.loader.particles, inferred)


def _latents(work: _Work, kept: Kept) -> tuple[Known, Float[Tensor, "every_particle"]]:
    """Weights of the components of every image, and −log p(X), z integrated out, over the band."""
    loader, maps, band = work.loader, kept.maps, float(kept.band)
    halves, components = loader.particles.half_sets(), maps.whole.components
    known = Known(
        torch.zeros(work.count, components),
        torch.zeros(work.count, components, components),
        torch.zeros(work.count),
    )
    misfit, noise = torch.zeros(work.count), kept.noise_model
    for batch in work.batches(0, work.count, "latents"):
        index = batch.particles.cpu()
        views = views_on_grid(batch, loader, noise, band)
        told = maps.known(views, posed(loader, index), halves[index].to(loader.device), band)
        for name in Known.__dataclass_fields__:
            getattr(known, name)[index] = getattr(told, name).cpu()
        empty = 0.5 * torch.stack([view.power() for view in views]).sum(0)
        misfit[index] = (empty - told.evidence).cpu() + len(views) * _normaliser(loader.disc, kept, band)
    return known, misfit


def _normaliser(disc: Disc, kept: Kept, band: float) -> float:
    """½ Σ log 2πσ² of the coefficients inside the band, without k = 0."""
    length = torch.linalg.vector_norm(disc.frequencies, dim=-1)
    variance = kept.noise_model.on(disc).cpu()[(length < band) & (length > 0)]
    return float(0.5 * torch.log(2 * math.pi * variance).sum())


def _bandwidth(work: _Work, kept: Kept, latents: Latents) -> float:
    """The width of the kernel that half sets agree on best, over states where the images are."""
    config = work.config
    # In order along the first axis, so that they are spread over it.
    order = latents.mean[:, 0].argsort()
    places = (torch.arange(config.judged_at) + 0.5) / config.judged_at * len(order)
    chosen = latents.mean[order[places.long()]]
    scale = float(latents.mean.var(0).sum().div(config.latent).sqrt())
    ladder = tuple(scale * width for width in sorted(config.bandwidths))
    some = max(1, StateSums.at_once(kept.maps.whole.box_size) // len(ladder))
    errors = []
    for part in chosen.split(some):
        sums = state_sums(
            work.loader,
            kept.model,
            kept.noise_model,
            latents,
            part,
            bandwidths=ladder,
            progress=lambda done, total, note="": work.progress(done, total, "width of the kernel"),
        )
        errors.append(held_out_errors(sums, len(ladder)) * len(part) / len(chosen))
    error = torch.stack(errors).sum(0)
    best = ladder[int(error.argmin())]
    entry = {"widths": ladder, "held_out_errors": error.tolist(), "chosen": best}
    runs.append_log(work.folder, {"event": "kernel", **entry})
    logger.info("kernel of width %.2f: held-out error %.3f of the linear model's", best, float(error.min()))
    return best
