"""The content of the paper's figures from the runs of its tables, into docs/images/paper."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmarks.common import ROOT
from benchmarks.paper.jobs import SIZES, Job, jobs

from cryoatlas.analysis.figures import MUTED, SECOND, new_figure, save_figure
from cryoatlas.analysis.latent import PrincipalComponents
from cryoatlas.analysis.plots import ACCENT, Colouring, cluster_colours, scatter_figure
from cryoatlas.analysis.render import Camera, Surface, automatic_level
from cryoatlas.analysis.score import score_run
from cryoatlas.analysis.truth import read_truth
from cryoatlas.recipes.run import LATENTS, Run, open_run

IMAGES = ROOT / "docs" / "images" / "paper"
VIEWS = 6
"""Volumes shown along a motion."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw what there are runs of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="laptop")
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / "work" / "paper")
    options = parser.parse_args(arguments)
    IMAGES.mkdir(parents=True, exist_ok=True)
    done = [job for job in jobs(options.size) if (options.work / "runs" / job.name / LATENTS).exists()]
    rigid = [job for job in done if job.table == "1"]
    circles = [job for job in done if job.data.scene == "circular1d" and job.method.recipe == "default"]
    lines = [job for job in done if job.data.scene == "linear1d" and job.table in ("2", "S3")]
    if rigid:
        curves(rigid, options.work)
    if circles:
        circle(circles[0], options.work)
    continuum = [job for job in lines if job.method.recipe == "default"]
    classes = [job for job in lines if job.method.recipe == "classify" and job.method.size == 3]
    alike = [
        (one, other)
        for one in continuum
        for other in classes
        if (one.data, one.method.known) == (other.data, other.method.known)
    ]
    if alike:
        classes_beside_latent(*alike[-1], options.work)


def curves(done: Sequence[Job], work: Path) -> None:
    """FSC of rigid bodies with their true maps (figure S5)."""
    with new_figure(5.2, 3.2) as (figure, axes):
        for job in done:
            run, truth = opened(job, work)
            score = score_run(run.latents(), run.pose, run.volumes, truth, run.pixel_size, images=1)
            curve = score.run.curves[0]
            noise = "no noise" if np.isinf(job.data.snr) else f"SNR {job.data.snr:g}"
            axes.plot(
                2 * np.arange(len(curve)) / job.data.box,
                curve,
                label=f"{job.method.recipe}, {job.data.box}², {noise}{', CTF' if job.data.ctf else ''}",
            )
        axes.axhline(0.5, color=MUTED, lw=0.8, ls=":")
        axes.set_xlabel("frequency, of Nyquist")
        axes.set_ylabel("FSC with the true map")
        axes.set_ylim(-0.05, 1.05)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0))
    save_figure(figure, IMAGES / "table1_fsc.png")


def circle(job: Job, work: Path) -> None:
    """Latents of a motion through a full circle, and volumes along it (figure 4)."""
    run, truth = opened(job, work)
    latents, (angle,) = run.latents(), truth.coordinates.values()
    figure = scatter_figure(
        PrincipalComponents.of(latents).coordinates[:, :2],
        ("first principal axis of z", "second"),
        colouring=Colouring("true angle (degrees)", angle, cyclic=True),
    )
    save_figure(figure, IMAGES / "circular1d_latents.png")
    wanted = np.arange(VIEWS) * 360 / VIEWS
    nearest = [np.abs((angle - each + 180) % 360 - 180).argmin() for each in wanted]
    volumes_row(run, latents[nearest], [f"{each:g}°" for each in wanted], "circular1d_volumes.png")


def classes_beside_latent(continuum: Job, classes: Job, work: Path) -> None:
    """Where classes lie along a latent (figure 3)."""
    run, truth = opened(continuum, work)
    labels, latent = open_run(work / "runs" / classes.name).latents().argmax(1), run.latents()[:, 0]
    (angle,) = truth.coordinates.values()
    with new_figure(5.2, 3.6, rows=2) as (figure, (above, below)):
        groups = [latent[labels == number] for number in range(labels.max() + 1)]
        names = [f"class {number}" for number in range(1, len(groups) + 1)]
        above.hist(groups, 60, stacked=True, color=cluster_colours(len(groups)), label=names)
        above.set_ylabel("images")
        above.legend()
        below.plot(latent, angle, ".", ms=2, alpha=0.5, color=ACCENT)
        below.set_ylabel("true angle (°)")
        below.set_xlabel("latent z")
    save_figure(figure, IMAGES / "classes_beside_latent.png")


def volumes_row(run: Run, latents: np.ndarray, names: Sequence[str], file: str) -> None:
    """Surfaces of volumes, side by side from one side."""
    maps = list(run.volumes(latents))
    level = float(np.median([automatic_level(volume) for volume in maps]))
    camera = Camera.around(maps, level)
    with new_figure(1.7 * len(maps), 1.9) as (figure, axes):
        axes.remove()
        for place, (volume, name) in enumerate(zip(maps, names, strict=True)):
            panel = figure.add_subplot(1, len(maps), place + 1)
            panel.imshow(Surface(volume).render(level, camera, size=300))
            panel.set_title(name, color=SECOND)
            panel.axis("off")
    save_figure(figure, IMAGES / file)


def opened(job: Job, work: Path):
    """A run and the truth of its images."""
    return open_run(work / "runs" / job.name), read_truth(work / "sets" / job.data.name)


if __name__ == "__main__":
    main()
