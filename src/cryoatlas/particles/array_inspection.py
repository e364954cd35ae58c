"""What files of arrays hold: cryoDRGN's pickles, and row numbers; none of them is trusted."""

from pathlib import Path

import numpy as np

from cryoatlas.io import cryodrgn
from cryoatlas.particles.indices import read_numbers
from cryoatlas.particles.inspection import Findings, span
from cryoatlas.particles.sources import read_ctf
from cryoatlas.shapes import Array


def inspect_numbers(path: Path) -> Findings:
    """Look at a file of row numbers."""
    findings = Findings("numbers")
    values = findings.attempt(read_numbers, path)
    if values is not None:
        findings.fact("array", _shape(values))
        _list_facts(findings, values)
    return findings


def inspect_pickle(path: Path) -> Findings:
    """Look at a cryoDRGN pickle."""
    findings = Findings("pickle of arrays")
    contents = findings.attempt(cryodrgn.read_all_arrays, path)
    if contents is None:
        return findings
    parts = [part for content in contents for part in (content if isinstance(content, tuple) else (content,))]
    if parts and all(isinstance(part, int) for part in parts):
        parts = [np.array(parts, object).astype(np.float64)]
    for number, part in enumerate(parts, 1):
        findings.fact(f"part {number}", _shape(part) if isinstance(part, np.ndarray) else repr(part))
    first = parts[0] if parts and isinstance(parts[0], np.ndarray) else np.zeros(())
    if first.shape[1:] == (3, 3):
        _poses(findings, path)
    elif first.shape[1:] == (len(cryodrgn.CTF_COLUMNS),) and len(contents) == 1:
        _ctf(findings, path)
    elif first.ndim == 2:
        _latents(findings, path)
    elif first.ndim == 1:
        _list_facts(findings, first)
    return findings


def _poses(findings: Findings, path: Path) -> None:
    findings.kind = "cryoDRGN poses"
    poses = findings.attempt(cryodrgn.read_poses, path, 1, 1.0)
    if poses is not None:
        findings.fact("poses", f"{len(poses[0]):,}")
        findings.fact("largest shift", f"{np.abs(poses[1]).max():.3f} of the box")


def _ctf(findings: Findings, path: Path) -> None:
    findings.kind = "cryoDRGN CTF parameters"
    findings.attempt(read_ctf, path)
    table = findings.attempt(cryodrgn.read_ctf_table, path)
    for name, column in zip(cryodrgn.CTF_COLUMNS, () if table is None else table.T, strict=False):
        findings.fact(name, span(column))


def _latents(findings: Findings, path: Path) -> None:
    latents = findings.attempt(cryodrgn.read_latents, path)
    if latents is None:
        return
    mean, log_variance = latents
    findings.kind = "cryoDRGN latents"
    findings.fact("images", f"{len(mean):,}")
    for number, column in enumerate(mean.T, 1):
        findings.fact(f"z {number}", f"{span(column)}, deviation {column.std():.4g}")
    findings.fact("variances", "no" if log_variance is None else "yes")


def _list_facts(findings: Findings, values: Array) -> None:
    """Whether these can be row numbers, which are whole, not negative, and each there once."""
    if values.ndim != 1 or len(values) == 0 or values.dtype.kind not in "iuf":
        return
    findings.fact("values", span(values))
    different = len(np.unique(values))
    whole = bool((values == np.round(values)).all()) and values.min() >= 0
    if whole and different == len(values):
        findings.kind = "row numbers"
    elif different < len(values):
        findings.kind = "labels or other numbers"
        findings.fact("different values", f"{different:,}")


def _shape(array: Array) -> str:
    return f"{' × '.join(map(str, array.shape))}, {array.dtype.name}"
