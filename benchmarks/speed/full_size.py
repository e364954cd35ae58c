"""What does a set of the paper's size take on one GPU, phase by phase, and what comes of it?

    python -m benchmarks.speed.full_size --scene linear1d [--pairs] [--snr 0.1] [--box 64] [--images 50000]

Simulates the set there, reconstructs it from its images alone with the default recipe, and scores the run.
The seconds of a phase are those between two reports of its progress; less than a second is left out.
"""

import argparse
import cProfile
import pstats
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from benchmarks.common import Row, facts_of, record
from benchmarks.paper.jobs import DIMENSIONS, Data, Job, Method
from benchmarks.paper.work import line, reconstruct, simulated, times_of

from cryoatlas.recipes.run import open_run


class Clock:
    """A `Progress` that adds up the seconds of each phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.last = time.perf_counter()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.stop(note)

    def stop(self, note: str) -> None:
        """Everything since the last call was this."""
        now = time.perf_counter()
        self.seconds[note] += now - self.last
        self.last = now


def main() -> None:
    """One set, once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--scene", default="linear1d", choices=["homogeneous", *DIMENSIONS])
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--snr", type=float, default=float("inf"))
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--profile", type=Path, help="where to write what Python's profiler saw of it")
    options = parser.parse_args()
    data = Data(options.scene, options.box, options.images, options.snr, pairs=options.pairs)
    job = Job(
        "1" if options.scene == "homogeneous" else "2",
        data,
        Method("default", DIMENSIONS.get(options.scene, 0)),
    )
    with TemporaryDirectory() as folder:
        measured(job, Path(folder), options)


def measured(job: Job, work: Path, options: argparse.Namespace) -> None:
    """Run a line and record its phases and its measures."""
    clock, out = Clock(), work / "runs" / job.name
    data = simulated(job.data, work, options.device)
    clock.stop("simulation")
    begun, profile = time.perf_counter(), cProfile.Profile()
    if options.profile:
        profile.enable()
    try:
        reconstruct(job, data, out, "paper", options.device, resume=False, progress=clock)
    finally:  # of a run that was stopped too
        profile.disable()
        clock.stop("last files")
        print(dict(clock.seconds))
        if options.profile:
            with options.profile.open("w", encoding="utf-8") as stream:
                pstats.Stats(profile, stream=stream).sort_stats("tottime").print_stats(60)
                pstats.Stats(profile, stream=stream).sort_stats("cumtime").print_stats(90)
    wall = time.perf_counter() - begun
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    times_of(out).write_text(f"wall_s = {wall:.1f}\ncpu_s = {time.process_time():.1f}\n")
    measures = line(job, open_run(out), work)
    clock.stop("score")
    phases: list[Row] = [
        {"phase": note, "seconds": seconds} for note, seconds in clock.seconds.items() if seconds >= 1
    ]
    facts = {"measures": measures, "wall_s": wall, "gpu_memory_gib": memory}
    for name, value in measures.items():
        print(f"  {name}: {value}")
    record(f"speed/full_size/{job.data.name}", phases, **facts, **facts_of(options))


if __name__ == "__main__":
    main()
