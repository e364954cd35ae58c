"""States with poses known and no network (`--recipe subspace`), from particles to a run folder.

The consensus map first; then passes over the images that solve components, each half set by the latents that
the other's maps tell (`subspace.known_poses`); then one that gives every image its z, a chart of what z means
(`subspace.chart`), and one that chooses how wide a kernel volumes are made with (`subspace.states`).
"""

import logging
from dataclasses import dataclass, replace

import torch

from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.recipes import run as runs
from cryoatlas.recipes import states_file
from cryoatlas.recipes.one_grid import require_one_grid
from cryoatlas.recipes.passes import Passes, ground, solve_components, tell_components, warn_of_magnification
from cryoatlas.recipes.states_file import KeptStates
from cryoatlas.recipes.task import Task
from cryoatlas.recipes.volumes import Latents, state_sums
from cryoatlas.subspace.chart import NODES, Chart, fit_chart
from cryoatlas.subspace.config import StatesConfig
from cryoatlas.subspace.known_poses import HalfSets
from cryoatlas.subspace.model import Subspace
from cryoatlas.subspace.states import StateSums, held_out_errors

logger = logging.getLogger(__name__)


def check(particles: ParticleSet, config: StatesConfig) -> None:
    """Refuse images of several pixel sizes; see `recipes.train`."""
    require_one_grid(particles, "--recipe network")
    warn_of_magnification(particles, "states", "--recipe network")


def reconstruct(task: Task, config: StatesConfig) -> None:
    """Find components, latents and the kernel of states of images with poses; see `recipes.train`."""
    work = _Work(
        task.loader(task.at_once(config.chunk)), task.folder, task.progress, task.stop_requested, config
    )
    kept = KeptStates.load(task.folder / runs.CHECKPOINTS)
    kept = _first_maps(work) if kept is None else kept.to(task.device)
    task.log_start(int(kept.epoch))
    for epoch in range(int(kept.epoch), config.epochs):
        maps, known = kept.maps, float(kept.known)
        maps = solve_components(work, maps, kept.noise_model, kept.signal, known, config, epoch)
        kept = replace(kept, **states_file.of_maps(maps), epoch=torch.tensor(epoch + 1))
        kept.save(task.folder / runs.CHECKPOINTS)
    _finish(work, kept)


@dataclass(frozen=True)
class _Work(Passes):
    """What every step needs."""

    config: StatesConfig


@torch.no_grad()
def _first_maps(work: _Work) -> KeptStates:
    """The consensus map, what it says of signal and noise, and components of random phases."""
    config, known = work.config, ground(work)
    random = torch.Generator().manual_seed(config.seed)
    mean = Subspace(known.consensus[None], known.pixel_size)
    maps = HalfSets.both(mean.with_random_components(config.components, config.component_start, random))
    return KeptStates(
        **states_file.of_maps(maps),
        **states_file.of_chart(Chart.of_axes(config.latent, config.components)),
        consensus=known.consensus,
        noise=known.noise.variance,
        signal=known.signal,
        known=torch.tensor(known.band, dtype=torch.float64),
        epoch=torch.tensor(0),
        band=torch.tensor(config.band(config.epochs, known.band), dtype=torch.float64),
        bandwidth=torch.tensor(0.0, dtype=torch.float64),
    )


@torch.no_grad()
def _finish(work: _Work, kept: KeptStates) -> None:
    """Latents, their chart, the kernel's width, and what is written of them."""
    config = work.config
    maps = kept.maps.on_principal_axes()
    kept = replace(kept, **states_file.of_maps(maps))
    known, misfit = tell_components(work, maps, kept.noise_model, float(kept.band))
    curved = config.curved and config.latent in NODES and config.components > config.latent
    chart = fit_chart(known, config.latent) if curved else Chart.of_axes(config.latent, config.components)
    mean, covariance = chart.read(known)
    latents = Latents(mean, covariance, known.mean)
    kept = replace(kept, **states_file.of_chart(chart))
    kept = replace(kept, bandwidth=torch.tensor(_bandwidth(work, kept, latents), dtype=torch.float64))
    kept.save(work.folder / runs.CHECKPOINTS)
    std = covariance.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    inferred = {"z": mean, "z_std": std, "misfit": misfit, "contrast": torch.ones(work.count)}
    arrays = {"z_cov": covariance, "components": known.mean}
    runs.write_results(work.folder, work.loader.particles, inferred, arrays)


def _bandwidth(work: _Work, kept: KeptStates, latents: Latents) -> float:
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
