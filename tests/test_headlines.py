"""No headline number has become worse than its bound (benchmarks/headlines.toml)."""

import pytest
from benchmarks.headlines import HEADLINES, recorded, worse


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADLINES)
def test_no_headline_number_is_worse_than_its_bound(name, tmp_path):
    bounds = recorded()[name]
    found = HEADLINES[name](tmp_path)
    assert set(found) == set(bounds)
    broken = {number: value for number, value in found.items() if worse(value, **bounds[number])}
    assert not broken


@pytest.mark.parametrize(
    ("value", "measured", "worst", "expected"),
    [
        (4.0, 3.3, 5.0, False),
        (5.1, 3.3, 5.0, True),
        (0.9, 0.95, 0.8, False),
        (0.7, 0.95, 0.8, True),
        (float("nan"), 3.3, 5.0, True),
    ],
)
def test_a_bound_lies_on_the_bad_side_of_what_was_measured(value, measured, worst, expected):
    assert worse(value, measured, worst) is expected


def test_every_headline_has_bounds():
    assert set(recorded()) == set(HEADLINES)
