"""Benchmarks leave behind what is needed to repeat them."""

import json

import pytest
from benchmarks import common


def test_a_record_is_a_table_and_a_json_file_with_the_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "ROOT", tmp_path)
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    rows = [
        {"method": "ours", "seconds": 1.23456, "seed": 1},
        {"method": "theirs", "seconds": None, "seed": 1},
    ]
    path = common.record("speed/race", rows, command="race --seed 1")
    assert path == tmp_path / "results" / "speed" / "race.json"
    content = json.loads(path.read_text())
    assert content["rows"] == rows
    assert content["facts"] == {"command": "race --seed 1"}
    assert content["machine"]["versions"]["torch"]
    assert content["machine"]["cores"] >= 1
    assert "ours    1.235" in capsys.readouterr().out


@pytest.mark.parametrize(("value", "cell"), [(1234567.0, "1.235e+06"), (12, "12"), (None, "–"), ("a", "a")])
def test_numbers_are_shown_to_four_digits(value, cell):
    assert common.format_value(value) == cell
