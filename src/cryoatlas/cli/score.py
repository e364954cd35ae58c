"""``cryoatlas score``: how right a run is, where the truth is known."""

from pathlib import Path
from typing import TYPE_CHECKING

from cryoatlas.cli.console import progress, say
from cryoatlas.cli.text_table import show, text_table
from cryoatlas.errors import ConfigError

if TYPE_CHECKING:
    from cryoatlas.analysis.score import Score
    from cryoatlas.recipes.run import Run

SCORE = "score.json"
HEAD = ("measure", "one alignment for the run", "one per state")


def score(run: Path, *, truth: Path, images: int = 100, mask: Path | None = None) -> None:
    """Compare a run with the truth of its simulated images: maps, poses and latents.

    Maps and poses are moved to the true frame first: by one rotation, shift and hand for the whole run,
    and once more for each state. Prints a table and writes it, with all numbers, to RUN/score.json.

    Parameters
    ----------
    run
        Run folder of a training.
    truth
        The truth folder of the simulation.
    images
        Volumes of this many images, evenly spaced, are compared with their true maps.
    mask
        A map: volumes are compared as they are, and again with both maps multiplied by it.
    """
    from cryoatlas.recipes.run import open_run

    opened = open_run(run)
    result = score_of(opened, truth, images, mask)
    show(text_table(HEAD, result.rows()))
    say(f"wrote {opened.path / SCORE}")


def score_of(run: "Run", truth: Path, images: int, mask: Path | None = None) -> "Score":
    """Score a run and write score.json into it."""
    from cryoatlas.analysis.score import score_run
    from cryoatlas.analysis.truth import read_truth
    from cryoatlas.cli.analyze import imaging_of
    from cryoatlas.io.mrc import read_volume
    from cryoatlas.io.output import write_text

    if images < 1:
        raise ConfigError(f"--images must be at least 1, got {images}.")
    known = read_truth(truth)
    weights = None if mask is None else read_volume(mask).array
    with progress("scoring", unit="volumes") as report:
        result = score_run(
            run.latents(),
            run.pose,
            run.volumes,
            known,
            run.pixel_size,
            images=images,
            mask=weights,
            imaging=imaging_of(run),
            progress=report,
        )
    write_text(run.path / SCORE, result.to_json())
    return result
