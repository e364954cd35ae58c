"""What every benchmark shares: the facts of the machine, a table on the terminal, a JSON file.

A benchmark is a script that opens with the question it answers, is run from the root of the
checkout as ``python -m benchmarks.speed.startup``, and ends with::

    from benchmarks.common import record

    record("speed/startup", rows, seed=1)

which writes benchmarks/results/speed/startup.json.
"""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("torch", "numpy", "scipy", "finufft", "mrcfile", "gemmi", "scikit-learn")

Value = str | int | float | bool | None
Row = Mapping[str, Value]


def record(name: str, rows: Sequence[Row], **facts: object) -> Path:
    """Print `rows` as a table and write them, with where and how they were measured, as JSON.

    Args:
        name: such as ``speed/startup``; the path below benchmarks/results, without ending.
        rows: one mapping a row, all with the same keys; a unit is part of its key (``seconds``).
        facts: anything needed to repeat the measurement: seed, command, data, what was compared.

    Returns:
        The JSON file.
    """
    print_table(name, rows)
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"name": name, "facts": facts, "machine": machine_facts(), "rows": list(rows)}
    path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    print(f"written to {path.relative_to(ROOT)}")
    return path


def facts_of(options: argparse.Namespace) -> dict[str, object]:
    """Options that a result may depend on: not where files lie, nor what they are called."""
    return {name: value for name, value in vars(options).items() if name not in ("work", "label", "resume")}


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print rows under a line of their keys, numbers to four significant digits."""
    keys = list(rows[0])
    cells = [keys, *([format_value(row[key]) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(keys))]
    print(f"\n{title}")
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def format_value(value: Value) -> str:
    """A table cell."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else str(value)


def machine_facts() -> dict[str, object]:
    """What a reader needs to compare the numbers with their own machine."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": memory_gib(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "gpu": gpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "versions": {name: version(name) for name in ("cryoatlas", *LIBRARIES)},
    }


def commit() -> str | None:
    """The commit of the checkout, with ``+changes`` if files differ from it; None outside git."""
    described = output_of("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    if described is None:
        return None
    changed = output_of("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"{described}+changes" if changed else described


def processor() -> str:
    """The processor's own name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_gib() -> float | None:
    """Memory of the machine; None where the system does not tell."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def gpu() -> str | None:
    """Names of the NVIDIA GPUs; None without."""
    return output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")


def version(distribution: str) -> str | None:
    """Installed version; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def output_of(*command: str) -> str | None:
    """What a command prints; None if it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
