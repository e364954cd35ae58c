"""``cryoatlas fsc``: the table, the resolutions, the files, and maps that cannot be compared."""

import numpy as np
import pytest

from cryoatlas.analysis.fsc import fourier_shell_correlation
from cryoatlas.cli.fsc import fsc
from cryoatlas.errors import InputError, MetadataError, OutputError
from cryoatlas.io.mrc import write_volume

BOX = 16


@pytest.fixture
def maps(tmp_path):
    """Two maps that agree at low frequency only."""
    generator = np.random.default_rng(0)
    smooth = generator.standard_normal((4, 4, 4)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    arrays = [(smooth + 0.4 * generator.standard_normal((BOX,) * 3)).astype(np.float32) for _ in range(2)]
    paths = [tmp_path / "a.mrc", tmp_path / "b.mrc"]
    for path, array in zip(paths, arrays, strict=True):
        write_volume(path, array, 2.0)
    return paths, arrays


def test_the_table_has_every_shell_and_the_resolutions_follow(maps, capsys):
    paths, arrays = maps
    fsc(*paths)
    lines = capsys.readouterr().out.splitlines()
    curve = fourier_shell_correlation(*arrays)
    shown = [line.split() for line in lines[2:-2]]
    assert [int(row[0]) for row in shown] == list(range(BOX // 2 + 1))
    np.testing.assert_allclose([float(row[3]) for row in shown], curve, atol=1e-4)
    assert float(shown[4][2]) == pytest.approx(BOX * 2.0 / 4)
    assert lines[-2].startswith("FSC 0.5: ")
    assert lines[-1].startswith("FSC 0.143: ")


def test_a_map_with_itself_is_at_nyquist_or_better(maps, capsys):
    paths, _ = maps
    fsc(paths[0], paths[0])
    assert "FSC 0.143: 4.00 Å (2.00 px) or better" in capsys.readouterr().out


def test_a_mask_is_applied_to_both(maps, tmp_path, capsys):
    paths, arrays = maps
    mask = np.zeros((BOX,) * 3, dtype=np.float32)
    mask[4:12, 4:12, 4:12] = 1
    write_volume(tmp_path / "mask.mrc", mask, 2.0)
    fsc(*paths, mask=tmp_path / "mask.mrc")
    shown = [line.split() for line in capsys.readouterr().out.splitlines()[2:-2]]
    expected = fourier_shell_correlation(*arrays, mask)
    np.testing.assert_allclose([float(row[3]) for row in shown], expected, atol=1e-4)


def test_the_folder_holds_the_table_and_the_plot_and_is_not_replaced_unasked(maps, tmp_path):
    paths, arrays = maps
    fsc(*paths, out=tmp_path / "out")
    table = np.loadtxt(tmp_path / "out" / "fsc.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(table[:, 2], fourier_shell_correlation(*arrays), atol=1e-6)
    np.testing.assert_allclose(table[:, 1], np.arange(BOX // 2 + 1) / (BOX * 2.0), atol=1e-5)
    assert (tmp_path / "out" / "fsc.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputError, match="not empty"):
        fsc(*paths, out=tmp_path / "out")
    fsc(*paths, out=tmp_path / "out", overwrite=True)


@pytest.mark.parametrize(
    ("shape", "pixel_size", "message"),
    [((12, 12, 12), 2.0, "12 × 12 × 12"), ((BOX,) * 3, 2.1, "2.1 Å"), ((BOX, BOX, 8), 2.0, "8 × 16 × 16")],
)
def test_maps_on_different_grids_are_refused(maps, tmp_path, shape, pixel_size, message):
    (first, _), _ = maps
    write_volume(tmp_path / "other.mrc", np.ones(shape, dtype=np.float32), pixel_size)
    with pytest.raises(MetadataError, match=message):
        fsc(first, tmp_path / "other.mrc")
    with pytest.raises(MetadataError, match=message):
        fsc(first, first, mask=tmp_path / "other.mrc")


def test_a_first_map_that_is_no_cube_is_refused(tmp_path):
    write_volume(tmp_path / "slab.mrc", np.ones((8, BOX, BOX), dtype=np.float32), 2.0)
    with pytest.raises(MetadataError, match="cube"):
        fsc(tmp_path / "slab.mrc", tmp_path / "slab.mrc")


def test_a_missing_map_is_named(tmp_path):
    with pytest.raises(InputError, match=r"missing\.mrc"):
        fsc(tmp_path / "missing.mrc", tmp_path / "missing.mrc")
