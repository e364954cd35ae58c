"""Make the private environment if need be, then run every check of the project in it.

    python3 scripts/test.py [--fast] [options of pytest]

Style (ruff), types (basedpyright), documentation (Sphinx, warnings are errors), then all tests
(pytest, in as many processes as there are cores; ``-n 0`` for one). ``--fast`` leaves out the tests marked
slow. Leaves with a status other than 0 if any fails.
"""

import os
import subprocess
import sys
import time

import environment

CODE = ("src", "tests", "benchmarks", "scripts", "docs")
# Each process works on one thread (tests/conftest.py) and takes half a gigabyte.
IN_PARALLEL = (f"--numprocesses={min(8, os.cpu_count() or 1)}", "--dist=worksteal")


def main() -> None:
    """Prepare, run all checks, say which failed."""
    arguments = sys.argv[1:]
    fast = "--fast" in arguments
    pytest_options = [argument for argument in arguments if argument != "--fast"]
    environment.prepare("dev", "docs")
    checks = {
        "style": ("ruff", "check", *CODE),
        "format": ("ruff", "format", "--check", "--quiet", *CODE),
        "types": ("basedpyright",),
        "documentation": (
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-E",
            "-b",
            "html",
            "docs",
            "docs/_build/html",
        ),
        "tests": ("pytest", *IN_PARALLEL, *(("-m", "not slow") if fast else ()), *pytest_options),
    }
    failed = [name for name, command in checks.items() if not passes(name, command)]
    if failed:
        sys.exit(f"error: failed: {', '.join(failed)}.")


def passes(name: str, command: tuple[str, ...]) -> bool:
    """Run ``python -m command`` in the private environment; its output is shown as it comes."""
    print(f"\n== {name}: {' '.join(command)}", flush=True)
    start = time.monotonic()
    run = subprocess.run([environment.PYTHON, "-m", *command], cwd=environment.ROOT, check=False)
    if name != "tests":  # pytest closes with its own line, which stays the last
        outcome = "passed" if run.returncode == 0 else "FAILED"
        print(f"{name}: {outcome} in {time.monotonic() - start:.0f} s", flush=True)
    return run.returncode == 0


if __name__ == "__main__":
    main()
