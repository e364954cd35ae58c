"""Batches hold the right images with the right CTF, in order, and errors and early leave are clean."""

import math
import threading

import numpy as np
import pytest
import torch

from cryoatlas.errors import ImageDataError
from cryoatlas.fourier.lattice import Disc
from cryoatlas.particles.batch import ParticleLoader
from cryoatlas.particles.order import random_order
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.prefetch import prefetched
from cryoatlas.particles.preprocess import Preprocessor

from .small_project import BOX, COUNT, PIXEL_SIZE, noise_images, particle_columns, write_stack


@pytest.fixture
def particles(project):
    def with_scale(columns):
        columns["rlnCtfScalefactor"] = [1, 0.5, 1, 1, 1, 0.25]

    return read_particles(project(with_scale))


def loader(particles, batch_size=4, disc=None) -> ParticleLoader:
    return ParticleLoader(particles, Preprocessor.fit(particles), disc or Disc(BOX), batch_size)


def fetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_batches_follow_the_order_given(particles):
    order = [5, 0, 3, 3, 1]
    batches = list(loader(particles, 2).batches(order))
    assert [batch.index.tolist() for batch in batches] == [[5, 0], [3, 3], [1]]
    preprocessor = Preprocessor.fit(particles)
    images = torch.cat([batch.images for batch in batches])
    torch.testing.assert_close(images, preprocessor.transform(particles.images(order), Disc(BOX)))
    assert images.dtype == torch.float32
    shifts = torch.cat([batch.pose.shift for batch in batches])
    torch.testing.assert_close(shifts, particles.pose.shift[order].float())
    sizes = torch.cat([batch.pixel_size for batch in batches])
    torch.testing.assert_close(sizes, particles.pixel_size[order].float())


def test_every_image_has_the_ctf_of_its_own_microscope_and_pixel_size(particles):
    disc = Disc(BOX)
    (batch,) = loader(particles, COUNT).batches(range(COUNT))
    columns = particle_columns()
    for image in range(COUNT):
        # RELION's formula written out again, for one coefficient at a time.
        kilovolts, aberration, contrast = ((300, 2.7, 0.1), (200, 1.4, 0.07))[image % 2]
        pixel_size, scale = PIXEL_SIZE * (1 + image % 2), (1, 0.5, 1, 1, 1, 0.25)[image]
        volts = kilovolts * 1e3
        wavelength = 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))
        u, v = columns["rlnDefocusU"][image], columns["rlnDefocusV"][image]
        axis = math.radians(columns["rlnDefocusAngle"][image])
        for pixel in (0, 10, 25, len(disc) - 1):
            kx, ky = (disc.frequencies[pixel] / (BOX * pixel_size)).tolist()
            k2 = kx**2 + ky**2
            defocus = (u + v) / 2 + (u - v) / 2 * math.cos(2 * (math.atan2(ky, kx) - axis))
            phase = math.pi * wavelength * k2 * (defocus - 0.5e7 * aberration * wavelength**2 * k2)
            phase += math.radians(columns["rlnPhaseShift"][image]) + math.asin(contrast)
            # Rounded to float32 at the end only.
            assert float(batch.ctf[image, pixel]) == pytest.approx(scale * math.sin(phase), abs=1e-6)


def test_one_pixel_size_for_all_gives_the_same_ctf_as_one_for_each(project):
    def one_size(columns):
        columns["rlnImagePixelSize"] = [PIXEL_SIZE, PIXEL_SIZE]

    whole = read_particles(project(optics=one_size))
    (together,) = loader(whole, COUNT).batches(range(COUNT))
    mixed = read_particles(project())
    (apart,) = loader(mixed, COUNT).batches(range(COUNT))
    same = mixed.pixel_size == PIXEL_SIZE
    torch.testing.assert_close(together.ctf[same], apart.ctf[same])
    assert not torch.allclose(together.ctf[~same], apart.ctf[~same])


def test_images_without_ctf_and_poses_make_batches_without(project):
    def bare(columns):
        for name in list(columns):
            if "Defocus" in name or "Angle" in name or "Origin" in name:
                columns.pop(name)

    (batch,) = loader(read_particles(project(bare)), COUNT).batches(range(COUNT))
    assert batch.ctf is None
    assert batch.pose is None
    assert batch.to("cpu").ctf is None
    assert len(batch) == COUNT


def test_the_same_order_gives_the_same_bits(particles):
    order = random_order(COUNT, seed=3, epoch=2)
    first, second = (list(loader(particles, 2).batches(order)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.ctf, other.ctf)


def test_an_empty_order_makes_no_batches(particles):
    assert list(loader(particles).batches([])) == []


def test_an_image_that_cannot_be_read_is_an_error_where_its_batch_would_come(particles, tmp_path):
    pixels = noise_images()
    pixels[4, 0, 0] = np.nan
    ready = loader(particles, 2)
    write_stack(tmp_path / "stack.mrcs", pixels)
    seen = []

    def read_all():
        seen.extend(batch.index.tolist() for batch in ready.batches(range(COUNT)))

    with pytest.raises(ImageDataError, match="row 5 "):
        read_all()
    assert seen == [[0, 1], [2, 3]]
    assert not fetch_threads()


def test_leaving_early_ends_the_thread(particles):
    batches = loader(particles, 1).batches(range(COUNT))
    next(batches)
    assert len(fetch_threads()) == 1
    batches.close()
    assert not fetch_threads()


def test_nothing_is_read_before_the_first_batch_is_asked_for(particles):
    loader(particles, 1).batches(range(COUNT))
    assert not fetch_threads()


def test_work_runs_no_further_than_two_ahead_of_its_user():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    source = prefetched(items())
    assert next(source) == 0
    source.close()
    # One in use, one in the queue, one waiting to be put there.
    assert len(made) <= 3


def test_discs_and_batches_must_fit(particles):
    with pytest.raises(ValueError, match="does not fit"):
        loader(particles, disc=Disc(BOX + 2))
    with pytest.raises(ValueError, match="at least one"):
        loader(particles, batch_size=0)
