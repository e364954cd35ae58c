"""``cryoatlas info`` shows what a file holds, then what is wrong with it."""

import numpy as np
import pytest

from cryoatlas.cli.info import info
from cryoatlas.errors import InputError
from cryoatlas.io.mrc import StackWriter


@pytest.fixture
def stack(tmp_path):
    def write(pixels: np.ndarray):
        with StackWriter(tmp_path / "x.mrcs", 8, 1.5) as writer:
            writer.append(pixels)
        return tmp_path / "x.mrcs"

    return write


def test_a_good_file_is_shown_and_gives_no_problems(stack, capsys):
    assert info(stack(np.random.default_rng(0).standard_normal((5, 8, 8)))) == []
    shown = capsys.readouterr().out
    assert "MRC stack of images" in shown
    assert "8 × 8 × 5" in shown
    assert shown.endswith("nothing wrong was found\n")


def test_problems_are_shown_and_given_back(stack, capsys):
    pixels = np.random.default_rng(0).standard_normal((5, 8, 8))
    pixels[[1, 3], 0, 0] = np.nan
    problems = info(stack(pixels))
    shown = capsys.readouterr().out
    assert len(problems) == 2
    assert all(f"problem: {problem}\n" in shown for problem in problems)
    assert shown.endswith("problems found: 2\n")


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        info(tmp_path / "missing.star")
