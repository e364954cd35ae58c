"""The tables of docs/results.md, from the JSON file; the words between them are written by hand."""

import json
import re
from collections.abc import Callable, Mapping, Sequence

from benchmarks.common import RESULTS, ROOT
from benchmarks.paper.jobs import Job, jobs
from benchmarks.paper.work import CEILING, described

PAGE = ROOT / "docs" / "results.md"
PAPER_TABLE_1 = {"inf": "0.0004, 0.27 px", "0.1": "0.003, 0.38 px"}
"""Median squared Frobenius and shift that the paper gives, by SNR; 50,000 images of 128²."""
PAPER_TABLE_2 = {
    "linear1d": ("2.50 (0.62)", "2.35 (0.36)", "3.60"),
    "linear2d": ("4.44 (2.50)", "2.93 (1.02)", "6.90"),
    "circular1d": ("4.05 (2.40)", "2.63 (0.74)", "4.87"),
    "discrete10": ("4.95 (3.16)", "2.58 (1.00)", "5.69"),
}
"""px (std) in the paper, without noise, 50,000 images of 64²: single images, tilt pairs, three classes."""

Line = Mapping[str, object]


def write_page(size: str) -> None:
    """Replace the tables of one size in docs/results.md by those of its JSON file."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), size), encoding="utf-8")


def filled(page: str, size: str) -> str:
    """A page with its tables of a size replaced.

    A table lies between ``<!-- laptop, table 1: begin -->`` and ``<!-- laptop, table 1: end -->``.
    """
    content = json.loads((RESULTS / "paper" / f"{size}.json").read_text(encoding="utf-8"))
    rows, seeds = content["rows"], content["facts"]["seeds"]
    for table, made in TABLES.items():
        mine = [row for row in rows if row["table"] == table]
        text = "\n".join(made(mine)) if mine else "Not run at this size."
        missing = _missing(mine, [job for job in jobs(size, seeds) if job.table == table])
        if mine and missing:
            text += "\n\nNot run: " + "; ".join(missing) + "."
        mark = f"<!-- {size}, table {table}:"
        pattern = re.compile(f"({re.escape(mark)} begin -->\n).*?({re.escape(mark)} end -->)", re.DOTALL)
        page = pattern.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)
    return page


def _missing(rows: Sequence[Line], wanted: Sequence[Job]) -> list[str]:
    """Lines that were not run, in words."""
    lines = [described(job) for job in wanted]
    there = [{name: row[name] for name in lines[0]} for row in rows]
    return [f"{line['scene']}, {line['method']}, {_images(line)}" for line in lines if line not in there]


def _table_1(rows: Sequence[Line]) -> list[str]:
    columns: dict[str, Callable[[Line], str]] = {
        "images": _images,
        "method": _method,
        "rotation, median": lambda row: _number(row["median deg"], "{:.3g}°"),
        "‖A−B‖²": lambda row: _number(row["median sq. Frobenius"], "{:.2g}"),
        "shift, median": lambda row: _number(row["median px shift"], "{:.3g} px"),
        "the paper": lambda row: "" if _is_ceiling(row) else PAPER_TABLE_1.get(str(row["snr"]), "–"),
        "map at FSC = 0.5": lambda row: _number(row["px"], "{:.2f} px"),
        "seconds": _seconds,
    }
    return _table(columns, rows)


def _paper(row: Line) -> str:
    """What the paper has in its Table 2."""
    if _is_ceiling(row) or row["snr"] != "inf" or row["ctf"]:
        return ""
    singles, pairs, classes = PAPER_TABLE_2[str(row["scene"])]
    return classes if "classify" in str(row["method"]) else pairs if row["tilt pairs"] else singles


def _table_2(rows: Sequence[Line]) -> list[str]:
    return _table(MOVING, rows)


def _table_s3(rows: Sequence[Line]) -> list[str]:
    left_out = ("per state", "the paper", "hand")
    return _table({name: cell for name, cell in MOVING.items() if name not in left_out}, rows)


TABLES: dict[str, Callable[[Sequence[Line]], list[str]]] = {
    "1": _table_1,
    "2": _table_2,
    "S3": _table_s3,
    "S4": _table_2,
}


def _table(columns: Mapping[str, Callable[[Line], str]], rows: Sequence[Line]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(cell(row) for cell in columns.values()) + " |")
    return lines


def _is_ceiling(row: Line) -> bool:
    return row["method"] == CEILING


def _images(row: Line) -> str:
    noise = "no noise" if row["snr"] == "inf" else f"SNR {row['snr']}"
    kind = "pairs" if row["tilt pairs"] else "images"
    return f"{row['images']:,} {kind} of {row['box']}², {noise}{', CTF' if row['ctf'] else ''}"


def _method(row: Line) -> str:
    return f"*{row['method']}*" if _is_ceiling(row) else f"{row['method']}, seed {row['seed']}"


def _number(value: object, form: str) -> str:
    return "–" if value is None else form.format(value)


def _spread(row: Line, kind: str) -> str:
    return f"{row[f'px{kind}']:.2f} ({row[f'px std{kind}']:.2f})"


def _rotation(row: Line) -> str:
    return "–" if row["median deg"] is None else f"{row['median deg']:.1f}° ({row['deg, per state']:.1f}°)"


def _told(row: Line) -> str:
    """What z tells of the state."""
    told = row["latent and coordinate"] if row["Rand index"] is None else row["Rand index"]
    return "–" if _is_ceiling(row) else _number(told, "{:.2f}")


def _hand(row: Line) -> str:
    if row["mirrored"] is None:
        return "–"
    mixed = f", {row['other hand']:.0%} other" if row["other hand"] else ""
    return ("opposite" if row["mirrored"] else "true") + mixed


def _seconds(row: Line) -> str:
    """CPU seconds, or seconds of the clock on a GPU."""
    return _number(row["wall s" if row["on"] else "cpu s"], "{:,.0f}")


MOVING: Mapping[str, Callable[[Line], str]] = {
    "scene": lambda row: str(row["scene"]),
    "images": _images,
    "method": _method,
    "px (std)": lambda row: _spread(row, ""),
    "per state": lambda row: _spread(row, ", per state"),
    "the paper": _paper,
    "change": lambda row: _number(row["change"], "{:.2f}"),
    "z": _told,
    "rotation, median (per state)": _rotation,
    "hand": _hand,
    "seconds": _seconds,
}
"""Columns of a table of molecules that move."""
