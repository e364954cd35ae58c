"""A small simulated set, made once."""

from pathlib import Path

import pytest

from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.particles.particle_set import ParticleSet, read_particles


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 240 images of 16 px of an arm at 0–90°, with CTF and shifts, and their truth."""
    folder = tmp_path_factory.mktemp("simulated") / "set"
    simulate(SimulationConfig("linear1d", images=240, box=16, snr=1.0, seed=3, ctf=True, states=8), folder)
    return folder


@pytest.fixture
def particles(simulated: Path) -> ParticleSet:
    """The set with its true poses."""
    return read_particles(simulated / "truth" / "particles.star")
