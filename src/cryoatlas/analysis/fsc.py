"""Fourier shell correlation of two maps under a mask, and the resolution that is read off it.

Shells are hard, shell s holding every coefficient with round(|k|) = s in cycles per box
(convention C9), from s = 0 (the mean) to s = box // 2. Nothing is subtracted, filtered or
phase-randomised: what goes in is what is compared.
"""

import math

import numpy as np
import torch

from cryoatlas.fourier import correlation
from cryoatlas.shapes import Array, Float, Tensor

FINEST_PX = 2.0
"""Nyquist: two pixels per period, the best resolution that a map can have."""


def fourier_shell_correlation(
    first: Float[Array, "box box box"] | Float[Tensor, "box box box"],
    second: Float[Array, "box box box"] | Float[Tensor, "box box box"],
    mask: Float[Array, "box box box"] | Float[Tensor, "box box box"] | None = None,
) -> Float[Array, "shell"]:
    """Correlation of two maps shell by shell, Re Σ A B* / √(Σ|A|² Σ|B|²), for shells 0 … box // 2.

    Args:
        mask: both maps are multiplied by it first, without subtracting a mean.

    Returns:
        Values in [−1, 1], computed in float64. A shell in which either map is exactly zero agrees
        on nothing and gets 0.
    """
    return correlation.fourier_shell_correlation(*_masked(first, second, mask)).numpy()


def resolution(
    fsc: Float[Array, "shell"] | Float[Tensor, "shell"],
    threshold: float,
    box_size: int,
    *,
    interpolate: bool = False,
) -> float:
    """The period, in pixels, at which an FSC curve first falls under `threshold`.

    The mean (shell 0) is not looked at. A curve that never falls gives 2.0, Nyquist.

    Args:
        interpolate: False gives box / shell for the first shell under the threshold, the measure of
            Table 2 of the paper, which takes only those values. True puts the crossing on the
            straight line between that shell and the one before; it is never finer than 2.0.
    """
    fsc = torch.as_tensor(fsc).cpu().numpy()
    below = np.flatnonzero(fsc[1:] < threshold)
    if len(below) == 0:
        return FINEST_PX
    shell = int(below[0]) + 1
    if not interpolate or shell == 1:
        return max(box_size / shell, FINEST_PX)
    before, after = float(fsc[shell - 1]), float(fsc[shell])
    crossing = shell - 1 + (before - threshold) / (before - after)
    return max(box_size / crossing, FINEST_PX)


def area_under_curve(fsc: Float[Array, "shell"], box_size: int) -> float:
    """Area under an FSC curve, clipped to [0, 1], over frequency in cycles per pixel (trapezoids).

    Shell 0 counts as 1 and the curve ends before Nyquist; a perfect map of an even box has
    (box / 2 − 1) / box, 0.484 for a box of 64. Curves of other shells have other areas: `cryobench_area`.
    """
    curve = np.clip(fsc[: math.ceil(box_size / 2)], 0, 1)
    curve[0] = 1
    return float(np.trapezoid(curve, dx=1 / box_size))


def cryobench_area(
    first: Float[Array, "box box box"] | Float[Tensor, "box box box"],
    second: Float[Array, "box box box"] | Float[Tensor, "box box box"],
    mask: Float[Array, "box box box"] | Float[Tensor, "box box box"] | None = None,
) -> float:
    """Area under the FSC as CryoBench has it (Jeon et al., arXiv 2408.05526), for its published numbers.

    At frequency i / box stands the shell i − 1 ≤ |k| < i, at 0 a 1, and the last i is box // 2 − 1; |FSC|
    is summed by trapezoids. Its shells lie half a shell lower than those of C9, so that a curve that
    falls to 0 has half a shell more area, 0.004 for a box of 128. A perfect map has as much as there.
    Unlike CryoBench, where it counts as 1, a shell in which either map is exactly zero counts as 0.

    Args:
        mask: multiplies both maps first.
    """
    shells = correlation.fourier_shell_correlation(*_masked(first, second, mask), shell_of=torch.floor)
    box_size = len(first)
    curve = np.concatenate([[1.0], shells.abs().numpy()[: box_size // 2 - 1]])
    return float(np.trapezoid(curve, dx=1 / box_size))


def _masked(
    first: Float[Array, "box box box"] | Float[Tensor, "box box box"],
    second: Float[Array, "box box box"] | Float[Tensor, "box box box"],
    mask: Float[Array, "box box box"] | Float[Tensor, "box box box"] | None,
) -> tuple[Float[Tensor, "box box box"], Float[Tensor, "box box box"]]:
    """Both maps in float64, multiplied by the mask if there is one."""
    a, b = (torch.as_tensor(map_).to(torch.float64) for map_ in (first, second))
    if mask is None:
        return a, b
    weight = torch.as_tensor(mask).to(torch.float64)
    return a * weight, b * weight
