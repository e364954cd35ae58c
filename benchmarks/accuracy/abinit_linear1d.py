"""Is a motion found when poses are not known, and do tilt pairs help?

The linear1d scene (one bond, 0–90°, 50 states), no CTF, shifts; `cryoatlas abinit --latent 1` and what
Table 2 of the paper measures: resolution at FSC = 0.5 of each image's own volume against its true map (mean
and standard deviation over 100 images), errors of poses, both after one alignment of the run and after one
of each state; the hand, and the part of the images whose state has the other hand than the run; |Spearman| of
z and the true angle; correlations of maps inside the moving region, and of their change with the true one.
Beside it what the truth would give, from one image of each particle (a pair's first image is the same one):
the consensus map and the oracle (`oracle.py`) with true poses, and for z the posterior mean under the true
maps and poses.

One row for each seed, without and with tilt pairs; the file is written after each. With --work, runs that
are there are scored, not repeated, and those that were cut off go on (without their times).

    OMP_NUM_THREADS=1 python -m benchmarks.accuracy.abinit_linear1d [--images 5000] [--box 64] [--snr 0.1]
        [--seeds 0] [--tilt-pairs no yes] [--epochs N] [--recipe default | paper] [--starts N | --width N …]
"""

import argparse
import math
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from benchmarks.accuracy.abinit_options import add_recipe_options, configured, networks, recipe_facts
from benchmarks.accuracy.known_poses import MEASURED_IMAGES, work_folder
from benchmarks.accuracy.oracle import Ceiling, consensus, oracle, posterior_mean
from benchmarks.accuracy.region import moving_region, region_correlation
from benchmarks.common import Row, Value, record

from cryoatlas.analysis.alignment import align_volume
from cryoatlas.analysis.latent import spearman
from cryoatlas.analysis.score import score_run
from cryoatlas.analysis.truth import Truth, read_truth
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.recipes.abinit import abinit
from cryoatlas.recipes.abinit_config import final_recipe
from cryoatlas.recipes.run import LATENTS, Run, open_run
from cryoatlas.training.config import TrainConfig

COLUMNS = (
    "method",
    "tilt pairs",
    "px",
    "px std",
    "px, per state",
    "moving region",
    "change",
    "|Spearman|",
    "kNN Spearman",
    "median deg",
    "deg, per state",
    "median sq. Frobenius",
    "median px shift",
    "mirrored",
    "other hand",
    "wall s",
    "cpu s",
)


def row(**values: Value) -> Row:
    """A line of the table; None where a method does not have the measure."""
    named = {name.replace("_", " "): value for name, value in values.items()}
    return {column: named.get(column) for column in COLUMNS}


def ceilings(data: Path, options: argparse.Namespace) -> list[Row]:
    """What the truth would give, from one image of each particle."""
    particles, truth = read_particles(data / "truth" / "particles.star"), read_truth(data)
    (name,) = truth.coordinates
    rows = [
        ceiling_row(consensus(particles, truth)),
        ceiling_row(oracle(particles, truth, states=options.oracle_states)),
    ]
    if math.isfinite(options.snr):
        known = tomllib.loads((data / "simulation.toml").read_text())["result"]
        estimate = posterior_mean(particles, truth, name, known["noise_sigma"])
        certain = {"|Spearman|": spearman(estimate, truth.coordinates[name])}
        rows.append(row(method="posterior mean, true maps", **certain))
    return rows


def ceiling_row(ceiling: Ceiling) -> Row:
    """Maps made with the truth."""
    measured = {"px std": ceiling.std_px, "moving region": ceiling.region_correlation}
    return row(method=ceiling.name, px=ceiling.mean_px, **measured)


def one_seed(data: Path, out: Path, seed: int, pairs: bool, options: argparse.Namespace) -> Row:
    """Reconstruct with one seed, and score."""
    wall = cpu = None
    if not (out / LATENTS).exists():
        config = configured(options, seed, latent=1)
        final = replace(final_recipe(options.recipe, options.final, latent=1), seed=seed)
        if isinstance(final, TrainConfig) and options.recipe == "paper":
            final = networks(final, options)
        if options.epochs:
            final = replace(final, epochs=options.epochs)
        tilted = read_particles(data / "particles_tilt.star") if pairs else None
        particles = read_particles(data / "particles.star")
        begun, start = out.exists(), (time.perf_counter(), time.process_time())
        abinit(particles, config, final, out, tilted=tilted, device="cpu", resume=begun)
        if not begun:
            wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    measured = scored(open_run(out), read_truth(data))
    return row(method=f"{options.recipe}, seed {seed}", tilt_pairs=pairs, wall_s=wall, cpu_s=cpu, **measured)


def scored(run: Run, truth: Truth) -> dict[str, Value]:
    """The measures of a finished run."""
    kept: list[np.ndarray] = []

    def volumes(latents: np.ndarray) -> Iterator[np.ndarray]:
        for volume in run.volumes(latents):
            kept.append(volume)
            yield volume

    score = score_run(run.latents(), run.pose, volumes, truth, run.pixel_size, images=MEASURED_IMAGES)
    assert score.poses is not None
    assert score.poses.states is not None
    (latent,) = score.coordinates.values()
    maps, per_state = score.run.summary(), score.states.summary()
    region, motion = moving_region(truth), score.poses.alignment
    inside = [
        region_correlation(align_volume(volume, motion, run.pixel_size), truth.volume(int(state)), region)
        for volume, state in zip(kept, truth.states[score.images], strict=True)
    ]
    return {
        "px": maps["mean_px"],
        "px std": maps["std_px"],
        "px, per state": per_state["mean_px"],
        "moving region": float(np.mean(inside)),
        "change": maps["mean_change_correlation"],
        "|Spearman|": latent.spearman,
        "kNN Spearman": latent.knn_spearman,
        "median deg": score.poses.run.median_rotation_deg,
        "deg, per state": score.poses.states.median_rotation_deg,
        "median sq. Frobenius": score.poses.run.median_squared_frobenius,
        "median px shift": score.poses.run.median_shift_px,
        "mirrored": motion.mirrored,
        "other hand": score.poses.opposite_hand,
    }


def simulated(folder: Path, options: argparse.Namespace, pairs: bool) -> Path:
    """The set, made if it is not there."""
    data = folder / f"set_{options.box}_{options.images}_{options.snr}{'_pairs' if pairs else ''}"
    if not data.exists():
        scene = SimulationConfig(
            "linear1d", images=options.images, box=options.box, snr=options.snr, seed=1, tilt_pairs=pairs
        )
        simulate(scene, data)
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description="Ab initio reconstruction of linear1d.")
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--images", type=int, default=5000, help="particles; pairs have two images of each")
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tilt-pairs", nargs="+", choices=["no", "yes"], default=["no", "yes"])
    parser.add_argument("--final", choices=["network", "subspace"], help="what follows with the poses found")
    parser.add_argument("--epochs", type=int, help="passes of that over the images")
    parser.add_argument("--oracle-states", type=int, default=9, help="states the oracle is measured on")
    parser.add_argument("--work", type=Path, help="keep sets and runs here; what is there is used")
    parser.add_argument("--label", default="", help="end of the name of the JSON file")
    add_recipe_options(parser)
    options = parser.parse_args()
    facts = {name: getattr(options, name) for name in ("images", "box", "seeds", "epochs")}
    facts["snr"] = "inf" if math.isinf(options.snr) else options.snr
    rows: list[Row] = []
    with work_folder(options.work) as work:
        for pairs in (choice == "yes" for choice in options.tilt_pairs):
            data = simulated(work, options, pairs)
            rows = rows or ceilings(data, options)
            for seed in options.seeds:
                name = f"run_{options.recipe}_{seed}{'_pairs' if pairs else ''}{options.label}"
                rows.append(one_seed(data, work / name, seed, pairs, options))
                record(
                    f"accuracy/abinit_linear1d{options.label}",
                    rows,
                    simulation_seed=1,
                    **facts,
                    **recipe_facts(options),
                )


if __name__ == "__main__":
    main()
