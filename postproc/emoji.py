"""Unicode's emoji as pictures: each fully-qualified emoji of emoji-test.txt, drawn with the Noto colour font.

The caption is the CLDR short name that emoji-test.txt gives ("red apple", "flag: France"), group and subgroup are its headings.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from pictures import LeftOut, MissingPackage, Picture, fit_to_square

EMOJI_TEST = Path("/usr/share/unicode/emoji/emoji-test.txt")  # Debian package unicode-data
EMOJI_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # Debian package fonts-noto-color-emoji

# The font holds bitmaps of one size and opens at no other: a cell of 136 x 128 pixels for each glyph,
# which is drawn in the 128 x 128 in its middle.
FONT_SIZE = 109
CELL = (136, 128)
GLYPH_BOX = (4, 0, 132, 128)

# A skin tone or a hair style by itself: parts of other emoji, not pictures of something.
COMPONENT_GROUP = "Component"

# A character that no font has: what is drawn for it is the font's picture of a missing glyph.
NO_CHARACTER = "\U0010ffff"
SINGLE_GLYPH = "\U0001f600"

# 1F468 200D 1F680 ; fully-qualified # (the emoji) E4.0 man astronaut
EMOJI_LINE = re.compile(r"(?P<code_points>[0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E\d+\.\d+ (?P<name>.+)")


@dataclass(frozen=True)
class Emoji:
    text: str  # the characters, joiners and variation selectors among them
    name: str
    group: str
    subgroup: str


def read_emoji_test(path: Path = EMOJI_TEST) -> list[Emoji]:
    """The fully-qualified emoji of the file in its order, without the group Component."""
    if not path.is_file():
        raise MissingPackage(f"{path} is missing: install the Debian package unicode-data")
    emoji = []
    group = subgroup = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ").strip()
        elif line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ").strip()
        elif "; fully-qualified" in line and group != COMPONENT_GROUP:
            match = EMOJI_LINE.fullmatch(line.strip())
            if not match:
                raise ValueError(f"{path}:{number}: not 'code points ; fully-qualified # emoji version name': {line!r}")
            text = "".join(chr(int(code_point, 16)) for code_point in match["code_points"].split())
            emoji.append(Emoji(text, match["name"], group, subgroup))
    return emoji


class EmojiFont:
    """The colour font, with the text layout that turns a sequence of characters into one glyph."""

    def __init__(self, path: Path = EMOJI_FONT):
        if not path.is_file():
            raise MissingPackage(f"{path} is missing: install the Debian package fonts-noto-color-emoji")
        # Pillow's wheel has raqm in it, but raqm loads FriBiDi from the system, and Pillow then silently goes
        # without: flags would come out as two letters, families as a row of heads.
        if not features.check("raqm"):
            raise MissingPackage("Pillow has no raqm text layout: install the Debian package libfribidi0")
        self.font = ImageFont.truetype(path, FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
        self.advance = self.font.getlength(SINGLE_GLYPH)
        self.missing_glyph = self.draw(NO_CHARACTER).tobytes()

    def draw(self, text: str) -> Image.Image:
        """The first glyph's cell, RGBA with a transparent background."""
        cell = Image.new("RGBA", CELL)
        ImageDraw.Draw(cell).text((0, 0), text, font=self.font, embedded_color=True)
        return cell

    def fault_of(self, text: str) -> str | None:
        """Why the font does not draw the text as one glyph of its own, or None if it does.

        Every glyph that shows has the same advance, so the length of the text counts them.
        """
        length = self.font.getlength(text)
        if length != self.advance:
            return f"drawn as {length / self.advance:.0f} glyphs"
        if self.draw(text).tobytes() == self.missing_glyph:
            return "not in the font"
        return None


def emoji_pictures(side: int, emoji_test: Path = EMOJI_TEST, font: Path = EMOJI_FONT) -> Iterator[Picture | LeftOut]:
    """Every emoji of the file, in its order: a picture, or why it is left out."""
    emoji_font = EmojiFont(font)
    for emoji in read_emoji_test(emoji_test):
        fault = emoji_font.fault_of(emoji.text)
        if fault:
            yield LeftOut(emoji.name, "emoji", fault)
            continue
        key = "emoji_" + "-".join(f"{ord(character):04x}" for character in emoji.text)
        # No cropping to what is drawn: a small square must stay smaller than a large one.
        image = fit_to_square(emoji_font.draw(emoji.text).crop(GLYPH_BOX), side)
        yield Picture(key, emoji.name, emoji.group, emoji.subgroup, "emoji", image)
