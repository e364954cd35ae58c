"""``cryoatlas classify``: a few maps instead of a continuous distribution."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cryoatlas.cli.console import resumable, say
from cryoatlas.cli.pair_options import SINGLE_IMAGES, PairOptions
from cryoatlas.cli.particle_options import AS_IN_THE_FILE, ParticleOptions
from cryoatlas.cli.recipe_options import given, refuse
from cryoatlas.cli.run_options import AS_USUAL, RunOptions
from cryoatlas.cli.text_table import show, text_table
from cryoatlas.recipes.abinit_config import subspace_abinit
from cryoatlas.subspace.config import ClassesConfig

if TYPE_CHECKING:
    from cryoatlas.recipes.run import Run


def classify(
    particles: Path,
    *,
    classes: int,
    out: Path,
    recipe: Literal["known", "abinit"] | None = None,
    align: Literal["none", "refine", "search"] | None = None,
    epochs: int | None = None,
    starts: int | None = None,
    rounds: int | None = None,
    shift_extent: float | None = None,
    pairs: PairOptions = SINGLE_IMAGES,
    run: RunOptions = AS_USUAL,
    source: ParticleOptions = AS_IN_THE_FILE,
) -> None:
    """Divide particles into classes, each with a map: the traditional way, and what to compare with.

    Expectation–maximisation of a mixture of maps. With poses from the file classes are told at these poses;
    with nothing known poses are found first with one map, as `cryoatlas abinit --latent 0` does, and then
    sought in the frame of each class. A single class is refinement. Ctrl-C keeps what is done; the same
    command with --resume goes on.

    Writes maps and half maps of the classes into RUN/volumes and the class of every particle into
    RUN/particles.star (rlnClassNumber, and the probability of each class as cryoatlasLatent0 …).

    Parameters
    ----------
    particles
        RELION star file, cryoSPARC .cs file, list of stacks (.txt) or image stack (.mrcs).
    classes
        How many.
    out
        Run folder to make.
    recipe
        `known`: poses are those of the file; `abinit`: nothing is known. Default `known` if the file has
        poses.
    align
        With several classes: keep poses as they are (`none`), improve them in the frame of each class
        (`refine`), or seek them anew there as well (`search`). Default none with --recipe known, but refine
        for a single class; search with --recipe abinit.
    epochs
        Passes over the images in which maps of classes are solved; default 15.
    starts
        First maps that are grown; default 12. With --recipe abinit alone.
    rounds
        Rounds over all images in which poses of the one map are found; default 5. With --recipe abinit alone.
    shift_extent
        Where poses are sought, shifts within ± this many px; default 5 at a box of 64, in proportion.
    """
    second = pairs.read(source)
    images = source.read(particles).with_symmetry(run.symmetry)
    if recipe is None:
        recipe = "abinit" if images.pose is None else "known"
    if align is None:
        align = "search" if recipe == "abinit" else ("refine" if classes == 1 else "none")
    extent = 5 * images.box_size / 64 if shift_extent is None else shift_extent
    config = ClassesConfig(classes=classes, align=align, shift_extent_px=extent, seed=run.seed)
    config = given(config, epochs=epochs)
    config.require_images(len(images))
    if recipe == "known":
        refuse(recipe, {"--starts": starts, "--rounds": rounds})
        from cryoatlas.recipes.train import train

        work = partial(train, images, config)
    else:
        plain = subspace_abinit()
        first = given(plain.bootstrap, starts=starts)
        search = given(replace(plain, bootstrap=first, shift_extent_px=extent, seed=run.seed), rounds=rounds)
        from cryoatlas.recipes.abinit import abinit

        work = partial(abinit, images, search, config)
    with resumable("classifying") as (report, stop_requested):
        found = work(
            out,
            **second,
            **run.of_folder,
            progress=report,
            stop_requested=stop_requested,
        )
    show(text_table(("class", "particles", "share", "half maps agree to"), _rows(found)))
    say(f"wrote {out}: maps in {out / 'volumes'}, the class of each particle in {out / 'particles.star'}")


def _rows(run: "Run") -> list[tuple[str, ...]]:
    """What the run says of its classes."""
    found = [entry for entry in run.log() if entry.get("event") == "classes"][-1]
    count = sum(found["sizes"])
    return [
        (str(number), f"{size:,}", f"{size / count:.1%}", f"{period * run.pixel_size:.1f} Å")
        for number, (size, period) in enumerate(zip(found["sizes"], found["known_px"], strict=True), 1)
    ]
