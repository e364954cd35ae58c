"""Rates and times left, and what progress prints where there is no terminal."""

import logging

from cryoatlas.cli import console
from cryoatlas.cli.console import RateMeter, clock_time


class FakeClock:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_rate_follows_the_last_seconds_not_the_whole_run():
    clock = FakeClock()
    meter = RateMeter("images", clock)
    meter.describe(0, 10_000)
    clock.now += 1000
    meter.describe(100, 10_000)  # slow: 0.1 images/s
    for _ in range(30):
        clock.now += 1
        text = meter.describe(int(100 + 50 * (clock.now - 1100)), 10_000)
    assert text == "1,600 of 10,000 images, 50 images/s, 2:48 left"


def test_a_resumed_run_counts_its_rate_from_where_it_resumed():
    clock = FakeClock()
    meter = RateMeter("images", clock)
    assert meter.describe(5000, 6000) == "5,000 of 6,000 images"
    clock.now += 10
    assert meter.describe(5020, 6000) == "5,020 of 6,000 images, 2 images/s, 8:10 left"


def test_a_new_phase_has_a_rate_of_its_own():
    clock = FakeClock()
    meter = RateMeter("images", clock)
    for done in (0, 100, 200):
        meter.describe(done, 200)
        clock.now += 0.1
    assert meter.describe(0, 200) == "0 of 200 images"  # the same images once more
    clock.now += 1
    assert meter.describe(5, 200) == "5 of 200 images, 5 images/s, 0:39 left"
    assert meter.describe(5, 1000) == "5 of 1,000 images"


def test_clock_time_reads_as_on_a_clock():
    assert [clock_time(seconds) for seconds in (0.0, 59.6, 61.0, 3599.0, 3661.0)] == [
        "0:00",
        "1:00",
        "1:01",
        "59:59",
        "1:01:01",
    ]


def test_without_a_terminal_progress_prints_only_now_and_then(monkeypatch, capsys):
    clock = FakeClock()
    monkeypatch.setattr(console.time, "monotonic", clock)
    meter = RateMeter("images", clock)
    report = console._occasional_lines("simulating", meter)
    for done in range(0, 101, 10):
        report(done, 100, "state 1")
        clock.now += 10
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" of ")[0] for line in lines] == [f"simulating: {done}" for done in (30, 60, 90, 100)]
    assert all(line.endswith(", state 1") for line in lines)


def test_progress_hands_out_a_callback_that_reports(capsys):
    with console.progress("reading", "files") as report:
        report(1, 2)
        report(2, 2)
    assert capsys.readouterr().err.startswith("reading: 2 of 2 files")


def test_library_log_records_appear_on_stderr_with_their_level(capsys):
    console.start_logging()
    logging.getLogger("cryoatlas.test").info("wrote 3 maps")
    logging.getLogger("cryoatlas.test").warning("check the pixel size")
    logging.getLogger("cryoatlas").handlers = []
    assert capsys.readouterr().err.splitlines() == ["wrote 3 maps", "warning: check the pixel size"]
