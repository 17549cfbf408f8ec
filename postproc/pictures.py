"""Small square pictures with captions: how they are made to fit, and the form in which they are stored.

A set of pictures is a folder with images/<key>.png, index.tsv and left_out.tsv, which names what did not become a picture.
Both tables are tab-separated text in UTF-8, without quoting, with a header line. The index is written last and renamed
into place, so that a folder with an index is complete. The same input gives the same bytes.
"""

import csv
import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

INDEX_COLUMNS = ("file", "caption", "group", "subgroup", "source")
LEFT_OUT_COLUMNS = ("name", "source", "reason")


class MissingPackage(Exception):
    """Something that a Debian package provides is not on this machine; the message names the package."""


@dataclass(frozen=True)
class Picture:
    key: str  # unique; letters, digits, '_' and '-': the name of the file without .png
    caption: str  # one line
    group: str
    subgroup: str
    source: str  # which collection it is from
    image: Image.Image  # RGB, side x side


@dataclass(frozen=True)
class LeftOut:
    """One thing of a source that did not become a picture, and why."""

    name: str
    source: str
    reason: str


def fit_to_square(image: Image.Image, side: int) -> Image.Image:
    """The image on white, scaled to fit a side x side square with its aspect kept, and centred. Any mode; returns RGB.

    White is put behind before scaling: scaled the other way round, the colours that lie hidden under transparent pixels
    would bleed into the edges.
    """
    image = image.convert("RGBA")
    on_white = Image.new("RGBA", image.size, "white")
    on_white.alpha_composite(image)

    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    scaled = on_white.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)

    square = Image.new("RGB", (side, side), "white")
    square.paste(scaled, ((side - width) // 2, (side - height) // 2))
    return square


def is_blank(image: Image.Image) -> bool:
    """Whether an RGB image is white all over, as far as an eye can tell."""
    return min(darkest for darkest, _ in image.getextrema()) >= 240


def one_line(text: str) -> str:
    """The text with every run of white space, tabs and line ends among them, as one blank."""
    return " ".join(text.split())


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


class PictureFolder:
    """Writes a set of pictures: `with PictureFolder(folder) as out: out.add(picture); out.leave_out(left_out)`.

    If the block is left by an exception, the folder has no index and no tar file is left behind.
    """

    def __init__(self, folder: Path, webdataset: Path | None = None):
        """webdataset: also write the same pictures as such a tar file (<key>.png, <key>.txt, <key>.json)."""
        self.folder = folder
        self.index = folder / "index.tsv"
        self.webdataset = webdataset
        self.rows: list[tuple[str, ...]] = []  # of the index
        self.left_out: list[tuple[str, ...]] = []
        self.keys: set[str] = set()
        self.tar: tarfile.TarFile | None = None

    def __enter__(self):
        (self.folder / "images").mkdir(parents=True, exist_ok=True)
        # An index of an earlier run would promise pictures that this run is about to replace.
        self.index.unlink(missing_ok=True)
        if self.webdataset:
            self.webdataset.parent.mkdir(parents=True, exist_ok=True)
            self.tar = tarfile.open(_temporary(self.webdataset), "w", format=tarfile.USTAR_FORMAT)
        return self

    def add(self, picture: Picture) -> None:
        if picture.key in self.keys:
            raise ValueError(f"two pictures have the key '{picture.key}'")
        self.keys.add(picture.key)

        png = png_bytes(picture.image)
        file = f"images/{picture.key}.png"
        (self.folder / file).write_bytes(png)
        self.rows.append((file, picture.caption, picture.group, picture.subgroup, picture.source))
        if self.tar:
            labels = {"group": picture.group, "subgroup": picture.subgroup, "source": picture.source}
            self._add_to_tar(f"{picture.key}.png", png)
            self._add_to_tar(f"{picture.key}.txt", picture.caption.encode())
            self._add_to_tar(f"{picture.key}.json", json.dumps(labels, ensure_ascii=False).encode())

    def leave_out(self, item: LeftOut) -> None:
        self.left_out.append((item.name, item.source, item.reason))

    def _add_to_tar(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)  # its time and owner are 0: nothing of this run enters the file
        member.size = len(content)
        self.tar.addfile(member, io.BytesIO(content))

    def __exit__(self, exception_type, exception, traceback):
        if self.tar:
            self.tar.close()
            if exception_type:
                _temporary(self.webdataset).unlink()
            else:
                os.replace(_temporary(self.webdataset), self.webdataset)
        if not exception_type:
            _write_table(self.folder / "left_out.tsv", LEFT_OUT_COLUMNS, self.left_out)
            _write_table(self.index, INDEX_COLUMNS, self.rows)


def _write_table(path: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    temporary = _temporary(path)
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        # A caption may hold a quotation mark, which means nothing in this form; a tab in a field is an error.
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".part")
