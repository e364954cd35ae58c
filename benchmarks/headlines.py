"""Headline numbers at small size, each with the worst value that still counts: does a change make any worse?

Seconds to a minute or two each, on one thread. The tests (`tests/test_headlines.py`) fail where a number is
worse than its bound in headlines.toml. This command prints them all and writes what was measured there; a
bound is moved by hand, and the commit says why.

    OMP_NUM_THREADS=1 python -m benchmarks.headlines [--only rigid states …]
"""

import argparse
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import tomlkit
import torch
from benchmarks.common import ROOT, print_table

from cryoatlas.analysis.latent import adjusted_rand_index, spearman
from cryoatlas.analysis.pose_error import PoseComparison, compare_poses
from cryoatlas.analysis.score import score_run
from cryoatlas.analysis.truth import Truth, read_truth
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.recipes.abinit import search_poses
from cryoatlas.recipes.abinit_config import SubspaceConfig, abinit_recipe
from cryoatlas.recipes.presets import network, subspace
from cryoatlas.recipes.run import Run
from cryoatlas.recipes.train import train
from cryoatlas.subspace.config import ClassesConfig

RECORDED = ROOT / "benchmarks" / "headlines.toml"
SCORED_IMAGES = 20
SHIFT_PX = 1.5

Numbers = dict[str, float]


def simulated(folder: Path, *, posed: bool, **options: object) -> tuple[ParticleSet, Truth]:
    """A small set, with its true poses or without."""
    simulate(SimulationConfig(**options), folder / "set")  # type: ignore[arg-type]
    star = folder / "set" / ("truth" if posed else ".") / "particles.star"
    return read_particles(star), read_truth(folder / "set")


def searched(particles: ParticleSet, truth: Truth, latent: int, folder: Path) -> PoseComparison:
    """Errors of poses from nothing: the default recipe with eight starts of thirty steps, two rounds."""
    config = abinit_recipe("default", latent=latent)
    assert isinstance(config, SubspaceConfig)
    first = replace(config.bootstrap, starts=8, steps=30, shift_points=3, batch_size=150, component_steps=15)
    config = replace(config, bootstrap=first, shift_extent_px=SHIFT_PX, rounds=2)
    found = search_poses(particles, config, folder / "search", torch.device("cpu")).require_pose()
    assert truth.pose is not None
    return compare_poses(found, truth.pose, float(particles.pixel_size[0]), torch.from_numpy(truth.states))


def rigid(folder: Path) -> Numbers:
    """Poses of a rigid body from nothing: 1,500 images of 32², SNR 1."""
    particles, truth = simulated(
        folder, posed=False, scene="homogeneous", images=1500, box=32, snr=1.0, seed=2, shift_px=SHIFT_PX
    )
    errors = searched(particles, truth, 0, folder).run
    return {"median_deg": errors.median_rotation_deg, "median_px": errors.median_shift_px}


def moving(folder: Path) -> Numbers:
    """Poses of a swinging arm from nothing: 2,000 images of 32², SNR 1."""
    particles, truth = simulated(
        folder,
        posed=False,
        scene="linear1d",
        images=2000,
        box=32,
        snr=1.0,
        seed=2,
        shift_px=SHIFT_PX,
        states=20,
    )
    errors = searched(particles, truth, 1, folder)
    assert errors.states is not None
    return {
        "median_deg": errors.run.median_rotation_deg,
        "median_deg_per_state": errors.states.median_rotation_deg,
        "other_hand": errors.opposite_hand,
    }


def _motion(folder: Path, recipe: Callable[[], object]) -> Numbers:
    """What a run with known poses finds of a swinging arm: 1,500 images of 32², SNR 0.3, CTF."""
    particles, truth = simulated(
        folder, posed=True, scene="linear1d", images=1500, box=32, snr=0.3, seed=5, ctf=True
    )
    run = train(particles, recipe(), folder / "run", device="cpu")  # type: ignore[arg-type]
    (angle,) = truth.coordinates.values()
    return {"spearman": abs(spearman(run.latents()[:, 0], angle)), "change": change(run, truth)}


def change(run: Run, truth: Truth) -> float:
    """Correlation of the volumes' deviations from their average with the true ones."""
    score = score_run(run.latents(), run.pose, run.volumes, truth, run.pixel_size, images=SCORED_IMAGES)
    return score.run.summary()["mean_change_correlation"] or 0.0


def states(folder: Path) -> Numbers:
    """A swinging arm with poses known, by the subspace engine: 1,500 images of 32², SNR 0.3, CTF."""
    return _motion(folder, lambda: subspace(latent=1))


def networks(folder: Path) -> Numbers:
    """The same by a network, eight epochs."""
    return _motion(folder, lambda: replace(network(latent=1), epochs=8))


def classes(folder: Path) -> Numbers:
    """Ten states with poses known, as ten classes: 2,000 images of 32², SNR 0.3."""
    particles, truth = simulated(folder, posed=True, scene="discrete10", images=2000, box=32, snr=0.3, seed=5)
    run = train(particles, ClassesConfig(classes=10), folder / "run", device="cpu")
    return {"rand_index": adjusted_rand_index(run.latents().argmax(1), truth.states)}


HEADLINES: Mapping[str, Callable[[Path], Numbers]] = {
    each.__name__: each for each in (rigid, moving, states, networks, classes)
}


def recorded() -> dict[str, dict[str, dict[str, float]]]:
    """What was measured of every number, and the worst that counts: headline → number → both."""
    return tomllib.loads(RECORDED.read_text(encoding="utf-8"))


def worse(value: float, measured: float, worst: float) -> bool:
    """Whether a value is beyond its bound, which lies on the bad side of what was measured."""
    return not np.isfinite(value) or (value > worst if worst >= measured else value < worst)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Headline numbers at small size.")
    parser.add_argument("--only", nargs="+", choices=list(HEADLINES), default=list(HEADLINES))
    document = tomlkit.parse(RECORDED.read_text(encoding="utf-8"))
    rows = []
    for name in parser.parse_args().only:
        with tempfile.TemporaryDirectory() as folder:
            found = HEADLINES[name](Path(folder))
        for number, value in found.items():
            entry = document[name][number]  # type: ignore[index]
            before, worst = float(entry["measured"]), float(entry["worst"])  # type: ignore[index]
            outcome = "WORSE" if worse(value, before, worst) else "holds"
            rows.append({"headline": name, "number": number, "now": value, "before": before, "worst": worst})
            rows[-1]["outcome"] = outcome
            entry["measured"] = round(value, 3)  # type: ignore[index]
    print_table("headlines", rows)
    RECORDED.write_text(tomlkit.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    main()
