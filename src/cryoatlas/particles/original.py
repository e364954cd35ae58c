"""Particles → the rows of the user's own file that they are, that file found and unchanged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cryoatlas.errors import InputError, MetadataError
from cryoatlas.geometry.pose import Pose
from cryoatlas.io.star import TEXT
from cryoatlas.particles.metadata import ANGLES, ParticleTables, pixel_sizes, poses
from cryoatlas.particles.source import UID, Source, checksum, source_of, source_rows
from cryoatlas.shapes import Array, Int


@dataclass(frozen=True)
class Selection:
    """Some particles, as rows of the file that they came from."""

    source: Source
    """That file, found and unchanged."""
    rows: Int[Array, "some"]
    """Positions of the particles in it, from 0, in the order wanted, none twice."""
    uid: Array | None
    """cryoSPARC's numbers of the particles, as text, where they are known."""
    pose: Pose | None
    """To be written in place of the file's; None to leave those."""


def select_rows(
    tables: ParticleTables,
    chosen: Int[Array, "some"],
    *,
    with_poses: bool = False,
    original: Path | str | None = None,
    passthrough: Sequence[Path | str] = (),
) -> Selection:
    """The rows of the user's file that some particles are.

    Where several images are of one row, a particle of a tilt series, the row is written once, at the place
    of the first of its images that is chosen.

    Args:
        tables: of a run's or a prepared set's star file, or of any particle file.
        chosen: positions in them, in the order wanted.
        with_poses: take the poses of `tables` along.
        original: where the user's file is now, if it was moved.
        passthrough: cryoSPARC's further files, if others than when it was read.

    Raises:
        InputError: the file is no longer there.
        MetadataError: it has changed since; a particle is chosen twice, or none is; or there are no poses,
            or poses of tilt images, which the file has no place for.
    """
    chosen = np.asarray(chosen, np.int64)
    _check_chosen(chosen, len(tables))
    rows = source_rows(tables) - 1
    if len(np.unique(rows)) < len(rows):
        if with_poses:
            raise MetadataError(
                f"{tables.path} has several tilt images of each particle, whose poses the particles' own "
                "file has no place for: leave out --poses."
            )
        chosen = chosen[np.sort(np.unique(rows[chosen], return_index=True)[1])]
    table = tables.particles
    uid = table.text(UID)[chosen] if table.has(UID) else None
    pose = _poses(tables, chosen) if with_poses else None
    source = verified(source_of(tables), original)
    if passthrough:
        source = replace(source, passthrough=Source.of(source.path, passthrough).passthrough)
    return Selection(source, rows[chosen], uid, pose)


def verified(source: Source, original: Path | str | None = None) -> Source:
    """The source where it is now, its content the same as when it was read.

    Raises:
        InputError: it is not there.
        MetadataError: its content has changed.
    """
    path = source.path if original is None else Path(original)
    if not path.is_file():
        raise InputError(
            f"there is no file {path}, which these particles came from: if it was moved, say where "
            "it is with --original."
        )
    if checksum(path) != source.sha256:
        raise MetadataError(
            f"{path} is not what it was when these particles were read from it (its SHA-256 differs from "
            f"{source.sha256[:12]}…), so its rows may be other particles now. Restore it, or name an "
            "unchanged copy with --original; particles.star in the run folder holds the rows as they were "
            "read."
        )
    return replace(source, path=Path(path))


def check_rows(selection: Selection, count: int, uid: Array | None) -> None:
    """Refuse rows that the file does not have, or that are other particles there.

    Args:
        count: rows of the file.
        uid: of all its rows; None where it has none.

    Raises:
        MetadataError: naming the row.
    """
    rows, path = selection.rows, selection.source.path
    if rows.max() >= count:
        raise MetadataError(
            f"row {rows.max() + 1} of {path} is asked for, but it has {count:,}: run and file do not belong "
            "together."
        )
    if selection.uid is None or uid is None:
        return
    there = uid[rows].astype(TEXT)
    other = np.flatnonzero(there != selection.uid)
    if len(other):
        first = other[0]
        raise MetadataError(
            f"row {rows[first] + 1} of {path} is particle uid {there[first]}, but the run knows it as "
            f"{selection.uid[first]}; {len(other):,} of {len(rows):,} rows differ: run and file do not "
            "belong together."
        )


def _check_chosen(chosen: Int[Array, "some"], count: int) -> None:
    if len(chosen) == 0:
        raise MetadataError(
            f"none of the {count:,} particles is selected: nothing to write. Loosen --where, or choose other "
            "--labels."
        )
    if len(np.unique(chosen)) < len(chosen):
        raise MetadataError(
            "a particle is selected twice; files with the same particle twice bias every later refinement. "
            "Name each once."
        )


def _poses(tables: ParticleTables, chosen: Int[Array, "some"]) -> Pose:
    pose = poses(tables, pixel_sizes(tables))
    if pose is None:
        raise MetadataError(
            f"--poses was asked for, but {tables.path} has none: it lacks "
            f"{', '.join(tables.missing(*ANGLES))}. Leave out --poses."
        )
    return pose[torch.from_numpy(chosen)]
