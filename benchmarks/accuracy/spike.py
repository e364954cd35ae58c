"""With poses known, does `train` find a swinging domain under the poses and CTF of a real experiment?

Poses and CTF parameters are those of EMPIAR-10076 (its published tables); the molecule is the SARS-CoV-2
spike 6VXX, whose receptor-binding domain of chain A swings about its hinge. Measures as in `linear1d`.

    python -m benchmarks.accuracy.spike [--images 5000] [--box 64] [--angles 0,60] [--epochs N]

Data: ../shared/data beside the checkout; without it the script says so and ends.
"""

import sys
from pathlib import Path

from benchmarks.accuracy.known_poses import arguments, measure, work_folder
from benchmarks.common import ROOT, facts_of, record

from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.imaging.simulate_plan import MeasuredTables
from cryoatlas.particles.sources import read_ctf, read_poses

DATA = ROOT.parent / "shared" / "data"
TABLES = DATA / "dist" / "empiar10076"
MODEL = DATA / "models" / "6vxx.pdb.gz"


def tables() -> MeasuredTables:
    """Real poses, shifts and CTFs."""

    def poses(box: int, pixel_size: float):
        return read_poses(TABLES / "poses.pkl", box_size=box, pixel_size=pixel_size)

    return MeasuredTables(poses=poses, ctf=read_ctf(TABLES / "ctf.pkl"))


def simulate_set(config: SimulationConfig, data: Path) -> None:
    """Write the set unless it is there."""
    if not data.exists():
        simulate(config, data, tables())


def main() -> None:
    """Measure and record."""
    parser = arguments("a swinging domain with real poses and CTF")
    parser.add_argument("--rotate", default="A:330-530", help="residues that swing")
    parser.add_argument("--angles", default="0,60", help="first and last angle, degrees")
    options = parser.parse_args()
    if not MODEL.exists():
        sys.exit("skipped: ../shared/data is not beside the checkout")
    config = SimulationConfig(
        "linear1d",
        images=options.images,
        box=options.box,
        snr=options.snr,
        seed=options.seed,
        atoms=MODEL,
        rotate=(options.rotate,),
        angles=options.angles,
    )
    with work_folder(options.work) as folder:
        simulate_set(config, folder / "set")
        rows = measure(folder / "set", folder / "run", options)
    record(f"accuracy/spike{options.label}", rows, model="6VXX", tables="EMPIAR-10076", **facts_of(options))


if __name__ == "__main__":
    main()
