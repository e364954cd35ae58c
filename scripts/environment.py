"""A private environment in .venv with pinned versions: shared by demo.py and test.py.

Needs Python 3.11 or later and nothing else (only the standard library is used). A later call finds
the environment up to date and returns at once.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036, before any import or syntax that an older Python lacks
    sys.exit(
        f"error: this is Python {sys.version_info[0]}.{sys.version_info[1]}, but CryoAtlas needs Python 3.11 "
        f"or later. Install one and name it in the command, for example: python3.11 {sys.argv[0]}"
    )

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / "python"
STAMP = VENV / "cryoatlas-environment.json"
PINNED = ROOT / "constraints" / "pinned.txt"
UV = "uv==0.13.9"


def prepare(*groups: str) -> None:
    """Make .venv, or bring it up to date, so that it holds the package and what `groups` need.

    Args:
        groups: dependency groups of pyproject.toml to install besides the package's own needs.
    """
    for name in ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX"):
        os.environ.pop(name, None)
    stamp = read_stamp()
    same_python = stamp.get("python") == sys.version
    same_pins = stamp.get("pins") == pins_digest()
    if same_python and same_pins and set(groups) <= set(stamp.get("groups", [])):
        print(f"The environment {VENV} is up to date.", flush=True)
        return
    print(f"Preparing a private environment in {VENV}; remove that folder to undo it.", flush=True)
    start = time.monotonic()
    if not same_python:
        create_empty()
    install_torch()
    kept = set(stamp.get("groups", [])) if same_python and same_pins else set()
    chosen = sorted(kept | set(groups))
    libraries = pip("-c", PINNED, *wanted(chosen))
    step("Installing the other libraries, as pinned in constraints/pinned.txt", *libraries)
    step("Installing CryoAtlas itself, in place", *pip("--no-deps", "--no-build-isolation", "-e", ROOT))
    STAMP.write_text(json.dumps({"python": sys.version, "pins": pins_digest(), "groups": chosen}, indent=2))
    print(f"The environment is ready after {time.monotonic() - start:.0f} s.", flush=True)


def read_stamp() -> dict[str, Any]:
    """What an earlier call recorded; empty where there is no environment yet.

    Exits with a message if .venv is somebody else's.
    """
    if STAMP.exists() and PYTHON.exists():
        return json.loads(STAMP.read_text())
    if VENV.exists() and not STAMP.exists():
        sys.exit(
            f"error: {VENV} exists but was not made by this script, so it is left alone. Move or remove that "
            "folder and run the same command again."
        )
    return {}


def pins_digest() -> str:
    """Changes with everything that should lead to a new installation."""
    content = PINNED.read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    return hashlib.sha256(content).hexdigest()


def wanted(groups: Sequence[str]) -> list[str]:
    """The requirements of the package, of its build back end and of `groups`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    requirements = [*project["project"]["dependencies"], *project["build-system"]["requires"], "editables"]
    for group in groups:
        requirements += project["dependency-groups"][group]
    return requirements


def create_empty() -> None:
    """Make .venv with nothing in it but pip."""
    if importlib.util.find_spec("ensurepip") is None:
        sys.exit(
            "error: this Python cannot make virtual environments because its module ensurepip is missing. On "
            "Debian and Ubuntu the package python3-venv holds it: sudo apt install python3-venv"
        )
    if VENV.exists():
        shutil.rmtree(VENV)
    step(
        f"Making an empty environment for Python {platform.python_version()}",
        *(sys.executable, "-m", "venv", "--prompt", "cryoatlas", VENV),
    )
    STAMP.write_text(json.dumps({"python": sys.version}))


def install_torch() -> None:
    """Install the pinned torch first, so that nothing else chooses its build.

    On Linux the default build carries the CUDA libraries, several GB, of no use without an NVIDIA GPU.
    """
    version = next(line for line in PINNED.read_text().split() if line.startswith("torch=="))
    if installed_torch() == version.removeprefix("torch=="):
        return
    gpu = has_nvidia_gpu()
    if platform.system() != "Linux" or gpu:
        step(f"Installing PyTorch ({version}), the default build", *pip("-c", PINNED, version))
        if gpu and not torch_sees_gpu():
            print(
                "Note: this PyTorch does not see the GPU, most often because the NVIDIA driver is older than "
                "its CUDA libraries want. All will run on the CPU; docs/guide/installing.md says more.",
                flush=True,
            )
        return
    print("No NVIDIA GPU is visible: the CPU build of PyTorch will do.", flush=True)
    if step(f"Installing PyTorch ({version}+cpu)", *pip("-c", PINNED, f"{version}+cpu"), required=False):
        return
    print("The configured package sources do not hold that build; uv knows where it is.", flush=True)
    with_uv = (PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON, "--torch-backend", "cpu")
    if step("Installing uv", *pip(UV), required=False) and step(
        f"Installing PyTorch ({version}, CPU) through uv", *with_uv, "-c", PINNED, version, required=False
    ):
        return
    print("No CPU build could be had: taking the default build, a download of several GB.", flush=True)
    step(f"Installing PyTorch ({version}), the default build", *pip("-c", PINNED, version))


def installed_torch() -> str:
    """Version of torch in .venv without its build label; empty if there is none."""
    code = "from importlib.metadata import version; print(version('torch').partition('+')[0])"
    return subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def torch_sees_gpu() -> bool:
    """Whether the torch in .venv can use a GPU."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([PYTHON, "-W", "ignore", "-c", code], check=False).returncode == 0


def has_nvidia_gpu() -> bool:
    """Whether the NVIDIA driver lists a GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listing.returncode == 0 and "GPU 0" in listing.stdout


def pip(*arguments: str | Path) -> tuple[str | Path, ...]:
    """A pip command that installs into .venv: with its progress on a terminal, else errors only."""
    quiet = () if sys.stdout.isatty() else ("-qq",)
    return (PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *quiet, *arguments)


def step(title: str, *command: str | Path, required: bool = True) -> bool:
    """Run one command, saying what it does and how long it took.

    Args:
        title: what it does.
        command: program and arguments.
        required: leave with the command's exit status if it fails.

    Returns:
        Whether it succeeded.
    """
    print(f"{title} …", flush=True)
    start = time.monotonic()
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    outcome = "done" if status == 0 else f"failed (exit status {status})"
    print(f"  {outcome} after {time.monotonic() - start:.0f} s", flush=True)
    if status and required:
        sys.exit(
            f"error: this step failed: {title}. The lines above say why; run the same command to try again."
        )
    return status == 0
