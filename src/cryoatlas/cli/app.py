"""``cryoatlas VERB …``: finds the verb, runs it, and turns errors into one paragraph and an exit status.

A verb is the function `cryoatlas.cli.<verb>.<verb>`; its signature is the command line and its
docstring the help. To add one, write that file and name it in `VERBS`.

Exit status: 0 done; 1 a verb that looks for problems found some and returned them; 2 input, option or
output that cannot be used (`InputError`, `OutputError`); 3 a diverged optimisation; 130 interrupted by
Ctrl-C. Anything else that goes wrong is a fault of CryoAtlas and keeps its traceback.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from cyclopts import App, CycloptsError, Group, Parameter

from cryoatlas import __version__
from cryoatlas.cli.console import complain, start_logging
from cryoatlas.errors import CryoAtlasError

VERBS = {
    "Start here": ("demo",),
    "Particles": ("info", "prepare", "simulate"),
    "Reconstruct": ("backproject", "train", "abinit", "classify"),
    "Look and measure": ("analyze", "volumes", "score", "fsc"),
    "Take it back": ("export",),
}
PROBLEMS_STATUS = 1
USAGE_STATUS = 2
INTERRUPTED_STATUS = 130


def build_app() -> App:
    """The command line with every verb of `VERBS`."""
    app = App(
        name="cryoatlas",
        help="Continuous distributions of 3D protein structure from cryo-EM particle images.",
        version=__version__,
        version_flags="--version",
        default_parameter=Parameter(negative=()),  # --invert needs no --no-invert beside it
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for position, (title, verbs) in enumerate(VERBS.items()):
        group = Group(title, sort_key=position)
        for verb in verbs:
            app.command(getattr(import_module(f"cryoatlas.cli.{verb}"), verb), name=verb, group=group)
    return app


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line.

    Args:
        arguments: the words after ``cryoatlas``.

    Returns:
        The exit status.
    """
    start_logging()
    try:
        problems = build_app()(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        complain(f"{error} See: {' '.join(('cryoatlas', *(error.command_chain or ()), '--help'))}")
        return USAGE_STATUS
    except CryoAtlasError as error:
        complain(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        complain("interrupted before the work was done.")
        return INTERRUPTED_STATUS
    return PROBLEMS_STATUS if problems else 0


def main() -> None:
    """The ``cryoatlas`` command."""
    sys.exit(run(sys.argv[1:]))
