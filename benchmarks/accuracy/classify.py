"""Does the traditional way, a few maps and no latent, find classes where there are some, and what of motions?

`cryoatlas classify` on simulated scenes, with true poses (`known`) or nothing known (`abinit`). The measures
are Table 2's, for which an image's own volume is the map of its class: resolution at FSC = 0.5 with the true
map, mean and standard deviation over 100 images, after one alignment of the run and after one of each state;
correlation of the deviation from the average map with the true one, where the body moves; error of poses; the
adjusted Rand index of classes and states (discrete10 alone); images in the smallest class. The ceiling of the
Rand index is what images say of their states under the true maps at the true poses.

    OMP_NUM_THREADS=1 python -m benchmarks.accuracy.classify [--images 5000] [--box 64] [--snr 0.1]
        [--seeds 0] [--runs discrete10:10:known linear1d:3:known linear1d:3:abinit]

The file is written after each run. With --work, runs that are there are scored, not repeated.
"""

import argparse
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.accuracy.known_poses import MEASURED_IMAGES, work_folder
from benchmarks.common import Row, facts_of, record

from cryoatlas.analysis.latent import adjusted_rand_index
from cryoatlas.analysis.score import score_run
from cryoatlas.analysis.truth import Truth, read_truth
from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.particles.order import storage_order
from cryoatlas.particles.pairs import make_loader
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.recipes.abinit import abinit
from cryoatlas.recipes.abinit_config import subspace_abinit
from cryoatlas.recipes.noise import spectra
from cryoatlas.recipes.one_grid import views_on_grid
from cryoatlas.recipes.run import LATENTS, Run, open_run
from cryoatlas.recipes.train import train
from cryoatlas.subspace.config import ClassesConfig
from cryoatlas.subspace.expectation import latents_at
from cryoatlas.subspace.model import Subspace

RUNS = ("discrete10:10:known", "linear1d:3:known", "linear1d:3:abinit")
CPU_SECONDS = "cpu_s.txt"
FEW_STATES = 20
"""Rand indices compare classes with states where there are so few."""
BAND = 18.0
"""Of the ceiling, cycles per box: what `ClassesConfig.band_end` is."""


def classified(
    data: Path, out: Path, classes: int, poses: str, seed: int, options: argparse.Namespace
) -> Run:
    """The run in a folder, made if it is not there."""
    if (out / LATENTS).exists():
        return open_run(out)
    particles = read_particles(data / ("truth" if poses == "known" else ".") / "particles.star")
    extent, started = 5 * options.box / 64, time.process_time()
    config = ClassesConfig(classes=classes, shift_extent_px=extent, seed=seed)
    if poses == "known":
        run = train(particles, config, out, device="cpu")
    else:
        search = subspace_abinit()
        search = type(search)(bootstrap=search.bootstrap, shift_extent_px=extent, seed=seed)
        searching = type(config)(**{**vars(config), "align": "search"})
        run = abinit(particles, search, searching, out, device="cpu")
    (out / CPU_SECONDS).write_text(str(time.process_time() - started))
    return run


def row(run: Run, truth: Truth, name: str, ceiling: float | None) -> Row:
    """What came out."""
    score = score_run(run.latents(), run.pose, run.volumes, truth, run.pixel_size, images=MEASURED_IMAGES)
    maps, per_state, classes = score.run.summary(), score.states.summary(), run.latents().argmax(1)
    few = len(np.unique(truth.states)) <= FEW_STATES
    assert score.poses is not None
    assert score.poses.states is not None
    return {
        "run": name,
        "px": maps["mean_px"],
        "px std": maps["std_px"],
        "px, per state": per_state["mean_px"],
        "change": maps["mean_change_correlation"],
        "median deg": score.poses.run.median_rotation_deg,
        "deg, per state": score.poses.states.median_rotation_deg,
        "Rand index": adjusted_rand_index(classes, truth.states) if few else None,
        "its ceiling": ceiling,
        "smallest class": int(np.bincount(classes, minlength=run.latent_size).min()),
        "cpu s": float((run.path / CPU_SECONDS).read_text()),
    }


@torch.no_grad()
def told_by_the_truth(data: Path) -> float | None:
    """Rand index of states with the most probable ones under true maps and poses; None for many states."""
    truth, particles = read_truth(data), read_particles(data / "truth" / "particles.star")
    states = np.unique(truth.states)
    if len(states) > FEW_STATES:
        return None
    preprocessor, pixel_size = Preprocessor.fit(particles), float(particles.pixel_size.median())
    loader = make_loader(particles, preprocessor, Disc(particles.box_size), 512, torch.device("cpu"), None)
    noise, poses = spectra(loader).noise, particles.require_pose()
    maps = [
        Subspace(torch.from_numpy(truth.volume(int(state)) / preprocessor.std)[None].float(), pixel_size)
        for state in states
    ]
    told = np.zeros(len(particles), dtype=np.int64)
    for batch in loader.batches(storage_order(particles)):
        index, views = batch.particles.cpu(), views_on_grid(batch, loader, noise, BAND)
        pose = Pose(poses.rotation[index].float(), poses.shift[index].float())
        evidence = torch.stack([latents_at(each, views, pose, BAND).evidence for each in maps], 1)
        told[index] = evidence.argmax(1).numpy()
    return adjusted_rand_index(told, truth.states)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, score, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--ctf", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", nargs="+", default=RUNS, metavar="SCENE:K:POSES")
    parser.add_argument("--label", default="")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    with work_folder(options.work) as work:
        for name in options.runs:
            scene, classes, poses = name.split(":")
            data = work / scene
            if not data.exists():
                config = SimulationConfig(
                    scene, images=options.images, box=options.box, snr=options.snr, ctf=options.ctf, seed=1
                )
                simulate(config, data)
            facts = tomllib.loads((data / "simulation.toml").read_text())
            ceiling = told_by_the_truth(data)
            for seed in options.seeds:
                out = work / f"{scene}_{classes}_{poses}_{seed}"
                run = classified(data, out, int(classes), poses, seed, options)
                label = f"{scene}, K = {classes}, {poses}, seed {seed}"
                rows.append(row(run, read_truth(data), label, ceiling))
                record(f"accuracy/classify{options.label}", rows, options=facts_of(options), data=facts)


if __name__ == "__main__":
    main()
