"""Latent measures: perfect, useless and known in-between cases, and what they must not depend on."""

import math
from itertools import permutations

import numpy as np
import pytest

from cryoatlas.analysis.latent import (
    PrincipalComponents,
    adjusted_mutual_information,
    adjusted_rand_index,
    area_under_roc,
    circular_correlation,
    kmeans,
    knn_circular,
    knn_regression,
    knn_spearman,
    nearest_images,
    spearman,
)

RNG = np.random.default_rng


def test_spearman_sees_order_only():
    coordinate = RNG(0).uniform(0, 90, 200)
    for monotone in (coordinate, -coordinate, np.exp(coordinate / 10), -(coordinate**3)):
        assert spearman(monotone, coordinate) == pytest.approx(1)
    assert spearman(RNG(1).standard_normal(2000), RNG(2).standard_normal(2000)) < 0.1  # 4 σ = 4/√2000
    assert spearman(np.zeros(10), np.arange(10.0)) == 0


def test_spearman_of_a_hand_worked_case():
    """Ranks 1 2 3 4 5 and 2 1 4 3 5: ρ = 1 − 6·4 / (5·24) = 0.8."""
    assert spearman(np.arange(5.0), np.array([20, 10, 40, 30, 50.0])) == pytest.approx(0.8)


def test_circular_correlation_needs_no_origin_and_knows_the_sense():
    angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    assert circular_correlation(angle, angle + 2) == pytest.approx(1)
    assert circular_correlation(angle, 1 - angle) == pytest.approx(-1)
    assert abs(circular_correlation(angle, RNG(0).permutation(angle))) < 0.4  # ρ_T of 100: σ ≈ 1/√100


def test_circular_correlation_is_its_definition_over_pairs():
    a, b = RNG(3).uniform(0, 6, 40), RNG(4).uniform(0, 3, 40)
    sines = [np.sin(x[:, None] - x[None]) for x in (a, b)]
    expected = (sines[0] * sines[1]).sum() / math.sqrt((sines[0] ** 2).sum() * (sines[1] ** 2).sum())
    assert circular_correlation(a, b) == pytest.approx(expected)


def test_knn_regression_leaves_the_image_out():
    """Each image sits far from all but one twin: one neighbour predicts the twin's value, never its own."""
    latents = np.repeat(np.arange(10.0)[:, None], 2, 0) + np.tile([[0], [0.01]], (10, 1))
    targets = np.arange(20.0)[:, None]
    queries, predicted = knn_regression(latents, targets, neighbours=1)
    np.testing.assert_array_equal(queries, np.arange(20))
    np.testing.assert_array_equal(predicted[:, 0], np.arange(20) ^ 1)


def test_knn_regression_of_duplicates_is_the_mean_of_others():
    _, predicted = knn_regression(np.zeros((30, 2)), np.arange(30.0)[:, None], neighbours=29)
    np.testing.assert_allclose(predicted[:, 0].mean(), 14.5, atol=1)  # all see nearly all others


def test_knn_spearman_finds_a_coordinate_wound_into_any_dimension():
    coordinate = RNG(0).uniform(0, 1, 1500)
    winding = np.stack([np.cos(5 * coordinate), np.sin(5 * coordinate), coordinate**2], 1)
    assert knn_spearman(winding, coordinate) > 0.999  # 20 neighbours of 1500 span 1.3 % of the range
    assert spearman(winding[:, 0], coordinate) < 0.7
    assert abs(knn_spearman(RNG(1).standard_normal((1500, 3)), coordinate)) < 0.12  # 4 σ = 4/√1500


def test_knn_circular_follows_an_angle_through_360_degrees():
    angle = RNG(0).uniform(0, 2 * np.pi, 1500)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.02 * RNG(1).standard_normal((1500, 2))
    correlation, error = knn_circular(circle, angle)
    assert correlation > 0.995
    assert error < 0.03
    correlation, error = knn_circular(RNG(2).standard_normal((1500, 2)), angle)
    assert abs(correlation) < 0.12
    assert error > 1  # guessing is π/2 off in the median


def test_auc_counts_pairs():
    score, positive = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 1, 0, 1])
    assert area_under_roc(score, positive) == 0.75  # of 4 pairs only (2, 3) is the wrong way round
    assert area_under_roc(-score, positive) == 0.25
    assert area_under_roc(-score, positive, either_direction=True) == 0.75
    assert area_under_roc(np.zeros(4), positive) == 0.5
    with pytest.raises(ValueError, match="both classes"):
        area_under_roc(score, np.zeros(4, dtype=int))


@pytest.mark.parametrize("agreement", [adjusted_rand_index, adjusted_mutual_information])
def test_agreement_of_partitions_is_one_for_renamed_classes_and_about_zero_for_independent_ones(agreement):
    labels, others = RNG(0).integers(0, 5, 1000), RNG(1).integers(0, 5, 1000)
    assert agreement(labels, (labels + 2) % 5) == pytest.approx(1)
    assert abs(agreement(labels, others)) < 0.02
    merged = labels // 2  # 0 1 | 2 3 | 4
    assert 0.3 < agreement(labels, merged) < 0.9
    assert agreement(labels, 7 - 3 * merged) == pytest.approx(agreement(labels, merged))
    assert agreement(merged, labels) == pytest.approx(agreement(labels, merged))


def test_mutual_information_is_adjusted_by_its_mean_over_all_pairings():
    """(I − E I) / (mean entropy − E I), E over all 720 orders of six labels."""
    first, second = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])

    def entropy(*labels: np.ndarray) -> float:
        share = np.unique(np.stack(labels), axis=1, return_counts=True)[1] / 6
        return float(-(share * np.log(share)).sum())

    def information(one: np.ndarray, other: np.ndarray) -> float:
        return entropy(one) + entropy(other) - entropy(one, other)

    chance = np.mean([information(first, second[list(order)]) for order in permutations(range(6))])
    mean = (entropy(first) + entropy(second)) / 2
    expected = (information(first, second) - chance) / (mean - chance)
    assert adjusted_mutual_information(first, second) == pytest.approx(expected)


def test_principal_components_of_a_known_ellipsoid():
    rotation, _ = np.linalg.qr(RNG(0).standard_normal((3, 3)))
    latents = (RNG(1).standard_normal((20000, 3)) * [1, 5, 2]) @ rotation + [3, -1, 2]
    components = PrincipalComponents.of(latents)
    np.testing.assert_allclose(components.explained, np.array([25, 4, 1]) / 30, atol=0.01)
    np.testing.assert_allclose(np.abs(components.axes @ rotation[[1, 2, 0]].T), np.eye(3), atol=0.03)
    np.testing.assert_allclose(components.mean + components.coordinates @ components.axes, latents, atol=1e-9)
    turned = PrincipalComponents.of(-latents)  # a sign of z must not turn the axes round
    np.testing.assert_allclose(turned.axes, components.axes, atol=1e-9)


def test_a_path_runs_from_the_5th_to_the_95th_percentile_through_the_mean():
    latents = np.stack([np.linspace(-1, 1, 1001), np.full(1001, 7.0)], 1)
    path = PrincipalComponents.of(latents).path(0, 5)
    np.testing.assert_allclose(path[:, 0], [-0.9, -0.45, 0, 0.45, 0.9], atol=1e-9)
    np.testing.assert_allclose(path[:, 1], 7)


def test_kmeans_finds_separate_groups_in_order_with_representatives_on_data():
    centres = np.array([[8.0, 0], [0, 0], [4.0, 1]])
    truth = RNG(0).integers(0, 3, 600)
    latents = (centres[truth] + 0.3 * RNG(1).standard_normal((600, 2))).astype(np.float32)
    clusters = kmeans(latents, 3)
    assert adjusted_rand_index(clusters.labels, truth) == 1
    assert np.ptp(np.sign(np.diff(clusters.centres[:, 0]))) == 0  # numbered along the long axis
    np.testing.assert_array_equal(clusters.sizes, np.bincount(clusters.labels))
    np.testing.assert_array_equal(clusters.labels[clusters.representatives], [0, 1, 2])
    np.testing.assert_array_equal(kmeans(latents, 3).representatives, clusters.representatives)


def test_kmeans_of_few_different_latents_makes_few_clusters():
    assert len(kmeans(np.repeat([[0.0], [1.0]], 20, 0), 8).centres) == 2


def test_nearest_images_are_the_nearest():
    latents = RNG(0).standard_normal((300, 4))
    points = RNG(1).standard_normal((7, 4))
    expected = np.linalg.norm(points[:, None] - latents[None], axis=-1).argmin(1)
    np.testing.assert_array_equal(nearest_images(points, latents), expected)
