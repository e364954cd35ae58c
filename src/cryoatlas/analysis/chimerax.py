"""A ChimeraX script beside a set of maps, so that one click shows them all alike.

Commands used, and no others: ``open``, ``volume`` (style, step, level, color), ``hide``, ``mseries
slider``, ``view``. ChimeraX runs a script in the folder it lies in, so names in it are relative.
"""

from collections.abc import Sequence
from pathlib import Path

from cryoatlas.io.output import write_text

VIEW = "view.cxc"
Colour = tuple[float, float, float]
"""Red, green, blue, 0 … 1."""


def write_view(
    folder: Path, files: Sequence[str], level: float, colours: Sequence[Colour], *, slider: bool = True
) -> None:
    """Write `VIEW`, which opens maps of a folder at one level, the first shown and the others hidden.

    Args:
        folder: of the maps.
        files: their names in the folder.
        level: density of the surfaces, in the maps' units.
        colours: one for each map.
        slider: with a slider that goes from map to map.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(folder / VIEW, "\n".join(_lines(files, level, colours, slider=slider)) + "\n")


def _lines(files: Sequence[str], level: float, colours: Sequence[Colour], *, slider: bool) -> list[str]:
    count = len(files)
    every = f"#1-{count}" if count > 1 else "#1"
    lines = [
        "# Shows the maps of this folder in ChimeraX (free: www.rbvi.ucsf.edu/chimerax).",
        f"# To run it, open this file in ChimeraX, or say: chimerax {VIEW}",
        "# Models are numbered from 1: if something is open already, say first: close session",
        "",
        *(f"open {file}" for file in files),
        "",
        "# One level for all, so that what appears or disappears is a change of the map.",
        f"volume {every} style surface step 1 level {level:.4g}",
        *(f"volume #{number} color {_percent(colour)}" for number, colour in enumerate(colours, 1)),
    ]
    if count > 1:
        lines += ["", f"# The first map alone; the others: show {_others(count)} models"]
        lines.append(f"hide {_others(count)} models")
    if count > 1 and slider:
        lines += ["", "# From map to map, by hand or as a movie.", f"mseries slider {every} name volume"]
    return [*lines, "view"]


def _others(count: int) -> str:
    return f"#2-{count}" if count > 2 else "#2"


def _percent(colour: Colour) -> str:
    return ",".join(str(round(100 * channel)) for channel in colour)
