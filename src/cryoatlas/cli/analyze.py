"""``cryoatlas analyze``: look at a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryoatlas.cli.console import clock_time, progress, say
from cryoatlas.errors import ConfigError

if TYPE_CHECKING:
    from cryoatlas.analysis.leakage import Imaging
    from cryoatlas.analysis.overview import Subject
    from cryoatlas.analysis.plots import Colouring
    from cryoatlas.analysis.truth import Truth
    from cryoatlas.recipes.run import Run

ANALYSIS, REPORT = "analysis", "report.html"
GROUPS = 8
"""Of images, each shown by one volume."""


def analyze(
    run: Path,
    *,
    kmeans: int | None = None,
    pc: int | None = None,
    points: int = 10,
    umap: bool = False,
    color_by: list[str] | None = None,
    truth: Path | None = None,
    images: int = 100,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Make the report of a run: the motion and typical structures, or the classes, latent plots, FSC.

    Writes RUN/report.html, one file that opens with no network, and RUN/analysis with all volumes, tables
    and figures that it shows.

    Parameters
    ----------
    run
        Run folder of a training.
    kmeans
        Number of groups that the images are divided into, each shown by one volume; default 8. A run of
        `cryoatlas classify` is shown by its classes, unless --kmeans or --pc is given.
    pc
        Show the motion along this principal component, from 1. By default it goes through the groups,
        staying where there are images.
    points
        Number of volumes that show the motion.
    umap
        Add a UMAP of the latents (needs the extra: pip install 'cryoatlas[umap]').
    color_by
        Column of the star file to colour the latents by, such as rlnDefocusU; may be repeated.
    truth
        The truth folder of the simulation, to colour by the true coordinates and to score.
    images
        Number of volumes that are compared with the truth.
    seed
        Of k-means and UMAP.
    overwrite
        Replace an earlier RUN/analysis.
    """
    from cryoatlas.analysis.class_overview import ClassOverview
    from cryoatlas.analysis.embedding import require_umap
    from cryoatlas.analysis.overview import Options, Overview
    from cryoatlas.analysis.report import write_report
    from cryoatlas.analysis.truth import read_truth
    from cryoatlas.analysis.wording import leakage
    from cryoatlas.cli.score import score_of
    from cryoatlas.io.folder import atomic_directory
    from cryoatlas.recipes.run import open_run

    opened = open_run(run)
    groups = GROUPS if kmeans is None else kmeans
    _check(opened, groups, pc, points)
    if umap:
        require_umap(opened.latent_size)
    known = None if truth is None else read_truth(truth)
    subject = describe(opened, color_by or [], known)
    options = Options(clusters=groups, component=pc, points=points, umap=umap, seed=seed)
    as_classes = _shown_by_classes(opened) and pc is None and kmeans is None
    kind = ClassOverview if as_classes else Overview
    with atomic_directory(opened.path / ANALYSIS, overwrite=overwrite) as folder:
        scored = None if truth is None else score_of(opened, truth, images)
        with progress("analysing", unit="volumes") as report:
            overview = kind(subject, options, folder, ANALYSIS, report)
            page = overview.report(scored)
    write_report(opened.path / REPORT, page)
    if overview.leaks:
        say("\n".join(leakage(overview.leaks)))
    say(
        f"wrote {opened.path / REPORT}: open it in a browser; "
        f"volumes and figures are in {opened.path / ANALYSIS}"
    )


def describe(run: "Run", columns: list[str], truth: "Truth | None" = None) -> "Subject":
    """What the analysis needs to know of a run.

    Args:
        columns: of the run's star file, to colour by.

    Raises:
        MetadataError: there is no such column, or it holds no numbers.
    """
    import numpy as np

    from cryoatlas.analysis.overview import Subject

    latents, log = run.latents(), run.log()
    half_maps = [entry["fsc"] for entry in log if entry.get("event") == "consensus"]
    return Subject(
        name="/".join(run.path.resolve().parts[-2:]),
        latents=latents,
        volumes=run.volumes,
        box_size=run.box_size,
        pixel_size=run.pixel_size,
        facts=_facts(run, log),
        command=run.config["run"].get("command", ""),
        log=log,
        half_map_fsc=np.array(half_maps[-1]) if half_maps else None,
        colourings=_colourings(run, columns, truth) if latents.shape[1] > 0 else (),
        files=_files(run),
        imaging=imaging_of(run) if latents.shape[1] > 0 else None,
    )


def _shown_by_classes(run: "Run") -> bool:
    """Whether z is the probability of classes."""
    from cryoatlas.recipes.run import CLASSES

    return run.engine == CLASSES and run.latent_size > 0


def _check(run: "Run", kmeans: int, pc: int | None, points: int) -> None:
    if kmeans < 1:
        raise ConfigError(f"--kmeans must be at least 1, got {kmeans}.")
    if points < 2:
        raise ConfigError(f"--points must be at least 2, got {points}.")
    if pc is not None and not 1 <= pc <= run.latent_size:
        raise ConfigError(f"--pc must lie between 1 and the latent's dimension {run.latent_size}, got {pc}.")


def _facts(run: "Run", log: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The head of the report."""
    epochs = [entry for entry in log if entry.get("event") == "epoch"]
    seconds = sum(entry["seconds"] for entry in epochs)
    devices = [entry["device"] for entry in log if entry.get("event") == "start"]
    of_classes = _shown_by_classes(run)
    return [
        ("particle images", f"{run.config['input']['images']:,}"),
        ("image size", f"{run.box_size} × {run.box_size} px"),
        ("pixel size", f"{run.pixel_size:.4g} Å"),
        ("classes" if of_classes else "latent dimensions", str(run.latent_size)),
        ("epochs", str(len(epochs))),
        ("time of the epochs", clock_time(seconds)),
        ("computed on", devices[-1] if devices else "unknown"),
        ("version", run.config["run"]["version"]),
    ]


def _colourings(run: "Run", columns: list[str], truth: "Truth | None") -> list["Colouring"]:
    from cryoatlas.analysis.plots import Colouring
    from cryoatlas.analysis.truth import spoken

    chosen = []
    if truth is not None:
        for name, values in truth.coordinates.items():
            chosen.append(Colouring(f"true {spoken(name)}", values, cyclic=truth.is_periodic(name)))
    for name in columns:
        chosen.append(Colouring(name, run.particles.tables.number(name)))
    return chosen


def imaging_of(run: "Run") -> "Imaging":
    """How the images of a run were taken, for `analysis.leakage`."""
    from cryoatlas.analysis.leakage import Imaging

    particles = run.particles
    return Imaging(
        pose=particles.pose,
        ctf=particles.ctf,
        contrast=run.contrasts(),
        particle=None if particles.groups is None else particles.groups.particle.numpy(),
    )


def _files(run: "Run") -> list[tuple[str, str]]:
    """What a run folder holds besides the analysis."""
    known = {
        "report.html": "this page",
        "particles.star": "your particles, in order, with poses and latents as columns",
        "latents.npz": "latents, their spread, and the misfit of every image, as plain arrays",
        "volumes/consensus.mrc": "one map from all images, without motion",
        "log.jsonl": "what the training curves show, as numbers",
        "config.toml": "every option of the run, to repeat it",
        "score.json": "all numbers of the comparison with the truth",
    }
    return [
        (name, about) for name, about in known.items() if name == "report.html" or (run.path / name).exists()
    ]
