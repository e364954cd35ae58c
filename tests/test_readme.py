"""What README and guide tell people to type is what the program takes."""

import re
import shlex
from pathlib import Path

import pytest

from cryoatlas.cli.app import VERBS, build_app
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def commands() -> list[str]:
    """Every line of a code block that starts with ``cryoatlas``, without its comment."""
    lines = [line for page in PAGES for block in code_blocks(page, "") for line in block.splitlines()]
    return sorted({line.partition("#")[0].strip() for line in lines if line.startswith("cryoatlas ")})


@pytest.mark.parametrize("command", commands())
def test_every_command_in_the_documentation_is_understood(command):
    app = build_app()
    app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)


def test_the_documentation_shows_every_verb():
    shown = {shlex.split(command)[1] for command in commands()}
    mentioned = {verb for page in PAGES for verb in re.findall(r"`cryoatlas (\w+)", text_of(page))}
    assert {verb for verbs in VERBS.values() for verb in verbs} <= shown | mentioned


def test_the_story_of_the_readme_runs(tmp_path, monkeypatch):
    config = SimulationConfig("linear1d", images=40, box=16, snr=1.0, states=4, ctf=True)
    simulate(config, tmp_path / "data")
    (tmp_path / "run_data.star").write_text(
        (tmp_path / "data" / "truth" / "particles.star").read_text().replace("@../", "@data/")
    )
    monkeypatch.chdir(tmp_path)
    (story,) = code_blocks(ROOT / "README.md", "python")
    names: dict[str, object] = {}
    exec(compile(story, "README.md", "exec"), names)
    assert names["z"].shape == (40, 8)
    assert names["volume"].shape == (16, 16, 16)
    assert (tmp_path / "state.mrc").exists()
    assert (tmp_path / "run" / "particles.star").exists()
