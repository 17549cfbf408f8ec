"""A page of postproc, taken apart with Python's own parser.

    page = Page(text)
    page.section["budget"].tables[0] == [["split", ...], ["train", ...]]
"""
import base64
import io
from dataclasses import dataclass, field
from html.parser import HTMLParser

from PIL import Image

VOID = {"meta", "img", "br", "link", "hr"}


@dataclass
class Part:
    title: str = ""
    text: str = ""
    tables: list = field(default_factory=list)  # each a list of rows, the head first, each a list of texts
    images: list = field(default_factory=list)  # (alt, src)
    commands: list = field(default_factory=list)

    def table(self, *head):
        """The table whose head begins so."""
        found = [table for table in self.tables if table[0][:len(head)] == list(head)]
        assert len(found) == 1, f"{len(found)} tables begin with {head}: {[table[0] for table in self.tables]}"
        return found[0]

    def pictures(self):
        """All images, decoded."""
        return [(alt, picture_of(src)) for alt, src in self.images]


def picture_of(src):
    kind, _, data = src.partition(",")
    assert kind == "data:image/png;base64", f"not a PNG in the page itself: {src[:60]}"
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    assert image.format == "PNG"
    image.load()
    return image


class Page(HTMLParser):
    """Section by section; `head` is what stands before the first. Tags that are not closed are an error."""

    def __init__(self, text):
        super().__init__()
        self.head = self.here = Part()
        self.section = {}
        self.links = []  # href and src that leave the page
        self.open = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.here = self.section[attributes["id"]] = Part()
        elif tag == "table":
            self.here.tables.append([])
        elif tag == "tr":
            self.here.tables[-1].append([])
        elif tag in ("td", "th"):
            self.here.tables[-1][-1].append("")
        elif tag == "img":
            self.here.images.append((attributes["alt"], attributes["src"]))
        elif tag == "code":
            self.here.commands.append("")
        for name in ("href", "src"):
            if not attributes.get(name, "#").startswith(("#", "data:")):
                self.links.append(attributes[name])

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.here.text += data
        if "td" in self.open or "th" in self.open:
            self.here.tables[-1][-1][-1] += data
        elif "code" in self.open:
            self.here.commands[-1] += data
        elif "h2" in self.open:
            self.here.title += data
