"""Rows of the user's own file, as they are, in the order asked: the way back to RELION and cryoSPARC.

A star file keeps the text of every value, a .cs file every byte. Only what is asked for changes: the
pose columns. A .cs file may go out as a star file, translated as it is when it is read.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryoatlas.errors import ConfigError, InputError, MetadataError, OutputError
from cryoatlas.io.cryosparc import UID as CS_UID
from cryoatlas.io.cryosparc import matching_rows, read_cs, read_cs_array
from cryoatlas.io.cryosparc_write import find_group_file, tables_of_group, write_cs_rows, write_group_file
from cryoatlas.io.output import atomic_path, write_text
from cryoatlas.io.star import write_star
from cryoatlas.particles import cryosparc
from cryoatlas.particles.cryosparc import CS_SUFFIX
from cryoatlas.particles.metadata import pixel_sizes, read_tables, with_pose_columns
from cryoatlas.particles.original import Selection, check_rows
from cryoatlas.particles.source import UID, Source
from cryoatlas.shapes import Array, Int

logger = logging.getLogger(__name__)

STAR_SUFFIX = ".star"
NUMBER_SUFFIXES = (".txt", ".npy")
KINDS = (STAR_SUFFIX, CS_SUFFIX, *NUMBER_SUFFIXES)


def export(selection: Selection, out: Path | str, *, overwrite: bool = False) -> list[Path]:
    """Write the selection and give the files written, the main one first.

    The suffix of `out` says what: ``.star`` and ``.cs`` are rows of the user's file, with the other blocks
    of a star file, or with the passthrough files and the group file of a .cs beside it; ``.txt`` and
    ``.npy`` are their positions in it, from 0.

    Raises:
        ConfigError: the file cannot go out in this form.
        MetadataError: rows and particles do not belong together.
        OutputError: `out` exists and is not to be replaced, is the user's own file, or cannot be written.
    """
    out, source = Path(out), selection.source.path
    suffix = _check_kinds(source, out)
    if suffix == CS_SUFFIX:
        return _export_cs(selection, out, overwrite)
    _check_free([out], selection.source, overwrite)
    if suffix in NUMBER_SUFFIXES:
        _write_numbers(out, selection.rows)
    else:
        _export_star(selection, out)
    return [out]


def _check_kinds(source: Path, out: Path) -> str:
    """The suffix of the new file, if rows of the source can be written so."""
    suffix, own = out.suffix.lower(), source.suffix.lower()
    if suffix not in KINDS:
        raise ConfigError(f"--to {out} is of no known kind: its suffix must be one of {', '.join(KINDS)}.")
    if suffix == CS_SUFFIX and own == STAR_SUFFIX:
        raise ConfigError(
            f"the particles came from {source}, and rows of a star file are not written as .cs: their uid "
            "would be new, so that cryoSPARC could not join them with anything it has. Write --to a .star "
            "file and take it into cryoSPARC with its job Import Particle Stack, which reads it with poses "
            "and CTF."
        )
    if own not in (STAR_SUFFIX, CS_SUFFIX) and suffix not in NUMBER_SUFFIXES:
        raise ConfigError(
            f"the particles came from {source}, which has images and no rows to write: use particles.star of "
            "the run, or write their positions with --to a .txt or .npy file."
        )
    return suffix


def _check_free(files: Sequence[Path], source: Source, overwrite: bool) -> None:
    """Refuse to replace files, and the user's own in any case."""
    own = {path.resolve() for path in (source.path, *source.passthrough)}
    for file in files:
        if file.resolve() in own:
            raise OutputError(
                f"{file} is the file that the particles came from: choose another name for --to."
            )
        if file.exists() and not overwrite:
            raise OutputError(
                f"{file} exists; choose another name for --to, or give --overwrite to replace it."
            )


def _write_numbers(out: Path, rows: Int[Array, "some"]) -> None:
    if out.suffix.lower() == ".txt":
        write_text(out, "".join(f"{row}\n" for row in rows.tolist()))
        return
    with atomic_path(out) as temporary, temporary.open("wb") as stream:
        np.save(stream, rows)


def _export_star(selection: Selection, out: Path) -> None:
    source = selection.source
    if source.path.suffix.lower() == CS_SUFFIX:
        tables = cryosparc.read_cs_tables(source.path, source.passthrough)
        if tables.dark:
            logger.info(
                "%s: cryoSPARC's images are dark on a bright ground, RELION expects them bright; the star "
                "file cannot say so",
                out,
            )
    else:
        tables = read_tables(source.path)
    check_rows(selection, len(tables), tables.particles.text(UID) if tables.particles.has(UID) else None)
    tables = tables.select(selection.rows)
    if selection.pose is not None:
        tables = with_pose_columns(tables, selection.pose, pixel_sizes(tables))
    write_star(out, tables.tables)


def _export_cs(selection: Selection, out: Path, overwrite: bool) -> list[Path]:
    source = selection.source.path
    main = read_cs_array(source)
    check_rows(selection, len(main), main[CS_UID])
    uid = main[CS_UID][selection.rows]
    group = find_group_file(source)
    others = _companions(selection.source, group)
    files = {source: out, **{path: out.with_name(f"{out.stem}_{path.name}") for path in others}}
    rows = {source: selection.rows}
    for path in others:
        rows[path] = matching_rows(uid, read_cs_array(path)[CS_UID], source, path)
    targets = [*files.values(), *([out.with_suffix(".csg")] if group else [])]
    _check_free(targets, selection.source, overwrite)
    posed = None if selection.pose is None else _file_with_poses(files)
    for path, target in files.items():
        changes = None
        if path == posed and selection.pose is not None:
            pixel_size = cryosparc.shift_pixel_sizes(read_cs(source, others))[selection.rows]
            changes = cryosparc.pose_columns_of(selection.pose, pixel_size)
        write_cs_rows(target, path, rows[path], changes)
    if group is not None:
        names = {path.name: target.name for path, target in files.items()}
        write_group_file(targets[-1], group, names, len(selection.rows))
    return targets


def _companions(source: Source, group: Path | None) -> list[Path]:
    """The passthrough files: those that were read or given, and those that the group file names.

    Raises:
        InputError: one of them is not there.
    """
    places = {path.name: path for path in source.passthrough}
    if group is not None:
        for name in tables_of_group(group):
            places.setdefault(Path(name).name, group.parent / name)
    places.pop(source.path.name, None)
    for path in places.values():
        if not path.is_file():
            raise InputError(
                f"{path} belongs to the particles of {source.path}, but is not there: copy it back, say "
                "where it is with --passthrough, or move the .csg file that names it away."
            )
    return list(places.values())


def _file_with_poses(files: dict[Path, Path]) -> Path:
    for path in files:
        names = read_cs_array(path).dtype.names or ()
        if {cryosparc.POSE, cryosparc.SHIFT} <= set(names):
            return path
    raise MetadataError(
        f"{next(iter(files))} and its passthrough files have no {cryosparc.POSE}, so poses cannot be "
        "replaced: write --to a .star file, which cryoSPARC imports with poses."
    )
