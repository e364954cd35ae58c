"""``cryoatlas export``: particles back to RELION and cryoSPARC, as rows of the user's own file."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from cryoatlas.cli.console import say
from cryoatlas.errors import ConfigError, InputError

if TYPE_CHECKING:
    import numpy as np

    from cryoatlas.particles.metadata import ParticleTables
    from cryoatlas.recipes.run import Run


def export(
    run: Path,
    *,
    to: Path,
    select: Path | None = None,
    where: str | None = None,
    kmeans: int | None = None,
    labels: str | None = None,
    poses: bool = False,
    original: Path | None = None,
    passthrough: tuple[Path, ...] = (),
    overwrite: bool = False,
) -> None:
    """Write rows of the file that a run's particles came from, untouched, for a selection of them.

    Every column and every value is as it was in your file, of the run's input or of what was prepared for
    it; the order is that of --select, else that of your file. Selections given together must all hold; with
    none, all particles are written.

    Parameters
    ----------
    run
        Run folder, folder of prepared particles, or a file of particles.
    to
        File to write: .star or .cs; or .txt or .npy for positions in your file, from 0.
    select
        File of particle numbers of the run, from 0: .txt, .csv, .npy, or cryoDRGN's .pkl.
    where
        Thresholds joined by "and", such as "latent0 > 0.5 and rlnDefocusU < 20000", on columns of the run's
        particles.star, latent0, latent1, …, principal components pc1, pc2, …, or the loss.
    kmeans
        Number of groups of similar latents, the same groups as analyze makes; with --labels.
    labels
        Groups to take, from 1 as in the report, such as 1,4.
    poses
        Replace the poses in the rows by those of the run, in your file's units.
    original
        Where your file is now, if it was moved since.
    passthrough
        Passthrough .cs file of the same particles, exported beside; may be given several times. Those
        that were read with the .cs file, or that its .csg file names, need not be given.
    overwrite
        Replace the file --to.
    """
    from cryoatlas.particles.export import export as write
    from cryoatlas.particles.original import select_rows

    tables, opened = _open(run, passthrough)
    chosen, how = _chosen(tables, opened, select, where, kmeans, labels)
    selection = select_rows(tables, chosen, with_poses=poses, original=original, passthrough=passthrough)
    written = write(selection, to, overwrite=overwrite)
    others = "" if len(written) == 1 else f", and beside it {', '.join(path.name for path in written[1:])}"
    with_poses = " with the run's poses" if poses else ""
    say(
        f"wrote {len(selection.rows):,} rows of {selection.source.path}{with_poses} to {to}{others}: "
        f"{len(chosen):,} of {len(tables):,} images ({how})"
    )


def _open(path: Path, passthrough: tuple[Path, ...]) -> tuple["ParticleTables", "Run | None"]:
    """The particles of a run or other folder or of a file, and the run where there is one."""
    from cryoatlas.particles.cryosparc import CS_SUFFIX, read_cs_tables
    from cryoatlas.particles.metadata import read_tables
    from cryoatlas.recipes.run import CONFIG, PARTICLES, open_run

    if not path.is_dir():
        is_cs = path.suffix.lower() == CS_SUFFIX
        return read_cs_tables(path, passthrough) if is_cs else read_tables(path), None
    star = path / PARTICLES
    if not star.is_file():
        raise InputError(
            f"{path} has no {PARTICLES}: a folder of a finished run or of prepared particles was expected. "
            "If the training was stopped, continue it with --resume."
        )
    return read_tables(star), open_run(path) if (path / CONFIG).is_file() else None


def _chosen(
    tables: "ParticleTables",
    run: "Run | None",
    select: Path | None,
    where: str | None,
    kmeans: int | None,
    labels: str | None,
) -> tuple["np.ndarray", str]:
    """Positions of the particles asked for, in the order asked for, and in words why these."""
    import numpy as np

    from cryoatlas.analysis import selection
    from cryoatlas.particles.indices import read_indices

    chosen, reasons = np.arange(len(tables)), []
    if select is not None:
        chosen = read_indices(select, len(tables))
        reasons.append(f"numbers from 0 in {select}")
    if where is not None:
        conditions = selection.parse_conditions(where)
        keep = selection.where(conditions, lambda name: column(tables, run, name))
        chosen = chosen[keep[chosen]]
        reasons.append(where)
    if (kmeans is None) != (labels is None):
        raise ConfigError("--kmeans, the number of groups, and --labels, those to take, go together.")
    if kmeans is not None and labels is not None:
        keep, origin = _in_groups(run, kmeans, labels)
        chosen = chosen[keep[chosen]]
        reasons.append(f"labels {labels} of {origin}")
    return chosen, "; ".join(reasons) or "all"


def column(tables: "ParticleTables", run: "Run | None", name: str) -> "np.ndarray":
    """The numbers that a name in --where stands for, one for each particle.

    Raises:
        ConfigError: there is no such column, latent or component.
        MetadataError: the column holds no numbers.
    """
    found = re.fullmatch(r"(latent|pc)(\d+)", name)
    if run is not None and found is not None:
        return _latent_coordinate(run, found[1], int(found[2]))
    if run is not None and name == "loss":
        return run.losses()
    known = [column for column in (name, f"rln{name}") if tables.has(column)]
    if not known:
        latents = "" if run is None else f" {_latent_names(run)}, loss;"
        raise ConfigError(
            f"--where names {name}, but there is no such column; there are{latents} "
            f"{', '.join(tables.particles.names)}."
        )
    return tables.number(known[0])


def _latent_coordinate(run: "Run", kind: str, number: int) -> "np.ndarray":
    """A latent, counted from 0 as the columns of particles.star, or a component, from 1 as in --pc."""
    from cryoatlas.analysis.latent import PrincipalComponents

    position = number if kind == "latent" else number - 1
    if not 0 <= position < run.latent_size:
        raise ConfigError(f"--where names {kind}{number}, but this run has {_latent_names(run)}.")
    z = run.latents()
    return z[:, position] if kind == "latent" else PrincipalComponents.of(z).coordinates[:, position]


def _latent_names(run: "Run") -> str:
    size = run.latent_size
    if size == 0:
        return "no latents"
    latents = "latent0" if size == 1 else f"latent0 … latent{size - 1}"
    return f"{latents}, pc1" if size == 1 else f"{latents}, pc1 … pc{size}"


def _in_groups(run: "Run | None", count: int, labels: str) -> tuple["np.ndarray", str]:
    """Which particles are in some of the groups, and where the groups are from."""
    import numpy as np

    from cryoatlas.analysis.selection import group_labels
    from cryoatlas.cli.analyze import ANALYSIS

    if run is None or run.latent_size == 0:
        raise ConfigError("--kmeans needs a run with latents: these particles have none.")
    if not 1 <= count <= len(run.latents()):
        raise ConfigError(f"--kmeans must lie between 1 and the {len(run.latents())} particles, got {count}.")
    try:
        wanted = [int(part) for part in labels.split(",")]
    except ValueError:
        raise ConfigError(f"--labels takes numbers separated by commas, got {labels!r}.") from None
    wrong = [label for label in wanted if not 1 <= label <= count]
    if wrong:
        raise ConfigError(
            f"--labels names group {wrong[0]}, but groups are numbered from 1 to {count}, as in the report."
        )
    groups, origin = group_labels(run.latents(), count, run.path / ANALYSIS)
    return np.isin(groups, wanted), origin
