"""Figures of latents, correlations and training, small and quiet, for files and for the report.

Colours are safe for colour-blind readers: one hue where nothing is compared, an ordered scale (viridis)
for clusters and columns, a cyclic one for angles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cryoatlas.analysis.figures import MUTED, SECOND, new_figure, save_figure
from cryoatlas.shapes import Array, Float, Int

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Colouring",
    "cluster_colours",
    "fsc_figure",
    "histogram_figure",
    "resolution_figure",
    "save_figure",
    "scatter_figure",
    "stacked_figure",
    "training_figure",
    "variance_figure",
]

ACCENT = "#2f6fa7"
"""Blue; with the orange of marks, told apart by everybody."""
SCALE_ENDS = (0.2, 0.92)
"""Part of viridis that can be seen on white and on black."""
ALIKE = 1e-6
"""Values that differ by less, relatively, are one value."""
MOST_NAMED = 6
"""With more classes than that a legend would hide them."""
MOST_POINTS = 20_000
"""A scatter plot of more images shows this many, evenly spaced."""


@dataclass(frozen=True)
class Colouring:
    """What the points of a latent plot are coloured by."""

    label: str
    values: Float[Array, "image"]
    cyclic: bool = False
    """An angle in degrees, whose scale closes on itself."""


def cluster_colours(count: int) -> list[tuple[float, float, float]]:
    """A colour for each cluster, dark to light in their order."""
    from matplotlib import colormaps

    scale = colormaps["viridis"]
    return [scale(x)[:3] for x in np.linspace(*SCALE_ENDS, count)] if count > 1 else [scale(0.4)[:3]]


def histogram_figure(
    latent: Float[Array, "image"],
    labels: Int[Array, "image"] | None = None,
    marks: Float[Array, "cluster"] | None = None,
    path: Float[Array, "frame"] | None = None,
) -> "Figure":
    """How many images have which value of a 1-D latent.

    Args:
        labels: cluster of each image, shown in the clusters' colours.
        marks: the clusters' representatives, numbered from 1 on the axis.
        path: latents of the volumes of a path, ticked below the axis.
    """
    with new_figure(4.2, 2.9) as (figure, axes):
        low, high = np.percentile(latent, [0.1, 99.9])
        edges = np.linspace(low, high, 81) if high > low else np.linspace(low - 1, low + 1, 81)
        if labels is None:
            axes.hist(latent, edges, color=ACCENT)
        else:
            groups = [latent[labels == k] for k in range(labels.max() + 1)]
            axes.hist(groups, edges, stacked=True, color=cluster_colours(len(groups)))
        axes.set_xlabel("latent z: where an image lies along the motion")
        axes.set_ylabel("images")
        axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
        axes.margins(x=0.02)
        top = axes.get_ylim()[1]
        if marks is not None:
            _numbered(axes, [(float(x), 0.94 * top) for x in marks])
        if path is not None:
            for number, x in enumerate(path):
                # One artist, so that one mark lights up: a stem with a head.
                (stem,) = axes.plot([x, x], [0, 0.94 * top], color=SECOND, marker="v", markevery=[1])
                stem.set_gid(f"path-{number}")
    return figure


def stacked_figure(values: Float[Array, "image"], labels: Int[Array, "image"], name: str) -> "Figure":
    """How many images of each class have which value of a quantity.

    Args:
        labels: class of each image, from 0.
        name: of the quantity, for the axis.
    """
    with new_figure(4.2, 2.9) as (figure, axes):
        groups = [values[labels == k] for k in range(labels.max() + 1)]
        names = [f"class {k + 1}" for k in range(len(groups))]
        low, high = float(values.min()), float(values.max())
        if high - low <= ALIKE * max(abs(low), abs(high)):
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, 51)
        axes.hist(groups, edges, stacked=True, color=cluster_colours(len(groups)), label=names)
        axes.set_xlabel(name)
        axes.set_ylabel("images")
        axes.margins(x=0.02)
        if len(groups) <= MOST_NAMED:
            axes.legend()
    return figure


def scatter_figure(
    plane: Float[Array, "image 2"],
    names: tuple[str, str],
    labels: Int[Array, "image"] | None = None,
    colouring: Colouring | None = None,
    marks: Float[Array, "cluster 2"] | None = None,
    path: Float[Array, "frame 2"] | None = None,
) -> "Figure":
    """Images in a plane of the latent space.

    Args:
        names: of the two axes.
        labels: cluster of each image, shown in the clusters' colours.
        colouring: a column to colour by instead.
        marks: the clusters' representatives, numbered from 1.
        path: points of the volumes of a path.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap

    step = max(1, -(-len(plane) // MOST_POINTS))
    shown = np.arange(0, len(plane), step)
    size = float(np.clip(9000 / len(shown), 1.2, 9))
    with new_figure(4.2, 3.7) as (figure, axes):
        style: dict[str, Any] = {"s": size, "linewidths": 0, "alpha": 0.65, "rasterized": True}
        x, y = plane[shown].T
        if colouring is not None:
            scale = colormaps["twilight"] if colouring.cyclic else ListedColormap(cluster_colours(256))
            limits = (0, 360) if colouring.cyclic else (None, None)
            values = colouring.values[shown] % 360 if colouring.cyclic else colouring.values[shown]
            points = axes.scatter(x, y, c=values, cmap=scale, vmin=limits[0], vmax=limits[1], **style)
            solid = ScalarMappable(points.norm, points.cmap)  # without the points' transparency
            figure.colorbar(solid, ax=axes, shrink=0.75, aspect=28, pad=0.02, label=colouring.label)
        elif labels is not None:
            colours = np.array(cluster_colours(int(labels.max()) + 1))
            axes.scatter(x, y, c=colours[labels[shown]], **style)
        else:
            axes.scatter(x, y, color=ACCENT, **style)
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        axes.margins(0.03)
        if path is not None:
            _path_marks(axes, [(float(x), float(y)) for x, y in path])
        if marks is not None:
            _numbered(axes, [(float(x), float(y)) for x, y in marks])
    return figure


def variance_figure(explained: Float[Array, "component"]) -> "Figure":
    """How much of the spread of the latents each principal component holds."""
    with new_figure(4.2, 2.0) as (figure, axes):
        numbers = np.arange(1, len(explained) + 1)
        axes.bar(numbers, 100 * explained, color=ACCENT, width=0.7)
        axes.set_xticks(numbers)
        axes.set_xlabel("principal component")
        axes.set_ylabel("share of the variance, %")
        axes.grid(visible=False, axis="x")
    return figure


def fsc_figure(
    curves: Mapping[str, Float[Array, "shell"]],
    box_size: int,
    pixel_size: float,
    spread: tuple[Float[Array, "shell"], Float[Array, "shell"]] | None = None,
) -> "Figure":
    """FSC against spatial frequency, labelled with the period in Å.

    Args:
        curves: by name; at most four.
        spread: lower and upper edge of a band behind the first curve.
    """
    with new_figure(4.2, 2.9) as (figure, axes):
        first = next(iter(curves.values()))
        frequency = np.arange(len(first)) / (box_size * pixel_size)
        for level, text in ((0.5, "0.5"), (0.143, "0.143")):
            axes.axhline(level, color=MUTED, linewidth=0.7, dashes=(4, 3))
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            axes.annotate(text, (0, level), (3, 2), color=MUTED, va="bottom", fontsize=8, **place)
        if spread is not None:
            axes.fill_between(frequency, *spread, color=ACCENT, alpha=0.18, linewidth=0)
        for (name, curve), colour in zip(
            curves.items(), (ACCENT, SECOND, "#3f8f6b", "#8c6bb1"), strict=False
        ):
            axes.plot(frequency, curve, color=colour, linewidth=1.6, label=name)
        axes.set_xlim(0, frequency[-1])
        axes.set_ylim(min(-0.05, *(float(curve.min()) for curve in curves.values())), 1.03)
        ticks = axes.get_xticks()
        ticks = ticks[(ticks > 0) & (ticks <= frequency[-1])]
        axes.set_xticks(ticks, [f"{1 / tick:.3g}" for tick in ticks])
        axes.set_xlabel("period, Å (finer detail to the right)")
        axes.set_ylabel("Fourier shell correlation")
        if len(curves) > 1:
            axes.legend(loc="lower left")
    return figure


def training_figure(log: Sequence[Mapping[str, Any]]) -> "Figure | None":
    """Misfit, and KL divergence if there is one, of each epoch; None where the log has fewer than two.

    Epochs that end with a narrower band of frequencies than the last one are drawn dashed: each adds
    finer details to be fitted, so that their misfits do not compare.
    """
    from matplotlib.ticker import MaxNLocator

    epochs = [entry for entry in log if "epoch" in entry and "misfit" in entry]
    if len(epochs) < 2:
        return None
    quantities = [("misfit", "misfit to the images")]
    if any(entry.get("kl", 0) != 0 for entry in epochs):
        quantities.append(("kl", "KL divergence of z"))
    final_band = epochs[-1].get("band_px")
    growing = sum(entry.get("band_px") != final_band for entry in epochs)
    number = np.array([entry["epoch"] + 1 for entry in epochs])
    with new_figure(4.2, 1.7 * len(quantities), rows=len(quantities)) as (figure, all_axes):
        for axes, (name, label) in zip(np.atleast_1d(all_axes), quantities, strict=True):
            values = np.array([entry[name] for entry in epochs])
            style: dict[str, Any] = {"color": ACCENT, "linewidth": 1.6, "marker": "."}
            axes.plot(number[growing:], values[growing:], **style)
            axes.plot(number[: growing + 1], values[: growing + 1], dashes=(2, 2), alpha=0.6, **style)
            axes.set_ylabel(label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch (one pass over the images)")
    return figure


def resolution_figure(resolutions_px: Float[Array, "image"], pixel_size: float) -> "Figure":
    """How the per-image resolutions are spread."""
    with new_figure(4.2, 2.9) as (figure, axes):
        top = max(4.0, float(resolutions_px.max()) * 1.05)
        axes.hist(resolutions_px * pixel_size, np.linspace(2, top, 41) * pixel_size, color=ACCENT)
        axes.axvline(float(resolutions_px.mean()) * pixel_size, color=SECOND, linewidth=1.4, label="mean")
        axes.set_xlabel("resolution at FSC = 0.5, Å (smaller is finer)")
        axes.set_ylabel("images")
        axes.legend()
    return figure


def _numbered(axes: "Axes", points: list[tuple[float, float]]) -> None:
    """Numbered discs in the clusters' colours, each its own group."""
    for k, ((x, y), colour) in enumerate(zip(points, cluster_colours(len(points)), strict=True)):
        (disc,) = axes.plot(x, y, "o", markersize=13, color=colour, markeredgecolor="white", zorder=5)
        disc.set_gid(f"cluster-{k}")
        ink = "white" if sum(colour) < 1.75 else "black"
        axes.annotate(str(k + 1), (x, y), color=ink, ha="center", va="center", fontsize=7.5, zorder=6)


def _path_marks(axes: "Axes", points: list[tuple[float, float]]) -> None:
    """The points of a path, each its own group."""
    for i, (x, y) in enumerate(points):
        (mark,) = axes.plot(
            x, y, "D", markersize=6.5, color=SECOND, markeredgecolor="white", zorder=4, clip_on=False
        )
        mark.set_gid(f"path-{i}")
