"""Ab initio's options cut small, for sets of some dozen images of 16 px."""

from dataclasses import replace
from typing import Literal

import pytest
import torch

from cryoatlas.models.config import DecoderConfig, EncoderConfig
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.poses.config import SearchConfig
from cryoatlas.recipes.abinit_config import AbinitConfig, NetworkConfig, SubspaceConfig, paper_abinit
from cryoatlas.recipes.presets import network
from cryoatlas.recipes.run import Run
from cryoatlas.subspace.config import BootstrapConfig
from cryoatlas.training.config import TrainConfig

Kind = Literal["subspace", "network", "own z", "paper"]
both_searches = pytest.mark.parametrize("kind", ["subspace", "network"])
FINAL = replace(network(latent=1), epochs=1)
EFFORT = {"search_let_through", "search_capped", "search_poses", "search_evaluations"}
"""What the log of an epoch with search says of it."""


def small_subspace(components: int = 1) -> SubspaceConfig:
    """Two starts of four steps, two rounds; the second round searches again."""
    first = BootstrapConfig(
        starts=2,
        steps=4,
        batch_size=32,
        band_start=3.0,
        band_end=5.0,
        fine_band=4.0,
        shift_points=2,
        components=components,
        component_steps=2,
        held_out=10,
    )
    return SubspaceConfig(bootstrap=first, shift_extent_px=1.0, rounds=2, search_every=2, chunk=32)


def small_network(latent: int = 0, epochs: int = 3) -> NetworkConfig:
    """One random epoch, then two with search."""
    train = TrainConfig(
        latent=latent,
        epochs=epochs,
        batch_size=16,
        dense_radius=1.0,
        contrast=False,
        encoder=EncoderConfig(layers=1, width=32),
        decoder=DecoderConfig(layers=1, width=32, consensus=False),
    )
    search = SearchConfig(
        subdivisions=2, band_start=4.0, shift_extent_px=1.0, shift_points=3, keep=2, refine=1
    )
    return NetworkConfig(train=train, search=search, chunk=32)


def thin(train: TrainConfig) -> TrainConfig:
    """The same training of networks of one thin layer."""
    encoder, decoder = (replace(each, layers=1, width=32) for each in (train.encoder, train.decoder))
    return replace(train, encoder=encoder, decoder=decoder)


def small_paper(latent: int = 0, epochs: int = 2) -> NetworkConfig:
    """The paper's recipe, with few epochs, a coarse grid and thin networks."""
    config = paper_abinit(latent=latent)
    return replace(
        config,
        train=thin(replace(config.train, epochs=epochs, batch_size=16)),
        search=replace(config.search, subdivisions=1, band_start=4.0, shift_extent_px=1.0, shift_points=1),
        chunk=16,
    )


def small(kind: Kind) -> AbinitConfig:
    """A search of each kind that there is."""
    if kind == "subspace":
        return small_subspace()
    if kind == "paper":
        return small_paper(1)
    return small_network(1 if kind == "own z" else 0)


class StopAfter:
    """Says yes from the so-many-th question on, and counts the questions."""

    def __init__(self, count: int) -> None:
        self.asked, self.count = 0, count

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked >= self.count


def assert_same_run(run: Run, whole: Run) -> None:
    """Bit for bit: poses, latents, networks."""
    assert run.pose is not None
    assert whole.pose is not None
    assert torch.equal(run.pose.rotation, whole.pose.rotation)
    assert torch.equal(run.pose.shift, whole.pose.shift)
    assert (run.latents() == whole.latents()).all()
    for name, value in whole.vae.state_dict().items():
        assert torch.equal(run.vae.state_dict()[name], value), name


def events(run: Run, event: str) -> list[dict]:
    """Entries of a run's log."""
    return [entry for entry in run.log() if entry["event"] == event]


def unposed(particles: ParticleSet) -> ParticleSet:
    """The images alone."""
    return particles.with_pose(None)
