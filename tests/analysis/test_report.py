"""The report: one file, nothing fetched, well-formed, safe, with every picture in it once."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from cryoatlas.analysis.report import (
    Beside,
    Card,
    Figure,
    Files,
    Frame,
    Gallery,
    Picture,
    Report,
    Row,
    Section,
    Table,
    Text,
    Viewer,
    report_html,
    write_report,
)

VOID = {"meta", "img", "input", "br", "link"}


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 4)).astype(np.uint8)


PLOT = Figure(
    '<svg viewBox="0 0 1 1"><g data-mark="path-0"/><g data-mark="cluster-0"/></svg>', "a plot", "why"
)


def full_report() -> Report:
    viewer = Viewer(
        [Frame(f"state {n}", [picture(2 * n), picture(2 * n + 1)], f"path-{n}") for n in range(3)],
        ("front", "side"),
        ("start", "end"),
        PLOT,
    )
    gallery = Gallery([Card("group 1", "30 images", picture(20), (0.2, 0.4, 0.6), "cluster-0")])
    blocks = [
        viewer,
        Beside(gallery, PLOT),
        Row([Picture(picture(21), "slices", "caption"), Text("a sentence")]),
        Table(("measure", "value"), [("resolution", "2.0 px")], "what it means"),
        Files([("volumes/a.mrc", "a map")]),
    ]
    return Report(
        title="run",
        lead="What was done.",
        facts=[("images", "5,000")],
        sections=[Section("The motion", "Look.", blocks)],
        command="cryoatlas train",
        terms=[("z", "a coordinate")],
    )


class Balance(HTMLParser):
    """Follows the nesting of tags."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def parsed(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_the_page_is_well_formed_and_fetches_nothing():
    page = report_html(full_report())
    parser = parsed(page)
    for name, value in parser.attributes:
        if name in ("src", "href", "srcset", "action") and value:
            assert value.startswith(("data:image/png;base64,", "#")), f"{name}={value[:60]}"
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|https?://", page)


def test_every_picture_is_in_the_page_once():
    page = report_html(full_report())
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(images) == len(set(images)) == 3 * 2 + 2


def test_every_light_has_its_mark():
    page = report_html(full_report()).split("<script>")[0]
    marks = set(re.findall(r'data-mark="([^"]+)"', page))
    assert {"path-0", "cluster-0"} <= marks
    lights = set(re.findall(r'data-lights="([^"]+)"', page))
    assert lights == {"path-0", "path-1", "path-2", "cluster-0"}


def test_everything_said_is_in_the_page():
    page = report_html(full_report())
    for text in ("run", "What was done.", "5,000", "The motion", "Look.", "front", "start", "30 images",
                 "caption", "a sentence", "2.0 px", "what it means", "volumes/a.mrc", "a coordinate",
                 "cryoatlas train"):  # fmt: skip
        assert text in page


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '" onload="alert(1)', "a & b < c"])
def test_text_from_files_cannot_become_markup(text):
    report = Report(
        title=text,
        lead=text,
        facts=[(text, text)],
        sections=[
            Section(
                text,
                text,
                [
                    Table((text,), [(text, text)], text),
                    Files([(text, text)]),
                    Viewer([Frame(text, [picture(0)], "path-0")], [text], (text, text)),
                    Gallery([Card(text, text, picture(1), (0.0, 0.0, 0.0), "cluster-0")]),
                ],
            )
        ],
        command=text,
        terms=[(text, text)],
    )
    page = report_html(report)
    parser = parsed(page)
    assert text not in page
    assert not any(name.startswith("on") for name, _ in parser.attributes)


def test_alternative_texts_say_what_is_to_be_seen():
    page = report_html(full_report())
    assert 'alt="state 1, side"' in page
    assert 'aria-label="a plot"' in page


def test_the_file_is_the_page(tmp_path):
    write_report(tmp_path / "report.html", full_report())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == report_html(full_report())
