"""Small star files with stacks, right in every respect until a test spoils them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryoatlas.io.star import StarTable, write_star

from .small_project import COUNT, noise_images, optics_columns, particle_columns, write_stack

Spoil = Callable[[dict], object]


@pytest.fixture
def project(tmp_path) -> Callable[..., Path]:
    """Writes ``stack.mrcs`` and a star file of RELION 3.1 and gives the star's path.

    `particles` and `optics` are functions that alter the columns before they are written.
    """

    def write(particles: Spoil = lambda columns: None, optics: Spoil = lambda columns: None) -> Path:
        write_stack(tmp_path / "stack.mrcs", noise_images())
        of_particles, of_optics = particle_columns(), optics_columns()
        particles(of_particles)
        optics(of_optics)
        tables = {
            "optics": StarTable.from_columns(of_optics),
            "particles": StarTable.from_columns(of_particles),
        }
        write_star(tmp_path / "particles.star", tables)
        return tmp_path / "particles.star"

    return write


@pytest.fixture
def old_project(tmp_path) -> Callable[..., Path]:
    """The same as a star file of RELION 3.0: one table, everything in every row, origins in px."""

    def write(particles: Spoil = lambda columns: None) -> Path:
        write_stack(tmp_path / "stack.mrcs", noise_images())
        columns = particle_columns()
        group = np.array(columns.pop("rlnOpticsGroup")) - 1
        shared = {name: np.array(values)[group] for name, values in optics_columns().items()}
        pixel_size = shared["rlnImagePixelSize"]
        for axis in "XY":
            columns[f"rlnOrigin{axis}"] = columns.pop(f"rlnOrigin{axis}Angst") / pixel_size
        for name in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"):
            columns[name] = shared[name]
        columns["rlnMagnification"] = np.full(COUNT, 40000.0)
        columns["rlnDetectorPixelSize"] = pixel_size * 4
        particles(columns)
        write_star(tmp_path / "old.star", {"images": StarTable.from_columns(columns)})
        return tmp_path / "old.star"

    return write
