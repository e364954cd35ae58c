"""With poses known, how much of a one-dimensional motion does `train` find, and how much is there?

The linear1d scene (one bond, 0–90°, 50 states) with white noise: |Spearman| of z and the true angle,
resolution at FSC = 0.5 of each image's own volume against its true map (mean and standard deviation
over 100 images), and correlation inside the region that moves; beside the consensus map of all
images, the oracle (`oracle.py`) and, for z, the posterior mean under the true maps.

    python -m benchmarks.accuracy.linear1d [--images 5000] [--box 64] [--epochs N] [--ctf]
"""

from benchmarks.accuracy.known_poses import arguments, measure, work_folder
from benchmarks.common import facts_of, record

from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig


def main() -> None:
    """Measure and record."""
    parser = arguments("linear1d with known poses")
    parser.add_argument("--ctf", action="store_true")
    options = parser.parse_args()
    config = SimulationConfig(
        "linear1d",
        images=options.images,
        box=options.box,
        snr=options.snr,
        seed=options.seed,
        ctf=options.ctf,
    )
    with work_folder(options.work) as folder:
        data = folder / "set"
        if not data.exists():
            simulate(config, data)
        rows = measure(data, folder / "run", options)
    record(f"accuracy/linear1d{options.label}", rows, **facts_of(options))


if __name__ == "__main__":
    main()
