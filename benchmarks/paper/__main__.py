"""The paper's tables, again: Table 1, Table 2, S3, S4, from simulation to score, with one command.

    OMP_NUM_THREADS=1 python -m benchmarks.paper --size laptop [--jobs 2] [--seeds 0 1 …] [--tables 1 2 S3 S4]
    python -m benchmarks.paper --size laptop --page      # docs/results.md from what was measured

Sets and runs are kept in --work: a line that is there is not run again, and one that was cut off goes on
(without its times). The JSON file is written after every line.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from benchmarks.common import RESULTS, ROOT, Row, record
from benchmarks.paper.jobs import SIZES, Job, jobs
from benchmarks.paper.page import CEILING, write_page
from benchmarks.paper.work import SCALED, SCALED_EPOCHS, ceiling_line, described, finished, line, simulated


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="benchmarks.paper", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", choices=list(SIZES), default="laptop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tables", nargs="+", choices=["1", "2", "S3", "S4"], help="only these")
    parser.add_argument("--jobs", type=int, default=1, help="lines worked on at a time")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / "work" / "paper")
    parser.add_argument("--page", action="store_true", help="only write the JSON file and the page's tables")
    parser.add_argument("--line", type=int, help=argparse.SUPPRESS)  # one line, in a process of its own
    return parser.parse_args(arguments)


def row_path(job: Job, work: Path, kind: str) -> Path:
    """Where a finished line is kept."""
    return work / "rows" / f"{job.table}_{job.name if kind == 'run' else job.data.name}_{kind}.json"


def work_on(job: Job, work: Path, size: str, device: str) -> None:
    """Make a line and its ceiling, unless they are there."""
    lines = {
        "ceiling": lambda: ceiling_line(job, work),
        "run": lambda: line(job, finished(job, work, size, device), work),
    }
    for kind, make in lines.items():
        path = row_path(job, work, kind)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(make()))


def gathered(wanted: Sequence[Job], work: Path, size: str) -> list[Row]:
    """All finished lines, in the tables' order, a set's ceiling before its first.

    What an earlier command recorded stands where `work` has nothing newer.
    """
    recorded = RESULTS / "paper" / f"{size}.json"
    earlier = json.loads(recorded.read_text())["rows"] if recorded.exists() else []
    rows = []
    for job in wanted:
        for kind, name in (("ceiling", CEILING), ("run", job.method.name)):
            path, what = row_path(job, work, kind), {**described(job), "method": name}
            if kind == "ceiling":
                what["seed"] = 0
            old = [row for row in earlier if all(row[key] == value for key, value in what.items())]
            found = [json.loads(path.read_text())] if path.exists() else old
            # Lines from before GPUs do not say what they ran on.
            rows += [row for row in ({"on": None, **row} for row in found) if row not in rows]
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not there, record, and write the page."""
    options = parsed(arguments)
    every = list(jobs(options.size, options.seeds))
    wanted = [job for job in every if not options.tables or job.table in options.tables]
    if options.line is not None:
        work_on(wanted[options.line], options.work, options.size, options.device)
        return
    if not options.page:
        missing = [n for n, job in enumerate(wanted) if not row_path(job, options.work, "run").exists()]
        for number in missing:  # beforehand, lest two lines make one set
            simulated(wanted[number].data, options.work, options.device)
        given = list(sys.argv[1:] if arguments is None else arguments)
        with ThreadPoolExecutor(options.jobs) as pool:
            for number, status in pool.map(lambda number: (number, _apart(number, given)), missing):
                print(
                    f"{wanted[number].table}: {wanted[number].name}: {'FAILED' if status else 'done'}",
                    flush=True,
                )
                _record(every, options)
    _record(every, options)
    write_page(options.size)


def _apart(number: int, given: Sequence[str]) -> int:
    """Work on one line in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.paper", *given, "--line", str(number)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _record(every: Sequence[Job], options: argparse.Namespace) -> None:
    """Write the lines of all tables: those that this command was not asked for stay in the file."""
    rows = gathered(every, options.work, options.size)
    if rows:
        scaled = {**SCALED, "epochs": SCALED_EPOCHS} if options.size == "laptop" else {}
        facts = {"size": asdict(SIZES[options.size]), "seeds": options.seeds, "paper_recipe_scaled": scaled}
        record(f"paper/{options.size}", rows, **facts)


if __name__ == "__main__":
    main()
