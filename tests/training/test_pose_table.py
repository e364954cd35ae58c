"""What images are searched against: one map, or the network's volume at each image's own z."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.models.config import DecoderConfig, EncoderConfig
from cryoatlas.models.vae import VAE, Shape, build_vae
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.particles.pairs import make_loader, pair
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.poses.view import View
from cryoatlas.training.loop import infer
from cryoatlas.training.pose_table import STAND_IN_ERROR, PoseTable, latents_of, views_of, volumes_of

BOX, COUNT, BAND = 16, 24, 6.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pairs of an arm that swings."""
    folder = tmp_path_factory.mktemp("table") / "set"
    simulate(SimulationConfig("linear1d", images=COUNT, box=BOX, snr=5.0, seed=3, tilt_pairs=True), folder)
    return folder


def network(latent: int, views: int, pixel_size: float) -> VAE:
    """With random weights, which make volumes that differ from z to z."""
    sizes = {"encoder": EncoderConfig(layers=1, width=16), "decoder": DecoderConfig(layers=1, width=32)}
    shape = Shape(box_size=BOX, pixel_size=pixel_size, latent=latent, seed=0, views=views, **sizes)
    return build_vae(shape)


def world(folder: Path, latent: int, tilted: bool):
    """A chunk of all images, random poses, a network, and the loader of the images at those poses."""
    particles = read_particles(folder / "particles.star")
    second = pair(particles, read_particles(folder / "particles_tilt.star"), 45.0) if tilted else None
    scale, disc = Preprocessor.fit(particles), Disc(BOX)
    chunk = make_loader(particles, scale, disc, COUNT, tilted=second).batch(torch.arange(COUNT))
    table = PoseTable.random(COUNT, 0)
    vae = network(latent, 2 if tilted else 1, float(particles.pixel_size[0]))
    posed = make_loader(particles.with_pose(table.pose), scale, disc, COUNT, tilted=second)
    return chunk, table, vae, posed


both_kinds = pytest.mark.parametrize("tilted", [False, True], ids=["single", "tilt pair"])


def test_without_a_latent_all_images_have_one_map(folder):
    chunk, table, vae, _ = world(folder, 0, False)
    volume, z = volumes_of(chunk, table, vae, BAND)
    assert z is None
    assert latents_of(chunk, table, vae) is None
    assert isinstance(volume, VoxelVolume)
    expected = VoxelVolume.from_map(vae.decoder.map(None, BAND), vae.shape.pixel_size)
    assert torch.equal(volume.grid, expected.grid)


@both_kinds
def test_latents_are_those_of_the_images_at_the_table_s_poses(folder, tilted):
    """One row for each particle, however many images it has."""
    chunk, table, vae, posed = world(folder, 1, tilted)
    with torch.no_grad():
        found = latents_of(chunk, table, vae).mean
        elsewhere = latents_of(chunk, PoseTable.random(COUNT, 7), vae).mean
        expected = infer(vae, posed.batches(range(COUNT)), COUNT)["z"]
    assert found.shape == (COUNT, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(elsewhere, found)


@both_kinds
def test_the_volumes_searched_against_are_the_network_s(folder, tilted):
    """Slices of each image's stand-in are those of V(z) at its own z, interpolated alike."""
    chunk, table, vae, _ = world(folder, 2, tilted)
    rotation = PoseTable.random(COUNT, 3).of(torch.arange(COUNT), torch.device("cpu")).rotation
    with torch.no_grad():
        volume, z = volumes_of(chunk, table, vae, BAND)
        own = latents_of(chunk, table, vae).mean
        (view, *_) = views_of(chunk, vae.disc, vae.noise, vae.shape.pixel_size)
        count = view.half.count(BAND)
        found = view.slices(volume, rotation, z, count)
        true, shared = (
            slices_of_each(vae, view, at, rotation, count) for at in (own, own[:1].expand(COUNT, 2))
        )
    # The tolerance is for all directions together; one slice of each image may have somewhat more.
    assert relative(found, true) < 1.5 * STAND_IN_ERROR
    # With one map for all far more is missed: volumes do differ.
    assert relative(shared, true) > 3 * STAND_IN_ERROR


def slices_of_each(vae: VAE, view: View, z: torch.Tensor, rotation: torch.Tensor, count: int) -> torch.Tensor:
    """Slices of the maps that the network has at each z, one rotation for each."""
    maps = [VoxelVolume.from_map(vae.decoder.map(row, BAND), vae.shape.pixel_size) for row in z]
    return torch.cat(
        [view.slices(m, turn[None], None, count) for m, turn in zip(maps, rotation, strict=True)]
    )


def relative(found: torch.Tensor, true: torch.Tensor) -> float:
    """Root-mean-square error of slices, as a part of their own."""
    return float(((found - true).norm(dim=1) / true.norm(dim=1)).square().mean().sqrt())


def test_images_of_one_z_share_one_map(folder):
    chunk, table, vae, _ = world(folder, 1, False)
    same = replace(chunk, images=chunk.images[:1].expand_as(chunk.images))
    table.rotation[:] = table.rotation[:1].clone()
    with torch.no_grad():
        volume, z = volumes_of(same, table, vae, BAND)
    assert volume.latent_size == 1
    torch.testing.assert_close(z, torch.ones(COUNT, 1), rtol=0, atol=1e-4)
