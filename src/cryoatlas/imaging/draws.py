"""What differs from image to image, drawn at random or taken from measured tables: poses and CTFs.

Tables are used from the first row on if they have rows enough (CTFs: in random order), and with
repeats, at random, if not.
"""

import numpy as np
import torch

from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.imaging.ctf import CTFParameters
from cryoatlas.shapes import Float, Int, Tensor

DEFOCUS_RANGE = (5_000.0, 30_000.0)
"""Mean defocus, Å: uniform, as acquisition programs step through a range of targets."""
ASTIGMATISM = 250.0
"""Scale of |u − v|, Å, which is half-normal: most micrographs of a well-aligned microscope have less
than twice this; the direction is uniform."""
VOLTAGE_KV, SPHERICAL_ABERRATION_MM, AMPLITUDE_CONTRAST = 300.0, 2.7, 0.1
"""The commonest microscope of deposited data, and the amplitude contrast usually fitted with."""


def random_poses(count: int, largest_shift: float, generator: np.random.Generator) -> Pose:
    """Rotations uniform on SO(3), shifts uniform in ±`largest_shift` Å along x and y (M10)."""
    return Pose(random_rotations(count, generator), random_shifts(count, largest_shift, generator))


def random_shifts(count: int, largest: float, generator: np.random.Generator) -> Tensor:
    """Shifts uniform in ±`largest` Å along x and y, float64."""
    return torch.from_numpy(generator.uniform(-largest, largest, (count, 2)))


def random_ctfs(count: int, generator: np.random.Generator) -> CTFParameters:
    """CTF parameters as a 300 kV microscope gives them: see the constants of this module."""
    mean = generator.uniform(*DEFOCUS_RANGE, count)
    half_difference = np.abs(generator.normal(0, ASTIGMATISM, count)) / 2
    return CTFParameters.build(
        count,
        defocus_u=torch.from_numpy(mean + half_difference),
        defocus_v=torch.from_numpy(mean - half_difference),
        defocus_angle=torch.from_numpy(generator.uniform(0, np.pi, count)),
        voltage_kv=VOLTAGE_KV,
        spherical_aberration_mm=SPHERICAL_ABERRATION_MM,
        amplitude_contrast=AMPLITUDE_CONTRAST,
    )


def random_contrasts(
    count: int, spread: float, generator: np.random.Generator
) -> Float[Tensor, "image"] | None:
    """Log-normal factors of mean 1, with `spread` the deviation of their logarithm; None without spread."""
    if spread == 0:
        return None
    return torch.from_numpy(np.exp(generator.normal(-0.5 * spread**2, spread, count)))


def rows_in_order(count: int, rows: int, generator: np.random.Generator) -> Int[Tensor, "image"]:
    """The first `count` rows of a table; random ones, with repeats, if it is shorter."""
    if count <= rows:
        return torch.arange(count)
    return torch.from_numpy(generator.integers(0, rows, count))


def rows_at_random(count: int, rows: int, generator: np.random.Generator) -> Int[Tensor, "image"]:
    """Random rows of a table, without repeats unless it is shorter."""
    return torch.from_numpy(generator.choice(rows, count, replace=count > rows))
