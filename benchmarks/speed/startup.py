"""How long does CryoAtlas take to start?

The time of a fresh process for ``cryoatlas --help`` and ``import cryoatlas``, beside the bare
interpreter and, for scale, ``import torch``. Reach: below 0.5 s for the first two.

    python -m benchmarks.speed.startup [runs]
"""

import statistics
import subprocess
import sys
import time

from benchmarks.common import record

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import cryoatlas": ["-c", "import cryoatlas"],
    "cryoatlas --help": ["-m", "cryoatlas", "--help"],
    "cryoatlas train --help": ["-m", "cryoatlas", "train", "--help"],
    "import torch": ["-c", "import torch"],
}


def seconds(arguments: list[str], runs: int) -> list[float]:
    """Wall times of `runs` fresh processes, after one that fills the disk cache."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return times[1:]


def main() -> None:
    """Measure and record."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    rows = []
    for name, arguments in COMMANDS.items():
        times = seconds(arguments, runs)
        median = statistics.median(times)
        rows.append({"command": name, "min_s": min(times), "median_s": median, "runs": runs})
    record("speed/startup", rows)


if __name__ == "__main__":
    main()
