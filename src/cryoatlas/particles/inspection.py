"""What a file holds and everything that is wrong with it, collected in one go.

Reading stops at the first thing that cannot be used; here each check is made on its own, and what
it refuses becomes one entry of a list.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from cryoatlas.errors import FormatError, ImageDataError, InputError
from cryoatlas.io.inputs import require_file
from cryoatlas.io.mrc import MrcHeader, read_header, read_volume
from cryoatlas.io.stack import RunningStatistics, read_sections
from cryoatlas.particles.indices import is_list_of_numbers
from cryoatlas.particles.sources import PICKLE_SUFFIXES
from cryoatlas.shapes import Array, Float, Tensor

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")
STAR_SUFFIXES = (".star",)
CS_SUFFIXES = (".cs",)
NUMBER_SUFFIXES = (".npy", ".txt", ".csv")
MRC_SUFFIXES = (".mrc", ".mrcs", ".map", ".st")
SAMPLE = 100
"""Pixels are looked at in up to this many evenly spaced images."""
LISTED = 10
"""This many problems of one kind are listed one by one."""


@dataclass
class Findings:
    """What was found in a file."""

    kind: str
    """What the file is."""
    facts: list[tuple[str, str]] = field(default_factory=list)
    """Names and values, in the order to be shown."""
    problems: list[str] = field(default_factory=list)
    """What is wrong: one paragraph each, with the usual fix."""
    remarks: list[str] = field(default_factory=list)
    """What is unusual, but no obstacle."""

    def fact(self, name: str, value: object) -> None:
        """Add a fact."""
        self.facts.append((name, str(value)))

    def problem(self, message: str) -> None:
        """Add a problem, unless it is known already."""
        if message not in self.problems:
            self.problems.append(message)

    def attempt(
        self, check: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result | None:
        """Make a check; if it refuses its input, note that as a problem and give None."""
        try:
            return check(*args, **kwargs)
        except InputError as error:
            self.problem(str(error))
            return None

    def shorten(self, start: int) -> None:
        """Of the problems from position `start` on, keep the first few and say how many more there are."""
        more = len(self.problems) - start - LISTED
        if more > 0:
            del self.problems[start + LISTED :]
            self.problem(f"{more} more problems of this kind are not listed.")


def inspect_file(
    path: Path | str, datadir: Path | str | None = None, *, one_box: bool = True, **others: Any
) -> Findings:
    """Look at a file of particles, an MRC stack or volume, row numbers, or a cryoDRGN pickle.

    Args:
        path: the file.
        datadir: where the stacks of a file of particles are sought first.
        one_box: count it as a problem if particle images are of several sizes.
        others: further files that belong to the particles, as `read_particles` takes them.

    Raises:
        InputError: there is no such file.
        FormatError: it is empty, a folder, or of a kind that its suffix does not tell.
    """
    path = require_file(path, "a file of particles, images or numbers")
    suffix = path.suffix.lower()
    given = any(others.values())
    if (
        suffix in (*STAR_SUFFIXES, *CS_SUFFIXES)
        or given
        or (suffix == ".txt" and not is_list_of_numbers(path))
    ):
        from cryoatlas.particles.input_inspection import inspect_particles
        from cryoatlas.particles.reading import Beside

        return inspect_particles(path, Beside(datadir=datadir, **others), one_box=one_box)
    if suffix in MRC_SUFFIXES:
        return inspect_mrc(path)
    if suffix in (*NUMBER_SUFFIXES, *PICKLE_SUFFIXES):
        from cryoatlas.particles.array_inspection import inspect_numbers, inspect_pickle

        return inspect_pickle(path) if suffix in PICKLE_SUFFIXES else inspect_numbers(path)
    known = ", ".join((*STAR_SUFFIXES, *CS_SUFFIXES, *MRC_SUFFIXES, *NUMBER_SUFFIXES, *PICKLE_SUFFIXES))
    raise FormatError(
        f"{path} has a suffix that says nothing of its kind: files of {known} can be looked at."
    )


def inspect_mrc(path: Path) -> Findings:
    """Look at an MRC stack or volume."""
    findings = Findings("MRC file")
    header = findings.attempt(read_header, path)
    if header is None:
        return findings
    is_volume = _looks_like_a_volume(header)
    findings.kind = "MRC volume" if is_volume else "MRC stack of images"
    findings.fact("size", f"{header.columns} × {header.rows} × {header.sections}")
    order = "little" if header.byte_order == "<" else "big"
    findings.fact("pixels", f"mode {header.mode} ({header.dtype.name}), {order}-endian")
    findings.fact("pixel size", "unknown" if header.pixel_size is None else f"{header.pixel_size:g} Å")
    findings.fact("origin", ", ".join(f"{value:g}" for value in header.origin) + " Å")
    if header.surplus_bytes:
        findings.remarks.append(f"{header.surplus_bytes:,} bytes follow the last pixel.")
    if is_volume:
        if header.pixel_size is None:
            findings.remarks.append("the header has no usable pixel size: give it where it is needed.")
        density = findings.attempt(read_volume, path, None if header.pixel_size else 1.0)
        if density is not None:
            findings.fact("density", _summary(density.array))
        if header.columns == header.rows != header.sections:
            findings.remarks.append(
                "the header says volume; if these are images of particles, the file is read as a stack where "
                "particles are asked for."
            )
        return findings
    findings.attempt(lambda: header.box_size)
    chosen = np.unique(np.linspace(0, header.sections - 1, SAMPLE).round().astype(np.int64))
    add_pixel_facts(
        findings, header.sections, chosen.tolist(), lambda index: read_finite_section(header, index)
    )
    return findings


def add_pixel_facts(
    findings: Findings, total: int, chosen: list[int], read: Callable[[int], Float[Array, "row column"]]
) -> None:
    """Look at the pixels of some images, one by one; say what the first is like and which are bad."""
    statistics, flat, before = RunningStatistics(), [], len(findings.problems)
    for index in chosen:
        image = findings.attempt(read, index)
        if image is None:
            continue
        if not statistics.count:
            findings.fact("first image", _summary(image))
        if image.min() == image.max():
            flat.append(index + 1)
        statistics.add(image)
    findings.fact("images looked at", f"{len(chosen):,} of {total:,}")
    if statistics.count:
        low, high, mean, deviation = statistics.summary()
        findings.fact("their pixels", f"mean {mean:.4g}, deviation {deviation:.4g}, {low:.4g} … {high:.4g}")
    if flat:
        named = ", ".join(map(str, flat[:LISTED])) + (", …" if len(flat) > LISTED else "")
        findings.problem(
            f"{len(flat)} of {len(chosen)} images hold one value everywhere (number {named}): leave them out."
        )
    findings.shorten(before)


def read_finite_section(header: MrcHeader, index: int) -> Float[Array, "row column"]:
    """One image of a stack.

    Raises:
        ImageDataError: a pixel is NaN or infinite.
    """
    image = read_sections(header, np.array([index]))[0]
    bad = np.count_nonzero(~np.isfinite(image))
    if bad:
        raise ImageDataError(
            f"image {index + 1} of {header.path} has {bad} pixels that are NaN or infinite: leave this image "
            "out, or extract it again."
        )
    return image


def span(values: Array | Tensor) -> str:
    """``a … b``, or one value where all are equal."""
    low, high = float(values.min()), float(values.max())
    return f"{low:.6g}" if low == high else f"{low:.6g} … {high:.6g}"


def _looks_like_a_volume(header: MrcHeader) -> bool:
    if header.path.suffix.lower() in (".mrcs", ".st"):
        return False
    return header.columns == header.rows == header.sections or header.space_group > 0


def _summary(pixels: Array) -> str:
    mean, deviation = pixels.mean(dtype=np.float64), pixels.std(dtype=np.float64)
    return f"mean {mean:.4g}, deviation {deviation:.4g}, {pixels.min():.4g} … {pixels.max():.4g}"
