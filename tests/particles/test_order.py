"""Orders hold every image once, mix, read in large pieces, and go on where they were left."""

import threading

import numpy as np
import pytest
import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.io.star import StarTable, write_star
from cryoatlas.particles import order as orders
from cryoatlas.particles.batch import ParticleLoader
from cryoatlas.particles.order import random_order, shuffled_order, storage_order
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.preprocess import Preprocessor

from .small_project import write_stack

BOX, COUNT, CHUNK, BUFFER = 8, 3000, 50, 6


@pytest.fixture(scope="module")
def particles(tmp_path_factory) -> ParticleSet:
    """3,000 images in two stacks, the rows of the star file in random order."""
    folder = tmp_path_factory.mktemp("order")
    rng = np.random.default_rng(0)
    names = []
    for stack, size in (("a", 1300), ("b", 1700)):
        write_stack(folder / f"{stack}.mrcs", rng.standard_normal((size, BOX, BOX)).astype(np.float32))
        names += [f"{number}@{stack}.mrcs" for number in range(1, size + 1)]
    columns = {
        "rlnImageName": rng.permutation(names),
        "rlnImagePixelSize": np.full(COUNT, 2.0),
        **{name: rng.uniform(0, 90, COUNT) for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")},
    }
    write_star(folder / "particles.star", {"particles": StarTable.from_columns(columns)})
    return read_particles(folder / "particles.star")


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 50 images, a buffer of 6 of them."""
    monkeypatch.setattr(orders, "CHUNK_BYTES", CHUNK * 4 * BOX**2)
    monkeypatch.setattr(orders, "BUFFER_CHUNKS", BUFFER)


def place_on_disk(particles: ParticleSet) -> np.ndarray:
    """Rank of each image among all as they lie on disk."""
    place = np.empty(len(particles), np.int64)
    place[storage_order(particles).numpy()] = np.arange(len(particles))
    return place


def loader(particles: ParticleSet, batch_size: int = 32) -> ParticleLoader:
    return ParticleLoader(particles, Preprocessor.fit(particles), Disc(BOX), batch_size)


def test_random_orders_are_permutations_that_depend_on_seed_and_epoch_alone():
    order = random_order(50, seed=1, epoch=2)
    assert sorted(order.tolist()) == list(range(50))
    assert torch.equal(order, random_order(50, seed=1, epoch=2))
    assert not torch.equal(order, random_order(50, seed=1, epoch=3))
    assert not torch.equal(order, random_order(50, seed=2, epoch=2))
    assert not torch.equal(order, random_order(50, seed=2, epoch=1))


def test_storage_order_goes_through_each_stack_once_from_its_start(particles):
    order = storage_order(particles).numpy()
    stack, section = particles.addresses.stack[order], particles.addresses.section[order]
    assert (np.diff(stack) >= 0).all()
    assert (np.diff(section)[np.diff(stack) == 0] == 1).all()


@pytest.mark.usefixtures("small_chunks")
def test_shuffled_orders_are_permutations_that_depend_on_seed_and_epoch_alone(particles):
    order = shuffled_order(particles, seed=1, epoch=2)
    assert sorted(order.positions.tolist()) == list(range(COUNT))
    assert sorted(np.concatenate(order.chunks).tolist()) == list(range(COUNT))
    assert torch.equal(order.positions, shuffled_order(particles, seed=1, epoch=2).positions)
    others = [shuffled_order(particles, seed, epoch) for seed, epoch in ((1, 3), (2, 2), (2, 1))]
    assert not any(torch.equal(order.positions, other.positions) for other in others)


def test_a_set_that_fits_into_the_buffer_is_permuted_uniformly(particles):
    order = shuffled_order(particles, seed=1, epoch=2)
    assert torch.equal(order.positions, random_order(COUNT, seed=1, epoch=2))
    assert order.chunks == ()


@pytest.mark.usefixtures("small_chunks")
def test_chunks_are_contiguous_on_disk(particles):
    place = place_on_disk(particles)
    chunks = shuffled_order(particles, seed=0, epoch=0).chunks
    assert {len(chunk) for chunk in chunks} == {CHUNK}
    assert all((np.diff(place[chunk]) == 1).all() for chunk in chunks)
    firsts = [place[chunk[0]] for chunk in chunks]
    assert firsts != sorted(firsts)


@pytest.mark.usefixtures("small_chunks")
def test_neighbours_on_disk_are_a_buffer_apart_in_order(particles):
    """Both stay for a number of chunks that is geometric with mean BUFFER; so is the mean difference."""
    apart = []
    for epoch in range(5):
        when = np.empty(COUNT)
        when[shuffled_order(particles, seed=0, epoch=epoch).positions.numpy()] = np.arange(COUNT)
        along = when[storage_order(particles).numpy()]
        within = np.arange(COUNT - 1) % CHUNK != CHUNK - 1
        apart.append(np.abs(np.diff(along))[within])
    mean = np.concatenate(apart).mean()
    # The ends of the order, where the buffer fills and empties, move it a little; a uniform permutation has
    # COUNT/3 = 1,000, and reading chunk after chunk would have a third of a chunk, 17.
    assert mean == pytest.approx(BUFFER * CHUNK, rel=0.25)


@pytest.mark.usefixtures("small_chunks")
def test_a_batch_comes_from_many_places(particles):
    order = shuffled_order(particles, seed=0, epoch=0)
    chunk_of = place_on_disk(particles) // CHUNK
    places = [len(np.unique(chunk_of[part.numpy()])) for part in order.positions.split(32)]
    # Thirty-two images of six chunks in the buffer, and of some that have all but left it.
    assert np.mean(places) > BUFFER


@pytest.mark.slow
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("batch_size", [1, 32, 70, 500])
def test_batches_through_the_buffer_are_those_read_directly(particles, batch_size):
    order = shuffled_order(particles, seed=0, epoch=0)
    ready = loader(particles, batch_size)
    direct = ready.batches(order.positions)
    for batch, expected in zip(ready.batches(order), direct, strict=True):
        assert torch.equal(batch.index, expected.index)
        assert torch.equal(batch.images, expected.images)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("done", [0, 1, 32, 777, COUNT - 1, COUNT])
def test_the_rest_of_an_order_goes_on_with_the_same_images(particles, done):
    order = shuffled_order(particles, seed=0, epoch=0)
    rest = order.after(done)
    assert torch.equal(rest.positions, order.positions[done:])
    wanted = set(rest.positions.tolist())
    assert set(np.concatenate([np.empty(0, int), *rest.chunks]).tolist()) == wanted
    ready = loader(particles)
    expected = ready.batches(order.positions[done:])
    for batch, other in zip(ready.batches(rest), expected, strict=True):
        assert torch.equal(batch.images, other.images)


@pytest.mark.usefixtures("small_chunks")
def test_each_chunk_is_read_once_and_no_further_ahead_than_said(particles, monkeypatch):
    read = []
    images = ParticleSet.images
    monkeypatch.setattr(
        ParticleSet, "images", lambda self, index: (read.append(np.asarray(index)), images(self, index))[1]
    )
    order = shuffled_order(particles, seed=0, epoch=0)
    ready = loader(particles)
    read.clear()
    used = 0
    for batch in ready.batches(order):
        used += len(batch)
        # In the buffer; one in the queue and one in the thread's hands; two batches made ahead.
        assert sum(map(len, read)) - used <= BUFFER * CHUNK + 2 * CHUNK + 3 * 32
    assert all(np.array_equal(one, chunk) for one, chunk in zip(read, order.chunks, strict=True))


@pytest.mark.usefixtures("small_chunks")
def test_leaving_early_ends_both_threads(particles):
    batches = loader(particles).batches(shuffled_order(particles, seed=0, epoch=0))
    next(batches)
    running = [thread for thread in threading.enumerate() if thread.name == "prefetch"]
    assert len(running) == 2
    batches.close()
    assert not any(thread.is_alive() for thread in running)
