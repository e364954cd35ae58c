"""How a training with known poses is measured on a simulated set, beside what the truth would give.

Shared by `linear1d` and `spike`, which say what is simulated.
"""

import argparse
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from benchmarks.accuracy.oracle import consensus, oracle, posterior_mean
from benchmarks.accuracy.region import moving_region, region_correlation
from benchmarks.common import Row

from cryoatlas.analysis.latent import spearman
from cryoatlas.analysis.score import score_run
from cryoatlas.analysis.truth import read_truth
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.recipes.presets import recipe
from cryoatlas.recipes.run import Run
from cryoatlas.recipes.train import train

MEASURED_IMAGES = 100


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that both scripts have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--box", type=int, default=64, help="side of the images, px")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1, help="of the simulation and of the training")
    parser.add_argument("--latent", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--work", type=Path, help="keep set and run here; a set that is there is used")
    parser.add_argument("--resume", action="store_true", help="continue the run in --work")
    parser.add_argument("--oracle-states", type=int, default=9, help="states the oracle is measured on")
    parser.add_argument("--label", default="", help="end of the name of the JSON file")
    return parser


@contextmanager
def work_folder(chosen: Path | None) -> Iterator[Path]:
    """The folder asked for, or one that is gone at the end."""
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def measure(data: Path, out: Path, options: argparse.Namespace) -> list[Row]:
    """Train on a simulated set and compare with the truth and with what the truth would give.

    Args:
        data: what `simulate` wrote.
        out: run folder to make.
        options: of `arguments`.
    """
    truth = read_truth(data)
    particles = read_particles(data / "truth" / "particles.star")
    (name,) = truth.coordinates
    config = recipe(options.recipe, latent=options.latent)
    config = replace(config, seed=options.seed, epochs=options.epochs or config.epochs)
    started = time.process_time()
    run = train(particles, config, out, device="cpu", resume=options.resume, overwrite=not options.resume)
    seconds = None if options.resume else time.process_time() - started
    rows = [trained_row(run, data, f"train, {options.recipe}, {config.epochs} epochs", seconds)]
    for ceiling in (consensus(particles, truth), oracle(particles, truth, states=options.oracle_states)):
        rows.append(
            row(ceiling.name, None, None, ceiling.mean_px, ceiling.std_px, ceiling.region_correlation)
        )
    known = tomllib.loads((data / "simulation.toml").read_text())["result"]
    estimate = posterior_mean(particles, truth, name, known["noise_sigma"])
    rows.append(row("posterior mean, true maps", spearman(estimate, truth.coordinates[name])))
    return rows


def trained_row(run: Run, data: Path, title: str, seconds: float | None) -> Row:
    """The measures of a finished run."""
    truth = read_truth(data)
    region = moving_region(truth)
    kept: list[np.ndarray] = []

    def volumes(latents: np.ndarray) -> Iterator[np.ndarray]:
        for volume in run.volumes(latents):
            kept.append(volume)
            yield volume

    score = score_run(run.latents(), run.pose, volumes, truth, run.pixel_size, images=MEASURED_IMAGES)
    maps = score.run.summary()
    (latent,) = score.coordinates.values()
    true_maps = (truth.volume(int(state)) for state in truth.states[score.images])
    inside = [region_correlation(one, other, region) for one, other in zip(kept, true_maps, strict=True)]
    return row(
        title,
        latent.spearman,
        latent.knn_spearman,
        maps["mean_px"],
        maps["std_px"],
        float(np.mean(inside)),
        seconds,
    )


def row(
    method: str,
    absolute_spearman: float | None = None,
    knn_spearman: float | None = None,
    mean_px: float | None = None,
    std_px: float | None = None,
    inside: float | None = None,
    seconds: float | None = None,
) -> Row:
    """A line of the table; None where a method does not have the measure."""
    return {
        "method": method,
        "spearman": absolute_spearman,
        "knn_spearman": knn_spearman,
        "resolution_px": mean_px,
        "resolution_std_px": std_px,
        "moving_region_correlation": inside,
        "cpu_s": seconds,
    }
