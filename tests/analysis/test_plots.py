"""Figures: what they show, and that their SVG and PNG can stand in a page and in a folder."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from cryoatlas.analysis import plots
from cryoatlas.analysis.figures import SLICE_GAP, save_figure, slice_picture, to_png, to_svg

RNG = np.random.default_rng


def scatter(**options):
    plane = RNG(0).standard_normal((300, 2))
    return plots.scatter_figure(plane, ("one", "two"), **options)


def every_figure():
    curve = np.linspace(1, 0, 17)
    log = [{"epoch": epoch, "misfit": 5.0 - epoch, "kl": 0.1 * epoch} for epoch in range(4)]
    yield "histogram", plots.histogram_figure(RNG(0).standard_normal(300))
    yield "scatter", scatter()
    yield "coloured", scatter(colouring=plots.Colouring("angle", RNG(1).uniform(0, 360, 300), cyclic=True))
    yield "variance", plots.variance_figure(np.array([0.7, 0.2, 0.1]))
    yield "fsc", plots.fsc_figure({"a": curve, "b": curve**2}, 32, 3.0, (curve**2, curve))
    yield "training", plots.training_figure(log)
    yield "resolution", plots.resolution_figure(RNG(0).uniform(2, 6, 50), 3.0)


@pytest.mark.parametrize(("name", "figure"), list(every_figure()))
def test_every_figure_is_one_svg_element_in_the_pages_ink_with_no_size_of_its_own(name, figure):
    svg = to_svg(figure)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "viewBox" in root.attrib
    assert not {"width", "height"} & set(root.attrib)
    assert "var(--ink)" in svg
    assert not {"#010101", "#626262"} & set(svg.split("fill: "))
    links = [value for node in root.iter() for key, value in node.attrib.items() if key.endswith("href")]
    assert all(link.startswith(("#", "data:")) for link in links), "nothing is fetched"


def test_marks_of_groups_and_path_can_be_found_in_the_svg():
    labels = np.arange(300) % 3
    marks, path = np.zeros((3, 2)), np.zeros((4, 2))
    figures = [
        scatter(labels=labels, marks=marks, path=path),
        plots.histogram_figure(RNG(0).standard_normal(300), labels, np.zeros(3), np.zeros(4)),
    ]
    for figure in figures:
        svg = to_svg(figure)
        for mark in ("cluster-0", "cluster-2", "path-0", "path-3"):
            assert svg.count(f'data-mark="{mark}"') == 1
        assert ">3<" in svg.replace(" ", ""), "groups are numbered from 1"


def test_a_histogram_counts_every_image_once():
    labels = np.arange(500) % 4
    figure = plots.histogram_figure(np.linspace(-1, 1, 500), labels)
    heights = sum(patch.get_height() for patch in figure.axes[0].patches)
    assert heights == pytest.approx(500, abs=2)  # the outermost 0.1 % on each side lie beyond the axis


def test_large_clouds_are_thinned_evenly():
    figure = plots.scatter_figure(RNG(0).standard_normal((50_000, 2)), ("one", "two"))
    shown = len(figure.axes[0].collections[0].get_offsets())
    assert plots.MOST_POINTS / 2 < shown <= plots.MOST_POINTS


def test_the_fsc_axis_is_labelled_with_the_period():
    figure = plots.fsc_figure({"a": np.linspace(1, 0, 17)}, 32, 2.5)
    axes = figure.axes[0]
    for place, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        assert float(label.get_text()) == pytest.approx(1 / place, rel=0.01)
    assert axes.get_xlim()[1] == pytest.approx(1 / 5)  # Nyquist of 2.5 Å


def test_epochs_with_a_growing_band_are_dashed_and_the_others_solid():
    log = [{"event": "start"}] + [
        {"epoch": epoch, "misfit": float(epoch), "kl": 0.0, "band_px": min(8 + 4 * epoch, 16)}
        for epoch in range(6)
    ]
    (axes,) = plots.training_figure(log).axes  # no KL divergence: one panel
    solid, dashed = axes.get_lines()
    np.testing.assert_array_equal(solid.get_xdata(), [3, 4, 5, 6])
    np.testing.assert_array_equal(dashed.get_xdata(), [1, 2, 3])
    assert solid.get_linestyle() == "-"
    assert dashed.get_linestyle() == "--"


def test_a_log_without_epochs_has_no_training_figure():
    assert plots.training_figure([{"event": "start"}]) is None


def test_group_colours_are_distinct_and_grow_lighter():
    colours = np.array(plots.cluster_colours(8))
    assert np.all(np.diff(colours @ [0.2126, 0.7152, 0.0722]) > 0.02)
    assert len(plots.cluster_colours(1)) == 1


def test_a_saved_figure_is_on_white(tmp_path):
    save_figure(scatter(), tmp_path / "a.png")
    np.testing.assert_array_equal(imread(tmp_path / "a.png")[0, 0], 1)


def test_a_png_holds_the_picture(tmp_path):
    picture = RNG(0).integers(0, 256, (9, 7, 4)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(to_png(picture))
    np.testing.assert_array_equal((imread(tmp_path / "a.png") * 255).round(), picture)


def test_slices_are_across_z_y_and_x_with_y_up():
    """A blob at x = +4, y = +2, z = 0 of a box of 16: right and up of the middle across z."""
    z, y, x = np.mgrid[-8:8, -8:8, -8:8]
    volume = np.exp(-((x - 4) ** 2 + (y - 2) ** 2 + z**2) / 1.5).astype(np.float32)
    picture = slice_picture(volume, panel=160)
    assert picture.shape == (160, 3 * 160 + 2 * SLICE_GAP, 4)
    cover = picture[:, :160, 0].astype(float)
    places = (np.arange(160) + 0.5) / 10
    right, up = cover.sum(0) @ places / cover.sum(), 16 - cover.sum(1) @ places / cover.sum()
    assert (right, up) == pytest.approx((12.5, 10.5), abs=0.2)  # middles of voxels 12 and 10
    assert picture[:, 160 + SLICE_GAP :, 0].max() < 128, "the other sections pass the blob at a distance"
    assert picture[0, 161, 3] == 0, "the gap is transparent"
