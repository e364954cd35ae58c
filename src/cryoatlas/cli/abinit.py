"""``cryoatlas abinit``: reconstruction from images whose poses are not known."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from cryoatlas.cli.console import resumable, say
from cryoatlas.cli.particle_options import AS_IN_THE_FILE, ParticleOptions
from cryoatlas.errors import ConfigError
from cryoatlas.recipes.abinit_config import abinit_recipe
from cryoatlas.recipes.abinit_config import search_epochs as epochs_for
from cryoatlas.recipes.presets import recipe as named_recipe


def abinit(
    particles: Path,
    *,
    latent: int,
    out: Path,
    tilt: Path | None = None,
    tilt_angle: float | None = None,
    recipe: Literal["default", "paper"] = "default",
    search_epochs: int | None = None,
    keep: int | None = None,
    shift_extent: float | None = None,
    polish: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "auto",
    source: ParticleOptions = AS_IN_THE_FILE,
    resume: Annotated[bool, Parameter(negative=())] = False,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Find poses and volumes of particles from their images alone; poses in the file are not looked at.

    A network grows a map from random poses and poses are sought against it, epoch by epoch; they are then
    refined, and a training with these poses follows, as `cryoatlas train` does it. Ctrl-C keeps a checkpoint;
    the same command with --resume goes on.

    Parameters
    ----------
    particles
        RELION star file, cryoSPARC .cs file, list of stacks (.txt) or image stack (.mrcs).
    latent
        Dimension of the latent z: 1 for one motion, 8 when in doubt, 0 for a single volume.
    out
        Run folder to make.
    tilt
        File of a second image of each particle, in the same order, taken after a tilt of the specimen about
        the images' x axis. Read as the first file is.
    tilt_angle
        That tilt, degrees; default 45.
    recipe
        A named set of options; `paper` is the paper's network and search.
    search_epochs
        Passes over the images while poses are sought, the first with random poses; default 6, and more for
        fewer than 4,000 images.
    keep
        Poses of an image that go on from one grid of the search to the next; 0 for all that the bound allows.
        Default from the recipe.
    shift_extent
        Shifts are sought in ± this many px; default 5 at a box of 64, in proportion.
    polish
        Rounds of back-projection and pose refinement after the search; default from the recipe.
    epochs
        Passes over the images of the training that follows; default from the recipe.
    seed
        Of initial weights, random poses, order of images and samples.
    device
        auto, cpu, cuda or cuda:N.
    resume
        Continue the run in --out.
    overwrite
        Replace what --out holds.
    """
    config = abinit_recipe(recipe)
    final = replace(named_recipe(recipe, latent=latent), seed=seed)
    if epochs is not None:
        final = replace(final, epochs=epochs)
    if tilt is None and tilt_angle is not None:
        raise ConfigError("--tilt-angle speaks of second images: add --tilt FILE, or leave it out.")
    images = source.read(particles)
    second = None if tilt is None else source.read(tilt)
    extent = 5 * images.box_size / 64 if shift_extent is None else shift_extent
    search = replace(config.search, shift_extent_px=extent)
    if keep is not None:
        search = replace(search, keep=keep)
    if search_epochs is None:
        search_epochs = max(config.train.epochs, epochs_for(len(images)))
    growing = replace(config.train, seed=seed, epochs=search_epochs)
    config = replace(config, search=search, train=growing)
    if polish is not None:
        config = replace(config, polish=polish)
    from cryoatlas.recipes.abinit import abinit as abinit_recipe_run

    with resumable("reconstructing") as (report, stop_requested):
        abinit_recipe_run(
            images,
            config,
            final,
            out,
            tilted=second,
            tilt_angle_deg=45.0 if tilt_angle is None else tilt_angle,
            resume=resume,
            overwrite=overwrite,
            device=device,
            progress=report,
            stop_requested=stop_requested,
        )
    say(f"wrote {out}: look at it with `cryoatlas analyze {out}`, decode maps with `cryoatlas volumes {out}`")
