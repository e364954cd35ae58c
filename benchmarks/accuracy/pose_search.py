"""How good, and how fast, is the search for poses when the volume is known?

Images of the built-in body (`simulate homogeneous`), searched against its true map: what any
reconstruction could reach at best. Reported: the median error in degrees, squared Frobenius and px, the
error of the nearest pose on the grid (its limit), how much the bound prunes, how often the cap on
candidates bites, how often the true pose is lost on the way, and CPU milliseconds for each image.

    python -m benchmarks.accuracy.pose_search [--box 64] [--snr 0.1 inf] [--images 200] [--keep 8 24 96]

With --slack 0 the bound is the printed one; see benchmarks/LOG.md for what that does.
"""

import argparse
import math
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from benchmarks.common import Row, record

from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.grids import grid_rotations, rotation_spacing
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
from cryoatlas.poses.branch_and_bound import Candidates, search
from cryoatlas.poses.config import SearchConfig
from cryoatlas.poses.refinement import refine
from cryoatlas.poses.view import View

NOISELESS_VARIANCE = 1e-3
"""Noise assumed of noiseless images, as a part of their variance: it only scales the misfit."""


@dataclass
class Watcher:
    """Follows the true pose down the grids."""

    true: Pose
    keep: int
    near: dict[int, list[torch.Tensor]] = field(default_factory=lambda: defaultdict(list))
    """By level: whether any pose that goes on has the true rotation in its cell."""
    full: list[torch.Tensor] = field(default_factory=list)
    """Whether as many go on as may."""

    def __call__(self, images: slice, candidates: Candidates, turn: torch.Tensor) -> None:
        rotation = grid_rotations(candidates.level, candidates.rotation) @ turn
        true = self.true.rotation[images][:, None].expand_as(rotation)
        angle = torch.where(candidates.alive, geodesic_angle(rotation, true), torch.inf)
        self.near[candidates.level].append((angle < rotation_spacing(candidates.level)).any(1))
        self.full.append(candidates.alive.sum(1) == self.keep)

    def lost(self) -> list[float]:
        """Part of the images that are without the true rotation's cell, level by level."""
        return [1 - float(torch.cat(near).double().mean()) for _, near in sorted(self.near.items())]


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
    watcher = Watcher(true, keep=config.keep)
    started = time.process_time()
    found = search(volume, [view], config, turn=turn, watch=watcher)
    on_grid = time.process_time() - started
    refined, _ = refine(volume, [view], found.pose, 6)
    refining = time.process_time() - started - on_grid
    grids = config.subdivisions
    common: dict = {
        "snr": snr,
        "keep": config.keep,
        "slack": config.slack,
        "bound lets through": float((found.allowed / found.tried).mean()),
        "cap bites": float(torch.cat(watcher.full).double().mean()),
        "true cell lost, by grid": " ".join(f"{part:.2f}" for part in watcher.lost()),
        "slices for each image": float(found.tried[1:].sum(0).double().mean()) / 4,
    }
    pixel = volume.pixel_size
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
                "grid spacing deg": math.degrees(rotation_spacing(config.base_level + grids)),
                "CPU ms per image": 1e3 * seconds / len(view),
            }
        )
    return rows


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
        f"accuracy/pose_search_{options.box}{options.label}", rows, images=options.images, seed=options.seed
    )


if __name__ == "__main__":
    main()
