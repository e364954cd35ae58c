"""MRC volumes and stacks: what is written comes back, other programs' files are read, bad ones explained."""

import io
import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mrcfile.dtypes import HEADER_DTYPE

from cryoatlas.errors import CryoAtlasError, FormatError, ImageDataError, InputError, OutputError
from cryoatlas.io.mrc import StackWriter, read_header, read_images, read_volume, write_volume


def images(count: int, box: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, box, box)).astype(np.float32)


def write_stack(path: Path, pixels: np.ndarray, pixel_size: float = 2.0) -> Path:
    with StackWriter(path, pixels.shape[-1], pixel_size) as stack:
        stack.append(pixels)
    return path


def write_raw(path: Path, pixels: np.ndarray, byte_order: str = "<", **words: object) -> Path:
    """A file as an old or careless program may leave it: only what is given is in the header."""
    header = np.zeros((), HEADER_DTYPE.newbyteorder(byte_order))
    header["nz"], header["ny"], header["nx"] = pixels.shape
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["mode"] = {"i1": 0, "i2": 1, "f4": 2, "u2": 6, "f2": 12}[pixels.dtype.str[1:]]
    header["map"] = b"MAP "
    for name, value in words.items():
        header[name] = value
    path.write_bytes(header.tobytes() + pixels.astype(pixels.dtype.newbyteorder(byte_order)).tobytes())
    return path


def test_a_volume_comes_back_as_it_was_written(tmp_path):
    density = np.random.default_rng(1).standard_normal((4, 5, 6)).astype(np.float32)
    write_volume(tmp_path / "map.mrc", density, 1.35, origin=(-1.5, 2.0, 30.0))
    back = read_volume(tmp_path / "map.mrc")
    np.testing.assert_array_equal(back.array, density)
    assert (back.pixel_size, back.origin) == (1.35, (-1.5, 2.0, 30.0))


def test_an_outside_reader_finds_a_standard_volume(tmp_path):
    density = np.random.default_rng(2).standard_normal((4, 5, 6))
    write_volume(tmp_path / "map.mrc", torch.from_numpy(density), 1.25)
    assert mrcfile.validate(tmp_path / "map.mrc", print_file=io.StringIO())
    with mrcfile.open(tmp_path / "map.mrc") as file:
        assert file.is_volume()
        assert file.header.ispg == 1
        assert file.voxel_size.x == file.voxel_size.z == 1.25
        np.testing.assert_array_equal(file.data, density.astype(np.float32))


@pytest.mark.parametrize(("box", "pixel_size"), [(8, 3.0), (12, 2.0), (24, 1.0)])
def test_maps_of_one_extent_have_their_centres_at_one_point(tmp_path, box, pixel_size):
    """As an outside program places voxels: start index and origin from the header, then voxel by voxel."""
    density = np.zeros((box, box, box), np.float32)
    density[(box // 2,) * 3] = 1.0
    write_volume(tmp_path / "map.mrc", density, pixel_size)
    with mrcfile.open(tmp_path / "map.mrc") as file:
        assert file.nstart.tolist() == (0, 0, 0)
        first = np.array([file.header.origin.z, file.header.origin.y, file.header.origin.x])
        (peak,) = np.argwhere(file.data == 1)
        np.testing.assert_array_equal(first + peak * float(file.voxel_size.x), [12.0, 12.0, 12.0])


def test_an_outside_reader_finds_a_standard_stack_with_its_statistics(tmp_path):
    pixels = images(7)
    with StackWriter(tmp_path / "stack.mrcs", 6, 2.5) as stack:
        for start, stop in ((0, 3), (3, 3), (3, 7)):
            stack.append(pixels[start:stop])
    assert mrcfile.validate(tmp_path / "stack.mrcs", print_file=io.StringIO())
    with mrcfile.open(tmp_path / "stack.mrcs") as file:
        assert file.is_image_stack()
        assert file.header.ispg == 0
        assert file.voxel_size.x == 2.5
        np.testing.assert_array_equal(file.data, pixels)
        # The header holds 32-bit floats: 1e-6 is their rounding.
        assert file.header.dmin == pixels.min()
        assert file.header.dmax == pixels.max()
        np.testing.assert_allclose(file.header.dmean, pixels.mean(dtype=np.float64), rtol=1e-6)
        np.testing.assert_allclose(file.header.rms, pixels.std(dtype=np.float64), rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(order=st.lists(st.integers(0, 8), max_size=20))
def test_images_come_in_the_order_asked_for(tmp_path_factory, order):
    pixels = images(9)
    path = tmp_path_factory.mktemp("order") / "stack.mrcs"
    header = read_header(write_stack(path, pixels))
    asked = np.array(order, dtype=np.int64)
    np.testing.assert_array_equal(read_images(header, asked), pixels[asked])


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["i1", "i2", "f4", "u2", "f2"])
@pytest.mark.parametrize("stamp", [True, False])
def test_every_mode_and_byte_order_is_read(tmp_path, byte_order, dtype, stamp):
    whole = np.random.default_rng(3).integers(0, 100, (5, 6, 6))
    machst = ({"<": (0x44, 0x44, 0, 0), ">": (0x11, 0x11, 0, 0)}[byte_order]) if stamp else (0, 0, 0, 0)
    path = write_raw(tmp_path / "stack.mrcs", whole.astype(dtype), byte_order, machst=machst)
    header = read_header(path)
    assert header.byte_order == byte_order
    read = read_images(header, np.array([4, 0]))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, whole[[4, 0]])


def test_an_unmarked_stack_of_an_old_program_is_read(tmp_path):
    pixels = images(3)
    header = read_header(write_raw(tmp_path / "old.mrcs", pixels, map=b"", mapc=0, mapr=0, maps=0))
    np.testing.assert_array_equal(read_images(header, np.arange(3)), pixels)
    assert header.pixel_size is None


def test_extended_headers_are_stepped_over(tmp_path):
    pixels = images(3)
    path = write_raw(tmp_path / "stack.mrcs", pixels, nsymbt=160)
    raw = path.read_bytes()
    path.write_bytes(raw[:1024] + bytes(range(160)) + raw[1024:])
    np.testing.assert_array_equal(read_images(read_header(path), np.arange(3)), pixels)


def test_axes_stored_in_another_order_are_turned_to_zyx(tmp_path):
    density = np.random.default_rng(4).standard_normal((4, 5, 6)).astype(np.float32)
    stored = np.ascontiguousarray(density.transpose(2, 0, 1))  # sections along x, rows along z, columns y
    path = write_raw(
        tmp_path / "turned.mrc", stored, mapc=2, mapr=3, maps=1, cella=(6, 5, 4), mx=6, my=5, mz=4
    )
    np.testing.assert_array_equal(read_volume(path).array, density)


def test_start_indices_stand_in_for_an_origin_that_is_zero(tmp_path):
    density = np.zeros((4, 4, 4), np.float32)
    path = write_raw(
        tmp_path / "ccp4.mrc", density, cella=(8, 8, 8), mx=4, my=4, mz=4, nxstart=-2, nystart=1, nzstart=3
    )
    assert read_volume(path).origin == (-4.0, 2.0, 6.0)


def test_a_volume_without_cell_needs_a_pixel_size(tmp_path):
    path = write_raw(tmp_path / "map.mrc", np.ones((4, 4, 4), np.float32))
    with pytest.raises(FormatError, match="pixel size of the map is unknown"):
        read_volume(path)
    assert read_volume(path, pixel_size=3.0).pixel_size == 3.0


def test_voxels_that_are_no_cubes_are_refused(tmp_path):
    path = write_raw(tmp_path / "m.mrc", np.ones((4, 4, 4), np.float32), cella=(4, 4, 8), mx=4, my=4, mz=4)
    with pytest.raises(FormatError, match="1 × 1 × 2 Å"):
        read_volume(path)


def test_a_volume_with_a_voxel_that_is_not_finite_is_refused(tmp_path):
    density = np.ones((4, 4, 4), np.float32)
    density[1, 2, 3] = np.nan
    write_volume(tmp_path / "map.mrc", density, 1.0)
    with pytest.raises(ImageDataError, match="NaN or infinite"):
        read_volume(tmp_path / "map.mrc")


def test_a_truncated_stack_says_how_many_images_are_whole(tmp_path):
    path = write_stack(tmp_path / "stack.mrcs", images(5))
    path.write_bytes(path.read_bytes()[: 1024 + 3 * 144 + 10])
    with pytest.raises(FormatError, match=r"truncated.* 5 sections.* 3 whole"):
        read_header(path)


def test_a_stack_cut_short_during_the_work_is_noticed(tmp_path):
    path = write_stack(tmp_path / "stack.mrcs", images(5))
    header = read_header(path)
    os.truncate(path, 1024 + 3 * 144)
    with pytest.raises(FormatError, match="can no longer be read"):
        read_images(header, np.array([4]))
    path.unlink()
    with pytest.raises(FormatError, match="can no longer be read"):
        read_images(header, np.array([0]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"data_\n\nloop_\n", "not an MRC file, or was cut off"),
        (b"hello, world" * 200, "not an MRC file"),
        (bytes(4000), "not an MRC file"),
        (b"\x1f\x8b" + bytes(2000), "compressed"),
    ],
)
def test_what_is_no_mrc_file_is_refused(tmp_path, content, message):
    path = tmp_path / "thing.mrc"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_header(path)


def test_folders_and_missing_files_are_named(tmp_path):
    with pytest.raises(FormatError, match="is a folder"):
        read_header(tmp_path)
    with pytest.raises(InputError, match="there is no file"):
        read_header(tmp_path / "missing.mrcs")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_without_permission_is_named(tmp_path):
    path = write_stack(tmp_path / "stack.mrcs", images(2))
    path.chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        read_header(path)


def test_nonsense_sizes_are_refused_before_memory_is_taken(tmp_path):
    pixels = images(1)
    for words in ({"nz": 2**31 - 1}, {"nx": 60000, "ny": 60000, "nz": 2**30}):
        with pytest.raises(FormatError, match="truncated"):
            read_header(write_raw(tmp_path / "big.mrcs", pixels, **words))
    for words in ({"nx": -6}, {"nz": 0}, {"mapc": 7}, {"nsymbt": -1}):
        with pytest.raises(FormatError, match="make no sense"):
            read_header(write_raw(tmp_path / "nonsense.mrcs", pixels, machst=(0x44, 0x44, 0, 0), **words))


@pytest.mark.parametrize("mode", [3, 4, 101, 77])
def test_unsupported_modes_are_named(tmp_path, mode):
    with pytest.raises(FormatError, match=f"mode {mode} "):
        read_header(write_raw(tmp_path / "x.mrcs", images(4), mode=mode))


def test_images_that_are_not_square_are_refused(tmp_path):
    header = read_header(write_raw(tmp_path / "x.mrcs", np.ones((3, 4, 6), np.float32)))
    with pytest.raises(ImageDataError, match="6 × 4 px"):
        read_images(header, np.array([0]))


@pytest.mark.parametrize("index", [-1, 5])
def test_an_image_beyond_the_stack_is_refused(tmp_path, index):
    header = read_header(write_stack(tmp_path / "stack.mrcs", images(5)))
    with pytest.raises(ImageDataError, match="holds 5 images"):
        read_images(header, np.array([0, index]))


def test_nothing_remains_of_a_stack_whose_writing_failed(tmp_path):
    old = write_stack(tmp_path / "stack.mrcs", images(2)).read_bytes()

    def fail_after_one_image() -> None:
        with StackWriter(tmp_path / "stack.mrcs", 6, 1.0) as stack:
            stack.append(images(1))
            raise RuntimeError("the simulation failed")

    with pytest.raises(RuntimeError, match="the simulation failed"):
        fail_after_one_image()
    assert [path.name for path in tmp_path.iterdir()] == ["stack.mrcs"]
    assert (tmp_path / "stack.mrcs").read_bytes() == old


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_explained(tmp_path):
    # Writing beside /dev/full is not possible, so its own "disk full" is met through a link.
    temporary = tmp_path / f".stack.mrcs.{os.getpid()}.part"
    temporary.symlink_to("/dev/full")

    def write_much() -> None:
        with StackWriter(tmp_path / "stack.mrcs", 64, 1.0) as stack:
            for _ in range(10):
                stack.append(images(20, 64))

    with pytest.raises(OutputError, match="the disk is full"):
        write_much()
    assert not list(tmp_path.iterdir())


def test_writers_refuse_what_does_not_belong_into_the_stack(tmp_path):
    with pytest.raises(ValueError, match="inside its `with`"):
        StackWriter(tmp_path / "x.mrcs", 6, 1.0).append(images(1))
    with pytest.raises(ValueError, match="cannot take images"), StackWriter(tmp_path / "x", 4, 1.0) as stack:
        stack.append(images(1))
    with pytest.raises(ValueError, match="at least one"), StackWriter(tmp_path / "x", 4, 1.0):
        pass
    assert not list(tmp_path.iterdir())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_headers_raise_only_our_errors(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    raw = bytearray(write_stack(folder / "stack.mrcs", images(3)).read_bytes())
    for _ in range(data.draw(st.integers(0, 6))):
        raw[data.draw(st.integers(0, 255))] = data.draw(st.integers(0, 255))
    (folder / "damaged.mrcs").write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        header = read_header(folder / "damaged.mrcs")
        assert read_images(header, np.arange(header.sections)).shape[0] == header.sections
        read_volume(folder / "damaged.mrcs")
    except CryoAtlasError:
        pass


@pytest.mark.data
def test_every_shared_file_agrees_with_an_outside_reader(shared_data):
    files = sorted(shared_data.rglob("*.mrc")) + sorted(shared_data.rglob("*.mrcs"))
    assert len(files) > 10
    for path in files:
        header = read_header(path)
        chosen = np.unique(np.linspace(0, header.sections - 1, 5).astype(int))
        reference = np.memmap(path, "<f4", "r", 1024, (header.sections, header.rows, header.columns))
        np.testing.assert_array_equal(read_images(header, chosen), reference[chosen])


def test_a_stack_of_16_bit_floats_is_standard_and_comes_back_to_eleven_bits(tmp_path):
    pixels = images(5)
    with StackWriter(tmp_path / "half.mrcs", 6, 2.5, "float16") as stack:
        stack.append(pixels[:2])
        stack.append(pixels[2:])
    assert mrcfile.validate(tmp_path / "half.mrcs", print_file=io.StringIO())
    header = read_header(tmp_path / "half.mrcs")
    assert (header.mode, header.sections, header.surplus_bytes) == (12, 5, 0)
    back = read_images(header, np.arange(5))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, pixels.astype(np.float16).astype(np.float32))
