"""Scores of runs made up so that the answer is known, and truths that cannot be read."""

import json
import math

import numpy as np
import pytest
import torch

from cryoatlas.analysis.alignment import Alignment, align_volume
from cryoatlas.analysis.change import MovingPart, change_correlations
from cryoatlas.analysis.score import score_run
from cryoatlas.analysis.truth import Truth, read_truth
from cryoatlas.errors import FormatError, InputError, MetadataError
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import about_axis, random_rotations
from cryoatlas.imaging.volume import GaussianBody, voxels
from cryoatlas.io.mrc import write_volume

BOX, PIXEL_SIZE, STATES, IMAGES = 24, 4.0, 4, 80
LAST_SHELL = BOX // 2


def state_map(state: int) -> np.ndarray:
    """A core and an arm that swings by 30° per state."""
    angle = math.radians(30 * state)
    arm = [[r * math.cos(angle), r * math.sin(angle), 2.0] for r in (8.0, 14.0)]
    centres = torch.tensor([[0.0, 0, 0], [2, -7, 3], [-6, 1, -4], *arm], dtype=torch.float64)
    body = GaussianBody(centres, torch.ones(5, dtype=torch.float64), 1.5 * PIXEL_SIZE, BOX, PIXEL_SIZE)
    return voxels(body, like=torch.empty(0, dtype=torch.float64)).numpy().astype(np.float32)


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Truth:
    folder = tmp_path_factory.mktemp("truth")
    paths = {}
    for state in range(STATES):
        paths[state] = folder / f"state_{state:06d}.mrc"
        write_volume(paths[state], state_map(state), PIXEL_SIZE)
    states = np.random.default_rng(0).permutation(np.arange(IMAGES) % STATES)
    generator = np.random.default_rng(1)
    pose = Pose(random_rotations(IMAGES, generator), torch.from_numpy(generator.uniform(-8, 8, (IMAGES, 2))))
    return Truth(states, {"angle_1_deg": 30.0 * states}, pose, paths)


def right_latents(truth: Truth) -> np.ndarray:
    return (truth.states + 0.01 * np.random.default_rng(2).standard_normal(IMAGES)).astype(np.float32)[
        :, None
    ]


def decode(z: np.ndarray):
    """V(z): the map of the state that z is nearest to."""
    return (state_map(round(float(value))) for value in z[:, 0])


def test_a_perfect_run_has_a_perfect_score(truth):
    score = score_run(right_latents(truth), truth.pose, decode, truth, PIXEL_SIZE, images=20)
    summary = score.run.summary()
    assert (summary["mean_px"], summary["std_px"], summary["median_px"]) == (2, 0, 2)
    assert summary["mean"] == 2 * PIXEL_SIZE
    assert summary["mean_fsc_area"] == pytest.approx((LAST_SHELL - 1) / BOX, abs=1e-6)
    assert summary["mean_cryobench_area"] == pytest.approx((LAST_SHELL - 1) / BOX, abs=1e-6)
    assert summary["mean_change_correlation"] == pytest.approx(1)
    assert score.states.summary() == summary
    assert score.poses is not None
    assert score.poses.run.median_rotation_deg < 1e-5
    assert score.coordinates["angle_1_deg"].spearman > 0.96  # ties of the true states against z's noise
    assert score.rand_index == 1
    assert score.mutual_information == pytest.approx(1)
    assert score.masked is None
    assert score.neighbours is not None
    assert score.neighbours.images == IMAGES
    # 20 images of each state: of 2, 4 and 16 neighbours all are of the image's own.
    assert [(each.neighbours, each.shared) for each in score.neighbours.shared] == [(2, 1), (4, 1), (16, 1)]
    for found in score.neighbours.imbalances["state"]:
        # For k = 30 ten are of the next states, which z's noise puts in an order and the truth does not.
        assert found.imbalance == pytest.approx(found.best, abs=0 if found.neighbours == 1 else 0.02)
    assert score.neighbours.imbalances["orientation"][0].imbalance == pytest.approx(1, abs=0.3)  # 5/√(3 · 80)


def test_a_mask_gives_numbers_beside_those_without_it(truth):
    """Volumes that are right inside a ball and noise outside of it: perfect under the mask alone."""
    axis = np.arange(BOX) - BOX // 2
    ball = (sum(x**2 for x in np.meshgrid(axis, axis, axis)) < 8**2).astype(np.float32)
    noise = (1 - ball) * np.random.default_rng(7).standard_normal((BOX,) * 3).astype(np.float32)

    def noisy(z: np.ndarray):
        return (map_ + 0.1 * map_.max() * noise for map_ in decode(z))

    latents = right_latents(truth)
    masked = score_run(latents, truth.pose, noisy, truth, PIXEL_SIZE, images=6, mask=ball)
    whole = score_run(latents, truth.pose, noisy, truth, PIXEL_SIZE, images=6)
    assert masked.masked is not None
    assert whole.run.resolutions_px.max() > 2
    np.testing.assert_array_equal(masked.run.curves, whole.run.curves)
    np.testing.assert_array_equal(masked.states.cryobench_areas, whole.states.cryobench_areas)
    for maps in (masked.masked.run, masked.masked.states):
        np.testing.assert_allclose(maps.curves, 1, atol=1e-6)  # float32 maps
        np.testing.assert_allclose(maps.cryobench_areas, (LAST_SHELL - 1) / BOX, atol=1e-6)
    content = json.loads(masked.to_json())
    assert content["masked"]["resolution"]["run"]["mean_px"] == 2
    assert content["masked"]["resolutions_px"]["states"] == [2.0] * 6
    assert content["resolution"] == json.loads(whole.to_json())["resolution"]
    assert json.loads(whole.to_json())["masked"] is None
    table = {name: values for name, *values in masked.rows()}
    assert table["masked: resolution at FSC 0.5, mean (std)"] == ["2.00 (0.00) px"] * 2
    assert table["resolution at FSC 0.5, mean (std)"] != ["2.00 (0.00) px"] * 2


def test_the_score_is_of_exactly_the_images_asked_for_evenly_spaced(truth):
    score = score_run(right_latents(truth), truth.pose, decode, truth, PIXEL_SIZE, images=7)
    assert score.images.tolist() == [0, 11, 22, 34, 45, 57, 68]
    assert len(score.run.curves) == 7


def frame(mirrored: bool) -> Alignment:
    rotation = about_axis(
        torch.tensor([1.0, 2, -1], dtype=torch.float64), torch.tensor(1.1, dtype=torch.float64)
    )
    return Alignment(rotation, torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64), mirrored)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_run_in_another_frame_and_hand_scores_as_well(truth, mirrored):
    """The frame is free; a map of the other hand is put right, and the row `hand` says so."""
    moved = frame(mirrored)
    poses = moved.apply(truth.pose)
    score = score_run(
        right_latents(truth),
        poses,
        lambda z: (align_volume(map_, moved, PIXEL_SIZE) for map_ in decode(z)),
        truth,
        PIXEL_SIZE,
        images=12,
    )
    assert score.poses is not None
    assert score.poses.alignment.mirrored == mirrored
    assert ("hand", "opposite" if mirrored else "as the truth", "0% of images differ") in score.rows()
    # σ of 1.5 px leaves 1e-5 of the transform at Nyquist; float32 maps turned twice agree up to there.
    assert score.run.summary()["mean_px"] < 2.2


def test_without_poses_maps_are_compared_as_they_are(truth):
    moved = frame(False)
    score = score_run(
        right_latents(truth),
        None,
        lambda z: (align_volume(map_, moved, PIXEL_SIZE) for map_ in decode(z)),
        truth,
        PIXEL_SIZE,
        images=12,
    )
    assert score.poses is None
    assert score.run.summary()["mean_px"] > 4
    assert not any("rotation" in name for name, *_ in score.rows())


def test_a_homogeneous_run_is_scored_with_its_one_volume(truth):
    made = []

    def one_volume(z: np.ndarray):
        made.append(z.shape)
        yield state_map(0)

    score = score_run(np.zeros((IMAGES, 0), np.float32), truth.pose, one_volume, truth, PIXEL_SIZE, images=20)
    assert made == [(1, 0)]
    assert score.coordinates == {}
    assert score.rand_index is None
    assert score.mutual_information is None
    assert score.neighbours is None
    right = truth.states[score.images] == 0
    assert np.all(score.run.resolutions_px[right] == 2)
    assert np.all(score.run.resolutions_px[~right] > 2)


def test_latents_that_know_nothing_score_about_zero(truth):
    latents = np.random.default_rng(5).standard_normal((IMAGES, 2)).astype(np.float32)
    score = score_run(latents, truth.pose, lambda z: (state_map(0) for _ in z), truth, PIXEL_SIZE, images=4)
    assert score.coordinates["angle_1_deg"].spearman is None  # not one-dimensional
    assert abs(score.coordinates["angle_1_deg"].knn_spearman) < 0.5  # 4 σ = 4/√80
    assert abs(score.rand_index) < 0.15
    assert abs(score.mutual_information) < 0.15
    assert score.neighbours is not None
    # Of 16 neighbours 15 can err, and 80 images ask: 5 standard errors of their share.
    assert score.neighbours.shared[2].shared == pytest.approx(score.neighbours.shared[2].chance, abs=0.07)
    assert score.neighbours.imbalances["state"][1].imbalance == pytest.approx(1, abs=0.3)
    assert score.run.summary()["mean_change_correlation"] == 0  # the same map for every image


def test_change_is_judged_where_the_body_moves_and_by_its_direction(truth):
    """A scaled motion is right, a reversed one wrong, and noise in the part that stands still no matter."""
    average = np.mean([state_map(state) for state in range(STATES)], axis=0)
    noise = np.random.default_rng(3).standard_normal((BOX,) * 3) * 0.2 * average.max()
    moving = MovingPart.of(truth, truth.states)
    assert moving is not None
    assert 0.005 < moving.mask.mean() < 0.1  # the arm's way, not the core
    noise[moving.mask] = 0
    for factor, expected in ((0.3, 1.0), (-1.0, -1.0)):

        def maps(z: np.ndarray, factor: float = factor):
            return ((average + factor * (map_ - average) + noise).astype(np.float32) for map_ in decode(z))

        score = score_run(right_latents(truth), truth.pose, maps, truth, PIXEL_SIZE, images=20)
        # 20 evenly spaced images do not hold all states equally often: their average is a little off.
        assert score.run.changes.mean() == pytest.approx(expected, abs=0.02)


def test_change_correlations_of_known_deviations():
    true = np.array([[1.0, 0], [-1, 0], [0, 0]])
    found = np.array([[5.0, 4], [3, 4], [4, 4]])
    np.testing.assert_allclose(change_correlations(found, true), [1, 1, 0])
    np.testing.assert_allclose(change_correlations(found[:, ::-1], true), [0, 0, 0])


def test_nothing_moves_in_a_single_state(truth):
    assert MovingPart.of(truth, np.zeros(5, dtype=int)) is None
    single = Truth(np.zeros(IMAGES, dtype=int), {}, truth.pose, truth.volume_paths)
    score = score_run(
        np.zeros((IMAGES, 0), np.float32),
        truth.pose,
        lambda z: iter([state_map(0)]),
        single,
        PIXEL_SIZE,
        images=3,
    )
    assert score.run.changes is None
    assert json.loads(score.to_json())["resolution"]["run"]["mean_change_correlation"] is None
    assert not any("moving" in name for name, *_ in score.rows())


def test_the_json_holds_every_number_of_the_table(truth):
    score = score_run(right_latents(truth), truth.pose, decode, truth, PIXEL_SIZE, images=5)
    content = json.loads(score.to_json())
    assert content["resolution"]["run"]["mean_px"] == 2
    assert content["poses"]["run"]["median_rotation_deg"] == pytest.approx(0, abs=1e-5)
    assert content["poses"]["mirrored"] is False
    assert content["coordinates"]["angle_1_deg"]["knn_spearman"] > 0.9
    assert len(content["resolutions_px"]["states"]) == 5
    assert content["resolution"]["states"]["mean_cryobench_area"] == pytest.approx((LAST_SHELL - 1) / BOX)
    assert content["mutual_information"] == pytest.approx(1)
    shared = content["neighbours"]["shared"][0]
    assert (shared["neighbours"], shared["shared"]) == (2, 1)
    assert shared["chance"] == pytest.approx((1 + 19 / 79) / 2)  # one other, of which 19 of 79 are as near
    table = {name: value for name, value, _ in score.rows()}
    assert table["of the 2 nearest in z, near in the true state"] == "1.000, by chance 0.620"
    state, orientation = content["neighbours"]["imbalances"].values()
    one, thirty = (f"{found['imbalance']:.3f}" for found in orientation)
    assert table["imbalance of z to the true orientation, k = 1, 30"].startswith(f"{one}, {thirty}; best ")
    assert state[0]["best"] == pytest.approx(2 / 80 * 10)  # ranks 1 … 19 of the own state's are shared


def test_angles_all_round_the_circle_are_periodic_and_others_are_not():
    truth = Truth(
        np.arange(12),
        {
            "full_deg": np.arange(12) * 30.0,
            "hinge_deg": np.arange(12) * 7.5,
            "distance": np.arange(12) * 30.0,
            "still_deg": np.zeros(12),
        },
        None,
        {},
    )
    assert truth.is_periodic("full_deg")
    assert not any(truth.is_periodic(name) for name in ("hinge_deg", "distance", "still_deg"))


def test_a_run_of_other_images_is_refused(truth):
    with pytest.raises(MetadataError, match="the run has 3 images, but the truth has 80"):
        score_run(np.zeros((3, 1), np.float32), None, decode, truth, PIXEL_SIZE)


def test_a_run_at_another_box_size_is_refused(truth):
    def small(z: np.ndarray):
        return (np.zeros((8, 8, 8), np.float32) for _ in z)

    with pytest.raises(MetadataError, match="box of 8 px"):
        score_run(right_latents(truth), None, small, truth, PIXEL_SIZE, images=2)


def write_truth(folder, table: str) -> None:
    (folder / "volumes").mkdir(parents=True)
    (folder / "states.csv").write_text(table)
    for state in (0, 1):
        write_volume(folder / "volumes" / f"state_{state:06d}.mrc", state_map(state), PIXEL_SIZE)


def test_a_truth_folder_is_read_as_it_was_written(tmp_path):
    write_truth(tmp_path / "truth", "image,state,angle_1_deg\n0,1,30\n1,0,0\n2,1,30\n")
    for folder in (tmp_path, tmp_path / "truth"):
        truth = read_truth(folder)
        assert truth.states.tolist() == [1, 0, 1]
        assert truth.coordinates["angle_1_deg"].tolist() == [30, 0, 30]
        assert truth.pose is None
        np.testing.assert_array_equal(truth.volume(1), state_map(1))


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ("image,state\n0,1\n1,0,5\n", FormatError, "row 2 of .*states.csv"),
        ("image,state\n0,1\n1,zero\n", FormatError, "row 2 of .*states.csv"),
        ("particle,class\n0,1\n", MetadataError, "columns particle, class"),
        ("image,state\n0,1\n2,1\n", MetadataError, "column image"),
        ("image,state\n0,7\n", InputError, "state_000007.mrc"),
    ],
)
def test_a_truth_that_cannot_be_used_says_why(tmp_path, table, error, message):
    write_truth(tmp_path, table)
    with pytest.raises(error, match=message):
        read_truth(tmp_path)


def test_a_missing_truth_folder_says_what_was_expected(tmp_path):
    with pytest.raises(InputError, match=r"states\.csv"):
        read_truth(tmp_path / "nowhere")
