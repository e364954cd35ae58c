"""The table of behaviours in docs/dev/testing.md is whole, and names tests that exist and run by default."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
ROW = re.compile(r"^\| (\d+) \| [^|]+ \| (.+) \|$", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs" / "dev" / "testing.md").read_text(encoding="utf-8"))


def test_there_are_thirteen_behaviours():
    assert [int(number) for number, _ in ROWS] == list(range(1, 14))


@pytest.mark.parametrize(("number", "tests"), ROWS, ids=[number for number, _ in ROWS])
def test_each_behaviour_names_tests_that_need_nothing_special(number, tests):
    named = NAMED_TEST.findall(tests)
    assert len(named) == tests.count("`") // 2 > 0
    for file, test in named:
        functions = {
            node.name: [ast.unparse(decorator) for decorator in node.decorator_list]
            for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef)
        }
        assert test in functions, f"row {number} names {test}, which is not in {file}"
        special = ("mark.slow", "mark.data", "mark.gpu", "mark.skip")
        assert not [mark for mark in functions[test] if any(name in mark for name in special)]
