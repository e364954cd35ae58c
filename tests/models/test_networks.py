"""Encodings, decoder and encoders: the paper's formulas, and what must not depend on how it is computed."""

import math

import numpy as np
import pytest
import torch

from cryoatlas.errors import ConfigError
from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.imaging.projection import central_slices, correlation, plane_frequencies, slice_frequencies
from cryoatlas.imaging.volume import GaussianBody, Volume, voxels
from cryoatlas.models.config import DecoderConfig, EncoderConfig
from cryoatlas.models.decoder import Decoder
from cryoatlas.models.encoder import ImageEncoder, VolumeEncoder
from cryoatlas.models.encoding import PositionalEncoding, ball_points, build_encoding, geometric_points
from cryoatlas.models.vae import Shape, build_vae
from cryoatlas.models.voxel import VoxelVolume

BOX, PIXEL_SIZE = 16, 3.0


def small_decoder(latent: int = 2, **changes) -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig(layers=2, width=24, **changes), BOX, PIXEL_SIZE, latent)


def plane() -> torch.Tensor:
    return plane_frequencies(Disc(BOX), torch.tensor([PIXEL_SIZE]))


def test_the_geometric_encoding_is_equation_7():
    encoding = PositionalEncoding(geometric_points(BOX))
    k = torch.tensor([[0.13, -0.41, 0.27]])
    i = torch.arange(1, BOX // 2 + 1)
    phase = torch.cat([k[0, j] * BOX * math.pi * (2 / BOX) ** (2 * i / BOX) for j in range(3)])
    expected = torch.cat([phase.sin(), phase.cos()])
    torch.testing.assert_close(encoding(k)[0], expected, atol=1e-5, rtol=0)


def test_wavelengths_of_the_geometric_encoding_reach_from_one_pixel_to_half_the_box():
    distance = geometric_points(64).norm(dim=-1)
    assert distance.min().item() == pytest.approx(1, abs=1e-9)
    assert 0.85 * 32 < distance.max().item() < 32


def test_the_variant_for_noisy_data_leaves_out_the_fastest_tenth_on_each_axis():
    full, low = geometric_points(64), geometric_points(64, lowpass=True)
    assert len(full) == 3 * 32
    assert len(low) == 3 * (32 - math.ceil(3.2))
    assert low.norm(dim=-1).max() < full.norm(dim=-1).max()
    assert low.norm(dim=-1).min() == full.norm(dim=-1).min()


def test_ball_points_fill_the_ball_uniformly():
    points = ball_points(20000, 10.0, torch.Generator().manual_seed(0))
    radius = points.norm(dim=-1)
    # An eighth of a ball's volume lies within half its radius; 5 standard errors of 20,000 draws: 0.012.
    assert (radius < 5).double().mean().item() == pytest.approx(0.125, abs=0.012)
    assert radius.max() <= 10
    assert points.mean(0).abs().max() < 0.25


def test_the_same_seed_gives_the_same_encoding():
    first, again, other = (build_encoding("ball", BOX, 0, seed).points for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("friedel", [True, False])
@pytest.mark.parametrize("consensus", [True, False])
def test_the_pair_is_the_value_at_k_and_at_minus_k(friedel, consensus):
    decoder = small_decoder(friedel=friedel, consensus=consensus)
    if consensus:
        assert decoder.mean is not None
        body = GaussianBody(torch.tensor([[5.0, -3, 7]]), torch.ones(1), 4.0, BOX, PIXEL_SIZE)
        decoder.start_from(torch.rand(BOX // 2 + 1), voxels(body, like=body.weights))
    freqs = slice_frequencies(plane(), random_rotations(3, np.random.default_rng(0)).float())
    z = torch.randn(3, 2)
    forward, backward = decoder.hartley_pair(freqs, z)
    torch.testing.assert_close(forward, decoder.hartley(freqs, z), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(backward, decoder.hartley(-freqs, z), atol=1e-6, rtol=1e-5)


def test_a_decoder_is_a_volume():
    assert isinstance(small_decoder(), Volume)


def test_z_given_once_per_image_is_z_concatenated_to_every_pixel():
    network = small_decoder(consensus=False, friedel=False).network
    freqs = slice_frequencies(plane(), random_rotations(2, np.random.default_rng(0)).float())
    z = torch.randn(2, 2)
    features = network.encoding(freqs * PIXEL_SIZE)
    joined = torch.cat([features, z[:, None].expand(-1, features.shape[1], -1)], -1)
    weight = torch.cat([network.first.weight, network.first_latent.weight], 1)
    hidden = torch.relu(joined @ weight.T + network.first.bias)
    expected = network.last(network.hidden(hidden))[..., 0]
    torch.testing.assert_close(network.hartley(freqs, z), expected, atol=1e-5, rtol=1e-4)


def test_a_decoder_whose_network_is_silent_gives_the_consensus_map():
    decoder = small_decoder()
    body = GaussianBody(torch.tensor([[5.0, -3, 2], [0, 6, -4]]), torch.ones(2), 5.0, BOX, PIXEL_SIZE)
    truth = voxels(body, like=body.weights)
    decoder.start_from(torch.zeros(BOX // 2 + 1), truth)
    with torch.no_grad():
        torch.testing.assert_close(decoder.map(torch.zeros(2)), truth, atol=1e-6, rtol=1e-4)


def test_the_map_of_a_decoder_has_the_slices_that_it_is_trained_on():
    """Mean and network add up alike in slices and in the map that is written out."""
    decoder = small_decoder()
    body = GaussianBody(torch.tensor([[5.0, -3, 2], [0, 6, -4]]), torch.ones(2) * 1e4, 5.0, BOX, PIXEL_SIZE)
    decoder.start_from(torch.full((BOX // 2 + 1,), 0.3), voxels(body, like=body.weights))
    rotation = random_rotations(8, np.random.default_rng(0)).float()
    z = torch.tensor([[0.7, -0.4]])
    with torch.no_grad():
        again = VoxelVolume.from_map(decoder.map(z[0]), PIXEL_SIZE)
        slices, trained = (central_slices(v, plane(), rotation, z.expand(8, 2)) for v in (again, decoder))
    # A random network fills the whole box, where slicing a map by interpolation errs most.
    assert correlation(slices, trained).min() > 0.97


def test_a_decoder_without_a_consensus_refuses_to_start_from_one():
    with pytest.raises(ValueError, match=r"config\.consensus is False"):
        small_decoder(consensus=False).start_from(torch.ones(9), torch.zeros(16, 16, 16))


def test_the_volume_encoder_sees_one_state_alike_from_all_in_plane_angles():
    """Turning an image in its plane, and its pose with it, is the same slice of the same volume."""
    encoder = VolumeEncoder(EncoderConfig(layers=1, width=8, radius=1.0), BOX, PIXEL_SIZE, 1)
    body = GaussianBody(torch.tensor([[6.0, -3, 2], [0, 9, -4]]), torch.ones(2), 5.0, BOX, PIXEL_SIZE)
    view = random_rotations(1, np.random.default_rng(0)).float()
    angles = torch.tensor([0.0, 0.4, 1.3])
    zero, one = torch.zeros(3), torch.ones(3)
    c, s = angles.cos(), angles.sin()
    turn = torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).reshape(3, 3, 3)
    rotation = turn @ view
    # Within the disc that all turns share.
    keep = Disc(BOX).within(7.0)
    slices = central_slices(body, plane()[:, keep], rotation)
    freqs = slice_frequencies(plane()[:, keep], rotation)
    mean = encoder(slices / slices.std(), freqs).mean
    spread = encoder(torch.randn_like(slices), freqs).mean.std()
    # Trilinear insertion at one cycle per box is coarse: alike to a tenth of what noise does.
    assert mean.std() < 0.1 * spread


def test_the_volume_encoder_inserts_by_the_adjoint_of_interpolation():
    encoder = VolumeEncoder(EncoderConfig(layers=0, width=4, radius=0.5), BOX, PIXEL_SIZE, 1)
    rng = np.random.default_rng(1)
    freqs = slice_frequencies(plane(), random_rotations(2, rng).float())
    weighted = torch.from_numpy(rng.standard_normal((2, freqs.shape[1]))).float()
    side = 2 * encoder.radius + 1
    ball = torch.zeros(side**3)
    ball[encoder.ball] = torch.from_numpy(rng.standard_normal(len(encoder.ball))).float()
    where = (freqs * encoder.scale)[:, None, None]
    grid = ball.reshape(1, 1, side, side, side).expand(2, -1, -1, -1, -1)
    sampled = torch.nn.functional.grid_sample(grid, where, align_corners=True)[:, 0, 0, 0]
    inserted = []
    encoder.head.register_forward_pre_hook(lambda _, inputs: inserted.append(inputs[0]))
    encoder(weighted, freqs)
    torch.testing.assert_close(
        (sampled * weighted).sum(1), inserted[0] @ ball[encoder.ball], atol=1e-4, rtol=1e-4
    )


def test_the_volume_encoder_adds_up_the_views_of_a_particle():
    config = EncoderConfig(layers=0, width=4, radius=0.5)
    rng = np.random.default_rng(1)
    freqs = slice_frequencies(plane(), random_rotations(6, rng).float())
    weighted = torch.from_numpy(rng.standard_normal((6, freqs.shape[1]))).float()
    volumes = []
    for views in (1, 2, 3):
        encoder = VolumeEncoder(config, BOX, PIXEL_SIZE, 1, views)
        encoder.head.register_forward_pre_hook(lambda _, inputs: volumes.append(inputs[0]))
        assert encoder(weighted, freqs).batch_shape == (6 // views,)
    for views, volume in zip((2, 3), volumes[1:], strict=True):
        expected = volumes[0].unflatten(0, (-1, views)).sum(1)
        torch.testing.assert_close(volume, expected, atol=1e-5, rtol=1e-5)


def test_the_pair_encoder_of_the_paper_has_8_layers_for_each_image_and_2_for_both():
    encoder = ImageEncoder(EncoderConfig(layers=9, width=128, residual=False), 193, 3, views=2)
    linear = [module for module in encoder.modules() if isinstance(module, torch.nn.Linear)]
    sizes = [(layer.in_features, layer.out_features) for layer in linear]
    assert sizes == [(193, 128), *[(128, 128)] * 7, (256, 128), (128, 6)]


def test_each_image_of_a_pair_tells_of_its_own_particle_alone():
    encoder = ImageEncoder(EncoderConfig(layers=2, width=16), 20, 2, views=2)
    images = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    before = encoder(images, torch.ones(1, 1)).mean
    for row in range(6):
        changed = images.clone()
        changed[row] += 1
        moved = (encoder(changed, torch.ones(1, 1)).mean - before).abs().amax(1)
        assert moved[row // 2] > 1e-4
        assert torch.cat([moved[: row // 2], moved[row // 2 + 1 :]]).max() < 1e-6


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("kind", ["image", "volume"])
def test_every_encoder_offered_gives_a_distribution_and_gradients_to_all_its_weights(kind, views):
    shape = Shape(
        box_size=BOX,
        pixel_size=PIXEL_SIZE,
        latent=3,
        encoder=EncoderConfig(layers=3, width=16, input=kind),
        decoder=DecoderConfig(layers=1, width=16),
        seed=0,
        views=views,
    )
    vae = build_vae(shape)
    rotation = random_rotations(4, np.random.default_rng(0)).float()
    images = torch.randn(4, len(vae.disc))
    posterior = vae.encode(images, torch.ones(1, 1), plane(), rotation)
    assert posterior.batch_shape == (4 // views,)
    assert posterior.event_shape == (3,)
    posterior.rsample().square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in vae.encoder.parameters())


def test_initial_weights_depend_on_the_seed_alone():
    def weights(seed: int) -> torch.Tensor:
        torch.rand(1)  # Moves the global generator on.
        shape = Shape(
            box_size=BOX,
            pixel_size=PIXEL_SIZE,
            latent=1,
            encoder=EncoderConfig(width=8),
            decoder=DecoderConfig(width=8),
            seed=seed,
        )
        return torch.cat([p.flatten() for p in build_vae(shape).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DecoderConfig(width=0),
        lambda: DecoderConfig(layers=-1),
        lambda: DecoderConfig(features=-5),
        lambda: EncoderConfig(width=-3),
        lambda: EncoderConfig(radius=0.0),
    ],
)
def test_sizes_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match="got"):
        make()
