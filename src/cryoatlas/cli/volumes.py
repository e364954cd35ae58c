"""``cryoatlas volumes``: maps anywhere in the latent space of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cryoatlas.cli.console import progress, say
from cryoatlas.errors import ConfigError
from cryoatlas.progress import Progress

if TYPE_CHECKING:
    import numpy as np

    from cryoatlas.recipes.run import Run


def volumes(
    run: Path,
    *,
    out: Path,
    particles: str | None = None,
    latent: Annotated[list[str] | None, Parameter(negative=())] = None,
    kmeans: int | None = None,
    pc: int | None = None,
    points: int = 10,
    linear: Annotated[bool, Parameter(negative=())] = False,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Decode volumes of a run: of particles, at latents, of k-means clusters or along a component.

    Writes vol_000000.mrc, …, volumes.csv, which says the latent of each, and view.cxc, which shows them
    all in ChimeraX. Exactly one of --particles, --latent, --kmeans and --pc is to be given; none for a run
    with a single volume.

    Parameters
    ----------
    run
        Run folder of a training.
    out
        Folder to make.
    particles
        Numbers of particles, from 0, such as 0,10,20.
    latent
        A point of the latent space, such as 0.1,0.2; may be repeated.
    kmeans
        Number of clusters; the volume of the particle nearest to each centre.
    pc
        Principal component, from 1; volumes at percentiles 5 to 95 along it.
    points
        Number of volumes along the component.
    linear
        Of a run of --recipe subspace, take the sum of its mean and components alone; needs no images.
    overwrite
        Replace what --out holds.
    """
    from cryoatlas.io.folder import atomic_directory
    from cryoatlas.recipes.run import open_run

    opened = open_run(run).linear() if linear else open_run(run)
    where = _points(opened, particles, latent, kmeans, pc, points)
    with atomic_directory(out, overwrite=overwrite) as folder, progress("decoding", unit="volumes") as report:
        _write(opened, where, folder, report)
    say(f"wrote {len(where)} volumes to {out}; to see them in ChimeraX, open {out / 'view.cxc'}")


def _write(opened: "Run", where: "np.ndarray", folder: Path, report: Progress) -> None:
    """Maps, the table of their latents, and a script that shows them."""
    import numpy as np

    from cryoatlas.analysis.chimerax import write_view
    from cryoatlas.analysis.plots import cluster_colours
    from cryoatlas.analysis.render import automatic_level
    from cryoatlas.io.mrc import write_volume
    from cryoatlas.io.output import write_text

    files = [f"vol_{number:06d}.mrc" for number in range(len(where))]
    levels = []
    for file, volume in zip(files, opened.volumes(where), strict=True):
        write_volume(folder / file, volume, opened.pixel_size)
        levels.append(automatic_level(volume))
        report(len(levels), len(where))
    header = ",".join(["volume", *(f"z{i}" for i in range(where.shape[1]))])
    rows = [
        ",".join([file, *map(repr, row)])
        for file, row in zip(files, where.astype(np.float64).tolist(), strict=True)
    ]
    write_text(folder / "volumes.csv", "\n".join([header, *rows]) + "\n")
    write_view(folder, files, float(np.median(levels)), cluster_colours(len(files)))


def _points(
    opened: "Run",
    particles: str | None,
    latent: list[str] | None,
    kmeans: int | None,
    pc: int | None,
    points: int,
) -> "np.ndarray":
    """The latents asked for, (volume, latent)."""
    import numpy as np

    from cryoatlas.analysis.latent import PrincipalComponents
    from cryoatlas.analysis.latent import kmeans as cluster

    asked = [option for option in (particles, latent, kmeans, pc) if option is not None]
    if opened.latent_size == 0:
        if asked:
            raise ConfigError(f"{opened.path} has a single volume (latent 0): leave out what selects one.")
        return np.zeros((1, 0), np.float32)
    if len(asked) != 1:
        raise ConfigError("give exactly one of --particles, --latent, --kmeans and --pc.")
    z = opened.latents()
    if particles is not None:
        return z[particle_numbers(particles, len(z))]
    if latent is not None:
        return np.array([latent_point(text, opened.latent_size) for text in latent], np.float32)
    if kmeans is not None:
        if not 1 <= kmeans <= len(z):
            raise ConfigError(f"--kmeans must lie between 1 and the {len(z)} particles, got {kmeans}.")
        return z[cluster(z, kmeans).representatives]
    assert pc is not None
    if not 1 <= pc <= opened.latent_size:
        raise ConfigError(
            f"--pc must lie between 1 and the latent's dimension {opened.latent_size}, got {pc}."
        )
    return PrincipalComponents.of(z).path(pc - 1, points).astype(np.float32)


def particle_numbers(text: str, count: int) -> list[int]:
    """The numbers in ``0,10,20``.

    Raises:
        ConfigError: not numbers, or beyond the particles.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--particles takes numbers from 0 separated by commas, got {text!r}.") from None
    wrong = [n for n in numbers if not 0 <= n < count]
    if wrong:
        raise ConfigError(f"--particles {wrong[0]} is not among the particles 0 … {count - 1} of the run.")
    return numbers


def latent_point(text: str, size: int) -> list[float]:
    """The coordinates in ``0.1,0.2``.

    Raises:
        ConfigError: not numbers, or not as many as the latent has dimensions.
    """
    try:
        point = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--latent takes numbers separated by commas, got {text!r}.") from None
    if len(point) != size:
        raise ConfigError(
            f"--latent {text} has {len(point)} coordinates, but the latent of this run has {size}."
        )
    return point
