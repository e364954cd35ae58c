"""What does the bound of branch and bound do, at which noise: how much does it prune, and what does it lose?

Images of the built-in body (`simulate homogeneous`) searched against its true map, with the bound as printed
(slack 0: for the pose at the centre of a cell) and with one that holds for the whole cell (slack 1). Grid by
grid: the share of the poses looked at that the bound lets through, and the part of the images for which the
cap on poses decides. Where the true cell is lost (the one that the last grid's pose nearest to the true one
descends from; a neighbour may still lead near it), it is told apart whether to the bound or to the cap.
Without a cap the poses of one image would be too many for any machine, so that --keep is not 0.

    OMP_NUM_THREADS=1 python -m benchmarks.accuracy.bound [--box 64] [--images 100] [--snr inf 10 1 0.1 0.01]
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks.accuracy.pose_search import scaled_view, views_and_truth
from benchmarks.accuracy.true_cell import TrueCell, by_grid
from benchmarks.common import Row, record

from cryoatlas.geometry.rotations import geodesic_angle, random_rotations
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.poses.branch_and_bound import search
from cryoatlas.poses.config import SearchConfig


def measure(folder: Path, snr: float, config: SearchConfig, turn: torch.Tensor) -> Row:
    """One search."""
    view, true, volume, noise_factor = views_and_truth(folder)
    view = scaled_view(view, snr, noise_factor)
    cell = TrueCell(true, config, turn, volume.pixel_size)
    started = time.process_time()
    with cell.watching():
        found = search(volume, [view], config, turn=turn, watch=cell)
    seconds = time.process_time() - started
    effort, lost = found.effort(), cell.lost()
    through = (found.allowed / found.tried)[:-1].mean(1)
    cut = (found.cut[:-1] > 0).double().mean(1)
    angle = torch.rad2deg(geodesic_angle(found.pose.rotation, true.rotation))
    return {
        "snr": "inf" if math.isinf(snr) else snr,
        "slack": config.slack,
        "let through": effort.let_through,
        "by grid": by_grid(through.tolist()),
        "cap bites": effort.capped,
        "cap, by grid": by_grid(cut.tolist()),
        "true cell lost to bound": sum(lost["bound"]),
        "bound, by grid": by_grid(lost["bound"]),
        "to cap": sum(lost["cap"]),
        "lost to cap, by grid": by_grid(lost["cap"]),
        "median deg": float(angle.quantile(0.5)),
        "worse than 5 deg": float((angle > 5).double().mean()),
        "CPU ms per image": 1e3 * seconds / len(view),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--snr", type=float, nargs="+", default=[math.inf, 10, 1, 0.1, 0.01])
    parser.add_argument("--slack", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--keep", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--label", default="", help="end of the name of the JSON file")
    options = parser.parse_args()
    turn = random_rotations(1, np.random.default_rng(options.seed))[0]
    extent = 5 * options.box / 64
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as work:
        for snr in options.snr:
            folder = Path(work) / f"snr_{snr}"
            scene = SimulationConfig(
                "homogeneous", images=options.images, box=options.box, snr=snr, seed=options.seed
            )
            simulate(scene, folder)
            for slack in options.slack:
                config = SearchConfig(keep=options.keep, slack=slack, shift_extent_px=extent)
                rows.append(measure(folder, snr, config, turn))
    record(
        f"accuracy/bound{options.label}",
        rows,
        box=options.box,
        images=options.images,
        keep=options.keep,
        seed=options.seed,
    )


if __name__ == "__main__":
    main()
