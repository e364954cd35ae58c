"""``cryoatlas abinit``: reconstruction from images whose poses are not known."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cryoatlas.cli.console import resumable, say
from cryoatlas.cli.pair_options import SINGLE_IMAGES, PairOptions
from cryoatlas.cli.particle_options import AS_IN_THE_FILE, ParticleOptions
from cryoatlas.cli.recipe_options import given, refuse
from cryoatlas.cli.run_options import AS_USUAL, RunOptions
from cryoatlas.recipes.abinit_config import NetworkConfig, abinit_recipe, final_recipe

if TYPE_CHECKING:
    from cryoatlas.recipes.run import Run


def abinit(
    particles: Path,
    *,
    latent: int,
    out: Path,
    recipe: Literal["default", "paper"] = "default",
    final: Literal["network", "subspace"] | None = None,
    starts: int | None = None,
    contenders: int | None = None,
    components: int | None = None,
    rounds: int | None = None,
    search_epochs: int | None = None,
    keep: int | None = None,
    shift_extent: float | None = None,
    epochs: int | None = None,
    pairs: PairOptions = SINGLE_IMAGES,
    run: RunOptions = AS_USUAL,
    source: ParticleOptions = AS_IN_THE_FILE,
) -> None:
    """Find poses and volumes of particles from their images alone; poses in the file are not looked at.

    First maps are grown from several random starts, and the one that explains held-out images best is kept.
    Rounds over all images follow, each half set against its own maps. With the poses found come states, or
    one map, as `cryoatlas train` makes them, or with --final network a network that is trained.
    With --recipe paper a network grows from random poses instead, and poses are sought in it epoch by epoch.
    Ctrl-C keeps what is done; the same command with --resume goes on.

    Parameters
    ----------
    particles
        RELION star file, cryoSPARC .cs file, list of stacks (.txt) or image stack (.mrcs).
    latent
        Dimension of the latent z: 1 for one motion, 8 when in doubt, 0 for a single volume.
    out
        Run folder to make.
    recipe
        A named set of options; `paper` is the paper's network and search.
    final
        What makes latents and volumes of the poses found: the `subspace` engine (default with a latent; not
        with --recipe paper), or a `network` that is trained, which takes ten times as long. Default with
        --latent 0 is one map.
    starts
        First maps that are grown; default 12, of which a quarter goes on after the first steps. Not with
        --recipe paper.
    contenders
        Of those, how many are given components before the best one is chosen; default 2. Not with --recipe
        paper.
    components
        Maps beside the mean that the search gives to what moves; default 0 with --latent 0, else 3 to 6. Not
        with --recipe paper.
    rounds
        Rounds over all images after the first search; default 5. Not with --recipe paper.
    search_epochs
        Passes over the images while poses are sought, the first with random poses; default 5, with a latent
        40, with tilt pairs besides 20. With --recipe paper alone, as is --keep.
    keep
        Poses of an image that go on from one grid of the search to the next; 0 for all that the bound allows.
        Default from the recipe.
    shift_extent
        Shifts are sought in ± this many px; default 5 at a box of 64, in proportion.
    epochs
        Passes over the images once poses are found; default from the recipe.
    """
    last = given(final_recipe(recipe, final, latent=latent), seed=run.seed, epochs=epochs)
    second = pairs.read(source)
    images = source.read(particles).with_symmetry(run.symmetry)
    extent = 5 * images.box_size / 64 if shift_extent is None else shift_extent
    config = abinit_recipe(recipe, latent=latent, pairs=bool(second))
    if isinstance(config, NetworkConfig):
        others = {"--contenders": contenders, "--components": components, "--rounds": rounds}
        refuse(recipe, {"--starts": starts, **others})
        search = given(replace(config.search, shift_extent_px=extent), keep=keep)
        train = given(replace(config.train, seed=run.seed), epochs=search_epochs)
        config = replace(config, search=search, train=train)
    else:
        refuse(recipe, {"--search-epochs": search_epochs, "--keep": keep})
        first = given(config.bootstrap, starts=starts, contenders=contenders, components=components)
        config = replace(config, bootstrap=first, shift_extent_px=extent, seed=run.seed)
        config = given(config, rounds=rounds)
    from cryoatlas.recipes.abinit import abinit as abinit_recipe_run

    with resumable("reconstructing") as (report, stop_requested):
        found = abinit_recipe_run(
            images,
            config,
            last,
            out,
            **second,
            **run.of_folder,
            progress=report,
            stop_requested=stop_requested,
        )
    if latent:
        _say_what_z_leaks(found)
    say(f"wrote {out}: look at it with `cryoatlas analyze {out}`, decode maps with `cryoatlas volumes {out}`")


def _say_what_z_leaks(run: "Run") -> None:
    """Whether z tells how the images were taken: the usual way in which a joint search goes wrong."""
    from cryoatlas.analysis.leakage import leakage
    from cryoatlas.analysis.wording import leakage as in_words
    from cryoatlas.cli.analyze import imaging_of

    leaks = leakage(run.latents(), imaging_of(run))
    if any(leak.telling for leak in leaks):
        say("\n".join(in_words(leaks)))
