"""Beside cryoDRGN's `train_vae`: what does an epoch cost, and what is learned in equally many?

Both train on the same simulated images (linear1d with CTF, poses known), on the same machine, with
equal networks (3 hidden layers of 256 in encoder and decoder, the same latent dimension) and one
thread; everything else is each program's default. Cost is CPU time, so that other work on the machine
does not enter: trainings of one epoch and of many alternate between the programs, and an epoch costs
the difference over the difference in epochs, which leaves out start and input. Accuracy after equal
epochs: kNN Spearman of z and the true angle, and the correlation with the true map, inside the region
that moves, of the volumes of 50 images at their own z. Reach: half the time, no less accuracy.

    python -m benchmarks.peers.cryodrgn_train_vae --cryodrgn PATH [--box 32] [--images 2000]
        [--epochs 15] [--pairs 1] [--latent 8]

PATH is the `cryodrgn` of an environment of its own.
"""

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
from benchmarks.accuracy.known_poses import work_folder
from benchmarks.common import Row, output_of, record
from benchmarks.peers.beside import cpu_seconds, map_measures, simulated_set

from cryoatlas.analysis.alignment import evenly_spaced
from cryoatlas.analysis.latent import knn_spearman
from cryoatlas.analysis.truth import Truth, read_truth
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.cryodrgn import read_arrays
from cryoatlas.io.mrc import read_volume
from cryoatlas.recipes.run import open_run
from cryoatlas.shapes import Array, Float

LAYERS, WIDTH = 3, 256
MEASURED_IMAGES = 50
PROGRAMS = ("cryoatlas", "cryodrgn")


class Programs:
    """The two trainings as commands on one set."""

    def __init__(self, folder: Path, cryodrgn: str, latent: int, seed: int) -> None:
        self.folder, self.cryodrgn, self.latent, self.seed = folder, cryodrgn, latent, seed
        self.data = folder / "set"

    def folder_of(self, program: str, epochs: int) -> Path:
        """Run folder of a training."""
        return self.folder / f"{program}_z{self.latent}_{epochs}"

    def train(self, program: str, epochs: int) -> tuple[Path, float]:
        """Train; the run folder and the CPU seconds."""
        out = self.folder_of(program, epochs)
        commands = {"cryoatlas": self._ours, "cryodrgn": self._theirs}
        return out, cpu_seconds(commands[program](out, epochs), self.folder / f"{out.name}.log")

    def _ours(self, out: Path, epochs: int) -> list[str]:
        program = [sys.executable, "-m", "cryoatlas", "train", str(self.data / "truth" / "particles.star")]
        sizes = ["--latent", str(self.latent), "--layers", str(LAYERS), "--width", str(WIDTH)]
        rest = ["--epochs", str(epochs), "--seed", str(self.seed), "--device", "cpu", "--overwrite"]
        return [*program, "--out", str(out), "--recipe", "network", *sizes, *rest]

    def _theirs(self, out: Path, epochs: int) -> list[str]:
        program = [self.cryodrgn, "train_vae", str(self.data / "particles.mrcs"), "-o", str(out)]
        tables = ["--poses", str(self.folder / "pose.pkl"), "--ctf", str(self.folder / "ctf.pkl")]
        encoder = ["--enc-layers", str(LAYERS), "--enc-dim", str(WIDTH)]
        decoder = ["--dec-layers", str(LAYERS), "--dec-dim", str(WIDTH)]
        rest = ["--zdim", str(self.latent), "-n", str(epochs), "--seed", str(self.seed)]
        return [*program, *tables, *encoder, *decoder, *rest, "--no-amp", "--no-analysis"]


def time_rows(programs: Programs, epochs: int, pairs: int) -> list[Row]:
    """CPU seconds per epoch of both programs, run in turns."""
    rows = []
    for pair in range(pairs):
        short = {program: programs.train(program, 1)[1] for program in PROGRAMS}
        long = {program: programs.train(program, epochs)[1] for program in PROGRAMS}
        seconds = {program: (long[program] - short[program]) / (epochs - 1) for program in PROGRAMS}
        whole = {f"{program}_whole_run": long[program] for program in PROGRAMS}
        ratio = seconds["cryoatlas"] / seconds["cryodrgn"]
        rows.append({"pair": str(pair), **seconds, "ratio": ratio, **whole})
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0] if key != "pair"}
    return [*rows, {"pair": "median", **median}]


def newest(folder: Path, stem: str) -> Path:
    """The file of the last epoch, ``stem.N.pkl``."""
    return max(folder.glob(f"{stem}.*.pkl"), key=lambda path: int(path.name.split(".")[1]))


def their_volumes(programs: Programs, out: Path, z: Float[Array, "image latent"]) -> list[np.ndarray]:
    """Volumes of a cryoDRGN run at the given z."""
    np.savetxt(programs.folder / "z.txt", z)
    maps = programs.folder / f"{out.name}_volumes"
    where = ["-c", str(out / "config.yaml"), "--zfile", str(programs.folder / "z.txt"), "-o", str(maps)]
    command = [programs.cryodrgn, "eval_vol", str(newest(out, "weights")), *where, "--Apix", "1"]
    cpu_seconds(command, programs.folder / "volumes.log")
    return [read_volume(path).array for path in sorted(maps.glob("vol_*.mrc"))]


def accuracy_row(program: str, z: Float[Array, "image latent"], maps: list[np.ndarray], truth: Truth) -> Row:
    """What z and the volumes of some images are worth."""
    chosen = evenly_spaced(len(truth), MEASURED_IMAGES).numpy()
    (angle,) = truth.coordinates.values()
    return {
        "program": program,
        "knn_spearman": knn_spearman(z, angle),
        **map_measures(maps, truth, chosen),
    }


def accuracy_rows(programs: Programs, epochs: int) -> list[Row]:
    """The runs that were timed, beside the map of all images."""
    truth = read_truth(programs.data)
    chosen = evenly_spaced(len(truth), MEASURED_IMAGES).numpy()
    run = open_run(programs.folder_of("cryoatlas", epochs))
    z = run.latents()
    rows = [accuracy_row("cryoatlas", z, list(run.volumes(z[chosen])), truth)]
    out = programs.folder_of("cryodrgn", epochs)
    mean = read_arrays(newest(out, "z"))
    assert isinstance(mean, np.ndarray), "the first pickle of a z file is one array"
    rows.append(accuracy_row("cryodrgn", mean, their_volumes(programs, out, mean[chosen]), truth))
    consensus = read_volume(run.path / "volumes" / "consensus.mrc").array
    same = accuracy_row("consensus map", np.zeros((len(truth), 1)), [consensus] * len(chosen), truth)
    return [*rows, {**same, "knn_spearman": None}]


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description="against cryodrgn train_vae")
    parser.add_argument("--cryodrgn", required=True, help="path of the program")
    parser.add_argument("--box", type=int, default=32)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--latent", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=15, help="of the longer runs; more than 1")
    parser.add_argument("--pairs", type=int, default=1, help="how often both are timed")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    config = SimulationConfig(
        "linear1d", images=options.images, box=options.box, snr=options.snr, seed=options.seed, ctf=True
    )
    hidden = ("cryodrgn", "work")
    facts = {key: value for key, value in vars(options).items() if key not in hidden}
    facts |= {"layers": LAYERS, "width": WIDTH, "peer": output_of(options.cryodrgn, "--version")}
    suffix = f"d{options.box}_z{options.latent}"
    with work_folder(options.work) as folder:
        programs = Programs(folder, options.cryodrgn, options.latent, options.seed)
        simulated_set(config, folder)
        record(f"peers/cryodrgn_time_{suffix}", time_rows(programs, options.epochs, options.pairs), **facts)
        record(f"peers/cryodrgn_accuracy_{suffix}", accuracy_rows(programs, options.epochs), **facts)


if __name__ == "__main__":
    main()
