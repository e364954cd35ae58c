"""``cryoatlas simulate``: data sets with known truth."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cryoatlas.cli.console import progress, say
from cryoatlas.errors import ConfigError
from cryoatlas.imaging.simulate_config import SimulationConfig


def simulate(
    config: Annotated[SimulationConfig, Parameter(name="*")],
    *,
    out: Path,
    poses_from: Path | None = None,
    ignore_shifts: bool = False,
    ctf_from: Path | None = None,
    device: str = "cpu",
    overwrite: bool = False,
) -> None:
    """Simulate particle images of a molecule that moves, and keep the truth about them.

    Writes particles.star and particles.mrcs (no poses in them), simulation.toml and truth/: the poses,
    the state of every image, and the map of every state.

    Parameters
    ----------
    out
        Folder to make.
    poses_from
        Take rotations and shifts from a star file or a cryoDRGN poses .pkl. Shifts of a .pkl are
        fractions of the box, and stay so.
    ignore_shifts
        Take only rotations from --poses-from, and draw shifts at random.
    ctf_from
        Take CTF parameters from random rows of a star file or a cryoDRGN ctf .pkl.
    device
        cpu, cuda, cuda:N or auto. The images of a GPU are the CPU's to rounding.
    overwrite
        Replace what --out holds.
    """
    from cryoatlas.imaging.simulate import simulate as make
    from cryoatlas.imaging.simulate_plan import MeasuredTables
    from cryoatlas.particles.sources import read_ctf, read_poses
    from cryoatlas.recipes.device import choose_device

    if ignore_shifts and poses_from is None:
        raise ConfigError("--ignore-shifts speaks of the shifts of --poses-from, which is not given.")
    sources = {"poses_from": poses_from, "ctf_from": ctf_from}
    tables = MeasuredTables(
        poses=poses_from and (lambda box, pixel: read_poses(poses_from, box_size=box, pixel_size=pixel)),
        keep_shifts=not ignore_shifts,
        ctf=ctf_from and read_ctf(ctf_from),
        sources={name: str(path) for name, path in sources.items() if path},
    )
    place = choose_device(device)
    with progress("simulating") as report:
        make(config, out, tables, overwrite=overwrite, device=place, progress=report)
    pairs = " pairs of" if config.tilt_pairs else ""
    say(
        f"wrote {config.images:,}{pairs} images of {config.box} px to {out}: particles.star; "
        "poses, states and maps are in truth/"
    )
