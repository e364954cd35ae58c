"""Every convention of docs/conventions.md names tests, and the tests it names exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def sections() -> dict[str, str]:
    """Heading → text of each convention."""
    text = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return {part.split("\n", 1)[0]: part for part in parts}


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_conventions_are_numbered_without_gaps():
    numbers = [heading.split(".")[0] for heading in sections()]
    assert numbers == [f"C{number}" for number in range(1, len(numbers) + 1)]


@pytest.mark.parametrize("heading", sections())
def test_each_convention_names_tests_that_exist(heading):
    named = NAMED_TEST.findall(sections()[heading])
    assert named, f"no test holds {heading}"
    for file, test in named:
        assert (ROOT / file).is_file(), f"{heading} names {file}, which does not exist"
        assert test in functions_of(ROOT / file), f"{heading} names {test}, which is not in {file}"


def test_conventions_cited_in_the_source_exist():
    """As in "convention C3" or "(C1, C5)"."""
    known = {heading.split(".")[0] for heading in sections()}
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        cited = re.findall(r"conventions? (C\d+)", text)
        cited += [name for names in re.findall(r"\((C\d+(?:, C\d+)*)\)", text) for name in names.split(", ")]
        assert set(cited) <= known, f"{path.name} cites {sorted(set(cited) - known)}"
