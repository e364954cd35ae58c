"""Beside RECOVAR with known poses: what does it cost, and what is learned of a motion?

Both get the same simulated images (linear1d with CTF) and their true poses, on the same machine, one
thread; the number of latent dimensions is given, everything else is each program's default. Cost is CPU
time of whole commands, start and input included, and of the commands that make volumes (`cryoatlas
volumes`, `compute_state`). Accuracy: kNN Spearman of z and the true angle, the mean error of the angle
that is predicted from the neighbours in z, and, for one image of each of some evenly spaced states, the
correlation with the true map, inside the region that moves, of the volume at its own z and of the sum
of mean and components there. Beside them what one map for all images, the true states, and the true maps
would give. RECOVAR's volumes take minutes each on a CPU and are made only for the --volumes asked for.

    python -m benchmarks.peers.recovar --recovar PATH [--box 32] [--images 2000] [--latents 4 1]
        [--zdim 4] [--variants installed corrected] [--volumes corrected] [--states 25] [--bins 50]

PATH is the `python` of an environment of RECOVAR's own. Without a GPU, RECOVAR 1.0.5 puts slices into its
padded volumes without the padding, so that its mean is twice as large as the molecule and cut off; the
variant `corrected` runs the same commands with that one function put right (`CORRECTED`).
A run that is in --work is scored, not repeated.
"""

import argparse
import json
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.accuracy.known_poses import work_folder
from benchmarks.accuracy.oracle import Ceiling, consensus, oracle, posterior_mean, spaced_states
from benchmarks.common import Row, Value, facts_of, output_of, record
from benchmarks.peers.beside import cpu_seconds, map_measures, simulated_set

from cryoatlas.analysis.latent import knn_regression, knn_spearman
from cryoatlas.analysis.truth import Truth, read_truth
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import read_volume
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.recipes.run import open_run
from cryoatlas.shapes import Array, Float, Int

ONE_THREAD = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}
VERSION = "from importlib.metadata import version; print('RECOVAR', version('recovar'))"
INSTALLED = """
import runpy, sys
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Runs the module that is named by the first argument."""
CORRECTED = f"""
from recovar.core import relion_interp as r
backproject, frequencies = r.backproject, r._pixel_frequencies
def corrected(images, rotations, image_shape, volume_shape, max_r=None, **options):
    factor = volume_shape[0] // image_shape[0]
    r._pixel_frequencies = lambda *args, **names: factor * frequencies(*args, **names)
    try:
        limit = max_r and factor * max_r
        return backproject(images, rotations, image_shape, volume_shape, max_r=limit, **options)
    finally:
        r._pixel_frequencies = frequencies
r.backproject = corrected
{INSTALLED}"""
"""The same after the frequencies of images are scaled to those of a padded volume."""
LINEAR = """
import sys
import numpy as np
from recovar.core import fourier_transform_utils as fourier
from recovar.output.output import PipelineOutput
folder, points, out = sys.argv[1:]
z, found = np.loadtxt(points, ndmin=2), PipelineOutput(folder)
maps = np.asarray(found.get("mean")) + z @ np.asarray(found.get("u"))[: z.shape[1]]
side = round(maps.shape[1] ** (1 / 3))
maps = [np.asarray(fourier.get_idft3(each.reshape(side, side, side))).real for each in maps]
np.save(out, np.stack(maps).transpose(0, 3, 2, 1).astype(np.float32))
"""
"""Writes the sums of RECOVAR's mean and components at some z; its axes are x y z, those of files z y x."""
VARIANTS = {"installed": INSTALLED, "corrected": CORRECTED}
NO_MEASURES: dict[str, Value] = {
    "method": None,
    "knn_spearman": None,
    "mean_error_deg": None,
    "moving_region_correlation": None,
    "resolution_px": None,
    "linear_region_correlation": None,
    "linear_resolution_px": None,
    "cpu_s": None,
    "volumes_cpu_s": None,
}
"""The columns in their order."""
OURS = [sys.executable, "-m", "cryoatlas"]


@dataclass(frozen=True)
class Work:
    """A folder with a set and what programs made of it; what they cost is kept beside it."""

    folder: Path

    @property
    def data(self) -> Path:
        """The set."""
        return self.folder / "set"

    def cost(self, out: Path, command: list[str]) -> float:
        """CPU seconds of a command that writes `out`; it is run if that was not done."""
        known = out.with_name(f"{out.name}.json")
        if not known.exists():
            seconds = cpu_seconds(command, out.with_name(f"{out.name}.log"), ONE_THREAD)
            known.write_text(json.dumps(seconds))
        return float(json.loads(known.read_text()))


@dataclass(frozen=True)
class Ours:
    """Our program with a latent."""

    work: Work
    latent: int
    seed: int

    @property
    def name(self) -> str:
        """In the table."""
        return f"cryoatlas, z of {self.latent}"

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.work.folder / f"cryoatlas_z{self.latent}"

    def latents(self) -> tuple[Float[Array, "image latent"], float]:
        """z of every image, and the CPU seconds it took."""
        particles = self.work.data / "truth" / "particles.star"
        options = ["--recipe", "subspace", "--latent", str(self.latent), "--seed", str(self.seed)]
        seconds = self.work.cost(
            self.out, [*OURS, "train", str(particles), "--out", str(self.out), *options, "--device", "cpu"]
        )
        return open_run(self.out).latents(), seconds

    def volumes(self, images: Int[Array, "volume"]) -> tuple[list[np.ndarray], float]:
        """The volumes of some images, and their CPU seconds."""
        out = self.out.with_name(f"{self.out.name}_volumes{len(images)}")
        numbers = ",".join(map(str, images))
        seconds = self.work.cost(
            out, [*OURS, "volumes", str(self.out), "--out", str(out), "--particles", numbers]
        )
        return [read_volume(path).array for path in sorted(out.glob("vol_*.mrc"))], seconds

    def sums(self, images: Int[Array, "volume"]) -> list[np.ndarray]:
        """Mean and components alone, at the z of some images."""
        run = open_run(self.out)
        return list(run.linear().volumes(run.latents()[images]))


@dataclass(frozen=True)
class Theirs:
    """RECOVAR, as installed or corrected."""

    work: Work
    python: str
    variant: str
    zdim: int
    mask: str
    bins: int

    @property
    def name(self) -> str:
        """In the table."""
        return f"RECOVAR {self.variant}, z of {self.zdim}"

    @property
    def out(self) -> Path:
        """The output folder."""
        return self.work.folder / f"recovar_{self.variant}_z{self.zdim}_{Path(self.mask).stem}"

    def latents(self) -> tuple[Float[Array, "image latent"], float]:
        """z of every image, and the CPU seconds it took."""
        folder = self.work.folder
        images = ["--poses", str(folder / "pose.pkl"), "--ctf", str(folder / "ctf.pkl")]
        options = ["--zdim", str(self.zdim), "--mask", self.mask, "--accept-cpu", "-o", str(self.out)]
        stack = str(self.work.data / "particles.mrcs")
        seconds = self.work.cost(self.out, [*self._command("pipeline"), stack, *images, *options])
        file = self.out / "model" / f"zdim_{self.zdim}" / "latent_coords.npy"
        z = np.load(file, allow_pickle=False)
        return z.reshape(len(z), self.zdim).astype(np.float64), seconds

    def volumes(self, images: Int[Array, "volume"]) -> tuple[list[np.ndarray], float]:
        """The volumes at the z of some images, and their CPU seconds."""
        out = self.out.with_name(f"{self.out.name}_volumes{len(images)}_bins{self.bins}")
        points = self._points(images)
        options = ["--latent-points", str(points), "--n-bins", str(self.bins)]
        options += ["--zdim1"] if self.zdim == 1 else []
        seconds = self.work.cost(
            out, [*self._command("compute_state"), str(self.out), "-o", str(out), *options]
        )
        return [read_volume(out / f"state{number:03d}.mrc").array for number in range(len(images))], seconds

    def sums(self, images: Int[Array, "volume"]) -> list[np.ndarray]:
        """Mean and components alone, at the z of some images."""
        file = self.out.with_name(f"{self.out.name}_sums.npy")
        command = [self.python, "-c", LINEAR, str(self.out), str(self._points(images)), str(file)]
        cpu_seconds(command, file.with_suffix(".log"))
        return list(np.load(file, allow_pickle=False))

    def _points(self, images: Int[Array, "volume"]) -> Path:
        """A file with the z of some images."""
        points = self.out.with_name(f"{self.out.name}_points.txt")
        np.savetxt(points, self.latents()[0][images])
        return points

    def _command(self, name: str) -> list[str]:
        return [self.python, "-c", VARIANTS[self.variant], f"recovar.commands.{name}"]


def latent_measures(z: Float[Array, "image latent"], truth: Truth) -> Row:
    """How well z orders the true angle, and predicts it."""
    (angle,) = truth.coordinates.values()
    queries, predicted = knn_regression(z, angle[:, None])
    return {
        "knn_spearman": knn_spearman(z, angle),
        "mean_error_deg": float(np.abs(predicted[:, 0] - angle[queries]).mean()),
    }


def images_of_states(truth: Truth, states: int) -> Int[Array, "image"]:
    """The first image of each of some states, evenly spaced."""
    return np.array([np.flatnonzero(truth.states == state)[0] for state in spaced_states(truth, states)])


def program_row(
    program: Ours | Theirs, truth: Truth, chosen: Int[Array, "image"], *, with_volumes: bool
) -> Row:
    """What a program's z, and its volumes of the chosen images, are worth and cost."""
    z, seconds = program.latents()
    row = {**NO_MEASURES, "method": program.name, **latent_measures(z, truth), "cpu_s": seconds}
    sums = map_measures(program.sums(chosen), truth, chosen)
    row["linear_region_correlation"] = sums["moving_region_correlation"]
    row["linear_resolution_px"] = sums["resolution_px"]
    if with_volumes:
        maps, volume_seconds = program.volumes(chosen)
        row |= {**map_measures(maps, truth, chosen), "volumes_cpu_s": volume_seconds}
    return row


def ceiling_rows(data: Path, truth: Truth, states: int) -> list[Row]:
    """One map for all images, and what the truth would give."""
    particles = read_particles(data / "truth" / "particles.star")
    rows = [
        ceiling_row(each)
        for each in (consensus(particles, truth, states), oracle(particles, truth, states=states))
    ]
    (name,) = truth.coordinates
    known = tomllib.loads((data / "simulation.toml").read_text())["result"]
    estimate = posterior_mean(particles, truth, name, known["noise_sigma"])
    measured = latent_measures(estimate[:, None], truth)
    return [*rows, {**NO_MEASURES, "method": "posterior mean, true maps", **measured}]


def ceiling_row(ceiling: Ceiling) -> Row:
    """The row of maps that need no latent."""
    measured = {
        "moving_region_correlation": ceiling.region_correlation,
        "resolution_px": ceiling.mean_px,
    }
    return {**NO_MEASURES, "method": ceiling.name, **measured}


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description="against RECOVAR")
    parser.add_argument("--recovar", required=True, help="python of its environment")
    parser.add_argument("--box", type=int, default=32)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--latents", type=int, nargs="+", default=[4, 1], help="ours")
    parser.add_argument("--zdim", type=int, default=4, help="RECOVAR's")
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--volumes", nargs="*", choices=list(VARIANTS), default=[], help="whose are made")
    parser.add_argument("--states", type=int, default=25, help="states that volumes are made of")
    parser.add_argument("--bins", type=int, default=50, help="kernel widths that RECOVAR tries for a volume")
    parser.add_argument("--mask", default="from_halfmaps", help="RECOVAR's; it has no default")
    parser.add_argument("--work", type=Path, help="keep set and runs here; what is there is used")
    parser.add_argument("--label", default="", help="end of the name of the JSON file")
    options = parser.parse_args()
    config = SimulationConfig(
        "linear1d", images=options.images, box=options.box, snr=options.snr, seed=options.seed, ctf=True
    )
    facts = {key: value for key, value in facts_of(options).items() if key != "recovar"}
    facts["peer"] = output_of(options.recovar, "-c", VERSION)
    with work_folder(options.work) as folder:
        data, work = simulated_set(config, folder), Work(folder)
        truth = read_truth(data)
        chosen = images_of_states(truth, options.states)
        rows = []
        for latent in options.latents:
            rows.append(program_row(Ours(work, latent, options.seed), truth, chosen, with_volumes=True))
        for variant in options.variants:
            peer = Theirs(work, options.recovar, variant, options.zdim, options.mask, options.bins)
            rows.append(program_row(peer, truth, chosen, with_volumes=variant in options.volumes))
        rows += ceiling_rows(data, truth, options.states)
    record(f"peers/recovar{options.label}", rows, **facts)


if __name__ == "__main__":
    main()
