"""Simulated data sets with known truth (M10, M11): what `cryoatlas simulate` does."""

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tomlkit
import torch

from cryoatlas import __version__
from cryoatlas.imaging.experiment import Experiment, signal_variance, stream_clean_images, white_noise
from cryoatlas.imaging.scenes import build_scene
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.imaging.simulate_files import write_particle_star, write_state_maps, write_states
from cryoatlas.imaging.simulate_plan import MeasuredTables, RandomStreams, plan_experiment
from cryoatlas.io.folder import atomic_directory, require_space
from cryoatlas.io.mrc import StackWriter
from cryoatlas.io.output import write_text
from cryoatlas.progress import Progress, silent

SIGNAL_SAMPLE = 2000
"""Images from which var(signal) is estimated."""


def simulate(
    config: SimulationConfig,
    out: Path | str,
    tables: MeasuredTables | None = None,
    *,
    overwrite: bool = False,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> None:
    """Make a data set and its truth in a new folder, which appears when all is done.

    ::

        particles.star, particles.mrcs              images, CTF if any, no poses
        particles_tilt.star, particles_tilt.mrcs    with tilt pairs: the second image of each, same order
        simulation.toml                             options, version, noise and signal
        truth/particles.star                        the same with poses, contrasts (and particles_tilt.star)
        truth/states.csv                            state and coordinates of every image
        truth/volumes/state_000000.mrc              the map of each state

    The images are streamed: memory does not grow with their number. A seed gives the same files
    whatever the number of threads; on another device the images are the same to rounding.

    Args:
        config: what to simulate.
        out: the folder.
        tables: real poses and CTFs in place of random ones.
        overwrite: replace what is in `out`.
        device: where projections are computed; default the CPU.
        progress: told of the images written.

    Raises:
        ConfigError: the molecule does not fit the box, or options contradict each other.
        InputError: the atomic model cannot be used.
        OutputError: `out` exists, or cannot be written; nothing is left of what was begun.
    """
    tables = tables or MeasuredTables()
    random = RandomStreams.of(config.seed)
    scene = build_scene(config.scene, config.states, config.angle_range_deg, random.scene)
    experiment = plan_experiment(config, scene, tables, random)
    views = {"particles": experiment}
    if config.tilt_pairs:
        views["particles_tilt"] = experiment.tilted(math.radians(config.tilt_angle))
    with atomic_directory(out, overwrite=overwrite) as folder:
        require_space(out, _bytes_needed(config, len(scene)))
        (folder / "truth").mkdir()
        write_states(folder / "truth" / "states.csv", scene, experiment.state.numpy())
        write_state_maps(folder / "truth" / "volumes", experiment)
        signal = signal_variance(experiment, SIGNAL_SAMPLE, random.sample, device)
        deviation = math.sqrt(signal / config.snr)
        report = _Counter(progress, config.images * len(views))
        for (name, view), noise in zip(views.items(), random.noises, strict=False):
            stack = f"{name}.mrcs"
            write_particle_star(folder / f"{name}.star", stack, view)
            write_particle_star(folder / "truth" / f"{name}.star", f"../{stack}", view, with_poses=True)
            _write_images(folder / stack, view, deviation, noise, report, device)
        _write_record(folder / "simulation.toml", config, experiment, tables, signal, deviation)


class _Counter:
    """Adds up the images of several stacks for a `Progress`."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def add(self, count: int, note: str) -> None:
        self.done += count
        self.progress(self.done, self.total, note)


def _write_images(
    path: Path,
    view: Experiment,
    deviation: float,
    noise: np.random.Generator,
    report: _Counter,
    device: torch.device | None,
) -> None:
    with StackWriter(path, view.box_size, view.pixel_size) as stack:
        for images in stream_clean_images(view, torch.arange(len(view)), device=device):
            pixels = images.numpy()
            if deviation > 0:
                pixels += white_noise(pixels.shape, deviation, noise)
            stack.append(pixels)
            report.add(len(pixels), path.name)


def _bytes_needed(config: SimulationConfig, states: int) -> int:
    stacks = 2 if config.tilt_pairs else 1
    return 4 * (stacks * config.images * config.box**2 + states * config.box**3)


def _write_record(
    path: Path,
    config: SimulationConfig,
    experiment: Experiment,
    tables: MeasuredTables,
    signal: float,
    deviation: float,
) -> None:
    """simulation.toml: everything needed to make the same set again."""
    options = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(config).items()
        if value not in (None, ())
    }
    record = {
        "version": __version__,
        "options": options,
        "tables": dict(tables.sources or {}),
        "result": {
            "pixel_size": experiment.pixel_size,
            "sigma": experiment.sigma,
            "atoms": len(experiment.body),
            "signal_variance": signal,
            "noise_sigma": deviation,
        },
    }
    write_text(path, tomlkit.dumps(record))
