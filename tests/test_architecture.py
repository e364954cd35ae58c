"""The rooms look one way, and the house rules that a reader of the source can check hold.

Everything is read from the syntax tree, so imports inside functions count too; only those under
``if TYPE_CHECKING:`` do not, since they do not happen at run time.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cryoatlas

PACKAGE = Path(cryoatlas.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    {"shapes", "errors", "progress", "portions"},
    {"geometry", "fourier", "io"},
    {"imaging"},
    {"models", "poses", "particles"},
    {"training", "subspace"},
    {"recipes", "analysis"},
    {"cli", "web"},
)
"""From the ground up. A room may import itself and any room of a lower layer, no other of its own."""
FLOOR = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

MODULE_LINES = 600
FUNCTION_LINES = 60
"""Without its docstring."""

RESTRICTED_PICKLE_READER = "io/cryodrgn.py"
"""The one file that may know pickles: it builds plain arrays from an allow-list and runs no code."""


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def room_of(module: Path) -> str:
    """``imaging`` for imaging/ctf.py, ``errors`` for errors.py."""
    return module.relative_to(PACKAGE).with_suffix("").parts[0]


def syntax(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node except those under ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            children = child.orelse
        else:
            yield child
            children = [child]
        for inner in children:
            yield from run_time_nodes(inner)


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported, ``from a import b`` as both a and a.b."""
    for node in run_time_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written with the full name"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(tree: ast.AST) -> set[str]:
    names = (name.split(".") for name in imported_modules(tree))
    return {parts[1] for parts in names if parts[0] == "cryoatlas" and len(parts) > 1 and parts[1] in FLOOR}


def called_names(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


all_modules = pytest.mark.parametrize("module", MODULES, ids=name_of)


@all_modules
def test_every_module_has_a_room(module):
    assert room_of(module) in {*FLOOR, "__init__", "__main__"}, f"name the room {room_of(module)} in LAYERS"


@all_modules
def test_imports_go_down_only(module):
    room = room_of(module)
    if room not in FLOOR:
        return  # the package's own door, which hands out names from every room, and __main__
    beside_or_above = {
        other for other in rooms_imported(syntax(module)) if other != room and FLOOR[other] >= FLOOR[room]
    }
    assert not beside_or_above, f"{name_of(module)} must not import {sorted(beside_or_above)}"


def test_the_import_rule_sees_through_functions_but_not_through_type_checking():
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from cryoatlas.cli import app\n"
        "def late():\n    import cryoatlas.models.vae\n    from cryoatlas import training\n"
    )
    assert rooms_imported(tree) == {"models", "training"}


@all_modules
def test_the_library_does_not_print(module):
    """Results of the command line go through rich or sys.stdout in cli; the library logs."""
    assert room_of(module) == "cli" or "print" not in called_names(syntax(module))


@all_modules
def test_no_pickle_is_read(module):
    """A pickle from elsewhere can run any code, whichever function opens it."""
    tree = syntax(module)
    assert not {"pickle.load", "pickle.loads", "pickle.Unpickler"} & called_names(tree)
    if name_of(module) != RESTRICTED_PICKLE_READER:
        assert not {"pickle", "joblib", "dill", "cloudpickle"} & set(imported_modules(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
            wanted = node.arg == "weights_only"
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is wanted, f"{name_of(module)}:{node.value.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert "weights_only" in {keyword.arg for keyword in node.keywords}


@all_modules
def test_shapes_are_never_turned_into_strings(module):
    """``from __future__ import annotations`` would hide shape annotations from their checker."""
    imported = set(imported_modules(syntax(module)))
    assert not ("cryoatlas.shapes" in imported and "__future__.annotations" in imported)


@all_modules
def test_modules_and_functions_fit(module):
    assert len(module.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES
    for node in ast.walk(syntax(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            assert lines <= FUNCTION_LINES, f"{name_of(module)}:{node.lineno} {node.name} has {lines} lines"


@all_modules
def test_every_module_says_what_it_is(module):
    tree = syntax(module)
    assert ast.get_docstring(tree) or not tree.body, f"{name_of(module)} opens with no docstring"
