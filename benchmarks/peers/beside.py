"""What comparisons with other programs share: their tables of our set, their cost, what they learned."""

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from benchmarks.accuracy.region import moving_region, region_correlation
from benchmarks.common import Value

from cryoatlas.analysis.fsc import fourier_shell_correlation, resolution
from cryoatlas.analysis.truth import Truth
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.shapes import Array, Float, Int


def cpu_seconds(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> float:
    """CPU time of a command and its children, on one thread where it listens to the usual variables.

    Args:
        log: gets all that it prints.
        environment: variables beside those of this process.

    Raises:
        SystemExit: it failed; its output is in `log`.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **(environment or {})}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=variables)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command[:3])} … failed:\n{log.read_text()[-3000:]}")
    return usage.ru_utime + usage.ru_stime


def simulated_set(config: SimulationConfig, folder: Path) -> Path:
    """The set in ``folder/set``, made if it is not there, with cryoDRGN's tables of it in `folder`."""
    data = folder / "set"
    if not data.exists():
        simulate(config, data)
    write_tables(read_particles(data / "truth" / "particles.star"), folder)
    return data


def write_tables(particles: ParticleSet, folder: Path) -> None:
    """The poses and CTFs of a set as cryoDRGN reads them, ``pose.pkl`` and ``ctf.pkl``."""
    pose, ctf = particles.require_pose(), particles.ctf
    assert ctf is not None, "the set is simulated with CTF"
    box, pixel_size = particles.box_size, particles.pixel_size.numpy()
    # An image moved by the stored shift is centred, and shifts are parts of the box.
    shift = -pose.shift.numpy() / (box * pixel_size[:, None])
    with (folder / "pose.pkl").open("wb") as file:
        pickle.dump((pose.rotation.numpy().astype(np.float32), shift.astype(np.float32)), file)
    degrees = 180 / np.pi
    columns = (
        np.full(len(particles), box),
        pixel_size,
        ctf.defocus_u,
        ctf.defocus_v,
        ctf.defocus_angle * degrees,
        ctf.voltage_kv,
        ctf.spherical_aberration_mm,
        ctf.amplitude_contrast,
        ctf.phase_shift * degrees,
    )
    with (folder / "ctf.pkl").open("wb") as file:
        table = np.stack([np.asarray(column) for column in columns], 1)
        pickle.dump(table.astype(np.float32), file)


def map_measures(
    maps: Sequence[Float[Array, "box box box"]], truth: Truth, chosen: Int[Array, "image"]
) -> dict[str, Value]:
    """How right the volumes of some images are, on average."""
    region = moving_region(truth)
    inside, curves = [], []
    for image, map_ in zip(chosen, maps, strict=True):
        true_map = truth.volume(int(truth.states[image]))
        inside.append(region_correlation(map_, true_map, region))
        curves.append(fourier_shell_correlation(map_, true_map))
    return {
        "moving_region_correlation": float(np.mean(inside)),
        "resolution_px": float(np.mean([resolution(curve, 0.5, len(maps[0])) for curve in curves])),
    }
