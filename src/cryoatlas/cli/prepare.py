"""``cryoatlas prepare``: images cropped, normalised and stored anew."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from cryoatlas.cli.console import resumable, say
from cryoatlas.cli.particle_options import AS_IN_THE_FILE, ParticleOptions
from cryoatlas.errors import InputError
from cryoatlas.particles.prepare_config import NormalizeBy, PrepareConfig

if TYPE_CHECKING:
    from cryoatlas.particles.particle_set import ParticleSet

DEFAULT = PrepareConfig()


def prepare(
    particles: Path,
    *,
    out: Path,
    source: ParticleOptions = AS_IN_THE_FILE,
    box: int | None = None,
    pixel_size: float | None = None,
    phase_flip: bool = False,
    normalize: NormalizeBy = DEFAULT.normalize,
    diameter: float | None = None,
    window: bool = False,
    dtype: Literal["float16", "float32"] = DEFAULT.dtype,
    shard_gib: float = DEFAULT.shard_gib,
    resume: Annotated[bool, Parameter(negative=())] = False,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Crop images in Fourier space to a smaller box, normalise them, and store them beside a new star file.

    Optics groups of different boxes and pixel sizes are brought to one grid. Poses, CTF and all other columns
    stay valid, and every row remembers its row in your file. Ctrl-C keeps what is done; the same command with
    --resume goes on.

    Parameters
    ----------
    particles
        RELION star file, cryoSPARC .cs file, list of stacks (.txt) or image stack (.mrcs).
    out
        Folder to make: particles.star and stacks/.
    box
        Side of the new images in pixels, even. Without --pixel-size they cover what the old images cover.
    pixel_size
        Of the new images, Å. Without --box they get as many pixels as the old images cover.
    phase_flip
        Multiply transforms by the sign of the CTF; training then uses |CTF|. Not needed by CryoAtlas.
    normalize
        Which images share a background level and deviation, which become 0 and 1: those of a micrograph, of
        an optics group, of the whole set, or none.
    diameter
        Of the circle that holds the particle, Å; outside it the background is measured. Default: 0.75 of the
        box.
    window
        Multiply images by a soft circular window; training does so in any case.
    dtype
        Of the stored pixels; float16 takes half the space, and RELION 4 and cryoSPARC read it.
    shard_gib
        Largest size of a stack, GiB.
    resume
        Continue in --out after the last complete stack.
    overwrite
        Replace what --out holds.
    """
    config = PrepareConfig(
        box=box,
        pixel_size=pixel_size,
        phase_flip=phase_flip,
        normalize=normalize,
        diameter=diameter,
        window=window,
        dtype=dtype,
        shard_gib=shard_gib,
    )
    from cryoatlas.recipes.prepare import prepare as prepare_images

    images = _checked(particles, source)
    with resumable("preparing") as (report, stop_requested):
        star = prepare_images(
            images,
            out,
            config,
            resume=resume,
            overwrite=overwrite,
            progress=report,
            stop_requested=stop_requested,
        )
    say(f"wrote {len(images):,} images and {star}")


def _checked(particles: Path, source: ParticleOptions) -> "ParticleSet":
    """The particles, after all that is wrong with them has been said in one go.

    Raises:
        InputError: something is.
    """
    from cryoatlas.particles.inspection import inspect_file

    problems = inspect_file(particles, source.datadir, one_box=False, **source.others).problems
    if len(problems) > 1:
        listed = "\n".join(f"{number}. {problem}" for number, problem in enumerate(problems, 1))
        raise InputError(f"{particles} has {len(problems)} problems; nothing was written.\n{listed}")
    if problems:
        raise InputError(problems[0])
    return source.read(particles, one_box=False)
