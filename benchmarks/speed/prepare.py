"""How long does `prepare` take beside cryoDRGN's `downsample`, and how much memory?

Both bring the same images of 256² (noise and a blob of varying contrast, float32, one stack) to 128² on
the same machine, one after the other, each from a cold file cache and with the threads it takes by
itself. cryoDRGN crops and writes float32. Ours does what it does by default: normalise per micrograph and
write float16; with --like-for-like it is timed without these too (`--normalize none --dtype float32`).
Every run includes the start of the program. Reach: twice the images per second or more.

    python -m benchmarks.speed.prepare [--cryodrgn PATH] [--images 2000] [--pairs 1] [--like-for-like]
        [--work DIR]

PATH is the `cryodrgn` of an environment of its own; without, only ours is measured. 100,000 images take
26 GB in DIR for the input, and up to 7 GB for an output, which is deleted after it is timed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from benchmarks.common import Row, output_of, record

from cryoatlas.io.mrc import StackWriter
from cryoatlas.io.star import StarTable, write_star

OLD, NEW, PIXEL_SIZE = 256, 128, 1.1
PER_MICROGRAPH, PIECE = 200, 500
AGREEMENT_IMAGES = 50


def write_input(folder: Path, images: int) -> None:
    """A stack of noise and blobs with its star file."""
    random = np.random.default_rng(0)
    noise = random.standard_normal((PIECE, OLD, OLD), dtype=np.float32)
    axis = np.arange(OLD) - OLD // 2
    blob = np.exp(-(axis**2 + axis[:, None] ** 2) / (2 * 30.0**2)).astype(np.float32)
    with StackWriter(folder / "particles.mrcs", OLD, PIXEL_SIZE) as stack:
        for start in range(0, images, PIECE):
            count = min(PIECE, images - start)
            contrast = random.uniform(0, 1, (count, 1, 1)).astype(np.float32)
            # The same noise, moved: drawing it anew would take longer than all that is measured.
            moved = np.roll(noise[:count], random.integers(OLD, size=2), (1, 2))
            stack.append(moved + contrast * blob)
    columns = {
        "rlnImageName": [f"{number}@particles.mrcs" for number in range(1, images + 1)],
        "rlnMicrographName": [f"mic_{number // PER_MICROGRAPH:05d}.mrc" for number in range(images)],
        "rlnImagePixelSize": np.full(images, PIXEL_SIZE),
        **dict(zip(("rlnDefocusU", "rlnDefocusV"), random.uniform(5000, 30000, (2, images)), strict=True)),
        "rlnDefocusAngle": np.zeros(images),
        "rlnVoltage": np.full(images, 300.0),
        "rlnSphericalAberration": np.full(images, 2.7),
        "rlnAmplitudeContrast": np.full(images, 0.1),
    }
    write_star(folder / "particles.star", {"particles": StarTable.from_columns(columns)})


def forget(path: Path) -> None:
    """Write a file to disk and drop it from the system's cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def measure(command: list[str], log: Path) -> dict[str, float]:
    """Wall and CPU seconds and peak memory of a command with its children.

    Raises:
        SystemExit: it failed; its output is in `log`.
    """
    started = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command[:3])} … failed:\n{log.read_text()[-3000:]}")
    # Linux counts in KiB.
    memory = usage.ru_maxrss * 1024 / 1e9
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_gb": memory}


def commands(folder: Path, cryodrgn: str | None, like_for_like: bool) -> dict[str, list[str]]:
    """The programs, by what the table calls them; all write into ``out``."""
    ours = [sys.executable, "-m", "cryoatlas", "prepare", str(folder / "particles.star")]
    ours += ["--box", str(NEW), "--out", str(folder / "out")]
    found = {"cryoatlas, normalised, float16": ours}
    if like_for_like:
        found["cryoatlas, cropped only, float32"] = [*ours, "--normalize", "none", "--dtype", "float32"]
    if cryodrgn is not None:
        theirs = [cryodrgn, "downsample", str(folder / "particles.mrcs"), "-D", str(NEW)]
        found["cryodrgn downsample"] = [*theirs, "-o", str(folder / "out" / "small.mrcs")]
    return found


def difference(folder: Path, stacks: list[Path]) -> float:
    """Root mean square difference of the first images from the input clipped by NumPy, relative."""
    from cryoatlas.io.mrc import read_header, read_images

    first = np.arange(AGREEMENT_IMAGES)
    given = read_images(read_header(folder / "particles.mrcs"), first).astype(np.float64)
    spectrum = np.fft.fftshift(np.fft.fft2(given), axes=(1, 2))
    low, high = (OLD - NEW) // 2 + 1, (OLD + NEW) // 2  # without Nyquist, which programs treat differently
    kept = spectrum[:, low:high, low:high]
    found = read_images(read_header(stacks[0]), first).astype(np.float64)
    theirs = np.fft.fftshift(np.fft.fft2(found), axes=(1, 2))[:, 1:, 1:]
    # The scale is each program's own.
    scale = (theirs * kept.conj()).real.sum() / (np.abs(kept) ** 2).sum()
    return float(np.sqrt((np.abs(theirs / scale - kept) ** 2).sum() / (np.abs(kept) ** 2).sum()))


def run_one(program: str, command: list[str], folder: Path, images: int) -> Row:
    """Time one program from a cold cache, look at what it wrote, and delete that."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    if program.startswith("cryodrgn"):
        out.mkdir()
    forget(folder / "particles.mrcs")
    found = measure(command, folder / "log.txt")
    stacks = sorted(out.rglob("*.mrcs"))
    size = sum(path.stat().st_size for path in stacks) / 1e9
    from_input = None if "normalised" in program else difference(folder, stacks)
    shutil.rmtree(out)
    rate = images / found["wall_s"]
    return {
        "program": program,
        "images_per_s": rate,
        **found,
        "output_gb": size,
        "difference": from_input,
    }


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description="prepare beside cryodrgn downsample")
    parser.add_argument("--cryodrgn", help="path of the program")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=1, help="how often all are timed, in turns")
    parser.add_argument("--like-for-like", action="store_true", help="ours without its extras too")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    peer = None if options.cryodrgn is None else output_of(options.cryodrgn, "--version")
    facts = {"images": options.images, "old": OLD, "new": NEW, "peer": peer}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() if options.work is None else nullcontext(options.work) as place:
        folder = Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "particles.star").exists():
            # In a process of its own: a child's peak of memory starts from its parent's.
            writer = get_context("spawn").Process(target=write_input, args=(folder, options.images))
            writer.start()
            writer.join()
            if writer.exitcode:
                sys.exit("the input could not be written")
        for pair in range(options.pairs):
            for program, command in commands(folder, options.cryodrgn, options.like_for_like).items():
                load = os.getloadavg()[0]
                found = run_one(program, command, folder, options.images)
                rows.append({"pair": pair, **found, "load_before": load})
                record(f"speed/prepare_{options.images}", rows, **facts)


if __name__ == "__main__":
    main()
