r"""Images brought to another grid: clipped in Fourier space, and cut or continued in real space.

Clipping to a square band is separable, so resampling an image X is B X Bᵀ with one real matrix B,
which evaluates the band-limited interpolant of a row at the pixels of the new grid:

.. math:: B_{ji} = \frac{1}{D} \sum_{|m| \le M} w_m \cos\frac{2\pi m (x_j - i)}{D}

with x_j the place of new pixel j among the D old ones, both grids having their origin at index
``box // 2`` (C1), and M = Dp / 2q the new Nyquist frequency in cycles per old extent for pixel sizes
p and q. A frequency that is Nyquist of one of the grids stands for itself and its negative and has
w = ½ at each, all others have w = 1.

- *Equal extents* (dq = Dp): the Fourier transform clipped, or continued with zeros, from D to d.
  Between even boxes this is done with two FFTs, which are faster than the products (benchmarks/LOG.md).
- *Other extents*: the image is cut, or continued with zeros, in real space; what lies inside are
  samples of the same band-limited function.

Values keep their scale: a constant stays what it is, and so does the mean where extents are equal.
White noise of standard deviation σ becomes one of σ Σw²/D, which is about σ d/D.
"""

from dataclasses import dataclass

import torch

from cryoatlas.shapes import Bool, Float, Tensor

SAME = 1e-6
"""Relative difference up to which two extents, or two frequencies, count as one."""


@dataclass(frozen=True)
class Grid:
    """The pixels of a square image, its origin at index ``box_size // 2`` of both axes."""

    box_size: int
    """Side, px; even or odd."""
    pixel_size: float
    """Å."""

    @property
    def extent(self) -> float:
        """Side, Å."""
        return self.box_size * self.pixel_size

    def spans(self, other: "Grid") -> bool:
        """Whether both grids cover the same square."""
        return abs(self.extent - other.extent) <= SAME * max(self.extent, other.extent)


class Resampler:
    """Takes images from one grid to another; immutable, so that threads may share it."""

    def __init__(self, old: Grid, new: Grid) -> None:
        self.old, self.new = old, new
        self.same_extent = old.spans(new)
        even = old.box_size % 2 == new.box_size % 2 == 0
        clips = self.same_extent and even and new.box_size <= old.box_size
        self._matrix = None if clips else resampling_matrix(old, new).float()
        inside = covered(old, new)
        self.covered = inside[:, None] & inside[None, :]
        """Which pixels of the new grid lie inside the old image; the others are set to zero."""

    def __call__(self, images: Float[Tensor, "image old old"]) -> Float[Tensor, "image new new"]:
        """Float32 images on the new grid."""
        if self._matrix is None:
            return clip(images, self.new.box_size)
        return resample(images, self._matrix)


def resampling_matrix(old: Grid, new: Grid) -> Float[Tensor, "new old"]:
    """B, which takes a row of an image on one grid to the same row on another; float64."""
    half = old.box_size / 2
    places = _places(old, new)
    nyquist = new.box_size / 2 if old.spans(new) else half * old.pixel_size / new.pixel_size
    orders = torch.arange(old.box_size // 2 + 1, dtype=torch.float64)
    weights = torch.where(orders > 0, 2.0, 1.0).double()
    for limit in (half, nyquist):
        weights[orders > limit * (1 + SAME)] = 0
        # Each of ±m counts half; at a limit of both grids, still half.
        weights[((orders - limit).abs() <= SAME * limit) & (weights > 0)] = 1
    turn = 2 * torch.pi / old.box_size * orders
    indices = torch.arange(old.box_size, dtype=torch.float64)
    new_phase, old_phase = places[:, None] * turn, indices[:, None] * turn
    product = (weights * new_phase.cos()) @ old_phase.cos().T + (
        weights * new_phase.sin()
    ) @ old_phase.sin().T
    return product / old.box_size * covered(old, new)[:, None]


def covered(old: Grid, new: Grid) -> Bool[Tensor, "new"]:
    """Which pixels along an axis of the new grid lie inside the old image."""
    places = _places(old, new)
    return (places >= -0.5) & (places < old.box_size)


def resample(
    images: Float[Tensor, "image old old"], matrix: Float[Tensor, "new old"]
) -> Float[Tensor, "image new new"]:
    """B X Bᵀ of every image."""
    rows = images @ matrix.T
    return torch.bmm(matrix.expand(len(images), -1, -1), rows)


def clip(images: Float[Tensor, "image old old"], box_size: int) -> Float[Tensor, "image new new"]:
    """The same as `resample` for equal extents, from an even box to a smaller even one, by FFT."""
    old, half = images.shape[-1], box_size // 2
    if box_size == old:
        return images
    spectrum = torch.fft.rfft2(images)
    edge = spectrum[:, half : half + 1, : half + 1] + spectrum[:, old - half : old - half + 1, : half + 1]
    rows = (spectrum[:, :half, : half + 1], edge / 2, spectrum[:, old - half + 1 :, : half + 1])
    kept = torch.cat(rows, 1)
    # The last column is Nyquist too: what it has in common with its negative, (ky) and conj(−ky).
    kept[:, :, half] = (kept[:, :, half] + kept[:, :, half].roll(-1, 1).flip(1).conj()) / 2
    return torch.fft.irfft2(kept, s=(box_size, box_size)) * (box_size / old) ** 2


def _places(old: Grid, new: Grid) -> Float[Tensor, "new"]:
    """The place of each pixel of the new grid among the old ones, in old pixels from the first."""
    step = old.box_size / new.box_size if old.spans(new) else new.pixel_size / old.pixel_size
    offsets = torch.arange(new.box_size, dtype=torch.float64) - new.box_size // 2
    return offsets * step + old.box_size // 2
