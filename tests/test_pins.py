"""The pinned versions are a solution of what pyproject.toml asks for."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def pinned_versions() -> dict[str, str]:
    lines = (ROOT / "constraints" / "pinned.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins}


def test_every_declared_requirement_is_pinned_inside_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = project["dependency-groups"]
    declared = [*project["project"]["dependencies"], *groups["dev"], *groups["docs"]]
    pins = pinned_versions()
    for requirement in map(Requirement, [*declared, *project["build-system"]["requires"]]):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement} is not pinned: run scripts/pin.py"
        assert requirement.specifier.contains(pin), f"{requirement} excludes the pinned {pin}"
