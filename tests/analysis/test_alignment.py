"""One motion and hand between two frames: recovered from poses, obeyed by maps, seen by no image."""

import math

import numpy as np
import pytest
import torch

from cryoatlas.analysis.alignment import Alignment, align_poses, align_volume, evenly_spaced
from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import about_axis, geodesic_angle, random_rotations
from cryoatlas.imaging.projection import plane_frequencies, predict
from cryoatlas.imaging.volume import GaussianBody, voxels

BOX, PIXEL_SIZE = 32, 3.0
MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


def poses(count: int, seed: int = 0) -> Pose:
    generator = np.random.default_rng(seed)
    return Pose(random_rotations(count, generator), torch.from_numpy(generator.uniform(-9, 9, (count, 2))))


def body(box: int = BOX, centres: torch.Tensor | None = None) -> GaussianBody:
    """Six blobs with no symmetry within 11 Å; σ of two voxels, so Nyquist holds 3e-9 of the transform."""
    own = torch.tensor(
        [[9, 1, -3], [-8, 2, 4], [1, -10, 2], [3, 6, 8], [-4, -5, -8], [0, 1, 0]], dtype=torch.float64
    )
    weights = torch.tensor([1.0, 2.0, 1.5, 0.7, 1.2, 0.9], dtype=torch.float64)
    return GaussianBody(own if centres is None else centres, weights, 2 * PIXEL_SIZE, box, PIXEL_SIZE)


def random_alignment(mirrored: bool, seed: int = 3) -> Alignment:
    rotation = random_rotations(1, np.random.default_rng(seed))[0]
    return Alignment(rotation, torch.tensor([3.0, -4.0, 2.0], dtype=torch.float64), mirrored)


def moved(points: torch.Tensor, alignment: Alignment) -> torch.Tensor:
    """x ↦ A M x + b, written out."""
    mirror = MIRROR if alignment.mirrored else torch.eye(3, dtype=torch.float64)
    return points @ (alignment.rotation @ mirror).T + alignment.offset


def backwards(alignment: Alignment, pose: Pose) -> Pose:
    """The poses that `alignment` turns into `pose`."""
    rotation = pose.rotation @ alignment.rotation
    shift = pose.shift + (pose.rotation @ alignment.offset)[:, :2]
    return Pose(MIRROR @ rotation @ MIRROR if alignment.mirrored else rotation, shift)


@pytest.mark.parametrize("mirrored", [False, True])
def test_no_image_changes_when_body_and_poses_move_together(mirrored):
    alignment, pose = random_alignment(mirrored), poses(5)
    disc = Disc(BOX)
    plane = plane_frequencies(disc, torch.full((5,), PIXEL_SIZE, dtype=torch.float64))
    before = predict(body(), plane, pose)
    aligned_body = body(centres=moved(body().centres, alignment))
    after = predict(aligned_body, plane, alignment.apply(pose))
    torch.testing.assert_close(after, before, atol=1e-12, rtol=0)  # exact: closed forms in float64
    flipped = Alignment(alignment.rotation, -alignment.offset, mirrored)
    assert (predict(aligned_body, plane, flipped.apply(pose)) - before).abs().max() > 1e-3


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("box", [32, 33])
def test_an_aligned_map_is_the_map_of_the_moved_body(mirrored, box):
    alignment = random_alignment(mirrored)
    map_ = voxels(body(box), like=torch.empty(0, dtype=torch.float64)).numpy()
    expected = voxels(
        body(box, moved(body().centres, alignment)), like=torch.empty(0, dtype=torch.float64)
    ).numpy()
    aligned = align_volume(map_, alignment, PIXEL_SIZE)
    # finufft's 1e-7 of the largest coefficient and the blobs' tails at the wall of the box, which is
    # ≥ 5 σ away: exp(−5²/2) = 4e-6.
    assert np.abs(aligned - expected).max() < 1e-5 * expected.max()
    assert np.abs(map_ - expected).max() > 0.1 * expected.max()


def test_what_lies_outside_the_box_is_zero_not_the_other_side():
    map_ = np.zeros((BOX, BOX, BOX), dtype=np.float32)
    map_[:, :, -3:] = 1
    shift_x = Alignment(
        torch.eye(3, dtype=torch.float64), torch.tensor([6 * PIXEL_SIZE, 0, 0], dtype=torch.float64), False
    )
    np.testing.assert_allclose(align_volume(map_, shift_x, PIXEL_SIZE), 0, atol=1e-6)
    np.testing.assert_allclose(  # the other way it moves by whole voxels, exactly
        align_volume(np.roll(map_, -9, 2), shift_x, PIXEL_SIZE), np.roll(map_, -3, 2), atol=1e-6
    )


def test_under_the_identity_a_map_is_the_same_object():
    map_ = np.random.default_rng(0).standard_normal((8, 8, 8)).astype(np.float32)
    noisy = Alignment(
        about_axis(torch.tensor([1.0, 2, 3], dtype=torch.float64), torch.tensor(2e-6, dtype=torch.float64)),
        torch.full((3,), 1e-4, dtype=torch.float64),
        False,
    )
    assert align_volume(map_, noisy, PIXEL_SIZE) is map_
    assert not Alignment(noisy.rotation, noisy.offset, True).is_identity


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_known_motion_and_hand_are_recovered_exactly(mirrored):
    alignment, true = random_alignment(mirrored), poses(50)
    found = align_poses(backwards(alignment, true), true)
    assert found.mirrored == mirrored
    # Exact up to the 1e-6 floor of the robust weights, and float64.
    torch.testing.assert_close(found.rotation, alignment.rotation, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.offset, alignment.offset, atol=1e-9, rtol=0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_wrong_poses_have_no_pull(mirrored):
    """A third of random poses and 1.9° noise: the frame is found to the noise over √(images)."""
    alignment, true = random_alignment(mirrored), poses(600)
    estimated = noisy_poses(backwards(alignment, true), angle_deg=1.9, shift=0.5, seed=5)
    rotation, shift = estimated.rotation.clone(), estimated.shift.clone()
    rotation[::3], shift[::3] = random_rotations(200, np.random.default_rng(9)), 50.0
    found = align_poses(Pose(rotation, shift), true)
    assert found.mirrored == mirrored
    # 400 good images: 1.9° / √400 = 0.1° and 0.5 Å / √400 = 0.03 Å; four times that.
    assert math.degrees(float(geodesic_angle(found.rotation, alignment.rotation))) < 0.4
    assert float((found.offset - alignment.offset).abs().max()) < 0.12


def noisy_poses(pose: Pose, *, angle_deg: float, shift: float, seed: int) -> Pose:
    """Each pose turned by `angle_deg` about a random axis and shifted by normal deviates, Å."""
    generator = np.random.default_rng(seed)
    axes = torch.from_numpy(generator.standard_normal((len(pose), 3)))
    angle = torch.full((), math.radians(angle_deg), dtype=torch.float64)
    turn = torch.stack([about_axis(axis, angle) for axis in axes])
    deviates = torch.from_numpy(generator.standard_normal((len(pose), 2)))
    return Pose(turn @ pose.rotation, pose.shift + shift * deviates)


def test_one_image_is_aligned_without_a_word_about_its_depth():
    true = poses(1)
    found = align_poses(backwards(random_alignment(False), true), true)
    applied = found.apply(backwards(random_alignment(False), true))
    torch.testing.assert_close(applied.rotation, true.rotation, atol=1e-9, rtol=0)
    torch.testing.assert_close(applied.shift, true.shift, atol=1e-6, rtol=0)
    assert abs(float(true.rotation[0, 2] @ found.offset)) < 1e-6


def test_evenly_spaced_gives_as_many_as_asked():
    assert evenly_spaced(1003, 100).shape == (100,)
    assert evenly_spaced(7, 100).tolist() == list(range(7))
    assert evenly_spaced(10, 5).tolist() == [0, 2, 4, 6, 8]
