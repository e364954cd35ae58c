"""Classes are told by maps that the image has no part in, and the true maps tell them rightly."""

import pytest
import torch
from tests.poses.small_world import BOX, PIXEL, make_view, random_poses, swinging_body

from cryoatlas.fourier.correlation import fourier_shell_correlation
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.volume import voxels
from cryoatlas.poses.view import View
from cryoatlas.subspace.classes import ClassMaps, Mixture, MixturePass, Told
from cryoatlas.subspace.maximization import sum_of
from cryoatlas.subspace.model import Subspace

COUNT, BAND, FOLDS = 240, 9.0, 4
ANGLES = (0.0, 0.9)
FOLD = torch.arange(COUNT) % FOLDS
STATE = (torch.rand(COUNT, generator=torch.Generator().manual_seed(1)) < 0.4).long()
FSC = torch.ones(BOX // 2 + 1)


def true_map(angle: float) -> Subspace:
    return Subspace(voxels(swinging_body(), torch.tensor([angle]))[None], PIXEL)


def mixture_of(*angles: float) -> Mixture:
    maps = [true_map(angle) for angle in angles]
    classes = tuple(ClassMaps(each, (each, each), (each,) * FOLDS, FSC) for each in maps)
    return Mixture(classes, torch.full((len(maps),), 1 / len(maps)))


@pytest.fixture(scope="module")
def images() -> tuple[View, Pose]:
    pose = random_poses(COUNT, 4).to("cpu", torch.float32)
    z = torch.tensor(ANGLES)[STATE][:, None]
    return make_view(swinging_body(), pose, sigma=0.1, seed=2, z=z), pose


def summed(images: tuple[View, Pose], now: Mixture) -> MixturePass:
    view, pose = images
    sums = MixturePass(now, BAND, BAND, BOX, PIXEL)
    sums.add([view], [pose] * len(now), FOLD)
    return sums


def test_true_maps_tell_the_classes(images):
    view, pose = images
    told = mixture_of(*ANGLES).tell([view], [pose, pose], FOLD, BAND)
    torch.testing.assert_close(told.posterior.sum(1), torch.ones(COUNT))
    assert float((told.posterior.argmax(1) == STATE).double().mean()) > 0.95
    # What images say themselves is calibrated: of what has probability p, a part p is right.
    right = told.posterior[torch.arange(COUNT), STATE].mean()
    assert float(right) == pytest.approx(float(told.posterior.amax(1).mean()), abs=0.03)


def test_classes_have_no_order(images):
    view, pose = images
    one, other = (
        mixture_of(*angles).tell([view], [pose, pose], FOLD, BAND) for angles in (ANGLES, ANGLES[::-1])
    )
    torch.testing.assert_close(one.posterior, other.posterior.flip(1))
    torch.testing.assert_close(one.evidence, other.evidence)


def test_like_maps_tell_nothing_but_the_prior(images):
    view, pose = images
    mixture = Mixture(mixture_of(0.3, 0.3).classes, torch.tensor([0.2, 0.8]))
    told = mixture.tell([view], [pose, pose], FOLD, BAND)
    torch.testing.assert_close(told.posterior, mixture.prior.expand(COUNT, 2), atol=1e-3, rtol=0)
    alone = mixture_of(0.3).tell([view], [pose], FOLD, BAND)
    torch.testing.assert_close(told.evidence, alone.evidence)


def test_images_have_no_part_in_the_maps_that_tell_their_classes(images):
    view, pose = images
    spoiled = view.spectrum.clone()
    spoiled[FOLD == 2] *= -3
    other = View(view.half, spoiled, view.transfer, view.tilt)
    given = Told(torch.nn.functional.one_hot(STATE, 2).float(), torch.zeros(COUNT))
    solved = []
    for each in (view, other):
        sums = MixturePass(mixture_of(*ANGLES), BAND, BAND, BOX, PIXEL)
        sums.put([each], [pose, pose], FOLD, given)
        # The filter is the same for all maps of a class, and may look at all images.
        signal = torch.full((int(BAND) + 1,), 10.0)
        solved.append([sums._map(sum_of(sums.sums[0]).less(fold), signal).maps for fold in sums.sums[0]])
    first, second = solved
    scale = float(first[2].abs().max())
    torch.testing.assert_close(first[2], second[2], atol=1e-4 * scale, rtol=0)
    for fold in (0, 1, 3):
        assert float((first[fold] - second[fold]).abs().max()) > 0.05 * scale


def test_passes_part_what_a_first_guess_parted_badly(images):
    """A third of the images begin in the wrong class."""
    view, pose = images
    wrong = torch.rand(COUNT, generator=torch.Generator().manual_seed(5)) < 1 / 3
    guess = torch.nn.functional.one_hot(torch.where(wrong, 1 - STATE, STATE), 2).float()
    mixture = mixture_of(0.4, 0.4)
    sums = MixturePass(mixture, BAND, BAND, BOX, PIXEL)
    sums.put([view], [pose, pose], FOLD, Told(guess, torch.zeros(COUNT)))
    mixture = sums.solve(0.5)
    for _ in range(6):
        mixture = summed((view, pose), mixture).solve(0.5)
    found = mixture.tell([view], [pose, pose], FOLD, BAND).posterior.argmax(1)
    assert float((found == STATE).double().mean()) > 0.95
    # Frequencies: members and half as many images spread evenly.
    share = (found == 0).double().mean()
    assert float(mixture.prior[0]) == pytest.approx((float(share) + 0.25) / 1.5, abs=0.02)


def test_by_size_puts_the_most_frequent_first():
    mixture = Mixture(mixture_of(0.0, 0.3, 0.9).classes, torch.tensor([0.2, 0.5, 0.3]))
    ordered = mixture.by_size()
    assert ordered.prior.tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert ordered.classes == (mixture.classes[1], mixture.classes[2], mixture.classes[0])


def test_a_single_class_is_the_average_of_all(images):
    view, pose = images
    sums = MixturePass(mixture_of(0.4), BAND, BOX / 2, BOX, PIXEL)
    sums.add([view], [pose], FOLD)
    assert float(sums.members) == pytest.approx(COUNT, rel=1e-5)
    found = sums.solve(0.5).classes[0]
    share = float(STATE.double().mean())
    average = (1 - share) * true_map(ANGLES[0]).maps[0] + share * true_map(ANGLES[1]).maps[0]
    agreement = fourier_shell_correlation(found.whole.maps[0], average)
    assert float(agreement[1:7].min()) > 0.96
    first, second = sums.half_maps(0)
    torch.testing.assert_close(found.fsc, fourier_shell_correlation(first, second))


def test_what_a_class_differs_by_is_from_the_mean_of_all(images):
    """Sums that are alike differ by nothing; and around a mean of no variance the difference is the map."""
    view, pose = images
    sums = MixturePass(mixture_of(0.4), BAND, BAND, BOX, PIXEL)
    sums.add([view], [pose], FOLD)
    # Beyond the band nothing was put, but to interpolate a little more than that is there.
    whole, flat = sum_of(sums.sums[0]), torch.full((BOX // 2 + 1,), 1e6)
    nothing = whole.around(whole, flat).mean_alone()
    assert float(nothing.norm()) < 1e-3 * float(whole.mean_alone().norm())
    torch.testing.assert_close(whole.around(whole, 0 * flat).mean_alone(), whole.mean_alone())
