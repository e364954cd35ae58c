"""``cryoatlas train``: latents and volumes of images with known poses."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from cryoatlas.cli.console import resumable, say
from cryoatlas.cli.particle_options import AS_IN_THE_FILE, ParticleOptions
from cryoatlas.cli.recipe_options import given, refuse
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
    batch_size: int | None = None,
    learning_rate: float | None = None,
    kl_weight: float | None = None,
    marching: float | None = None,
    dense_radius: float | None = None,
    noise: Literal["updated", "shells", "white"] | None = None,
    contrast: Annotated[bool | None, Parameter(negative="--no-contrast")] = None,
    layers: int | None = None,
    width: int | None = None,
    seed: int = 0,
    device: str = "auto",
    source: ParticleOptions = AS_IN_THE_FILE,
    resume: Annotated[bool, Parameter(negative=())] = False,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
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
    batch_size
        Images in each step; default from the recipe. This option and those below it, down to --width, are of
        recipes with networks.
    learning_rate
        Of Adam; default from the recipe.
    kl_weight
        Weight β of the KL term; default from the recipe.
    marching
        Part of the run over which the band grows to all frequencies; default from the recipe.
    dense_radius
        Fraction of the radius to Nyquist within which all coefficients are compared in every step, and beyond
        which a random share is; 1 compares all. Default from the recipe.
    noise
        Noise model: a variance for each shell, updated after each epoch (`updated`) or not (`shells`), or one
        for all frequencies (`white`). Default from the recipe.
    contrast
        Fit to every image a factor of its signal, near 1. Default from the recipe.
    layers
        Hidden layers after the first, of encoder and decoder; default from the recipe.
    width
        Units in each layer, of encoder and decoder; default from the recipe.
    seed
        Of initial weights, order of images and samples.
    device
        auto, cpu, cuda or cuda:N.
    resume
        Continue the run in --out.
    overwrite
        Replace what --out holds.
    """
    networks = {
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "kl_weight": kl_weight,
        "marching": marching,
        "dense_radius": dense_radius,
        "noise": noise,
        "contrast": contrast,
    }
    config = named_recipe(recipe, latent=latent)
    if not isinstance(config, StatesConfig):
        refuse(recipe, {"--components": components}, "subspace")
    sizes = {"layers": layers, "width": width}
    if isinstance(config, TrainConfig):
        nets = {name: given(getattr(config, name), **sizes) for name in ("encoder", "decoder")}
        config = given(config, **networks, **nets, epochs=epochs, seed=seed)
    else:
        useless = {f"--{name.replace('_', '-')}": value for name, value in {**networks, **sizes}.items()}
        refuse(recipe, useless, "network")
        config = given(config, components=components, epochs=epochs, seed=seed)
    from cryoatlas.recipes.train import train as work

    images = source.read(particles)
    with resumable("training") as (report, stop_requested):
        work(
            images,
            config,
            out,
            resume=resume,
            overwrite=overwrite,
            device=device,
            progress=report,
            stop_requested=stop_requested,
        )
    say(f"wrote {out}: look at it with `cryoatlas analyze {out}`, decode maps with `cryoatlas volumes {out}`")
