"""Reconstruction with known poses (M7), from particles to a run folder, by the engine that is asked for."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoatlas.particles.pairs import pair
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.progress import Progress, StopRequested, never, silent
from cryoatlas.recipes import classes, networks, states
from cryoatlas.recipes import run as runs
from cryoatlas.recipes.device import choose_device
from cryoatlas.recipes.presets import Recipe
from cryoatlas.recipes.task import Task
from cryoatlas.subspace.config import ClassesConfig, StatesConfig
from cryoatlas.training.config import TrainConfig


@dataclass(frozen=True)
class Engine:
    """A way from images with poses to latents and volumes."""

    reconstruct: Callable[[Task, Any], None]
    """Told of the task and its options, writes all that a run folder holds."""
    check: Callable[[ParticleSet, Any], None] = lambda particles, config: None
    """Refuses particles and options that the engine cannot work with, before anything is written."""


ENGINES = {
    TrainConfig: Engine(networks.reconstruct, networks.check),
    StatesConfig: Engine(states.reconstruct, states.check),
    ClassesConfig: Engine(classes.reconstruct, classes.check),
}
"""By the options of the work."""


def train(
    particles: ParticleSet,
    config: Recipe,
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
    """Find latents and volumes of images with poses and write a run folder.

    Args:
        particles: with poses.
        config: what to do: train networks (`TrainConfig`), solve components and make states (`StatesConfig`)
            or tell classes (`ClassesConfig`); see `recipes.presets` for ready ones.
        out: the run folder.
        tilted: a second image of each particle, in the same order, after a tilt of the specimen; its own
            poses are not looked at. A pair has one latent, and the run one row for it.
        tilt_angle_deg: that tilt, about the images' x axis.
        resume: continue the run in `out`, started with the same options; on a CPU the result is the
            same bit for bit as that of an uninterrupted run. Networks go on after their last checkpoint, the
            subspace engine after its last finished pass.
        overwrite: replace what `out` holds.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        stop_requested: asked after each batch; when it says yes what is done is kept.
        folder_is_ready: `out` was made by the caller, who may have put something into it.

    Raises:
        MetadataError: the particles have no poses, have several pixel sizes (networks alone take these), or
            `tilted` does not belong to them.
        OutputError: `out` is not empty and neither `resume` nor `overwrite` is set.
        ConfigError: `resume` with other options, an unknown device, more classes than images, or networks for
            particles with a symmetry.
        Interrupted: `stop_requested` said yes.
        DivergedError: the objective stopped being finite.
    """
    particles.require_pose()
    engine = ENGINES[type(config)]
    engine.check(particles, config)
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
    task = Task(
        particles,
        second,
        begun.folder,
        begun.preprocessor,
        begun.going_on,
        place,
        progress,
        stop_requested,
    )
    started = time.perf_counter()
    engine.reconstruct(task, config)
    runs.append_log(task.folder, {"event": "end", "seconds": time.perf_counter() - started})
    return runs.open_run(task.folder)
