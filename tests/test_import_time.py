"""``import cryoatlas`` and ``--help`` load no heavy library, which is what keeps them fast.

Times are measured by benchmarks/speed/startup.py; here only their cause is tested, which does not
depend on how busy the machine is.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import cryoatlas

HEAVY = {"torch", "numpy", "scipy", "sklearn", "matplotlib", "roma", "finufft", "gemmi", "pandas"}
CLI_MODULES = sorted(path.stem for path in (Path(cryoatlas.__file__).parent / "cli").glob("*.py"))

REPORT = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_check_would_notice_a_heavy_import():
    assert modules_after("import numpy") & HEAVY == {"numpy"}


def test_importing_the_package_loads_nothing_heavy():
    assert not modules_after("import cryoatlas") & HEAVY


def test_asking_for_help_loads_nothing_heavy():
    code = "import sys\nfrom cryoatlas.cli.app import run\nassert run(['--help']) == 0"
    assert not modules_after(code) & HEAVY


@pytest.mark.parametrize("module", CLI_MODULES)
def test_the_file_of_a_verb_loads_nothing_heavy(module):
    assert not modules_after(f"import cryoatlas.cli.{module}") & HEAVY
