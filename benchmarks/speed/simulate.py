"""How long does `cryoatlas simulate` take, and is its memory independent of the number of images?

Linear 1D with CTF at SNR 0.1, D = 64, the built-in body; 2,000 images, and the time of 50,000
extrapolated from the images alone (maps and start-up are paid once). With ``--full`` the 50,000 are
made. Reach: 50,000 images in 6 minutes on 2 cores.

    python -m benchmarks.speed.simulate [--full]
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.common import record

from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig

BOX = 64
FEW, MANY = 2_000, 50_000


def measure(images: int) -> dict[str, float | int | None]:
    """Seconds until the first image is written, and for all of them; memory so far."""
    config = SimulationConfig("linear1d", images=images, box=BOX, ctf=True)
    times: list[tuple[float, int]] = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        simulate(
            config,
            Path(folder) / "set",
            progress=lambda done, total, note="": times.append((time.perf_counter() - start, done)),
        )
        total = time.perf_counter() - start
    (first, warm), (last, done) = times[0], times[-1]
    rate = (done - warm) / (last - first)
    return {
        "images": images,
        "before_first_s": first,
        "images_per_s": rate,
        "total_s": total,
        "extrapolated_to_50000_s": total + (MANY - images) / rate if images < MANY else None,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="make the 50,000 images too")
    counts = [FEW, MANY] if parser.parse_args().full else [FEW]
    measure(200)
    record(
        "speed/simulate", [measure(count) for count in counts], scene="linear1d", box=BOX, snr=0.1, ctf=True
    )


if __name__ == "__main__":
    main()
