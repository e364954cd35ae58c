"""The drift of V(z) with z: what is put in is found, what is not there is not, and no image changes."""

import math
from dataclasses import dataclass, replace

import pytest
import roma
import torch
from tests.poses.moving_bodies import core_and_arm
from tests.poses.small_world import random_poses

from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.projection import plane_frequencies, predict
from cryoatlas.imaging.volume import GaussianBody, Volume
from cryoatlas.poses.gauge import Drift, SteadyVolume, remove_drift

BOX, PIXEL, IMAGES = 32, 4.0, 90
SWING = math.radians(90)
STATES = 12


@dataclass(frozen=True)
class Arm:
    """A `Volume` whose arm swings with the first coordinate of z, −1 … 1, and whose frame drifts."""

    drift_deg: float = 0.0
    drift_shift: float = 0.0
    swing: float = SWING
    latent_size: int = 1
    box_size: int = BOX
    pixel_size: float = PIXEL

    def drift(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """G(z): a turn that grows with z and one that grows with its square, and moves alike."""
        u, square = z[:, :1].double(), z[:, :1].double() ** 2 - 1 / 3
        first, second = torch.tensor([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]]).double()
        turn = math.radians(self.drift_deg) * (u * first + 0.5 * square * second)
        return roma.rotvec_to_rotmat(turn), self.drift_shift * (u * second - 0.5 * square * first)

    def body(self, z: torch.Tensor) -> GaussianBody:
        core, arm = core_and_arm()
        swing = roma.rotvec_to_rotmat(self.swing / 2 * z[0].double() * torch.tensor([0.0, 0.0, 1.0]).double())
        rotation, offset = self.drift(z[None])
        centres = torch.cat([core, arm @ swing.T]) @ rotation[0].T + offset[0]
        return GaussianBody(centres, torch.full((60,), 10.0).double(), 4.0, BOX, PIXEL)

    def hartley_pair(self, freqs, z):
        assert z is not None
        pairs = [self.body(one).hartley_pair(at[None]) for one, at in zip(z, freqs, strict=True)]
        forward, backward = (torch.cat([pair[i] for pair in pairs]) for i in (0, 1))
        return forward, backward

    def hartley(self, freqs, z):
        return self.hartley_pair(freqs, z)[0]


def latents(count: int = IMAGES) -> torch.Tensor:
    return torch.linspace(-1, 1, count, dtype=torch.float64)[:, None]


def left_over(volume: Arm, drift: Drift, z: torch.Tensor) -> tuple[float, float]:
    """How far g(z) G(z) is from one motion for all z: degrees and Å, root mean squares."""
    (a, b), (true_a, true_b) = drift.at(z), volume.drift(z)
    rotation = a @ true_a
    offset = (a @ true_b[..., None])[..., 0] + b
    mean = roma.special_procrustes(rotation.mean(0))
    angle = roma.rotmat_to_rotvec(mean.mT @ rotation).norm(dim=1)
    apart = (offset - offset.mean(0)).norm(dim=1)
    return math.degrees(float(angle.square().mean().sqrt())), float(apart.square().mean().sqrt())


@pytest.fixture(scope="module")
def drifting() -> tuple[Arm, Pose, Pose, Drift]:
    """A body with a drift, poses that go with it, and what became of them."""
    volume, pose = Arm(15.0, 6.0), random_poses(IMAGES, 1)
    return volume, pose, *remove_drift(volume, latents(), pose, states=STATES)


def test_a_volume_without_drift_is_a_volume(drifting):
    volume, _, _, drift = drifting
    assert isinstance(volume, Volume)
    assert isinstance(SteadyVolume(volume, drift), Volume)


def test_a_known_drift_is_taken_out_though_an_arm_swings(drifting):
    """9.6° and 3.8 Å (root mean square) were put in; what the arm pulls is left."""
    volume, _, _, drift = drifting
    before = left_over(volume, Drift.none(1), latents())
    degrees, offset = left_over(volume, drift, latents())
    assert before[0] > 8
    assert before[1] > 3
    assert degrees < 0.4
    assert offset < 0.1
    assert drift.rms_deg == pytest.approx(before[0], abs=0.4)


def test_the_corrected_pose_and_volume_show_the_same_image(drifting):
    volume, pose, corrected, drift = drifting
    plane = plane_frequencies(Disc(BOX), torch.full((1,), PIXEL, dtype=torch.float64))
    some = torch.arange(0, IMAGES, 9)
    z = latents()[some]
    before = predict(volume, plane, pose[some], z=z)
    after = predict(SteadyVolume(volume, drift), plane, corrected[some], z=z)
    # float64 throughout; without the correction of the poses they differ by half their size.
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10 * float(before.abs().max()))
    wrong = predict(SteadyVolume(volume, drift), plane, pose[some], z=z)
    assert float((wrong - before).norm() / before.norm()) > 0.1


def test_the_poses_are_those_of_the_body_that_stands_still(drifting):
    """Poses made for the drifting body come back to the true ones, up to one motion."""
    volume, true, _, drift = drifting
    drifted = true.of_moved_body(*volume.drift(latents()))
    found = drift.apply(drifted, latents())
    relative = true.rotation.mT @ found.rotation
    mean = roma.special_procrustes(relative.mean(0))
    angle = roma.rotmat_to_rotvec(mean.mT @ relative).norm(dim=1)
    assert math.degrees(float(angle.square().mean().sqrt())) < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("swing_deg", [0.0, 90.0])
def test_where_nothing_drifts_only_the_pull_of_the_arm_is_found(swing_deg):
    """Of an arm with a fifth of the mass that swings through 90°; with a still arm nothing at all."""
    volume, z = Arm(swing=math.radians(swing_deg)), latents()
    _, drift = remove_drift(volume, z, random_poses(IMAGES, 2), states=STATES)
    degrees, offset = (0.4, 0.1) if swing_deg else (1e-6, 1e-6)
    assert drift.rms_deg < degrees
    assert drift.rms_offset < offset


@pytest.mark.slow
def test_the_order_of_images_does_not_matter(drifting):
    volume, pose, corrected, _ = drifting
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(3))
    again, _ = remove_drift(volume, latents()[order], pose[order], states=STATES)
    torch.testing.assert_close(again.rotation, corrected.rotation[order], rtol=0, atol=1e-9)
    torch.testing.assert_close(again.shift, corrected.shift[order], rtol=0, atol=1e-7)


@pytest.mark.slow
def test_more_coordinates_of_z_than_drift_do_no_harm():
    generator = torch.Generator().manual_seed(4)
    z = torch.cat([latents(), 0.5 * torch.randn(IMAGES, 1, generator=generator).double()], 1)
    volume = replace(Arm(15.0, 6.0), latent_size=2)
    _, drift = remove_drift(volume, z, random_poses(IMAGES, 5), states=STATES)
    degrees, offset = left_over(volume, drift, z)
    assert degrees < 2
    assert offset < 0.5


def test_without_z_or_with_one_and_the_same_nothing_happens():
    pose = random_poses(5, 6)
    single = Arm().body(torch.zeros(1).double())
    assert remove_drift(single, torch.zeros(5, 0), pose)[0] is pose
    same, drift = remove_drift(Arm(), torch.zeros(5, 1).double(), pose)
    assert same is pose
    assert drift.rms_deg == drift.rms_offset == 0
    rotation, offset = drift.at(torch.zeros(5, 1))
    torch.testing.assert_close(rotation, torch.eye(3).double().expand(5, 3, 3))
    assert not offset.any()
