"""What the tools say, in parts: written as one self-contained HTML page (page.html.jinja), or as text for a terminal."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

HERE = Path(__file__).resolve().parent


@dataclass
class Cell:
    """A cell of a table that is more than its text."""

    text: str
    shade: float | None = None  # 0 to 1: how dark its ground is
    chip: str = ""  # a colour, shown as a dot before the text
    title: str = ""  # what hovering shows

    def __str__(self) -> str:
        return self.text


@dataclass
class Table:
    head: list[str]
    rows: list[list[str | Cell]]
    caption: str = ""
    left: int = 1  # columns from the left that hold words; the others hold numbers
    kind: str = field(default="table", init=False)


@dataclass
class Text:
    text: str
    kind: str = field(default="text", init=False)


@dataclass
class Missing:
    """A file that is not there, and the command that makes it."""

    text: str
    command: str
    kind: str = field(default="missing", init=False)


@dataclass
class Picture:
    png: bytes
    title: str  # what it shows, also for who cannot see it
    kind: str = field(default="picture", init=False)

    @property
    def data(self) -> str:
        return base64.b64encode(self.png).decode()


@dataclass
class Gallery:
    """Small pictures with a text below each."""

    title: str
    chip: str
    pictures: list[Picture]
    kind: str = field(default="gallery", init=False)


@dataclass
class Details:
    """Parts that are folded up at first."""

    title: str
    parts: list
    kind: str = field(default="details", init=False)


@dataclass
class Section:
    name: str  # the anchor
    title: str
    parts: list
    note: str = ""


@dataclass
class Card:
    """A number worth being seen first."""

    title: str
    value: str
    note: str


def html_of(title: str, subtitle: str, sections: list[Section], cards: Sequence[Card] = (), warnings: Sequence[str] = ()) -> str:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined)
    return environment.get_template("page.html.jinja").render(title=title, subtitle=subtitle, sections=sections, cards=cards, warnings=warnings)


def table_lines(table: Table) -> list[str]:
    rows = [table.head, *([str(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.head))]

    def line(row: list[str]) -> str:
        return "  ".join(cell.ljust(width) if i < table.left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))).rstrip()
    lines = [line(rows[0]), "  ".join("-" * width for width in widths), *map(line, rows[1:])]
    return [table.caption, *lines] if table.caption else lines


def text_of(sections: list[Section]) -> str:
    """Tables and texts, without the pictures."""
    lines: list[str] = []
    for section in sections:
        lines += [section.title, "=" * len(section.title), ""]
        for part in [Text(section.note)] * bool(section.note) + section.parts:
            if isinstance(part, Table):
                lines += [*table_lines(part), ""]
            elif isinstance(part, Text):
                lines += [part.text, ""]
            elif isinstance(part, Missing):
                lines += [f"{part.text}. To make it: {part.command}", ""]
    return "\n".join(lines)


def write_whole(path: Path, content: bytes) -> None:
    """A reader of the file sees the old one or the new one, never a part."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)
