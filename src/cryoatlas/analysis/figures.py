"""How our figures look, and how they become files, PNG bytes or inline SVG.

In SVG the ink becomes that of the page, so that one figure works on a light and a dark screen.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as nn

from cryoatlas.io.output import atomic_path
from cryoatlas.shapes import Array, Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, LINE, SECOND = "#010101", "#626262", "#d4d4d4", "#c2571a"
"""Text, secondary text, grid lines, marks; in SVG they become the page's own colours."""
PAGE_COLOURS = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", SECOND: "var(--second)"}
SLICE_GAP = 6
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
}


def slice_picture(volume: Float[Array, "box box box"], panel: int = 300) -> Array:
    """Three central slices side by side (through z, y and x) as a grey RGBA picture.

    Grey runs from the 0.5th to the 99.8th percentile of the three slices, dark to light.
    """
    middle = volume.shape[-1] // 2
    slices = np.stack([volume[middle], volume[:, middle], volume[:, :, middle]]).astype(np.float32)
    low, high = np.percentile(slices, [0.5, 99.8])
    grey = torch.from_numpy((slices - low) / max(high - low, 1e-30))
    fine = nn.interpolate(grey[:, None], (panel, panel), mode="bicubic").clamp(0, 1)[:, 0].flip(1)  # y up
    picture = np.zeros((panel, 3 * panel + 2 * SLICE_GAP, 4), dtype=np.uint8)
    for column, image in enumerate((255 * fine).round().numpy().astype(np.uint8)):
        start = column * (panel + SLICE_GAP)
        picture[:, start : start + panel] = np.dstack([image, image, image, np.full_like(image, 255)])
    return picture


def to_png(picture: Array) -> bytes:
    """A picture (rows, columns, RGBA) as a PNG file."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, picture, format="png", metadata={"Software": "CryoAtlas"})
    return buffer.getvalue()


def to_svg(figure: "Figure") -> str:
    """A figure as an SVG element for inline use: responsive, in the page's ink and font.

    Marks that the page may light up carry ``data-mark="cluster-0"``, ``data-mark="path-0"`` ….
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": str(id(figure))}):
        figure.savefig(buffer, format="svg", transparent=True, dpi=200, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r' id="((?:cluster|path)-\d+)"', r' data-mark="\1"', text)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    text = re.sub(r"font-family: [^;\"]+|font: ([\d.]+px) [^;\"]+", _own_font, text)
    for colour, variable in PAGE_COLOURS.items():
        text = text.replace(colour, variable)
    return text


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure on white, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=180, facecolor="white", metadata={"Software": None})


def _own_font(match: re.Match[str]) -> str:
    return f"font-size: {match[1]}" if match[1] else "font-family: inherit"


@contextmanager
def new_figure(width: float, height: float, rows: int = 1) -> "Iterator[tuple[Figure, Any]]":
    """A figure of ours in inches, drawn without pyplot's global state."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, 1, sharex=True)
