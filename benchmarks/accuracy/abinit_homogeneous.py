"""Are the poses of a rigid body found from its images alone, and how often?

`simulate homogeneous`, then the search of `cryoatlas abinit` and its refinement of poses, for several
seeds on one set. Errors are after one alignment, hand included (Table 1's measures); a seed succeeds if
the middle image ends within 5° of its true pose. Seconds are wall time of one thread, as the runs log them:
with --work, searches that are there are not repeated.

    python -m benchmarks.accuracy.abinit_homogeneous [--images 5000] [--box 64] [--snr 0.1] [--seeds 0 1 2]
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from benchmarks.accuracy.known_poses import work_folder
from benchmarks.common import Row, record

from cryoatlas.analysis.alignment import align_volume
from cryoatlas.analysis.fsc import fourier_shell_correlation, resolution
from cryoatlas.analysis.pose_error import compare_poses
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import read_volume
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.recipes.abinit import search_poses
from cryoatlas.recipes.abinit_config import abinit_recipe, search_epochs
from cryoatlas.recipes.backprojection import backproject_particles
from cryoatlas.recipes.run import open_run

SUCCESS_DEG = 5.0


def one_seed(folder: Path, out: Path, seed: int, recipe: str) -> Row:
    """Search with one seed, and what came out."""
    particles = read_particles(folder / "particles.star")
    config = abinit_recipe(recipe)
    epochs = max(config.train.epochs, search_epochs(len(particles)))
    extent = 5 * particles.box_size / 64
    config = replace(
        config,
        train=replace(config.train, seed=seed, epochs=epochs),
        search=replace(config.search, shift_extent_px=extent),
    )
    posed = search_poses(particles, config, out, torch.device("cpu"))
    (seconds,) = [entry["seconds"] for entry in open_run(out).log() if entry["event"] == "end"]
    true = read_particles(folder / "truth" / "particles.star").require_pose()
    pixel_size = float(particles.pixel_size[0])
    comparison = compare_poses(posed.require_pose(), true, pixel_size)
    map_ = backproject_particles(posed, device="cpu").map.numpy()
    truth = read_volume(folder / "truth" / "volumes" / "state_000000.mrc").array
    fsc = fourier_shell_correlation(align_volume(map_, comparison.alignment, pixel_size), truth)
    errors = comparison.run
    return {
        "recipe": recipe,
        "seed": seed,
        "median deg": errors.median_rotation_deg,
        "median sq. Frobenius": errors.median_squared_frobenius,
        "median px": errors.median_shift_px,
        "px at FSC 0.5 with the truth": resolution(fsc, 0.5, particles.box_size),
        "mirrored": comparison.alignment.mirrored,
        "found": errors.median_rotation_deg < SUCCESS_DEG,
        "wall s": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Ab initio poses of a rigid body.")
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--work", type=Path, help="keep set and searches here; what is there is used")
    parser.add_argument("--label", default="")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch, work_folder(options.work) as work:
        folder = work / "set"
        if not folder.exists():
            scene = SimulationConfig(
                "homogeneous", images=options.images, box=options.box, snr=options.snr, seed=1
            )
            simulate(scene, folder)
        for seed in options.seeds:
            out = (work if options.work else Path(scratch)) / f"search_{options.recipe}_{seed}"
            rows.append(one_seed(folder, out, seed, options.recipe))
    record(
        f"accuracy/abinit_homogeneous{options.label}",
        rows,
        images=options.images,
        box=options.box,
        snr=options.snr,
        epochs=max(6, search_epochs(options.images)),
    )


if __name__ == "__main__":
    main()
