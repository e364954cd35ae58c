"""How fast do batches come from disk in chunked order, beside uniformly random order and beside memory?

A set of noise on disk, larger than the buffer of chunked reading. Each way makes the same batches of one
epoch (normalised, windowed, transformed, without CTF) and throws them away; before each run the file is
dropped from the page cache where the system can (posix_fadvise). Ways are run in turns, and each of them
once more with --step seconds of sleep per batch in place of a training step: what then exceeds the sleep
was not hidden behind it. Images in memory are those of the file, read before the clock starts.

    python -m benchmarks.speed.streaming [--images 20000] [--box 128] [--rounds 3] [--step 0.02]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from benchmarks.common import record
from benchmarks.speed.memory import write_set

from cryoatlas.fourier.lattice import Disc
from cryoatlas.particles.batch import ParticleLoader
from cryoatlas.particles.order import BUFFER_CHUNKS, CHUNK_BYTES, Order, random_order, shuffled_order
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.prefetch import prefetched
from cryoatlas.particles.preprocess import Preprocessor


def drop_from_cache(path: Path) -> bool:
    """Ask the system to forget a file; whether it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return True


def from_memory(loader: ParticleLoader, pixels: torch.Tensor, order: torch.Tensor) -> Iterable[object]:
    """The loader's work on images that are in memory."""
    return prefetched(
        loader.preprocessor.transform(pixels[part], loader.disc) for part in order.split(loader.batch_size)
    )


def seconds(batches: Iterable[object], step: float) -> tuple[float, float]:
    """Wall-clock time of taking all batches and sleeping after each, and of it before the first came."""
    started, first = time.perf_counter(), 0.0
    for _ in batches:
        first = first or time.perf_counter() - started
        if step:
            time.sleep(step)
    return time.perf_counter() - started, first


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description="images per second from disk")
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", type=float, default=0.02, help="seconds of a training step")
    parser.add_argument("--folder", type=Path, help="disk to measure; default: of temporary files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        particles = bare(read_particles(write_set(Path(work), options.images, options.box)))
        stack = Path(work) / "particles.mrcs"
        loader = ParticleLoader(particles, Preprocessor.fit(particles), Disc(options.box), options.batch)
        pixels = particles.images(slice(None))
        found: dict[tuple[str, float], list[tuple[float, float]]] = {}
        dropped = True
        for turn in range(options.rounds):
            order = shuffled_order(particles, seed=0, epoch=turn)
            assert order.chunks, "the set fits into the buffer: take more images"
            uniform = random_order(len(particles), seed=0, epoch=turn)
            for step in (0.0, options.step):
                ways = {
                    "disk, chunked order": lambda order=order: loader.batches(order),
                    "disk, uniform order": lambda uniform=uniform: loader.batches(Order(uniform)),
                    "memory": lambda uniform=uniform: from_memory(loader, pixels, uniform),
                }
                for way, batches in ways.items():
                    dropped &= drop_from_cache(stack)
                    found.setdefault((way, step), []).append(seconds(batches(), step))
    batches = -(-options.images // options.batch)
    rows = []
    for (way, step), times in found.items():
        total = [whole for whole, _ in times]
        rows.append(
            {
                "way": way,
                "step_s": step,
                "images_per_s": options.images / float(np.median(total)),
                "least": options.images / max(total),
                "most": options.images / min(total),
                "first_batch_s": float(np.median([first for _, first in times])),
                "not_hidden_s": float(np.median(total)) - step * batches,
            }
        )
    facts = {key: value for key, value in vars(options).items() if key != "folder"}
    stack_gb = 4e-9 * options.images * options.box**2
    buffer_mib = BUFFER_CHUNKS * CHUNK_BYTES / 2**20
    record("speed/streaming", rows, dropped=dropped, stack_gb=stack_gb, buffer_mib=buffer_mib, **facts)


def bare(particles: ParticleSet) -> ParticleSet:
    """The same images without CTF: what costs time should be the reading."""
    return replace(particles, ctf=None)


if __name__ == "__main__":
    main()
