"""``cryoatlas train``: latents and volumes of images with known poses."""

from pathlib import Path
from typing import Literal

from cryoatlas.cli.console import resumable, say
from cryoatlas.cli.network_options import OF_THE_RECIPE, NetworkOptions
from cryoatlas.cli.pair_options import SINGLE_IMAGES, PairOptions
from cryoatlas.cli.particle_options import AS_IN_THE_FILE, ParticleOptions
from cryoatlas.cli.recipe_options import given, refuse
from cryoatlas.cli.run_options import AS_USUAL, RunOptions
from cryoatlas.recipes.presets import recipe as named_recipe
from cryoatlas.subspace.config import StatesConfig
from cryoatlas.training.config import TrainConfig


def train(
    particles: Path,
    *,
    latent: int,
    out: Path,
    recipe: Literal["default", "subspace", "network", "paper", "paper-noisy"] = "default",
    components: int | None = None,
    epochs: int | None = None,
    networks: NetworkOptions = OF_THE_RECIPE,
    pairs: PairOptions = SINGLE_IMAGES,
    run: RunOptions = AS_USUAL,
    source: ParticleOptions = AS_IN_THE_FILE,
) -> None:
    """Find a continuous distribution of volumes of particles whose poses are known.

    Ctrl-C stops after the step under way and keeps what is done; the same command with --resume goes on.

    Parameters
    ----------
    particles
        RELION star file, cryoSPARC .cs file, list of stacks (.txt) or image stack (.mrcs), with poses.
    latent
        Dimension of the latent z: 1 for one motion, 8 when in doubt, 0 for a single volume.
    out
        Run folder to make.
    recipe
        A named set of options. `subspace`, the default, trains no network: components are solved, and volumes
        made of the images near z when they are asked for. `network` trains an encoder and a decoder, which
        takes ten times as long. `paper` and `paper-noisy` are the paper's networks and training. With
        --latent 0 the default is one map of all images.
    components
        Maps beside the mean that --recipe subspace gives to what moves; default 3 to 6. With it alone.
    epochs
        Passes over the images; default from the recipe.
    """
    config = named_recipe(recipe, latent=latent)
    if not isinstance(config, StatesConfig):
        refuse(recipe, {"--components": components}, "subspace")
    if isinstance(config, TrainConfig):
        config = given(networks.change(config), epochs=epochs, seed=run.seed)
    else:
        refuse(recipe, networks.typed, "network")
        config = given(config, components=components, epochs=epochs, seed=run.seed)
    from cryoatlas.recipes.train import train as work

    second = pairs.read(source)
    images = source.read(particles).with_symmetry(run.symmetry)
    with resumable("training") as (report, stop_requested):
        work(
            images,
            config,
            out,
            **second,
            **run.of_folder,
            progress=report,
            stop_requested=stop_requested,
        )
    say(f"wrote {out}: look at it with `cryoatlas analyze {out}`, decode maps with `cryoatlas volumes {out}`")
