"""Tilt pairs: both images of a particle stay together, turned as they were taken, and files that do not match
are refused."""

import math
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoatlas.errors import ConfigError, ImageDataError, MetadataError
from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.rotations import about_x
from cryoatlas.imaging.projection import plane_frequencies, predict
from cryoatlas.imaging.scenes import build_scene
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.imaging.simulate_plan import MeasuredTables, RandomStreams, plan_experiment
from cryoatlas.imaging.volume import GaussianBody
from cryoatlas.io.mrc import StackWriter
from cryoatlas.particles import order as orders
from cryoatlas.particles.batch import Loader, ParticleLoader
from cryoatlas.particles.config import PreprocessConfig
from cryoatlas.particles.order import random_order, shuffled_order
from cryoatlas.particles.pairs import TiltedImages, ViewLoader, make_loader, pair
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.training.pose_table import split

BOX, COUNT, ANGLE_DEG = 16, 10, 30.0
OPTIONS = SimulationConfig(
    "homogeneous",
    images=COUNT,
    box=BOX,
    snr=math.inf,
    seed=7,
    ctf=True,
    tilt_pairs=True,
    tilt_angle=ANGLE_DEG,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pairs with CTF and shifts, without noise."""
    folder = tmp_path_factory.mktemp("pairs") / "set"
    simulate(OPTIONS, folder)
    return folder


@pytest.fixture
def first(folder: Path) -> ParticleSet:
    return read_particles(folder / "truth" / "particles.star")


@pytest.fixture
def second(folder: Path) -> ParticleSet:
    """Without poses: those of pairs are their particles'."""
    return read_particles(folder / "particles_tilt.star")


def as_it_is() -> Preprocessor:
    return Preprocessor(PreprocessConfig(window=False), BOX, 0.0, 1.0)


def loader(first: ParticleSet, second: ParticleSet, batch_size: int = 4) -> Loader:
    tilted = pair(first, second, ANGLE_DEG)
    return make_loader(first, as_it_is(), Disc(BOX), batch_size, tilted=tilted)


def body() -> GaussianBody:
    """What was simulated."""
    random = RandomStreams.of(OPTIONS.seed)
    scene = build_scene(OPTIONS.scene, OPTIONS.states, OPTIONS.angle_range_deg, random.scene)
    exact = plan_experiment(OPTIONS, scene, MeasuredTables(), random).volume(0)
    return replace(exact, centres=exact.centres.float(), weights=exact.weights.float())


def unexplained(batch, volume: GaussianBody) -> torch.Tensor:
    """What predictions leave of each image, as a part of it."""
    plane = plane_frequencies(Disc(BOX), batch.pixel_size)
    predicted = predict(volume, plane, batch.pose, batch.ctf)
    return (batch.images - predicted).norm(dim=1) / batch.images.norm(dim=1)


def test_rows_of_a_pair_are_the_rows_of_both_sets(first, second):
    order = [5, 0, 3, 3, 9]
    pairs = list(loader(first, second, 2).batches(order))
    singles = [
        list(ParticleLoader(each, as_it_is(), Disc(BOX), 2).batches(order)) for each in (first, second)
    ]
    for both, one, other in zip(pairs, *singles, strict=True):
        assert torch.equal(both.particles, one.index)
        for number, single in enumerate((one, other)):
            assert torch.equal(both.index[number::2], single.index)
            assert torch.equal(both.images[number::2], single.images)
            assert torch.equal(both.ctf[number::2], single.ctf)
            assert torch.equal(both.pixel_size[number::2], single.pixel_size)
        assert torch.equal(both.pose[slice(0, None, 2)].rotation, one.pose.rotation)


def test_a_batch_made_at_once_is_the_one_of_an_order(first, second):
    pairs = loader(first, second)
    assert torch.equal(pairs.batch(torch.tensor([2, 8])).images, next(iter(pairs.batches([2, 8]))).images)


def test_the_second_pose_is_the_first_one_tilted_and_that_of_its_file(first, second, folder):
    (batch,) = loader(first, second, COUNT).batches(range(COUNT))
    truth = read_particles(folder / "truth" / "particles_tilt.star").require_pose()
    tilted = batch.pose[slice(1, None, 2)]
    turned = about_x(math.radians(ANGLE_DEG)) @ first.pose.rotation
    torch.testing.assert_close(tilted.rotation.double(), turned, atol=1e-6, rtol=0)
    torch.testing.assert_close(tilted.rotation.double(), truth.rotation, atol=1e-6, rtol=0)
    torch.testing.assert_close(tilted.shift.double(), truth.shift, atol=1e-5, rtol=0)
    assert torch.equal(batch.pose.shift[::2], batch.pose.shift[1::2])


def test_both_images_of_a_simulated_pair_are_predicted_exactly(first, second):
    """One body and one pose for each particle; another tilt would not do."""
    (batch,) = loader(first, second, COUNT).batches(range(COUNT))
    volume = body()
    # Single precision.
    assert unexplained(batch, volume).max() < 1e-3
    for wrong_deg in (-ANGLE_DEG, 45.0):
        tilted = pair(first, second, wrong_deg)
        (wrong,) = make_loader(first, as_it_is(), Disc(BOX), COUNT, tilted=tilted).batches(range(COUNT))
        assert unexplained(wrong, volume)[::2].max() < 1e-3
        assert unexplained(wrong, volume)[1::2].min() > 0.05


def test_splitting_a_batch_never_tears_a_pair_apart(first, second):
    (batch,) = loader(first, second, COUNT).batches(range(COUNT))
    assert len(batch) == COUNT
    parts = list(split(batch, 3))
    assert [len(part) for part in parts] == [3, 3, 3, 1]
    for part in parts:
        assert torch.equal(part.index[::2], part.index[1::2])
        assert torch.equal(part.tilts, batch.tilts)
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    rotations = torch.cat([part.pose.rotation for part in parts])
    assert torch.equal(rotations, batch.pose.rotation)
    moved = batch.to("cpu")
    assert torch.equal(moved.tilts, batch.tilts)
    assert len(moved) == COUNT


def test_images_without_poses_and_ctf_make_pairs_without(first, second):
    bare = [replace(each, ctf=None, pose=None) for each in (first, second)]
    (batch,) = loader(*bare, COUNT).batches(range(COUNT))
    assert batch.pose is None
    assert batch.ctf is None
    assert len(batch) == COUNT


def test_orders_in_chunks_give_the_same_pairs(first, second, monkeypatch):
    """Sets larger than the buffer: both files are read in the order of the first."""
    monkeypatch.setattr(orders, "CHUNK_BYTES", 4 * BOX**2)
    monkeypatch.setattr(orders, "BUFFER_CHUNKS", 3)
    order = shuffled_order(first, 0, 0)
    assert order.chunks
    pairs = loader(first, second)
    at_random, listed = (
        torch.cat([batch.images for batch in pairs.batches(each)]) for each in (order, order.positions)
    )
    assert torch.equal(at_random, listed)


def test_the_same_order_gives_the_same_bits(first, second):
    order = random_order(COUNT, 1, 2)
    runs = [torch.cat([batch.images for batch in loader(first, second).batches(order)]) for _ in range(2)]
    assert torch.equal(*runs)


def test_a_magnification_of_one_view_leaves_the_other_as_it_is(first, second):
    loaders = [ParticleLoader(each, as_it_is(), Disc(BOX), COUNT) for each in (first, second)]
    stretched = torch.tensor([[1.1, 0.0], [0.0, 0.9]]).expand(COUNT, 2, 2)
    made = loaders[1].batch
    loaders[1].batch = lambda index: replace(made(index), magnification=stretched[: len(index)])
    batch = ViewLoader(loaders, TiltedImages(second, ANGLE_DEG).tilts).batch(torch.arange(3))
    assert torch.equal(batch.magnification[::2], torch.eye(2).expand(3, 2, 2))
    assert torch.equal(batch.magnification[1::2], stretched[:3])


def fetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_leaving_early_ends_all_threads(first, second):
    batches = loader(first, second, 1).batches(range(COUNT))
    next(batches)
    assert len(fetch_threads()) == 2
    batches.close()
    assert not fetch_threads()


def test_an_error_in_the_second_file_is_an_error_and_ends_all_threads(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    first, second = (
        read_particles(tmp_path / "set" / f"{name}.star") for name in ("particles", "particles_tilt")
    )
    pairs = loader(first, second, 2)
    pixels = np.zeros((COUNT, BOX, BOX), np.float32)
    pixels[4] = np.nan
    with StackWriter(tmp_path / "set" / "particles_tilt.mrcs", BOX, 12.0) as stack:
        stack.append(pixels)
    seen = []
    with pytest.raises(ImageDataError, match=r"row 5 .*particles_tilt\.mrcs"):
        seen.extend(batch.particles.tolist() for batch in pairs.batches(range(COUNT)))
    assert not fetch_threads()


@pytest.mark.parametrize(
    ("spoil", "angle_deg", "error", "words"),
    [
        (lambda p: p[:7], 45.0, MetadataError, r"particles_tilt\.star has 7 images .*particles\.star has 10"),
        (
            lambda p: replace(p, stacks=(replace(p.stacks[0], columns=32, rows=32),)),
            45.0,
            ImageDataError,
            r"particles_tilt\.star have 32 px .*particles\.star 16 px.*prepare",
        ),
        (
            lambda p: replace(p, pixel_size=1.01 * p.pixel_size),
            45.0,
            MetadataError,
            r"row 1 of .*particles_tilt\.star.* 12\.12 Å, .*particles\.star.* 12 Å.*10 of 10",
        ),
        (lambda p: replace(p, ctf=None), 45.0, MetadataError, r"particles_tilt\.star has no CTF"),
        (lambda p: p, 0.0, ConfigError, "got 0"),
        (lambda p: p, math.nan, ConfigError, "got nan"),
        (lambda p: p, 181.0, ConfigError, "±180°"),
    ],
    ids=["count", "box", "pixel size", "ctf", "no angle", "nan", "too far"],
)
def test_files_that_are_no_pair_are_refused_by_name(
    first, second, spoil: Callable[[ParticleSet], ParticleSet], angle_deg, error, words
):
    with pytest.raises(error, match=words):
        pair(first, spoil(second), angle_deg)


def test_pixel_sizes_that_differ_by_rounding_are_one(first, second):
    close = replace(second, pixel_size=(1 + 5e-5) * second.pixel_size)
    assert pair(first, close, -45.0).angle_deg == -45.0
