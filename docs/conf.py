"""Sphinx configuration. Build with: python -m sphinx -W -b html docs docs/_build/html"""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import cryoatlas

project = "CryoAtlas"
author = "CryoAtlas developers"
copyright = "2026, CryoAtlas developers"
release = version = cryoatlas.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"CryoAtlas {release}"
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3

default_role = "literal"  # `name` in a docstring is code, not a cross-reference that may be missing
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False

LITERAL = re.compile(r"(``[^`]+``|`[^`]+`)")
REFERENCE = re.compile(r"\||(?<=\w)_(?!\w)")
BLOCK_START = re.compile(r"^\s*(\.\. \w+::.*|.*::)$")


class Room(SphinxDirective):
    """``.. room:: imaging`` documents every module of a room, so that none is forgotten."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A section for each module."""
        room = self.arguments[0]
        folder = Path(cryoatlas.__file__).parent / room
        modules = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
        names = [f"cryoatlas.{room}.{module}" for module in modules]
        sections = [f"{name}\n{'-' * len(name)}\n\n.. automodule:: {name}\n" for name in names]
        return self.parse_text_to_nodes("\n".join(sections), allow_section_headings=True)


def protect_mathematics(
    app: object, what: str, name: str, obj: object, options: dict[str, Any], lines: list[str]
) -> None:
    """Escape |k| and state_… in a docstring, which reStructuredText would take for references.

    Code between backticks and indented blocks (``.. math::``, ``::``) are left as they are.
    """
    block_indent: int | None = None
    for index, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if block_indent is not None and line.strip() and indent <= block_indent:
            block_indent = None
        if block_indent is None and BLOCK_START.match(line):
            block_indent = indent
        elif block_indent is None:
            parts = LITERAL.split(line)
            lines[index] = "".join(p if p.startswith("`") else REFERENCE.sub(r"\\\g<0>", p) for p in parts)


def keep_colons(
    app: object, what: str, name: str, obj: object, options: dict[str, Any], lines: list[str]
) -> None:
    """Keep napoleon from taking the words before a colon for the type of an attribute or property."""
    if what in ("attribute", "data", "property"):
        lines.insert(0, "\\")  # an escaped line end: nothing, in a first line without a colon


def setup(app: Any) -> None:
    """Register the above: one hook runs before napoleon's, one after."""
    app.add_directive("room", Room)
    app.connect("autodoc-process-docstring", keep_colons, priority=100)
    app.connect("autodoc-process-docstring", protect_mathematics, priority=900)
