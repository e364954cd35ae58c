"""Write constraints/pinned.txt from the environment that runs this script.

Run it in an environment where all tests pass: it records the versions of everything the package,
its tests and its documentation need, directly or not, and nothing else that happens to be installed.

    .venv/bin/python scripts/pin.py
"""

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PINNED = ROOT / "constraints" / "pinned.txt"
HEADER = """\
# Versions that all tests pass with, Python 3.11 and later. Written by scripts/pin.py.
# Used by scripts/demo.py, scripts/test.py and .ci/run; pyproject.toml itself keeps wide ranges.
"""


def declared_requirements() -> list[str]:
    """What pyproject.toml asks for: the package, the groups dev and docs, the build back end."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    return [
        *project["project"]["dependencies"],
        *groups["dev"],
        *groups["docs"],
        *project["build-system"]["requires"],
        "editables",  # what the build back end needs for an editable installation
    ]


def closure(requirements: list[str]) -> dict[str, str]:
    """Canonical name → installed version of everything that `requirements` pull in."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        distribution = metadata.distribution(name)
        # A local label such as +cpu names a build, not a version: the pin must fit every build.
        versions[name] = distribution.version.partition("+")[0]
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            needs = [Requirement(text) for text in distribution.requires or []]
            waiting += [need for need in needs if not need.marker or need.marker.evaluate({"extra": extra})]
    return versions


def main() -> None:
    """Write the file."""
    lines = [f"{name}=={version}\n" for name, version in sorted(closure(declared_requirements()).items())]
    PINNED.write_text(HEADER + "".join(lines))
    print(f"{len(lines)} versions written to {PINNED.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
