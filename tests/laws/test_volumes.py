"""What every volume obeys, however it is represented."""

import pytest
import torch
from tests.poses.small_world import BOX, PIXEL, body, swinging_body

from cryoatlas.imaging.volume import Volume, voxels
from cryoatlas.models.basis import BasisVolume
from cryoatlas.models.config import DecoderConfig
from cryoatlas.models.decoder import Decoder
from cryoatlas.models.voxel import VoxelVolume


def decoder(latent: int, **options) -> Decoder:
    torch.manual_seed(0)
    made = Decoder(DecoderConfig(layers=1, width=16, **options), BOX, PIXEL, latent).requires_grad_(False)
    if made.mean is not None:
        made.start_from(torch.rand(BOX // 2 + 1), voxels(body()))
    return made


VOLUMES = {
    "atoms": body,
    "moving atoms": swinging_body,
    "map": lambda: VoxelVolume.from_map(voxels(body()), PIXEL),
    "sum of maps": lambda: BasisVolume.from_maps(
        torch.stack([voxels(body(seed)) for seed in range(3)]), PIXEL
    ),
    "network": lambda: decoder(2, consensus=False),
    "network of the paper": lambda: decoder(2, consensus=False, friedel=False),
    "network on a consensus": lambda: decoder(2),
    "network without z": lambda: decoder(0),
}


@pytest.fixture(params=VOLUMES)
def volume(request) -> Volume:
    return VOLUMES[request.param]()


def frequencies(rows: int) -> torch.Tensor:
    """In a ball of radius a quarter cycle per pixel."""
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(rows, 20, 3, generator=generator)
    return points / points.norm(dim=-1, keepdim=True).clamp(min=1) * (0.25 / PIXEL)


def latents(volume: Volume, count: int) -> torch.Tensor:
    return torch.randn(count, volume.latent_size, generator=torch.Generator().manual_seed(3))


def test_one_row_of_frequencies_serves_every_z(volume):
    assert isinstance(volume, Volume)
    z, one = latents(volume, 4), frequencies(1)
    repeated = one.expand(4, -1, -1)
    for ask in (lambda freqs: torch.stack(volume.hartley_pair(freqs, z)), lambda f: volume.hartley(f, z)):
        assert ask(one).shape[-2:] == (4, 20)
        # Products of other shapes round otherwise.
        largest = float(ask(one).abs().max())
        torch.testing.assert_close(ask(one), ask(repeated), rtol=1e-5, atol=1e-5 * largest)


def test_the_pair_is_the_value_and_that_of_the_opposite(volume):
    z, freqs = latents(volume, 3), frequencies(3)
    forward, backward = volume.hartley_pair(freqs, z)
    near = {"rtol": 1e-4, "atol": 1e-5 * float(forward.abs().max())}
    torch.testing.assert_close(forward, volume.hartley(freqs, z), **near)
    torch.testing.assert_close(backward, volume.hartley(-freqs, z), **near)


def test_images_do_not_see_each_other(volume):
    z, freqs = latents(volume, 3), frequencies(3)
    together = volume.hartley(freqs, z)
    alone = torch.cat([volume.hartley(freqs[i : i + 1], z[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5 * float(together.abs().max()))
