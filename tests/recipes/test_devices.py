"""Every kind of run on a device that is not the CPU gives what it gives there: on a GPU if there is one, and
on a pretended device (`tests.pretend_device`) everywhere."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.pretend_device import Far, pretended_device
from tests.recipes.small_search import FINAL, StopAfter, small

from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.progress import Interrupted
from cryoatlas.recipes.abinit import abinit
from cryoatlas.recipes.backprojection import backproject_particles
from cryoatlas.recipes.run import Run
from cryoatlas.recipes.train import train
from cryoatlas.subspace.config import ClassesConfig, StatesConfig

STATES = StatesConfig(latent=1, components=2, epochs=3, settled=1, band_start=4.0, judged_at=3, chunk=32)
CLASSES = ClassesConfig(
    classes=2, epochs=3, settle=1, align="search", component_epochs=2, components=2, band_start=4.0, chunk=32
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 pairs of images of 16 px, with CTF."""
    folder = tmp_path_factory.mktemp("devices") / "set"
    simulate(
        SimulationConfig("linear1d", images=96, box=16, snr=5.0, seed=3, ctf=True, states=4, tilt_pairs=True),
        folder,
    )
    return folder


@pytest.fixture(scope="module")
def posed(folder: Path) -> ParticleSet:
    return read_particles(folder / "truth" / "particles.star")


@pytest.fixture
def device():
    with pretended_device() as name:
        yield name


def test_the_device_refuses_what_a_gpu_would(device):
    far, near = torch.ones(3, device=device), torch.ones(3)
    assert isinstance(far, Far)
    assert isinstance(far + 1, Far)
    assert float((far * torch.tensor(2.0)).sum()) == 6
    assert far[torch.tensor([0, 2])].device.type == "pretend"
    for refused in (
        lambda: far + near,
        lambda: near[torch.tensor([0]).to(device)],
        lambda: near.add_(far.sum()),
        lambda: far.numpy(),
        lambda: torch.cat([far, near]),
        lambda: near.index_put((torch.tensor([0]),), far[:1]),
    ):
        with pytest.raises(RuntimeError):
            refused()
    np.testing.assert_array_equal(far.cpu().numpy(), 1)


def on_both(run: Callable[..., Run], out: Path) -> None:
    """Runs on the CPU and elsewhere come to the same poses, latents and volumes."""
    with pretended_device() as name:
        there = run(out / "there", device=name)
    here = run(out / "here", device="cpu")
    assert there.pose is not None
    assert here.pose is not None
    assert torch.equal(there.pose.rotation, here.pose.rotation)
    np.testing.assert_allclose(there.latents(), here.latents(), atol=1e-5)
    z = here.latents()[:2]
    for one, other in zip(there.volumes(z), here.volumes(z), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())


def on_a_gpu(run: Callable[..., Run], out: Path) -> None:
    """The same on a GPU, whose sums are rounded in another order: most images end at the same pose."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    there, here = (run(out / name, device=name) for name in ("cuda", "cpu"))
    assert there.pose is not None
    assert here.pose is not None
    turn = there.pose.rotation.mT @ here.pose.rotation
    cosine = (turn.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    assert float(torch.rad2deg(cosine.clamp(-1, 1).acos()).median()) < 1
    assert np.isfinite(there.latents()).all()


ELSEWHERE = pytest.mark.parametrize(
    "compare",
    [
        pytest.param(on_both, marks=pytest.mark.slow, id="pretended"),
        pytest.param(on_a_gpu, marks=pytest.mark.gpu, id="gpu"),
    ],
)


@ELSEWHERE
@pytest.mark.parametrize(("kind", "pairs"), [("subspace", True), ("own z", False), ("paper", True)])
def test_ab_initio(folder, posed, tmp_path, kind, pairs, compare):
    tilted = read_particles(folder / "particles_tilt.star") if pairs else None
    compare(partial(abinit, posed, small(kind), FINAL, tilted=tilted), tmp_path)


@ELSEWHERE
@pytest.mark.parametrize(
    ("config", "symmetry"),
    [(STATES, "C1"), (CLASSES, "C2"), (FINAL, "C1")],
    ids=["states", "symmetric classes", "network"],
)
def test_known_poses(posed, tmp_path, config, symmetry, compare):
    compare(partial(train, posed.with_symmetry(symmetry), config), tmp_path)


def test_a_run_goes_on(posed, tmp_path):
    """From a checkpoint of a device."""
    config = replace(FINAL, epochs=2)
    with pretended_device() as name:
        with pytest.raises(Interrupted):
            train(posed, config, tmp_path / "run", device=name, stop_requested=StopAfter(4))
        run = train(posed, config, tmp_path / "run", device=name, resume=True)
    whole = train(posed, config, tmp_path / "whole", device="cpu")
    np.testing.assert_allclose(run.latents(), whole.latents(), atol=1e-5)


def test_backprojection(posed):
    here = backproject_particles(posed, device="cpu")
    with pretended_device() as name:
        there = backproject_particles(posed, device=name)
    torch.testing.assert_close(there.map.cpu(), here.map)
