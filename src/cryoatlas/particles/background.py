"""Background level and noise of groups of images, measured outside the circle that holds the particle.

Images that share a micrograph share illumination, ice and detector, so they share one level and one
standard deviation: what differs between them, such as the contrast of a particle, stays. (Scaling image
by image would tie contrast to what else is in the box.) Groups of few images take the values of their
optics group. Statistics are taken from up to `SAMPLED` evenly spaced images of each micrograph, or
`SAMPLED_LARGE` of each larger group, so that most images are read once.
"""

import csv
import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryoatlas.errors import ConfigError, FormatError, ImageDataError
from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.fourier.resample import Grid
from cryoatlas.io.output import write_text
from cryoatlas.particles.metadata import GROUP, ParticleTables
from cryoatlas.particles.prepare_config import NormalizeBy
from cryoatlas.particles.regrid import Regridder
from cryoatlas.progress import Progress, silent
from cryoatlas.shapes import Array, Bool, Float, Int, Tensor

logger = logging.getLogger(__name__)

MICROGRAPH = "rlnMicrographName"
SAMPLED, SAMPLED_LARGE = 16, 1000
FEWEST = 8
"""Micrographs with fewer images take the values of their optics group."""
PARTICLE_FRACTION = 0.75
"""Diameter of the particle's circle as a fraction of the box, if none is given."""
LEAST_BACKGROUND = 0.1
"""At least this fraction of the pixels must lie outside the circle."""
COLUMNS = ("group", "images", "mean", "std")


@dataclass(frozen=True)
class Groups:
    """Which images share a background."""

    names: tuple[str, ...]
    of_image: Int[Array, "image"]
    """Position of each image's group in `names`."""
    larger: Int[Array, "image"] | None
    """Number of each image's optics group, which small groups fall back to; None without fallback."""
    sampled: int
    """Images looked at in each group."""

    def sample(self) -> Int[Array, "some"]:
        """Positions of evenly spaced images of each group, in the order of the file."""
        order = np.argsort(self.of_image, kind="stable")
        counts = np.bincount(self.of_image, minlength=len(self.names))
        starts = np.cumsum(counts) - counts
        rank = np.arange(len(order)) - np.repeat(starts, counts)
        size = np.repeat(counts, counts)
        # Of n images, those where k · sampled / n steps to a new whole number.
        step = np.minimum(self.sampled, size) * np.stack([rank, rank + 1]) // size
        return np.sort(order[step[1] > step[0]])


@dataclass(frozen=True)
class Background:
    """Level and standard deviation of each group, in the units of the images on the new grid."""

    groups: Groups
    mean: Float[Array, "group"]
    std: Float[Array, "group"]

    def normalize(
        self, positions: Int[Array, "image"], images: Float[Tensor, "image box box"]
    ) -> Float[Tensor, "image box box"]:
        """Images whose background has mean 0 and standard deviation 1, changed in place."""
        which = self.groups.of_image[positions]
        mean = torch.from_numpy(self.mean[which]).float()[:, None, None]
        scale = torch.from_numpy(1 / self.std[which]).float()[:, None, None]
        return images.sub_(mean).mul_(scale)


def background_groups(tables: ParticleTables, by: NormalizeBy) -> Groups:
    """The groups that images are normalised by.

    Files without micrograph names are normalised per optics group, and without these as a whole, which
    is logged.
    """
    optics = tables.particles.text(GROUP) if tables.particles.has(GROUP) else np.full(len(tables), "1")
    optics_names, of_optics = np.unique(optics, return_inverse=True)
    if by == "micrograph" and not tables.particles.has(MICROGRAPH):
        logger.info("%s has no %s: images are normalised per optics group", tables.path, MICROGRAPH)
        by = "group"
    if by == "micrograph":
        names, which = np.unique(tables.particles.text(MICROGRAPH), return_inverse=True)
        return Groups(tuple(map(str, names)), which, of_optics, SAMPLED)
    if by == "group":
        return Groups(tuple(f"optics group {name}" for name in optics_names), of_optics, None, SAMPLED_LARGE)
    return Groups(("all",), np.zeros(len(tables), np.int64), None, SAMPLED_LARGE)


def background_pixels(grid: Grid, diameter: float | None) -> Bool[Tensor, "box box"]:
    """The pixels outside the particle's circle.

    Args:
        grid: of the images.
        diameter: of the circle, Å; None for `PARTICLE_FRACTION` of the box.

    Raises:
        ConfigError: the circle leaves too little.
    """
    across = PARTICLE_FRACTION * grid.box_size if diameter is None else diameter / grid.pixel_size
    outside = frequency_grid(grid.box_size, 2).square().sum(-1) > (across / 2) ** 2
    if outside.double().mean() < LEAST_BACKGROUND:
        raise ConfigError(
            f"a particle of {diameter:g} Å leaves too little background in images of {grid.extent:.5g} Å: "
            "give a smaller --diameter, or --normalize none."
        )
    return outside


def measure_background(
    regridder: Regridder,
    groups: Groups,
    outside: Bool[Tensor, "box box"],
    chunk: int,
    progress: Progress = silent,
) -> Background:
    """Measure level and standard deviation of each group on a sample of its images.

    Args:
        regridder: gives the images.
        groups: which share their values.
        outside: the pixels that show background.
        chunk: images read at a time.
        progress: counts the images of the sample.

    Raises:
        ImageDataError: the background of a group has one value everywhere.
    """
    sample = groups.sample()
    moments = np.zeros((3, len(sample)))
    for start in range(0, len(sample), chunk):
        positions = sample[start : start + chunk]
        images = regridder.regrid(positions, regridder.read(positions)).double()
        used = (outside & regridder.covered(positions)).double()
        sums = [(used * power).sum((1, 2)) for power in (torch.ones_like(images), images, images.square())]
        moments[:, start : start + chunk] = torch.stack(sums).numpy()
        progress(min(start + chunk, len(sample)), len(sample), "background")
    mean, std = _pooled(moments, groups.of_image[sample], len(groups.names))
    if groups.larger is not None:
        _borrow(mean, std, moments, groups, sample)
    flat = np.flatnonzero(~(std > 0)).tolist()
    if flat:
        raise ImageDataError(
            f"the background of {groups.names[flat[0]]} in {regridder.particles.path} has the value "
            f"{mean[flat[0]]:g} everywhere, so it cannot be scaled to a standard deviation of 1; "
            f"{len(flat)} of {len(std)} groups are so. Were the images masked? Then give --normalize none."
        )
    return Background(groups, mean, std)


def write_background(path: Path, background: Background) -> None:
    """Write a table of the groups, numbers with all their digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    counts = np.bincount(background.groups.of_image, minlength=len(background.groups.names))
    rows = zip(background.groups.names, counts.tolist(), background.mean, background.std, strict=True)
    writer.writerows((name, count, float(mean), float(std)) for name, count, mean, std in rows)
    write_text(path, text.getvalue())


def read_background(path: Path, groups: Groups) -> Background:
    """Read what `write_background` wrote for the same groups.

    Raises:
        FormatError: the table is of other groups, or damaged.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    try:
        names = tuple(row[0] for row in rows[1:])
        mean, std = (np.array([float(row[column]) for row in rows[1:]]) for column in (2, 3))
    except (IndexError, ValueError) as error:
        raise FormatError(f"{path} is damaged ({error}): start again with --overwrite.") from error
    if names != groups.names:
        raise FormatError(f"{path} is of other images: start again with --overwrite.")
    return Background(groups, mean, std)


def _pooled(
    moments: Float[Array, "3 image"], group: Int[Array, "image"], count: int
) -> tuple[Float[Array, "group"], Float[Array, "group"]]:
    """Mean and standard deviation of all pixels of each group."""
    pixels, total, squares = (np.bincount(group, row, count) for row in moments)
    pixels = np.maximum(pixels, 1)
    mean = total / pixels
    return mean, np.sqrt(np.maximum(squares / pixels - mean**2, 0))


def _borrow(
    mean: Float[Array, "group"],
    std: Float[Array, "group"],
    moments: Float[Array, "3 image"],
    groups: Groups,
    sample: Int[Array, "image"],
) -> None:
    """Give groups of few images the values of the optics group of their first image."""
    assert groups.larger is not None
    counts = np.bincount(groups.of_image, minlength=len(groups.names))
    small = np.flatnonzero(counts < FEWEST)
    if len(small) == 0:
        return
    logger.info(
        "%d of %d micrographs have fewer than %d images and take the values of their optics group",
        len(small),
        len(counts),
        FEWEST,
    )
    large_mean, large_std = _pooled(moments, groups.larger[sample], int(groups.larger.max()) + 1)
    _, first = np.unique(groups.of_image, return_index=True)
    larger = groups.larger[first[small]]
    mean[small], std[small] = large_mean[larger], large_std[larger]
