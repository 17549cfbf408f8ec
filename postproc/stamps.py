"""Tux Paint's stamps as pictures: photographs and drawings with an English description.

Beside each picture NAME.png lies NAME.txt, whose first line is the English description; that is the caption. The folders give
group and subgroup (animals/birds/...).
"""

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from pictures import LeftOut, MissingPackage, Picture, fit_to_square, is_blank, one_line

STAMPS = Path("/usr/share/tuxpaint/stamps")  # Debian package tuxpaint-stamps-default

# Fainter pixels do not count as part of the picture when its margin is cut off.
VISIBLE_ALPHA = 16

# What Pillow raises for a damaged PNG file, depending on where the damage is.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def cut_margin(image: Image.Image) -> Image.Image:
    """The image without its transparent margin, RGBA; whole if there is nothing to see in it."""
    image = image.convert("RGBA")
    visible = image.getchannel("A").point(lambda alpha: 255 if alpha >= VISIBLE_ALPHA else 0)
    return image.crop(visible.getbbox())


def read_description(path: Path) -> str:
    """The first line of a stamp's text file, which may begin with a byte order mark; ValueError if there is none."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    description = one_line(lines[0]) if lines else ""
    if not description:
        raise ValueError("the first line of its description is empty")
    return description


def stamp_picture(path: Path, folder: Path, side: int) -> Picture | LeftOut:
    """One stamp of the collection in folder."""
    name = path.relative_to(folder)
    text = path.with_suffix(".txt")
    if not text.is_file():
        return LeftOut(str(name), "tuxpaint", "has no description")
    try:
        description = read_description(text)
        with Image.open(path, formats=["PNG"]) as image:
            square = fit_to_square(cut_margin(image), side)
    except DAMAGED as fault:
        return LeftOut(str(name), "tuxpaint", f"cannot be read: {one_line(str(fault))}")
    if is_blank(square):
        return LeftOut(str(name), "tuxpaint", "shows nothing on white")

    key = "tuxpaint_" + re.sub(r"[^A-Za-z0-9_-]", "_", "_".join(name.with_suffix("").parts))
    group = name.parts[0]
    subgroup = name.parts[1] if len(name.parts) > 2 else group  # some lie directly in their group's folder
    return Picture(key, description, group, subgroup, "tuxpaint", square)


def stamp_pictures(side: int, folder: Path = STAMPS) -> Iterator[Picture | LeftOut]:
    """Every PNG stamp in the order of the paths, then each SVG stamp as left out: Pillow reads none."""
    if not folder.is_dir():
        raise MissingPackage(f"{folder} is missing: install the Debian package tuxpaint-stamps-default")
    for path in sorted(folder.rglob("*.png")):
        yield stamp_picture(path, folder, side)
    for path in sorted(folder.rglob("*.svg")):
        yield LeftOut(str(path.relative_to(folder)), "tuxpaint", "is an SVG drawing")
