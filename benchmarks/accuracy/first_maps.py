"""How often do first maps from nothing come out right, scene by scene, and what would the truth give?

Images of a scene at low frequencies (`--band`, cycles per box), nothing known. For each seed one start is
grown (`subspace.bootstrap.grow`) and then given components (`add_components`), as each start of
`cryoatlas abinit` is. Every tenth image is not learned from: its most probable pose on the grid of 4,608
rotations is compared with the true one, after one alignment of the run and after one of each eighth of the
states, and its evidence is what the engine itself has to choose by. A start is right if the middle image is
within the grid's spacing of its true pose after one alignment.

The ceilings are searched in the same way, against maps solved with the true poses: by a mean alone, and with
K components. Where a ceiling is not right either, or explains no more than wrong starts do, no choice among
starts can help at this band.

    OMP_NUM_THREADS=1 python -m benchmarks.accuracy.first_maps [--scenes linear1d circular1d …]
        [--images 5000] [--snr 0.1] [--seeds 0 1 2] [--components 4] [--band 10] [--ctf]

The file is written after every row.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks.accuracy.known_poses import work_folder
from benchmarks.common import Row, record

from cryoatlas.analysis.pose_error import compare_poses
from cryoatlas.analysis.truth import Truth, read_truth
from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.particles.pairs import make_loader
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.recipes.abinit_config import SubspaceConfig
from cryoatlas.recipes.first_maps import low_images
from cryoatlas.recipes.noise import spectra
from cryoatlas.subspace.bootstrap import Images, add_components, grow, hypotheses
from cryoatlas.subspace.config import BootstrapConfig
from cryoatlas.subspace.expectation import Known, accumulate_known, expect, latents_at
from cryoatlas.subspace.maximization import NormalEquations
from cryoatlas.subspace.model import Subspace

SCENES = ("homogeneous", "linear1d", "linear2d", "circular1d", "discrete10")
ARCS = 8
"""States are taken together in so many groups, by their number."""
SPACING_DEG = 15.0
"""Of the grid of 4,608 rotations."""
HELD_OUT = 10
"""Every tenth image is not learned from."""
PASSES = 8
"""Of expectation–maximisation with the true poses, for the ceilings with components."""
EVERY_IMAGE = 10**9
"""Steps that `low_images` is told of, so that it holds all images in memory."""


class Scene:
    """A simulated set at low frequencies, with its truth."""

    def __init__(self, name: str, work: Path, options: argparse.Namespace) -> None:
        self.name, self.band = name, options.band
        folder = work / f"{name}_{options.images}_{options.snr}{'_ctf' if options.ctf else ''}"
        if not folder.exists():
            config = SimulationConfig(
                name, images=options.images, box=options.box, snr=options.snr, ctf=options.ctf, seed=1
            )
            simulate(config, folder)
        particles = read_particles(folder / "particles.star")
        disc, preprocessor = Disc(particles.box_size), Preprocessor.fit(particles)
        loader = make_loader(particles, preprocessor, disc, 512, torch.device("cpu"), None)
        everything = BootstrapConfig(band_end=options.band, steps=EVERY_IMAGE)
        extent = SubspaceConfig(bootstrap=everything, shift_extent_px=5 * options.box / 64)
        images = low_images(loader, spectra(loader), extent)
        number = torch.arange(len(images))
        self.held, self.kept = number[::HELD_OUT], number[number % HELD_OUT > 0]
        self.judged, self.learned = images[self.held], images[self.kept]
        self.true = read_particles(folder / "truth" / "particles.star").require_pose()
        self.arcs = arcs(read_truth(folder))

    def row(self, method: str, subspace: Subspace, seconds: float) -> Row:
        """How right the poses are that images not learned from have in these maps."""
        like = self.judged.views[0].transfer
        grid = hypotheses(self.judged.shift_extent, 2, 5, np.random.default_rng(0), like)
        expected = expect(subspace, self.judged.views, grid, self.band)
        found = compare_poses(
            expected.pose(grid), self.true[self.held], self.judged.pixel_size, self.arcs[self.held]
        )
        assert found.states is not None
        return {
            "scene": self.name,
            "method": method,
            "evidence, nats": float(expected.evidence.mean()),
            "median deg": found.run.median_rotation_deg,
            "deg, per arc": found.states.median_rotation_deg,
            "other hand": found.opposite_hand,
            "right": found.run.median_rotation_deg < SPACING_DEG,
            "cpu s": seconds,
        }


def arcs(truth: Truth) -> torch.Tensor:
    """Groups of neighbouring states."""
    states = torch.as_tensor(truth.states)
    return (states.double() * ARCS / (int(states.max()) + 1)).long()


def solved_with_truth(scene: Scene, components: int) -> Subspace:
    """Maps from the true poses; components by expectation–maximisation from random latents."""
    images, pose = scene.learned, scene.true[scene.kept]
    pose = Pose(pose.rotation.float(), pose.shift.float())
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(len(images), components, generator=generator)
    spread = 0.1 * torch.eye(components).repeat(len(images), 1, 1)
    known = Known(mean, spread, torch.zeros(len(images)))
    for _ in range(PASSES if components else 1):
        subspace = solved(images, pose, known, scene.band)
        known = latents_at(subspace, images.views, pose, scene.band)
    return subspace


def solved(images: Images, pose: Pose, known: Known, band: float) -> Subspace:
    """The maps of images whose poses and latents are known."""
    components = known.mean.shape[1]
    like = images.views[0].transfer
    equations = NormalEquations.up_to(band, images.box_size, images.pixel_size, components, like=like)
    accumulate_known(equations, images.views, pose, known, band)
    signal = images.signal[: int(band) + 1]
    share = BootstrapConfig().component_share
    maps = equations.solve(torch.stack([signal] + [share * signal] * components))
    return Subspace(maps, equations.pixel_size)


def ceilings(scene: Scene, components: int) -> list[Row]:
    """What the truth would give."""
    rows = []
    for count in sorted({0, components}):
        start = time.process_time()
        maps = solved_with_truth(scene, count)
        rows.append(scene.row(f"true poses, K = {count}", maps, time.process_time() - start))
    return rows


def starts(scene: Scene, seed: int, components: int) -> list[Row]:
    """One start, and the same with components."""
    config = BootstrapConfig(components=components, band_end=scene.band)
    start = time.process_time()
    subspace = grow(scene.learned, config, (seed, 0), lambda step: None)
    rows = [scene.row(f"seed {seed}, mean alone", subspace, time.process_time() - start)]
    if components:
        start = time.process_time()
        subspace = add_components(subspace, scene.learned, config, seed, lambda step: None)
        rows.append(scene.row(f"seed {seed}, K = {components}", subspace, time.process_time() - start))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="First maps from nothing.")
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), choices=SCENES)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--ctf", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--components", type=int, default=4, help="K, of scenes that move")
    parser.add_argument("--band", type=float, default=10.0, help="last band of the starts, cycles per box")
    parser.add_argument("--work", type=Path, help="keep the sets here; those that are there are used")
    parser.add_argument("--label", default="", help="end of the name of the JSON file")
    options = parser.parse_args()
    rows: list[Row] = []
    with work_folder(options.work) as work:
        for name in options.scenes:
            scene = Scene(name, work, options)
            components = 0 if name == "homogeneous" else options.components
            rows += ceilings(scene, components)
            for seed in options.seeds:
                rows += starts(scene, seed, components)
                record(
                    f"accuracy/first_maps{options.label}",
                    rows,
                    images=options.images,
                    box=options.box,
                    snr="inf" if math.isinf(options.snr) else options.snr,
                    ctf=options.ctf,
                    band=options.band,
                    components=options.components,
                    seeds=options.seeds,
                )


if __name__ == "__main__":
    main()
