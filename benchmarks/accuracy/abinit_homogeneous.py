"""Are the poses of a rigid body found from its images alone, how often, and how near to what is possible?

`simulate homogeneous`, then the search of `cryoatlas abinit`, for several seeds on one set. Errors are after
one alignment, hand included (Table 1's measures), and how many lie within the spread that the search gives
every pose; a seed succeeds if the middle image ends within 5° of its
true pose. Beside them the oracle: images of the same set searched against the true map (branch and bound, 8
going on, then Gauss–Newton), and a map of all images at their true poses. The last row has the part of the
seeds that succeeded, and medians over those. Seconds are of the search, one thread.

The file is written after every seed. With --work, searches that are there are not repeated, and one that was
cut off goes on.

    OMP_NUM_THREADS=1 python -m benchmarks.accuracy.abinit_homogeneous [--images 5000] [--box 64] [--snr 0.1]
        [--seeds 0 1 2] [--recipe default | paper] [--starts N | --width N --layers N --batch N …]
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from benchmarks.accuracy.abinit_options import add_recipe_options, configured, recipe_facts
from benchmarks.accuracy.known_poses import work_folder
from benchmarks.accuracy.pose_search import scaled_view, views_and_truth
from benchmarks.common import Row, Value, record
from scipy.stats import chi2

from cryoatlas.analysis.alignment import Alignment, align_volume
from cryoatlas.analysis.fsc import fourier_shell_correlation, resolution
from cryoatlas.analysis.pose_error import PoseErrors, compare_poses
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import geodesic_angle
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import read_volume
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.poses.config import SearchConfig
from cryoatlas.poses.find import find_poses
from cryoatlas.recipes.abinit import search_poses
from cryoatlas.recipes.backprojection import backproject_particles
from cryoatlas.recipes.run import SPREAD, open_run

SUCCESS_DEG = 5.0
COVERAGES = ("turns within 68 %", "turns within 95 %", "shifts within 68 %", "shifts within 95 %")
CPU_SECONDS = "cpu_s.txt"
"""Kept beside each search, so that a benchmark that was cut off goes on; searches cut off have none."""
TRUE_MAP_KEEP, TRUE_MAP_STEPS = 8, 6
"""Of the oracle: poses that go on from grid to grid, and Gauss–Newton steps."""


def one_seed(folder: Path, out: Path, seed: int, options: argparse.Namespace) -> Row:
    """Search with one seed, and what came out."""
    particles = read_particles(folder / "particles.star")
    config = configured(options, seed, latent=0)
    begun, started, spent = out.exists(), time.process_time(), out / CPU_SECONDS
    posed = search_poses(particles, config, out, torch.device("cpu"))
    if not begun:
        spent.write_text(str(time.process_time() - started))
    (end,) = [entry for entry in open_run(out).log() if entry["event"] == "end"]
    true = read_particles(folder / "truth" / "particles.star").require_pose()
    comparison = compare_poses(posed.require_pose(), true, float(particles.pixel_size[0]))
    return {
        "method": f"{options.recipe}, seed {seed}",
        **errors_of(comparison.run),
        **coverage(posed, true, comparison.alignment),
        "px at FSC 0.5 with the truth": truth_resolution(posed, comparison.alignment, folder),
        "mirrored": comparison.alignment.mirrored,
        "found": comparison.run.median_rotation_deg < SUCCESS_DEG,
        "run calls it settled": end["settled"],
        "wall s": end["seconds"],
        "cpu s": float(spent.read_text()) if spent.exists() else None,
    }


def coverage(posed: ParticleSet, true: Pose, alignment: Alignment) -> dict[str, Value]:
    """Parts of the images whose turns and shifts are within what their spread gives 68.3 and 95.4 %."""
    table, aligned = posed.tables.particles, alignment.apply(posed.require_pose())
    if not table.has(*SPREAD.values()):
        return dict.fromkeys(COVERAGES)
    rotation, shift = (torch.from_numpy(posed.tables.number(name)) for name in SPREAD.values())
    turned = torch.rad2deg(geodesic_angle(aligned.rotation, true.rotation.double())) / rotation
    moved = torch.linalg.vector_norm(aligned.shift - true.shift.double(), dim=-1) / shift
    return {
        name: float((values.square() < chi2.ppf(part, free)).double().mean())
        for name, (values, free, part) in zip(
            COVERAGES,
            ((each, free, part) for each, free in ((turned, 3), (moved, 2)) for part in (0.683, 0.954)),
            strict=True,
        )
    }


def errors_of(errors: PoseErrors) -> dict[str, Value]:
    """Medians, and the mean that images in wrong basins show in."""
    return {
        "median deg": errors.median_rotation_deg,
        "mean deg": errors.mean_rotation_deg,
        "median sq. Frobenius": errors.median_squared_frobenius,
        "median px": errors.median_shift_px,
    }


def truth_resolution(posed: ParticleSet, alignment: Alignment, folder: Path) -> float:
    """box / first shell under FSC = 0.5 of all images' map with the true one."""
    map_ = backproject_particles(posed, device="cpu").map.numpy()
    truth = read_volume(folder / "truth" / "volumes" / "state_000000.mrc").array
    aligned = align_volume(map_, alignment, float(posed.pixel_size[0]))
    return resolution(fourier_shell_correlation(aligned, truth), 0.5, posed.box_size)


def oracle_row(folder: Path, options: argparse.Namespace) -> Row:
    """The first images of the set searched against the true map; the map is of all at their true poses."""
    view, true, volume, noise_factor = views_and_truth(folder, options.oracle_images)
    view = scaled_view(view, options.snr, noise_factor)
    extent = 5 * options.box / 64
    config = SearchConfig(keep=TRUE_MAP_KEEP, refine=TRUE_MAP_STEPS, slack=0.0, shift_extent_px=extent)
    wall, cpu = time.perf_counter(), time.process_time()
    parts = [find_poses(volume, [view[some]], config).pose for some in chunks(len(view), 128)]
    found = Pose(torch.cat([part.rotation for part in parts]), torch.cat([part.shift for part in parts]))
    errors = PoseErrors.between(found, true.to(torch.float64), volume.pixel_size)
    posed = read_particles(folder / "truth" / "particles.star")
    return {
        "method": f"true map, {len(view)} images",
        **errors_of(errors),
        **dict.fromkeys(COVERAGES),
        "px at FSC 0.5 with the truth": truth_resolution(posed, Alignment.identity(), folder),
        "mirrored": None,
        "found": None,
        "run calls it settled": None,
        "wall s": time.perf_counter() - wall,
        "cpu s": time.process_time() - cpu,
    }


def chunks(count: int, size: int) -> list[slice]:
    """Images that are searched together."""
    return [slice(start, start + size) for start in range(0, count, size)]


def summary_row(rows: Sequence[Row]) -> Row:
    """How many seeds succeeded, and the medians over those (times: over all)."""
    found = [row for row in rows if row["found"]]
    spoken: dict[str, Value] = {"method": f"{len(found)} of {len(rows)} seeds found it; medians over those"}
    for key in rows[0]:
        some = rows if key.endswith(" s") else found
        values = [row[key] for row in some if isinstance(row[key], float)]
        spoken.setdefault(key, float(median(values)) if values else None)  # type: ignore[type-var]
    spoken["found"] = len(found) / len(rows)
    return spoken


def main() -> None:
    parser = argparse.ArgumentParser(description="Ab initio poses of a rigid body.")
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--oracle-images", type=int, default=500, help="searched against the true map")
    parser.add_argument("--work", type=Path, help="keep set and searches here; what is there is used")
    parser.add_argument("--label", default="", help="end of the name of the JSON file")
    add_recipe_options(parser)
    options = parser.parse_args()
    with work_folder(options.work) as work:
        folder = work / f"set_{options.box}_{options.images}_{options.snr}"
        if not folder.exists():
            scene = SimulationConfig(
                "homogeneous", images=options.images, box=options.box, snr=options.snr, seed=1
            )
            simulate(scene, folder)
        oracle, rows = oracle_row(folder, options), []
        for seed in options.seeds:
            out = work / f"search_{options.recipe}_{seed}{options.label}"
            rows.append(one_seed(folder, out, seed, options))
            record(
                f"accuracy/abinit_homogeneous{options.label}",
                [oracle, *rows, summary_row(rows)],
                images=options.images,
                box=options.box,
                snr="inf" if math.isinf(options.snr) else options.snr,
                simulation_seed=1,
                seeds=options.seeds,
                **recipe_facts(options),
            )


if __name__ == "__main__":
    main()
