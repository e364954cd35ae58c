"""Make the private environment if need be, then run the demo in it.

    python3 scripts/demo.py [options of `cryoatlas demo`]

Needs Python 3.11 or later; downloads the libraries on the first call only. Nothing outside this
folder is changed.
"""

import subprocess
import sys

import environment


def main() -> None:
    """Prepare, run ``cryoatlas demo`` with the options given, and leave with its exit status."""
    environment.prepare()
    command = [environment.PYTHON, "-m", "cryoatlas", "demo", *sys.argv[1:]]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
