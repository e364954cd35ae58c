"""The options of every verb that reads particles, and the reading."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from cryoatlas.particles.particle_set import ParticleSet


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ParticleOptions:
    """Where images, poses and CTF come from, and which particles are taken."""

    datadir: Path | None = None
    """Folder that image paths start from."""
    invert: Annotated[bool | None, Parameter(negative="--no-invert")] = None
    """Particles are dark on a bright ground. A .cs file says so itself, and then --no-invert contradicts it;
    other files are taken as bright unless you say --invert."""
    poses: Path | None = None
    """Poses from another file: .star, .cs, or cryoDRGN's .pkl; one row for each particle, in order."""
    ctf: Path | None = None
    """CTF from another file: .star, .cs, or cryoDRGN's .pkl; one row for each particle, in order. Stacks
    without a star file take their pixel size from it as well."""
    passthrough: tuple[Path, ...] = ()
    """Passthrough .cs file of the same job, for what the main .cs file lacks; may be given several times."""
    indices: Path | None = None
    """Take only the particles numbered in this file, from 0, in its order: .pkl, .npy, .txt or .csv."""

    def read(self, particles: Path, *, one_box: bool = True) -> "ParticleSet":
        """The particles of a file, read with these options.

        Args:
            particles: the file.
            one_box: refuse images of several sizes.

        Raises:
            InputError: as `cryoatlas.particles.particle_set.read_particles`.
        """
        from cryoatlas.particles.particle_set import read_particles

        return read_particles(
            particles, datadir=self.datadir, invert=self.invert, one_box=one_box, **self.others
        )

    @property
    def others(self) -> dict[str, Any]:
        """The other files that say something of the particles."""
        names = ("poses", "ctf", "passthrough", "indices")
        return {name: getattr(self, name) for name in names}


AS_IN_THE_FILE = ParticleOptions()
"""Nothing but what the file of particles says."""
