"""``cryoatlas backproject``: maps from particles with poses."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cryoatlas.cli.console import progress, say
from cryoatlas.cli.particle_options import AS_IN_THE_FILE, ParticleOptions


def backproject(
    particles: Path,
    *,
    out: Path,
    source: ParticleOptions = AS_IN_THE_FILE,
    symmetry: str = "C1",
    device: str = "auto",
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Reconstruct a map, two half maps and their FSC from particles with poses: a check of poses and CTF.

    Writes map.mrc (Wiener filtered), half_map_1.mrc, half_map_2.mrc, fsc.csv and fsc.png.

    Parameters
    ----------
    particles
        RELION star file, cryoSPARC .cs file, list of stacks (.txt) or image stack (.mrcs), with poses.
    out
        Folder to make.
    symmetry
        Point group of the molecule, in RELION's axes: C1, C2, …, D2, …, T, O, I1 or I2.
    device
        auto, cpu, cuda or cuda:N.
    overwrite
        Replace what --out holds.
    """
    from cryoatlas.analysis.fsc import resolution
    from cryoatlas.cli.backproject_output import write_reconstruction
    from cryoatlas.io.folder import atomic_directory
    from cryoatlas.recipes.backprojection import backproject_particles

    images = source.read(particles).with_symmetry(symmetry)
    pixel_size = float(images.pixel_size.median())
    with atomic_directory(out, overwrite=overwrite) as folder, progress("back-projecting") as report:
        result = backproject_particles(images, device=device, progress=report)
        write_reconstruction(result, folder, pixel_size)
    fsc = result.fsc.cpu().numpy()
    at = {
        limit: resolution(fsc, limit, images.box_size, interpolate=True) * pixel_size
        for limit in (0.5, 0.143)
    }
    say(
        f"half maps agree to {at[0.5]:.1f} Å at FSC 0.5 and {at[0.143]:.1f} Å at 0.143; "
        f"wrote {out}: map.mrc, half_map_1.mrc, half_map_2.mrc, fsc.csv, fsc.png"
    )
