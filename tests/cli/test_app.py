"""The command line turns every outcome into a message and an exit status."""

import subprocess
import sys

import pytest
from cyclopts import App

from cryoatlas import __version__
from cryoatlas.cli import app as app_module
from cryoatlas.errors import CryoAtlasError, DivergedError, MetadataError, OutputError


def run_with_verb(monkeypatch, error: BaseException | None) -> int:
    """Exit status of ``cryoatlas work --count 3`` where the verb `work` raises `error`."""

    def work(*, count: int) -> None:
        """Do some work."""
        if error is not None:
            raise error

    app = App(name="cryoatlas", suppress_keyboard_interrupt=False, result_action="return_value")
    app.command(work)
    monkeypatch.setattr(app_module, "build_app", lambda: app)
    return app_module.run(["work", "--count", "3"])


def test_success_is_status_zero(monkeypatch):
    assert run_with_verb(monkeypatch, None) == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MetadataError("row 7 of a.star: no defocus."), 2),
        (OutputError("disk full."), 2),
        (DivergedError("NaN."), 3),
    ],
)
def test_our_errors_are_one_paragraph_and_their_exit_status(
    monkeypatch, capsys, error: CryoAtlasError, status: int
):
    assert run_with_verb(monkeypatch, error) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {error}\n"


def test_long_messages_are_not_broken_into_lines(monkeypatch, capsys):
    message = "the column rlnDefocusU [Å] is missing " * 20
    run_with_verb(monkeypatch, MetadataError(message))
    assert capsys.readouterr().err == f"error: {message}\n"


def test_ctrl_c_is_status_130_and_one_line(monkeypatch, capsys):
    assert run_with_verb(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run_with_verb(monkeypatch, ZeroDivisionError("a bug"))


@pytest.mark.parametrize(
    "arguments",
    [["wrok"], ["work", "--cuont", "3"], ["work", "--count", "many"], ["work"], ["work", "3", "4"]],
)
def test_a_mistyped_command_line_says_where_to_look_and_is_status_two(monkeypatch, capsys, arguments):
    run_with_verb(monkeypatch, None)
    assert app_module.run(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "See: cryoatlas" in message
    assert message.endswith("--help\n")


def test_every_verb_has_a_file_a_function_and_a_sentence_of_help():
    app = app_module.build_app()
    for verb in (verb for verbs in app_module.VERBS.values() for verb in verbs):
        assert app[verb].help.strip(), verb


def test_python_dash_m_prints_the_version():
    done = subprocess.run(
        [sys.executable, "-m", "cryoatlas", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == __version__
