"""Prepared particles: the same images, poses and CTF on another grid; resumed as if never interrupted."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cryoatlas.errors import ConfigError, ImageDataError, InputError, OutputError
from cryoatlas.fourier.resample import clip
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import StackWriter, read_header
from cryoatlas.io.star import StarTable, read_star, write_star
from cryoatlas.particles.metadata import ORIGINS, ORIGINS_PX
from cryoatlas.particles.microscope import AppliedCTF
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.prepare_config import PrepareConfig
from cryoatlas.particles.source import read_source, source_rows
from cryoatlas.progress import Interrupted
from cryoatlas.recipes import prepare as recipe
from cryoatlas.recipes.backprojection import backproject_particles
from cryoatlas.recipes.prepare import prepare

COUNT, BOX, NEW = 60, 24, 12
EXACTLY = PrepareConfig(box=NEW, normalize="none", dtype="float32")
SMALL_STACKS = 12**2 * 4 * 25 / 2**30
"""GiB of 25 new images of 32 bits."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Images with CTF and poses, in optics groups of RELION 3.1."""
    folder = tmp_path_factory.mktemp("data") / "set"
    simulate(SimulationConfig("homogeneous", images=COUNT, box=BOX, snr=0.5, seed=2, ctf=True), folder)
    return folder / "truth" / "particles.star"


@pytest.fixture
def small_pieces(monkeypatch):
    """Seven images are read at a time."""
    monkeypatch.setattr(recipe, "CHUNK_PIXELS", 7 * BOX**2)


def prepared(particles: ParticleSet, out: Path, config: PrepareConfig = EXACTLY, **options) -> ParticleSet:
    return read_particles(prepare(particles, out, config, **options))


def images_of(particles: ParticleSet) -> torch.Tensor:
    return particles.images(slice(None))


def stop_after(count: int):
    """Asks to stop after so many pieces."""
    asked = iter(range(1000))
    return lambda: next(asked) >= count - 1


def test_images_are_clipped_and_everything_else_stays(data, tmp_path, small_pieces):
    before = read_particles(data)
    after = prepared(before, tmp_path / "out")
    torch.testing.assert_close(images_of(after), clip(images_of(before), NEW), rtol=0, atol=1e-6)
    assert after.box_size == NEW
    torch.testing.assert_close(after.pixel_size, 2 * before.pixel_size)
    assert after.pose is not None
    torch.testing.assert_close(after.pose.rotation, before.pose.rotation, rtol=0, atol=1e-12)
    torch.testing.assert_close(after.pose.shift, before.pose.shift, rtol=0, atol=1e-12)
    for name, values in vars(before.ctf).items():
        torch.testing.assert_close(vars(after.ctf)[name], values, rtol=0, atol=0)
    for name in ("rlnDefocusU", "rlnAngleRot", "rlnOriginXAngst"):
        assert after.tables.particles.text(name).tolist() == before.tables.particles.text(name).tolist()


def test_all_that_depends_on_the_box_is_made_new(data, tmp_path):
    """Regression: a size left from the old box makes later steps compute another pixel size."""
    after = prepared(read_particles(data), tmp_path / "out")
    optics = after.tables.optics
    assert optics is not None
    assert optics.number("rlnImageSize").tolist() == [NEW]
    assert optics.number("rlnImagePixelSize").tolist() == [2 * float(read_particles(data).pixel_size[0])]
    header = read_header(tmp_path / "out" / "stacks" / "particles_00001.mrcs")
    assert (header.box_size, header.sections) == (NEW, COUNT)
    assert header.pixel_size == pytest.approx(float(after.pixel_size[0]), rel=1e-6)


def as_relion_30(data: Path, folder: Path) -> Path:
    """The same particles in one table, origins and their priors in pixels."""
    particles = read_particles(data)
    table = particles.tables.particles
    size = particles.pixel_size.numpy()
    for name, name_px in zip(ORIGINS, ORIGINS_PX, strict=True):
        table = table.with_column(name_px, table.number(name) / size).without_columns(name)
        table = table.with_column(f"{name_px}Prior", np.full(len(table), 2.0))
    for name in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"):
        table = table.with_column(name, particles.tables.number(name))
    table = table.with_column("rlnMagnification", np.full(len(table), 5e4))
    table = table.with_column("rlnDetectorPixelSize", 5 * size).with_column(
        "rlnImageSize", [BOX] * len(table)
    )
    stack = particles.stacks[0].path
    names = [f"{number}@{stack}" for number in range(1, len(table) + 1)]
    table = table.with_column("rlnImageName", names).without_columns("rlnOpticsGroup")
    write_star(folder / "old.star", {"": table})
    return folder / "old.star"


def test_files_of_relion_30_become_files_of_31(data, tmp_path):
    before = read_particles(as_relion_30(data, tmp_path))
    after = prepared(before, tmp_path / "out")
    tables = read_star(tmp_path / "out" / "particles.star")
    assert tables["optics"].number("rlnImageSize").tolist() == [NEW]
    rows = tables[after.tables.block]
    old = ("rlnMagnification", "rlnDetectorPixelSize", "rlnImageSize", *ORIGINS_PX, "rlnOriginXPrior")
    assert not set(old) & set(rows.names)
    assert rows.has("rlnOriginXPriorAngst", "rlnOpticsGroup")
    np.testing.assert_allclose(rows.number("rlnOriginYPriorAngst"), 2 * before.pixel_size.numpy())
    torch.testing.assert_close(after.pixel_size, 2 * before.pixel_size)
    torch.testing.assert_close(after.pose.shift, before.pose.shift, rtol=0, atol=1e-9)


def test_a_map_from_prepared_images_is_the_map_of_the_images(data, tmp_path):
    """Poses, shifts and CTF mean the same: low frequencies of both back-projections agree."""
    before = read_particles(data)
    after = prepared(before, tmp_path / "out", PrepareConfig(box=16, normalize="none", dtype="float32"))
    maps = [backproject_particles(each).map for each in (before, after)]
    large, small = (torch.fft.fftn(each).roll((8, 8, 8), (0, 1, 2)) for each in maps)
    low = (large[5:12, 5:12, 5:12], small[5:12, 5:12, 5:12])
    correlation = (low[0] * low[1].conj()).sum().abs() / (low[0].norm() * low[1].norm())
    # Window and Wiener filter differ between the boxes.
    assert correlation > 0.98


def test_rows_lead_back_to_the_users_file(data, tmp_path):
    chosen = read_particles(data)[[7, 3, 50]]
    first = prepared(chosen, tmp_path / "once")
    assert source_rows(first.tables).tolist() == [8, 4, 51]
    second = prepared(first[[2, 0]], tmp_path / "twice", PrepareConfig(box=8, normalize="none"))
    assert source_rows(second.tables).tolist() == [51, 8]
    assert read_source(tmp_path / "twice").path == data


def test_dark_particles_are_stored_bright(data, tmp_path):
    bright = prepared(read_particles(data), tmp_path / "bright")
    dark = prepared(read_particles(data, invert=True), tmp_path / "dark")
    torch.testing.assert_close(images_of(dark), -images_of(bright), rtol=0, atol=1e-6)


def test_flipped_phases_are_said_so(data, tmp_path):
    after = prepared(read_particles(data), tmp_path / "out", PrepareConfig(box=NEW, phase_flip=True))
    assert after.applied_ctf is not None
    assert (after.applied_ctf == AppliedCTF.SIGN).all()
    assert after.tables.optics.number("rlnCtfDataArePhaseFlipped").tolist() == [1]


def test_half_precision_and_window_are_applied_last(data, tmp_path):
    exact = PrepareConfig(box=NEW, dtype="float32")
    plain = images_of(prepared(read_particles(data), tmp_path / "32", exact))
    half = prepared(read_particles(data), tmp_path / "16", PrepareConfig(box=NEW, window=True))
    assert half.stacks[0].mode == 12
    images = images_of(half)
    assert (images[:, 0, 0] == 0).all()
    centre = slice(NEW // 2 - 2, NEW // 2 + 2)
    # Eleven bits of values below 8.
    torch.testing.assert_close(images[:, centre, centre], plain[:, centre, centre], rtol=2**-11, atol=1e-6)


def test_stacks_are_of_limited_size_and_hold_the_images_in_order(data, tmp_path, small_pieces):
    whole = prepared(read_particles(data), tmp_path / "whole")
    config = PrepareConfig(box=NEW, normalize="none", dtype="float32", shard_gib=SMALL_STACKS)
    parts = prepared(read_particles(data), tmp_path / "parts", config)
    assert [header.sections for header in parts.stacks] == [25, 25, 10]
    torch.testing.assert_close(images_of(parts), images_of(whole), rtol=0, atol=0)


def test_work_that_was_stopped_goes_on_where_it_was(data, tmp_path, small_pieces):
    config = PrepareConfig(box=NEW, dtype="float32", shard_gib=SMALL_STACKS)
    particles = read_particles(data)
    whole = prepared(particles, tmp_path / "whole", config)
    out, counted = tmp_path / "parts", []
    with pytest.raises(Interrupted, match="39 of 60"):
        # A stack of 25 is pieces of 7, 7, 7, 4; after the sixth piece 39 images are written.
        prepare(particles, out, config, stop_requested=stop_after(6))
    assert not (out / "particles.star").exists()
    assert [read_header(path).sections for path in sorted((out / "stacks").iterdir())] == [25, 14]
    (out / "stacks" / ".particles_00003.mrcs.123.part").write_bytes(b"left by a crash")

    def count(done: int, total: int, note: str = "") -> None:
        counted.append(done)

    parts = prepared(particles, out, config, resume=True, progress=count)
    assert counted[0] == 46
    assert [header.sections for header in parts.stacks] == [25, 14, 21]
    torch.testing.assert_close(images_of(parts), images_of(whole), rtol=0, atol=0)
    assert not list((out / "stacks").glob(".*"))
    again = (out / "particles.star").read_bytes()
    prepare(particles, out, config, resume=True)
    assert (out / "particles.star").read_bytes() == again


def test_only_the_same_work_is_resumed(data, tmp_path):
    particles, out = read_particles(data), tmp_path / "out"
    with pytest.raises(InputError, match="nothing to resume"):
        prepare(particles, out, EXACTLY, resume=True)
    with pytest.raises(Interrupted):
        _interrupt(particles, out)
    with pytest.raises(ConfigError, match="dtype: float32 then, float16 now"):
        prepare(particles, out, PrepareConfig(box=NEW, normalize="none"), resume=True)
    with pytest.raises(ConfigError, match="digest"):
        prepare(particles[torch.arange(COUNT).flip(0)], out, EXACTLY, resume=True)
    with pytest.raises(OutputError, match="not empty"):
        prepare(particles, out, EXACTLY)


def _interrupt(particles: ParticleSet, out: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "CHUNK_PIXELS", 7 * BOX**2)
        prepare(particles, out, EXACTLY, stop_requested=stop_after(2))


def write_set(folder: Path, pixels: np.ndarray) -> ParticleSet:
    """Images alone, of one micrograph."""
    with StackWriter(folder / "stack.mrcs", pixels.shape[-1], 2.0) as stack:
        stack.append(pixels)
    columns = {
        "rlnImageName": [f"{number}@stack.mrcs" for number in range(1, len(pixels) + 1)],
        "rlnImagePixelSize": np.full(len(pixels), 2.0),
    }
    write_star(folder / "set.star", {"particles": StarTable.from_columns(columns)})
    return read_particles(folder / "set.star")


def noise(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, BOX, BOX)).astype(np.float32)


def test_an_image_that_is_not_finite_is_named_and_nothing_half_written(tmp_path, small_pieces):
    pixels = noise()
    pixels[30, 3, 4] = np.nan
    particles = write_set(tmp_path, pixels)
    with pytest.raises(ImageDataError, match="row 31"):
        prepare(particles, tmp_path / "out", EXACTLY)
    assert not list((tmp_path / "out" / "stacks").iterdir())


def test_values_that_16_bits_cannot_hold_are_refused(tmp_path):
    pixels = noise()
    pixels[5] *= 1e6
    particles = write_set(tmp_path, pixels)
    half = PrepareConfig(box=NEW, normalize="set", dtype="float16")
    prepare(particles, tmp_path / "fine", half)  # all images share a scale that fits
    pixels[5] = 1e9
    pixels[5, 0, 0] = -1e9
    particles = write_set(tmp_path, pixels)
    with pytest.raises(ImageDataError, match="--dtype float32"):
        prepare(particles, tmp_path / "large", PrepareConfig(box=NEW, normalize="none"))
    particles = write_set(tmp_path, noise() + 3000)
    with pytest.raises(ImageDataError, match="which 16-bit floats cannot hold well"):
        prepare(particles, tmp_path / "offset", PrepareConfig(box=NEW, normalize="none"))


def test_images_are_continued_with_their_background(tmp_path):
    particles = write_set(tmp_path, noise() + 500)
    wide = prepared(particles, tmp_path / "out", PrepareConfig(box=40, pixel_size=2.0, dtype="float32"))
    images = images_of(wide)
    assert (images[:, :8] == 0).all()
    assert (images[:, -8:] == 0).all()
    assert images[:, 8:-8, 8:-8].std().item() == pytest.approx(1, abs=0.02)
    with pytest.raises(ConfigError, match="continued with"):
        prepare(particles, tmp_path / "no", PrepareConfig(box=40, pixel_size=2.0, normalize="none"))


def test_a_disk_that_is_too_small_is_noticed_before_the_work(data, tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match="Free some space"):
        prepare(read_particles(data), tmp_path / "out", EXACTLY)
    assert not (tmp_path / "out").exists()


def test_the_input_is_never_overwritten(data, tmp_path):
    particles = write_set(tmp_path, noise())
    with pytest.raises(ConfigError, match="inside"):
        prepare(particles, tmp_path, EXACTLY, overwrite=True)
    assert (tmp_path / "set.star").exists()
