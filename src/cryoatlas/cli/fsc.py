"""``cryoatlas fsc``: how well two maps agree, and to what resolution."""

from pathlib import Path
from typing import TYPE_CHECKING

from cryoatlas.cli.console import say
from cryoatlas.cli.text_table import show, text_table
from cryoatlas.errors import MetadataError

if TYPE_CHECKING:
    from cryoatlas.io.mrc import Map

PIXEL_SIZE_TOLERANCE = 1e-3
"""Relative difference up to which pixel sizes count as the same."""
THRESHOLDS = (0.5, 0.143)


def fsc(
    first: Path, second: Path, *, mask: Path | None = None, out: Path | None = None, overwrite: bool = False
) -> None:
    """Fourier shell correlation of two maps: a table, and the resolution at FSC 0.5 and 0.143.

    The maps are compared as they are: in one frame and of one hand. The resolution is where the curve
    first falls under the threshold, on the straight line between two shells.

    Parameters
    ----------
    first
        A map, .mrc.
    second
        Another map of the same box and pixel size.
    mask
        A map that multiplies both first.
    out
        Folder to make, with fsc.csv and fsc.png.
    overwrite
        Replace what --out holds.
    """
    from cryoatlas.analysis.fsc import FINEST_PX, fourier_shell_correlation, resolution
    from cryoatlas.io.mrc import read_volume

    maps = {path: read_volume(path) for path in (first, second)}
    reference = maps[first]
    _require_same_grid(first, reference, second, maps[second])
    weights = None
    if mask is not None:
        weights = read_volume(mask)
        _require_same_grid(first, reference, mask, weights)
    curve = fourier_shell_correlation(
        reference.array, maps[second].array, None if weights is None else weights.array
    )
    box, pixel_size = reference.array.shape[0], reference.pixel_size
    rows = [
        (f"{shell}", f"{shell / (box * pixel_size):.5f}", _period(shell, box, pixel_size), f"{value:.4f}")
        for shell, value in enumerate(curve)
    ]
    show(text_table(("shell", "1/Å", "Å", "FSC"), rows))
    for threshold in THRESHOLDS:
        period = resolution(curve, threshold, box, interpolate=True)
        at_least = " or better: the curve does not fall so far" if period == FINEST_PX else ""
        show(f"FSC {threshold}: {period * pixel_size:.2f} Å ({period:.2f} px){at_least}\n")
    if out is not None:
        _write(out, curve, rows, box, pixel_size, overwrite=overwrite)
        say(f"wrote {out}: fsc.csv, fsc.png")


def _period(shell: int, box: int, pixel_size: float) -> str:
    return "∞" if shell == 0 else f"{box * pixel_size / shell:.2f}"


def _require_same_grid(first: Path, one: "Map", second: Path, other: "Map") -> None:
    """Refuse maps whose voxels do not correspond."""
    if len(set(one.array.shape)) != 1:
        raise MetadataError(
            f"{first} is {' × '.join(map(str, one.array.shape[::-1]))} voxels, but a cube was expected: "
            "pad or cut it to a cube."
        )
    if one.array.shape != other.array.shape:
        raise MetadataError(
            f"{first} has a box of {one.array.shape[0]} px and {second} is "
            f"{' × '.join(map(str, other.array.shape[::-1]))}: maps of one box size were expected; "
            "resample one of them."
        )
    if abs(one.pixel_size - other.pixel_size) > PIXEL_SIZE_TOLERANCE * one.pixel_size:
        raise MetadataError(
            f"{first} has voxels of {one.pixel_size:g} Å and {second} of {other.pixel_size:g} Å: maps on one "
            "grid were expected; resample one of them, or correct its header."
        )


def _write(
    out: Path, curve, rows: list[tuple[str, str, str, str]], box: int, pixel_size: float, *, overwrite: bool
) -> None:
    from cryoatlas.analysis.plots import fsc_figure, save_figure
    from cryoatlas.io.folder import atomic_directory
    from cryoatlas.io.output import write_text

    lines = [
        f"{shell},{frequency},{value:.6f}" for (shell, frequency, *_), value in zip(rows, curve, strict=True)
    ]
    with atomic_directory(out, overwrite=overwrite) as folder:
        write_text(folder / "fsc.csv", "\n".join(["shell,frequency_per_angstrom,fsc", *lines]) + "\n")
        save_figure(fsc_figure({"FSC": curve}, box, pixel_size), folder / "fsc.png")
