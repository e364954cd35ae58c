"""What a file that particles come in holds, of whatever program it is, and everything that is wrong with "
"it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryoatlas.io.cryosparc import CsTable, read_cs
from cryoatlas.io.mrc import read_header
from cryoatlas.particles import bare_stacks, cryosparc, reading, stack_files
from cryoatlas.particles.indices import read_indices
from cryoatlas.particles.inspection import Findings
from cryoatlas.particles.metadata import ParticleTables
from cryoatlas.particles.reading import Beside
from cryoatlas.particles.table_inspection import inspect_tables
from cryoatlas.particles.tilt_stacks import read_star_particles


def inspect_particles(path: Path, beside: Beside, *, one_box: bool = True) -> Findings:
    """Look at a star file, a .cs file, an image stack or a list of stacks, and at what is given beside it."""
    findings = Findings("particles")
    read = _of_stacks if reading.is_bare(path) else _of_cryosparc if _is_cs(path) else _of_relion
    tables = read(findings, path, beside)
    if tables is None:
        return findings
    if beside.ctf is not None and not reading.is_bare(path):
        tables = findings.attempt(reading.add_ctf, tables, beside) or tables
    if beside.poses is not None:
        tables = findings.attempt(reading.add_poses, tables, beside) or tables
    if beside.indices is not None:
        chosen = findings.attempt(read_indices, beside.indices, len(tables))
        tables = tables if chosen is None else tables.select(chosen)
        findings.fact("particles taken", f"{len(tables):,}")
    inspect_tables(findings, tables, beside.datadir, one_box=one_box)
    return findings


def _is_cs(path: Path) -> bool:
    return path.suffix.lower() == cryosparc.CS_SUFFIX


def _of_relion(findings: Findings, path: Path, beside: Beside) -> ParticleTables | None:
    findings.kind = "star file"
    if beside.passthrough:
        findings.attempt(reading.read_images, path, beside)
    tables = findings.attempt(read_star_particles, path, beside.datadir)
    if tables is not None:
        generation = "3.0 or earlier" if tables.optics is None else "3.1 or later (optics groups)"
        findings.kind = f"particles, RELION {generation}"
        findings.fact("particles", f"{len(tables):,} in data_{tables.block}")
        findings.fact("columns", ", ".join(tables.particles.names))
    return tables


def _of_cryosparc(findings: Findings, path: Path, beside: Beside) -> ParticleTables | None:
    findings.kind = "cryoSPARC table"
    table = findings.attempt(read_cs, path, beside.passthrough)
    if table is None:
        return None
    findings.kind = "particles, cryoSPARC"
    findings.fact("particles", f"{len(table):,}")
    findings.fact("columns", ", ".join(table.columns))
    findings.attempt(cryosparc.require_images, table)
    for name, width in cryosparc.NUMBERS.items():
        if table.has(name):
            findings.attempt(table.number, name, width)
    dark = findings.attempt(cryosparc.is_dark, table)
    if dark is not None:
        findings.fact("contrast", "dark particles, inverted when read" if dark else "bright particles")

    def attempt(part: Callable[[CsTable], Any], table: CsTable) -> Any:
        return findings.attempt(part, table)

    return cryosparc.cs_columns(table, attempt)


def _of_stacks(findings: Findings, path: Path, beside: Beside) -> ParticleTables | None:
    """Images alone; where they cannot be read, what is wrong with each of the stacks."""
    findings.kind = "image stacks"
    before = len(findings.problems)
    tables = findings.attempt(reading.read_images, path, beside)
    if tables is not None:
        findings.fact("particles", f"{len(tables):,}")
    elif path.suffix.lower() == bare_stacks.LIST_SUFFIX:
        names = findings.attempt(bare_stacks.read_stack_names, path) or []
        for stack in stack_files.find_stacks(names, path, beside.datadir):
            header = None if stack is None else findings.attempt(read_header, stack)
            findings.attempt(bare_stacks.refuse_volume, header) if header is not None else None
        findings.shorten(before)
    return tables
