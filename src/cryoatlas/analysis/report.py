"""The report of a run: one HTML file with everything in it, which opens with no network.

A `Report` is a title, facts and sections; a section is a heading, a sentence of explanation and
blocks (a viewer that steps through volumes, a gallery, figures, tables, a list of files). Each block
knows its own HTML; `report.css` and `report.js` beside this file hold look and behaviour. Without
JavaScript, and on paper, everything is still there: the viewer shows all its frames as a strip.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Protocol, runtime_checkable

from cryoatlas import __version__
from cryoatlas.analysis.figures import to_png
from cryoatlas.io.output import write_text
from cryoatlas.shapes import Array


@runtime_checkable
class Block(Protocol):
    """Anything that can stand in a section."""

    def html(self) -> str:
        """The block as HTML."""
        ...


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str

    def html(self) -> str:
        """A paragraph."""
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Figure:
    """A plot with its caption."""

    svg: str
    """From `figures.to_svg`."""
    alt: str
    """What the plot shows, for those who cannot see it."""
    caption: str = ""

    def html(self) -> str:
        """A figure element."""
        caption = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        return f'<figure class="plot" role="img" aria-label="{escape(self.alt)}">{self.svg}{caption}</figure>'


@dataclass(frozen=True)
class Picture:
    """An image with its caption."""

    picture: Array
    """Rows, columns, RGBA."""
    alt: str
    caption: str = ""

    def html(self) -> str:
        """A figure element."""
        caption = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        return f'<figure class="picture">{_image(self.picture, self.alt)}{caption}</figure>'


@dataclass(frozen=True)
class Frame:
    """One volume of a viewer."""

    label: str
    pictures: Sequence[Array]
    """The volume from each of the viewer's sides."""
    mark: str = ""
    """Mark of the figure that belongs to it, such as ``path-3``."""


@dataclass(frozen=True)
class Viewer:
    """Large pictures of one volume at a time, with a slider to step through volumes."""

    frames: Sequence[Frame]
    sides: Sequence[str]
    """What each picture of a frame shows, such as ``front``."""
    ends: tuple[str, str] = ("", "")
    """What lies at the left and right end of the slider."""
    aside: Figure | None = None
    """A figure beside the pictures, whose marks follow the slider."""
    closed: bool = False
    """The last frame is followed by the first, as when a body turns round."""

    def html(self) -> str:
        """Stage, slider and the strip that holds all frames."""
        stage = "".join(
            f'<figure><img class="shown" alt=""><figcaption>{escape(side)}</figcaption></figure>'
            for side in self.sides
        )
        strip = "".join(self._strip_entry(number, frame) for number, frame in enumerate(self.frames))
        aside = f'<div class="aside">{self.aside.html()}</div>' if self.aside else ""
        return (
            f'<div class="viewer"{" data-closed" if self.closed else ""} tabindex="0" role="group" '
            'aria-label="volumes, one at a time; arrow keys step">'
            f'<div class="stage-row"><div class="stage">{stage}</div>{aside}</div>'
            '<div class="controls"><button type="button" class="play" aria-label="play">▶</button>'
            f'<span class="end">{escape(self.ends[0])}</span>'
            f'<input type="range" min="0" max="{len(self.frames) - 1}" value="0" step="1" '
            'aria-label="which volume">'
            f'<span class="end">{escape(self.ends[1])}</span></div>'
            f'<p class="label" aria-live="polite"></p><div class="strip">{strip}</div></div>'
        )

    def _strip_entry(self, number: int, frame: Frame) -> str:
        images = "".join(
            _image(picture, f"{frame.label}, {side}")
            for side, picture in zip(self.sides, frame.pictures, strict=True)
        )
        return (
            f'<button type="button" class="frame" data-number="{number}" data-lights="{escape(frame.mark)}" '
            f'data-label="{escape(frame.label)}">{images}<span>{number + 1}</span></button>'
        )


@dataclass(frozen=True)
class Card:
    """A picture with a number, in a gallery."""

    title: str
    note: str
    picture: Array
    colour: tuple[float, float, float]
    mark: str = ""
    """Mark of a figure that lights up with the card, such as ``cluster-0``."""


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, each lighting its mark in the figures."""

    cards: Sequence[Card]

    def html(self) -> str:
        """A grid of cards."""
        return f'<div class="gallery">{"".join(map(self._card, self.cards))}</div>'

    def _card(self, card: Card) -> str:
        colour = "#" + "".join(f"{round(255 * channel):02x}" for channel in card.colour)
        return (
            f'<figure class="card" tabindex="0" data-lights="{escape(card.mark)}" '
            f'style="--own:{colour}">{_image(card.picture, card.title)}'
            f"<figcaption><b>{escape(card.title)}</b><span>{escape(card.note)}</span></figcaption></figure>"
        )


@dataclass(frozen=True)
class Table:
    """Rows of text under a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def html(self) -> str:
        """A table; the first column names the row."""
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in self.head)
        body = "".join(
            f'<tr><th scope="row">{escape(row[0])}</th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
            + "</tr>"
            for row in self.rows
        )
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        return (
            f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )


@dataclass(frozen=True)
class Row:
    """Blocks side by side where there is room."""

    blocks: Sequence[Block]

    def html(self) -> str:
        """A row that wraps on narrow screens."""
        return f'<div class="row">{"".join(block.html() for block in self.blocks)}</div>'


@dataclass(frozen=True)
class Beside:
    """A wide block with a narrower one beside it, which stays in view while the wide one scrolls."""

    wide: Block
    narrow: Block

    def html(self) -> str:
        """Two columns, one on narrow screens."""
        return f'<div class="beside"><div>{self.wide.html()}</div><div>{self.narrow.html()}</div></div>'


@dataclass(frozen=True)
class Files:
    """What was written, and what it is for."""

    entries: Sequence[tuple[str, str]]
    """Path and description."""

    def html(self) -> str:
        """A definition list."""
        entries = "".join(
            f"<dt><code>{escape(path)}</code></dt><dd>{escape(about)}</dd>" for path, about in self.entries
        )
        return f'<dl class="files">{entries}</dl>'


@dataclass(frozen=True)
class Section:
    """A heading, what the reader is looking at, and the blocks."""

    title: str
    intro: str
    blocks: Sequence[Block]

    def html(self, anchor: str) -> str:
        """A section element."""
        return (
            f'<section id="{anchor}"><h2>{escape(self.title)}</h2><p class="intro">{escape(self.intro)}</p>'
            f"{''.join(block.html() for block in self.blocks)}</section>"
        )


@dataclass(frozen=True)
class Report:
    """Everything that the page says."""

    title: str
    lead: str
    """One or two sentences: what was done and what is to be seen."""
    facts: Sequence[tuple[str, str]]
    """Name and value of what characterises the run."""
    sections: Sequence[Section]
    command: str = ""
    """The command that made the run."""
    made: str = ""
    """When the report was made."""
    terms: Sequence[tuple[str, str]] = field(default_factory=tuple)
    """Words that the reader may not know, and what they mean."""


def write_report(path: Path | str, report: Report) -> None:
    """Write the report as one HTML file, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(path, report_html(report))


def report_html(report: Report) -> str:
    """The whole page."""
    anchors = [f"part-{number}" for number in range(1, len(report.sections) + 1)]
    links = "".join(
        f'<a href="#{anchor}">{escape(section.title)}</a>'
        for anchor, section in zip(anchors, report.sections, strict=True)
    )
    sections = "".join(section.html(anchor) for anchor, section in zip(anchors, report.sections, strict=True))
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in report.facts
    )
    command = f'<pre class="command"><code>{escape(report.command)}</code></pre>' if report.command else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(report.title)} · CryoAtlas</title>'
        f"<style>{_beside('report.css')}</style></head><body>"
        f'<header><p class="over">CryoAtlas report</p><h1>{escape(report.title)}</h1>'
        f'<p class="lead">{escape(report.lead)}</p>{command}<dl class="facts">{facts}</dl>'
        f"<nav>{links}</nav></header><main>{sections}{_terms_html(report.terms)}</main>"
        f"<footer>CryoAtlas {__version__}{f' · {escape(report.made)}' if report.made else ''}</footer>"
        f"<script>{_beside('report.js')}</script></body></html>\n"
    )


def _terms_html(terms: Sequence[tuple[str, str]]) -> str:
    if not terms:
        return ""
    entries = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in terms)
    return f'<section id="terms"><h2>Words on this page</h2><dl class="terms">{entries}</dl></section>'


def _image(picture: Array, alt: str) -> str:
    data = base64.b64encode(to_png(picture)).decode("ascii")
    height, width = picture.shape[:2]
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}" width="{width}" height="{height}">'


def _beside(name: str) -> str:
    return files("cryoatlas.analysis").joinpath(name).read_text(encoding="utf-8")
