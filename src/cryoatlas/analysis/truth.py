"""What a simulation knows and a reconstruction should find: states, coordinates, poses, maps."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoatlas.errors import FormatError, InputError, MetadataError
from cryoatlas.geometry.pose import Pose
from cryoatlas.io.inputs import require_file
from cryoatlas.io.mrc import read_volume
from cryoatlas.particles.metadata import pixel_sizes, poses, read_tables
from cryoatlas.shapes import Array, Float, Int

WIDEST_GAP = np.radians(60)
"""Angles that leave no wider gap on the circle count as going all the way round."""


@dataclass(frozen=True)
class Truth:
    """The true state of every image, and what belongs to each state."""

    states: Int[Array, "image"]
    coordinates: Mapping[str, Float[Array, "image"]]
    """Coordinates of the state of each image by name; angles in degrees end in ``_deg``."""
    pose: Pose | None
    """None if no poses are known: then poses are not scored, and maps are compared as they are."""
    volume_paths: Mapping[int, Path]
    """Map of each state."""

    def __len__(self) -> int:
        return len(self.states)

    def volume(self, state: int) -> Float[Array, "box box box"]:
        """The map of a state."""
        return read_volume(self.volume_paths[state]).array

    def is_periodic(self, name: str) -> bool:
        """Whether a coordinate is an angle that fills the circle, so that 359° is near 0°."""
        if not name.endswith("_deg"):
            return False
        angles = np.sort(np.radians(np.unique(self.coordinates[name])) % (2 * np.pi))
        gaps = np.diff(angles, append=angles[0] + 2 * np.pi)
        return bool(len(angles) > 1 and gaps.max() < WIDEST_GAP)


def spoken(name: str) -> str:
    """The name of a coordinate for readers: ``angle_1_deg`` is ``angle 1 (degrees)``."""
    words = name.removesuffix("_deg").replace("_", " ")
    return f"{words} (degrees)" if name.endswith("_deg") else words


def read_truth(folder: Path | str) -> Truth:
    """Read what `cryoatlas simulate` writes: states.csv, volumes/state_….mrc and particles.star.

    Args:
        folder: DIR/truth, or DIR.

    Raises:
        InputError: the folder or one of its files is missing.
        FormatError, MetadataError: states.csv or particles.star cannot be used.
    """
    folder = Path(folder)
    if (folder / "truth").is_dir():
        folder = folder / "truth"
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}; the truth folder of a simulation was expected, which holds "
            "states.csv, particles.star and volumes: give DIR/truth of `cryoatlas simulate … --out DIR`."
        )
    states, coordinates = _read_states(folder / "states.csv")
    star = folder / "particles.star"
    pose = None
    if star.exists():
        tables = read_tables(star)
        pose = poses(tables, pixel_sizes(tables))
        if pose is not None and len(pose) != len(states):
            raise MetadataError(
                f"{star} has {len(pose)} particles, but {folder / 'states.csv'} has {len(states)} rows: "
                "they must describe the same images; take both from one simulation."
            )
    paths = {state: folder / "volumes" / f"state_{state:06d}.mrc" for state in np.unique(states).tolist()}
    for path in paths.values():
        require_file(path, "the map of a true state")
    return Truth(states, coordinates, pose, paths)


def _read_states(path: Path) -> tuple[Int[Array, "image"], dict[str, Float[Array, "image"]]]:
    """States and coordinates of every image, in the order of the images."""
    require_file(path, "the table of true states")
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))
    names = rows[0]
    if names[:2] != ["image", "state"]:
        raise MetadataError(
            f"{path} has the columns {', '.join(names)}, but image and state were expected first: "
            "take the file that the simulation wrote."
        )
    values = np.empty((len(rows) - 1, len(names)))
    for number, row in enumerate(rows[1:], 1):
        try:
            values[number - 1] = [float(cell) for cell in row]
        except ValueError as error:
            raise FormatError(
                f"row {number} of {path} is {','.join(row)!r}, but {len(names)} numbers were expected "
                f"({', '.join(names)}): the file was cut off or edited; take the one that was simulated."
            ) from error
    if not np.array_equal(values[:, 0], np.arange(len(values))):
        raise MetadataError(
            f"column image of {path} does not count 0, 1, 2 …: rows are missing or reordered."
        )
    return values[:, 1].astype(np.int64), {name: values[:, i + 2] for i, name in enumerate(names[2:])}
