"""How good, and how fast, is the search for poses when the volume is known?

Images of the built-in body (`simulate homogeneous`), searched against its true map: what any
reconstruction could reach at best. Reported: the median error in degrees, squared Frobenius and px, the
same of the nearest pose on the grid (its limit), how much the bound prunes, how often the cap on
candidates bites, how often the true pose is lost to either, at how many points the volume is evaluated for
each image, and CPU milliseconds.

    python -m benchmarks.accuracy.pose_search [--box 64] [--snr 0.1 inf] [--images 200] [--keep 8 24 96]

With --slack 0 the bound is the printed one; see `bound` and benchmarks/LOG.md for what that does.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks.accuracy.true_cell import TrueCell
from benchmarks.common import Row, record

from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import geodesic_angle, random_rotations, squared_frobenius
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import read_volume
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.particles.batch import ParticleLoader
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.poses.branch_and_bound import search
from cryoatlas.poses.config import SearchConfig
from cryoatlas.poses.refinement import refine
from cryoatlas.poses.view import View

NOISELESS_VARIANCE = 1e-3
"""Noise assumed of noiseless images, as a part of their variance: it only scales the misfit."""


CRYODRGN_EVALUATIONS = 590_000
"""Points at which cryoDRGN 4.3.1 `abinit` evaluates its network for each image."""
CHUNK = 128
"""Images that the search of growing networks takes to one sampled map."""


def views_and_truth(folder: Path, images: int | None = None) -> tuple[View, Pose, VoxelVolume, float]:
    """Images of a simulated set, their true poses, the true map in the images' scale, and the noise factor.

    Args:
        images: only so many, the first; default all.
    """
    particles = read_particles(folder / "truth" / "particles.star")
    preprocessor = Preprocessor.fit(particles)
    particles = particles[torch.arange(min(len(particles), images or len(particles)))]
    disc = Disc(particles.box_size)
    pixel_size = float(particles.pixel_size[0])
    batch = ParticleLoader(particles, preprocessor, disc, len(particles)).batch(torch.arange(len(particles)))
    density = read_volume(folder / "truth" / "volumes" / "state_000000.mrc")
    true_map = torch.from_numpy(density.array) / preprocessor.std
    volume = VoxelVolume.from_map(true_map, pixel_size)
    pose = particles.require_pose()
    clean = View.of(batch.images, batch.ctf, disc, NoiseModel.white(1.0, disc.box_size), pixel_size)
    return clean, pose, volume, preprocessor.noise_factor


def scaled_view(view: View, snr: float, noise_factor: float) -> View:
    """Images whitened by white noise of the variance that their signal-to-noise ratio says they have."""
    variance = NOISELESS_VARIANCE if math.isinf(snr) else noise_factor / (1 + snr)
    return View(view.half, view.spectrum / variance**0.5, view.transfer / variance**0.5, view.tilt)


def measure(folder: Path, snr: float, config: SearchConfig, turn: torch.Tensor) -> list[Row]:
    """Search, then refine; one row for each."""
    view, true, volume, noise_factor = views_and_truth(folder)
    view = scaled_view(view, snr, noise_factor)
    cell = TrueCell(true, config, turn, volume.pixel_size)
    started = time.process_time()
    with cell.watching():
        found = search(volume, [view], config, turn=turn, watch=cell)
    on_grid = time.process_time() - started
    refined, _ = refine(volume, [view], found.pose, 6)
    refining = time.process_time() - started - on_grid
    effort, lost = found.effort(), cell.lost()
    common: dict = {
        "snr": "inf" if math.isinf(snr) else snr,
        "keep": config.keep,
        "slack": config.slack,
        "bound lets through": effort.let_through,
        "cap bites": effort.capped,
        "true cell lost to the bound": sum(lost["bound"]),
        "to the cap": sum(lost["cap"]),
        "poses per image": effort.poses,
        "evaluations per image": effort.evaluations,
    }
    pixel = volume.pixel_size
    limit: dict = {
        "grid's limit deg": float(torch.rad2deg(cell.angle).quantile(0.5)),
        "grid's limit px": float(cell.distance.quantile(0.5)) / pixel,
    }
    rows = []
    for name, pose, seconds in (("grid", found.pose, on_grid), ("refined", refined, on_grid + refining)):
        angle = torch.rad2deg(geodesic_angle(pose.rotation, true.rotation))
        rows.append(
            {
                **common,
                "after": name,
                "median deg": float(angle.quantile(0.5)),
                "median sq. Frobenius": float(squared_frobenius(pose.rotation, true.rotation).quantile(0.5)),
                "median px": float((pose.shift - true.shift).norm(dim=1).quantile(0.5)) / pixel,
                "worse than 5 deg": float((angle > 5).double().mean()),
                **limit,
                "CPU ms per image": 1e3 * seconds / len(view),
            }
        )
    return rows


def sampled_map_points(box: int) -> float:
    """Points, each with its opposite, at which a network is evaluated for one map, for each image of a chunk.

    Slices of the search are then cut from that map. Where volumes differ by z a few such maps stand in for
    all of a chunk (`models.basis`), each of which costs as much again.
    """
    axis = torch.arange(-(box // 2), box // 2 + 1).square()
    squares = axis[:, None, None] + axis[:, None] + axis
    return float((squares < (box / 2) ** 2).sum()) / 2 / CHUNK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--snr", type=float, nargs="+", default=[0.1, math.inf])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--keep", type=int, nargs="+", default=[24])
    parser.add_argument("--slack", type=float, nargs="+", default=[0.0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--label", default="")
    options = parser.parse_args()
    rows: list[Row] = []
    turn = random_rotations(1, np.random.default_rng(options.seed))[0]
    extent = 5 * options.box / 64
    with tempfile.TemporaryDirectory() as work:
        for snr in options.snr:
            folder = Path(work) / f"snr_{snr}"
            scene = SimulationConfig(
                "homogeneous", images=options.images, box=options.box, snr=snr, seed=options.seed
            )
            simulate(scene, folder)
            for keep in options.keep:
                for slack in options.slack:
                    config = SearchConfig(keep=keep, slack=slack, shift_extent_px=extent)
                    rows += measure(folder, snr, config, turn)
    record(
        f"accuracy/pose_search_{options.box}{options.label}",
        rows,
        images=options.images,
        seed=options.seed,
        sampled_map_points_per_image=sampled_map_points(options.box),
        cryodrgn_evaluations_per_image=CRYODRGN_EVALUATIONS,
    )


if __name__ == "__main__":
    main()
