"""Laws of first maps: what starts learn from, how they are ranked, how maps get more room and components."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.poses.small_world import BOX, PIXEL, body, contrast, make_view, random_poses

from cryoatlas.errors import ConfigError
from cryoatlas.geometry.rotations import about_x
from cryoatlas.imaging.volume import voxels
from cryoatlas.subspace.bootstrap import (
    Growth,
    Images,
    add_components,
    bootstrap,
    grow,
    hypotheses,
    judge,
    split_held_out,
)
from cryoatlas.subspace.config import BootstrapConfig
from cryoatlas.subspace.model import Subspace, mean_square

SMALL = BootstrapConfig(
    starts=3,
    steps=4,
    batch_size=20,
    band_start=3.0,
    band_end=5.0,
    fine_band=99.0,
    shift_points=1,
    component_steps=2,
    components=2,
    held_out=7,
)
COUNT = 60


def ignore(done: int) -> None:
    """Told of steps, does nothing."""


def some_images(seed: int = 0, tilted: bool = False) -> Images:
    """Noisy images with CTF of the small body at random poses, and second ones after a tilt if asked."""
    pose = random_poses(COUNT, 11, largest_shift=2.0)
    tilts = [None, about_x(math.radians(45)).float()] if tilted else [None]
    views = [
        make_view(body(), pose, sigma=0.5, ctf=contrast(COUNT, 3), tilt=tilt, seed=seed + number)
        for number, tilt in enumerate(tilts)
    ]
    return Images([view.inside(5.0) for view in views], mean_square(voxels(body())), PIXEL, 2.0)


def with_noise_in(images: Images, rows: slice) -> Images:
    """The same images, some of them replaced."""
    views = []
    for view in images.views:
        spectrum = view.spectrum.clone()
        generator = torch.Generator().manual_seed(9)
        spectrum[rows] = torch.randn(spectrum[rows].shape, generator=generator, dtype=spectrum.dtype)
        views.append(replace(view, spectrum=spectrum))
    return replace(images, views=views)


both_kinds = pytest.mark.parametrize("tilted", [False, True], ids=["single", "tilt pair"])


@pytest.mark.slow
@both_kinds
def test_the_same_seed_gives_the_same_maps_bit_for_bit(tilted):
    images = some_images(tilted=tilted)
    one, again, other = (bootstrap(images, SMALL, seed, ignore) for seed in (1, 1, 2))
    for first, second, third in zip(one, again, other, strict=True):
        assert torch.equal(first.subspace.maps, second.subspace.maps)
        assert first.evidence == second.evidence
        assert not torch.equal(first.subspace.maps, third.subspace.maps)


def test_starts_come_in_the_order_of_what_they_explain_of_held_out_images():
    images = some_images()
    _, held_out = split_held_out(images, SMALL)
    # Nine starts, of which a quarter goes on, and of these as many as contend with components.
    for components, count in ((0, 3), (2, 2)):
        starts = bootstrap(images, replace(SMALL, starts=9, components=components), 1, ignore)
        evidence = [start.evidence for start in starts]
        assert len(set(evidence)) == count
        assert evidence == sorted(evidence, reverse=True)
        assert evidence == [judge(start.subspace, held_out, SMALL, 1) for start in starts]
        assert {start.subspace.components for start in starts} == {components}


def test_those_starts_go_on_that_explain_held_out_images_best_after_their_first_steps():
    images, config = some_images(), replace(SMALL, starts=5, components=0)
    learned, held_out = split_held_out(images, config)
    early, late = {}, {}
    for number in range(config.starts):
        growth = Growth(learned, config, (1, number))
        first = growth.to(config.first_steps, ignore)
        early[number] = judge(first, held_out, config, 1, growth.band)
        late[number] = judge(growth.to(config.steps, ignore), held_out, config, 1)
    best = sorted(early, key=lambda number: -early[number])[: config.survivors]
    assert config.first_steps == config.survivors == 2
    assert [start.evidence for start in bootstrap(images, config, 1, ignore)] == sorted(
        (late[number] for number in best), reverse=True
    )


def test_the_first_steps_are_those_on_the_coarse_grid_and_at_most_half():
    usual = BootstrapConfig()
    assert usual.band(usual.first_steps - 1) < usual.fine_band <= usual.band(usual.first_steps)
    assert replace(usual, fine_band=99.0).first_steps == usual.steps // 2
    assert [replace(usual, starts=count).survivors for count in (1, 2, 3, 12, 13)] == [1, 2, 2, 3, 4]


@pytest.mark.slow
@both_kinds
def test_held_out_images_are_never_learned_from(tilted):
    """Every tenth is: others in their place change what starts are judged by, and no map."""
    images = some_images(tilted=tilted)
    other = with_noise_in(images, slice(0, None, 10))
    for number in range(2):
        grown = [grow(split_held_out(each, SMALL)[0], SMALL, (1, number), ignore) for each in (images, other)]
        assert torch.equal(grown[0].maps, grown[1].maps)
        more = [
            add_components(grown[0], split_held_out(each, SMALL)[0], SMALL, 1, ignore)
            for each in (images, other)
        ]
        assert torch.equal(more[0].maps, more[1].maps)
    # Of the others every one may be drawn, and is within a few batches.
    learned = with_noise_in(images, slice(1, None, 10))
    one, two = (grow(split_held_out(each, SMALL)[0], SMALL, (1, 0), ignore) for each in (images, learned))
    assert not torch.equal(one.maps, two.maps)


@pytest.mark.parametrize(("held_out", "expected"), [(1, 1), (7, 6), (500, 6)])
def test_no_more_than_a_tenth_is_held_out_and_no_more_than_asked_for(held_out, expected):
    images = some_images()
    learned, held = split_held_out(images, replace(SMALL, held_out=held_out))
    assert len(held) == expected
    assert len(learned) + len(held) == COUNT
    rows = torch.cat([learned.views[0].spectrum, held.views[0].spectrum])
    assert len(torch.unique(rows.abs().sum(1))) == COUNT


def test_held_out_images_prefer_the_true_map():
    _, held_out = split_held_out(some_images(), SMALL)
    true, empty, wrong = (
        judge(Subspace(map_[None], PIXEL), held_out, SMALL, 0)
        for map_ in (voxels(body()), torch.zeros(BOX, BOX, BOX), voxels(body(5)))
    )
    assert true > wrong
    assert true > empty
    # Evidence counts from there.
    assert empty == pytest.approx(0, abs=1e-3)


def test_each_step_of_each_start_is_told_and_may_stop_the_work():
    told: list[int] = []
    bootstrap(some_images(), SMALL, 0, told.append)
    # Two steps of three starts, two more of those that go on, and two with components.
    assert SMALL.all_steps == 3 * 2 + 2 * 2 + 2 * 2
    assert told == list(range(1, SMALL.all_steps + 1))

    def stop(done: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bootstrap(some_images(), SMALL, 0, stop)


def test_maps_are_as_large_as_their_band_wants_and_of_the_images_extent():
    start = grow(some_images(), SMALL, (0,), ignore)
    assert start.box_size == 14
    assert start.box_size * start.pixel_size == pytest.approx(BOX * PIXEL)
    with_components = add_components(start, some_images(), SMALL, 0, ignore)
    assert with_components.maps.shape == (3, 14, 14, 14)
    assert bool(torch.isfinite(with_components.maps).all())
    assert bool((with_components.maps.flatten(1).norm(dim=1) > 0).all())


def test_a_batch_larger_than_the_set_is_the_set():
    start = grow(some_images()[torch.arange(8)], replace(SMALL, batch_size=100), (0,), ignore)
    assert bool(torch.isfinite(start.maps).all())


@pytest.mark.parametrize(("level", "rotations"), [(0, 72), (1, 576)])
def test_hypotheses_lie_within_reach_and_elsewhere_each_time(level, rotations):
    generator = np.random.default_rng(3)
    first, second = (hypotheses(6.0, level, 3, generator, torch.empty(0)) for _ in range(2))
    assert len(first) == rotations * 9
    identity = torch.eye(3).expand(rotations, 3, 3)
    torch.testing.assert_close(first.rotation @ first.rotation.mT, identity, atol=1e-5, rtol=0)
    # Squares of 4 Å tile ±6 Å; their centres move by up to half a square.
    assert first.shift.abs().max() <= 6
    assert (first.rotation - second.rotation).abs().max() > 0.1
    assert (first.shift - second.shift).abs().max() > 0.1
    centred = hypotheses(0.0, level, 3, generator, torch.empty(0))
    assert torch.equal(centred.shift, torch.zeros(1, 2))


def test_random_components_keep_the_maps_and_have_the_amplitude_stated():
    mean = Subspace(torch.stack([voxels(body())]), PIXEL)
    two = mean.with_random_components(2, 0.1, torch.Generator().manual_seed(4))
    assert torch.equal(two.maps[0], mean.maps[0])
    norms = two.maps.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms[1:], 0.1 * norms[:1].expand(2))
    alike = torch.corrcoef(two.maps.flatten(1))
    # Random phases within a small molecule at low frequencies: some ten independent numbers.
    assert float((alike - torch.eye(3)).abs().max()) < 0.7
    three = two.with_random_components(3, 0.5, torch.Generator().manual_seed(5))
    assert torch.equal(three.maps[:3], two.maps)
    assert float(three.maps[3].norm() / norms[0]) == pytest.approx(0.5, rel=1e-5)
    again = mean.with_random_components(2, 0.1, torch.Generator().manual_seed(4))
    assert torch.equal(again.maps, two.maps)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("starts", 0),
        ("steps", 1),
        ("batch_size", 0),
        ("band_start", 0.5),
        ("band_end", 3.0),
        ("shift_points", 0),
        ("memory", 1.0),
        ("memory", -0.1),
        ("temper_start", 0.0),
        ("temper_start", 1.1),
        ("components", -1),
        ("component_steps", 0),
        ("component_start", 0.0),
        ("component_share", 0.0),
        ("held_out", 0),
    ],
)
def test_options_out_of_range_are_refused_by_name(option, value):
    with pytest.raises(ConfigError, match=rf"bootstrap option {option} must .*, got {value}"):
        BootstrapConfig(**{option: value})


@pytest.mark.parametrize("steps", [2, 5, 50])
def test_the_band_and_the_temper_rise_to_where_they_say(steps):
    config = BootstrapConfig(steps=steps, band_start=4.0, band_end=10.0, temper_start=0.25)
    bands = [config.band(step, 64) for step in range(steps + 1)]
    tempers = [config.temper(step) for step in range(steps + 1)]
    for values, first, last in ((bands, 4.0, 10.0), (tempers, 0.25, 1.0)):
        assert values == sorted(values)
        assert values[0] == pytest.approx(first)
        late = values[math.ceil(0.8 * (steps - 1)) :]
        assert late == pytest.approx([last] * len(late))


def test_the_band_stays_in_the_box():
    config = BootstrapConfig(band_start=4.0, band_end=10.0)
    assert config.band(config.steps, 16) == 8
    assert config.band(0, 6) == 3
