"""Selections: what numpy would choose, and nothing that could be executed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryoatlas.analysis.latent import kmeans
from cryoatlas.analysis.overview import Options, Overview, Subject
from cryoatlas.analysis.selection import Condition, group_labels, parse_conditions, where
from cryoatlas.errors import ConfigError, FormatError

IMAGES = 60
RNG = np.random.default_rng(3)
COLUMNS = {"latent0": RNG.normal(size=IMAGES), "rlnDefocusU": RNG.uniform(1e4, 2e4, IMAGES)}


def chosen(text: str) -> list[bool]:
    return where(parse_conditions(text), COLUMNS.__getitem__).tolist()


def test_thresholds_choose_what_numpy_chooses():
    z, defocus = COLUMNS["latent0"], COLUMNS["rlnDefocusU"]
    assert chosen("latent0 > 0.5") == (z > 0.5).tolist()
    assert chosen("latent0<=-.2") == (z <= -0.2).tolist()
    assert chosen("_rlnDefocusU >= 1.5e4") == (defocus >= 1.5e4).tolist()
    both = chosen("latent0 > -0.5 and latent0 < 0.5 and rlnDefocusU != 12000")
    assert both == ((np.abs(z) < 0.5) & (defocus != 12000)).tolist()


@given(
    name=st.sampled_from(["latent0", "rlnDefocusU", "band_and"]),
    comparison=st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    number=st.floats(allow_nan=False, allow_infinity=False),
)
def test_every_number_is_read_as_python_writes_it(name, comparison, number):
    assert parse_conditions(f"{name} {comparison} {number!r}") == (Condition(name, comparison, number),)


@given(st.text(max_size=40))
def test_text_that_says_something_else_is_never_read_as_a_threshold(text):
    if not any(sign in text for sign in "<>=!"):
        with pytest.raises(ConfigError, match="such as 'latent0"):
            parse_conditions(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latent0",
        "latent0 > x",
        "0.5 < latent0",
        "latent0 > 1 or latent0 < 0",
        "latent0 > 1 and",
        "a.b > 1",
        "latent0 > nan",
        "0 < latent0 < 1",
        "latent0 = 1",
        "__import__('os').remove('x') > 1",
    ],
)
def test_what_is_no_threshold_is_refused(text):
    with pytest.raises(ConfigError, match="--where takes"):
        parse_conditions(text)


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """Latents and the folder of their analysis with 4 groups and another seed than the default."""
    latents = np.random.default_rng(0).standard_normal((IMAGES, 2)).astype(np.float32)
    folder = tmp_path_factory.mktemp("run") / "analysis"
    folder.mkdir()
    blob = np.exp(-(np.linspace(-2, 2, 16) ** 2)).astype(np.float32)
    body = blob[:, None, None] * blob[:, None] * blob
    subject = Subject("run", latents, lambda z: ((2 + row[0]) * body for row in z), 16, 2.0)
    Overview(subject, Options(clusters=4, points=2, picture_px=40, seed=5), folder, "analysis").report()
    return latents, folder


def test_groups_are_those_that_analyze_wrote(analysed):
    latents, folder = analysed
    labels, origin = group_labels(latents, 4, folder)
    np.testing.assert_array_equal(labels, kmeans(latents, 4, seed=5).labels + 1)
    assert "clusters.csv" in origin
    assert set(labels.tolist()) == {1, 2, 3, 4}


def test_without_such_an_analysis_groups_are_made_as_analyze_makes_them(analysed, tmp_path):
    latents, folder = analysed
    for place, count in ((folder, 3), (tmp_path, 4)):
        labels, origin = group_labels(latents, count, place)
        np.testing.assert_array_equal(labels, kmeans(latents, count, Options().seed).labels + 1)
        assert "now" in origin


def test_groups_of_an_earlier_state_of_the_run_are_refused(analysed):
    latents, folder = analysed
    with pytest.raises(FormatError, match="other latents"):
        group_labels(latents * 1.1, 4, folder)
    with pytest.raises(FormatError, match="another state"):
        group_labels(latents[:-1], 4, folder)
