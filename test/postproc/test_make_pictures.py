"""The demo's pictures: Unicode's counts, what some pictures must look like, what is left out, and the form they are stored in.

Run with the Python of the virtual environment. Needs the Debian packages that make_pictures.py needs.
"""

import csv
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

from PIL import Image, ImageStat

POSTPROC = Path(__file__).resolve().parents[2] / "postproc"
sys.path.insert(0, str(POSTPROC))

from emoji import CELL, EmojiFont, emoji_pictures, read_emoji_test  # noqa: E402
from pictures import LeftOut, MissingPackage, Picture, PictureFolder, fit_to_square, is_blank  # noqa: E402
from stamps import stamp_pictures  # noqa: E402

SIDE = 32


def make_pictures(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, POSTPROC / "make_pictures.py", folder, *options]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


def read_table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def digest(folder: Path) -> str:
    """Of the names and contents of all files below the folder."""
    files = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return files.hexdigest()


def mean_colour(image: Image.Image, box: tuple[int, int, int, int]) -> list[float]:
    return ImageStat.Stat(image.crop(box)).mean


class DemoPictures(unittest.TestCase):
    """The whole set, made by the command the demo uses."""

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.temporary.name) / "first"
        run = make_pictures(cls.folder, "--webdataset", str(cls.folder / "pictures.tar"))
        assert run.returncode == 0, run.stderr
        cls.rows = read_table(cls.folder / "index.tsv")
        cls.emoji = [row for row in cls.rows if row["source"] == "emoji"]
        cls.stamps = [row for row in cls.rows if row["source"] == "tuxpaint"]

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def picture(self, caption: str) -> Image.Image:
        files = [row["file"] for row in self.emoji if row["caption"] == caption]
        self.assertEqual(len(files), 1, caption)
        return Image.open(self.folder / files[0])

    def test_emoji_counts_are_those_of_unicode_15(self):
        self.assertEqual(len(self.emoji), 3655)
        self.assertEqual(len({row["caption"] for row in self.emoji}), 3655)
        self.assertEqual(len({row["group"] for row in self.emoji}), 9)
        self.assertEqual(len({(row["group"], row["subgroup"]) for row in self.emoji}), 99)
        self.assertNotIn("Component", {row["group"] for row in self.emoji})

    def test_stamps_are_all_there_or_named_as_left_out(self):
        left_out = read_table(self.folder / "left_out.tsv")
        drawings = sum(row["reason"] == "is an SVG drawing" for row in left_out)
        png_files = len(list(Path("/usr/share/tuxpaint/stamps").rglob("*.png")))
        self.assertGreater(len(self.stamps), 700)
        self.assertGreater(drawings, 100)
        self.assertEqual(len(self.stamps) + len(left_out) - drawings, png_files)
        captions = {row["caption"]: row for row in self.stamps}
        self.assertEqual(captions["A pink flamingo."]["group"], "animals")
        self.assertEqual(captions["A pink flamingo."]["subgroup"], "birds")

    def test_every_row_is_a_picture_of_the_right_form(self):
        self.assertEqual(list(self.rows[0]), ["file", "caption", "group", "subgroup", "source"])
        for row in self.rows:
            self.assertTrue(all(row.values()), row)
            with Image.open(self.folder / row["file"]) as image:
                self.assertEqual((image.format, image.mode, image.size), ("PNG", "RGB", (SIDE, SIDE)), row)
                self.assertFalse(is_blank(image), row)
        self.assertEqual(len(list((self.folder / "images").iterdir())), len(self.rows))

    def test_flag_of_france_is_blue_white_red(self):
        flag = self.picture("flag: France")
        red, green, blue = mean_colour(flag, (3, 11, 9, 21))
        self.assertGreater(blue, max(red, green) + 80)
        self.assertGreater(min(mean_colour(flag, (13, 11, 19, 21))), 220)
        red, green, blue = mean_colour(flag, (23, 11, 29, 21))
        self.assertGreater(red, max(green, blue) + 80)
        self.assertGreater(min(mean_colour(flag, (0, 0, 32, 3))), 250)  # the background

    def test_red_apple_is_red(self):
        red, green, blue = mean_colour(self.picture("red apple"), (10, 12, 22, 24))
        self.assertGreater(red, max(green, blue) + 100)

    def test_grinning_face_is_yellow(self):
        red, green, blue = mean_colour(self.picture("grinning face"), (8, 3, 24, 8))
        self.assertGreater(min(red, green), blue + 80)

    def test_keycap_is_a_white_figure_on_one_blue_key(self):
        keycap = self.picture("keycap: 5")
        for corner in ((4, 4, 7, 7), (25, 4, 28, 7), (4, 25, 7, 28)):
            red, _, blue = mean_colour(keycap, corner)
            self.assertGreater(blue, red + 15)
        self.assertGreater(keycap.crop((10, 8, 22, 24)).getextrema()[0][1], 240)

    def test_a_small_square_is_smaller_than_a_large_one(self):
        def black_pixels(caption):
            return sum(self.picture(caption).convert("L").histogram()[:128])

        self.assertLess(2 * black_pixels("black small square"), black_pixels("black large square"))

    def test_tar_holds_the_same_pictures_and_captions(self):
        with tarfile.open(self.folder / "pictures.tar") as tar:
            members = tar.getmembers()
            self.assertEqual(len(members), 3 * len(self.rows))
            self.assertEqual({member.mtime for member in members}, {0})
            for position in (0, 2000, len(self.rows) - 1):
                row = self.rows[position]
                names = [member.name for member in members[3 * position:3 * position + 3]]
                key = Path(row["file"]).stem
                self.assertEqual(names, [f"{key}.png", f"{key}.txt", f"{key}.json"])
                png, caption, labels = (tar.extractfile(name).read() for name in names)
                self.assertEqual(png, (self.folder / row["file"]).read_bytes())
                self.assertEqual(caption.decode(), row["caption"])
                self.assertEqual(json.loads(labels), {name: row[name] for name in ("group", "subgroup", "source")})

    def test_a_second_run_gives_the_same_bytes(self):
        second = Path(self.temporary.name) / "second"
        run = make_pictures(second, "--webdataset", str(second / "pictures.tar"))
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(digest(self.folder), digest(second))


class Glyphs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.font = EmojiFont()

    def test_joined_sequences_are_one_glyph(self):
        sequences = {
            "flag: France": "\U0001f1eb\U0001f1f7",
            "flag: Scotland": "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
            "keycap: 5": "5\ufe0f\u20e3",
            "waving hand: dark skin tone": "\U0001f44b\U0001f3ff",
            "family: man, woman, girl, boy": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
        }
        names = {emoji.text: emoji.name for emoji in read_emoji_test()}
        for name, text in sequences.items():
            self.assertEqual(names[text], name)
            self.assertIsNone(self.font.fault_of(text), name)

    def test_what_the_font_cannot_join_is_found(self):
        self.assertEqual(self.font.fault_of("\U0001f600\U0001f600"), "drawn as 2 glyphs")
        self.assertEqual(self.font.fault_of("\U0001f468\u200d\U0001f680\u200d\U0001f680"), "drawn as 2 glyphs")

    def test_a_character_that_is_not_in_the_font_is_found(self):
        self.assertEqual(self.font.fault_of("A"), "not in the font")
        self.assertEqual(self.font.fault_of("\U0001fae9"), "not in the font")  # of Unicode 16

    def test_such_emoji_are_left_out_and_named(self):
        with tempfile.TemporaryDirectory() as folder:
            emoji_test = Path(folder) / "emoji-test.txt"
            emoji_test.write_text("# group: Some\n# subgroup: thing\n"
                                  "1F600 ; fully-qualified # \U0001f600 E1.0 grinning face\n"
                                  "1F600 1F600 ; fully-qualified # \U0001f600\U0001f600 E99.0 two faces\n"
                                  "263A ; unqualified # \u263a E0.6 smiling face\n"
                                  "# group: Component\n# subgroup: skin-tone\n"
                                  "1F3FB ; fully-qualified # \U0001f3fb E1.0 light skin tone\n", encoding="utf-8")
            face, faces = emoji_pictures(SIDE, emoji_test)
        self.assertEqual((face.key, face.caption, face.group, face.subgroup), ("emoji_1f600", "grinning face", "Some", "thing"))
        self.assertEqual(faces, LeftOut("two faces", "emoji", "drawn as 2 glyphs"))

    def test_the_cell_is_the_font_s(self):
        self.assertEqual(self.font.font.getbbox("\U0001f600"), (0, 0, *CELL))


class Stamps(unittest.TestCase):
    def test_broken_stamps_are_left_out_and_named(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "things" / "small").mkdir(parents=True)

            def stamp(path: str, image: Image.Image, description: str | bytes | None):
                image.save(folder / f"{path}.png")
                if description is not None:
                    text = description if isinstance(description, bytes) else description.encode()
                    (folder / f"{path}.txt").write_bytes(text)

            red = Image.new("RGB", (40, 20), "red")
            stamp("things/small/good", red, "\ufeffA  \u201cred\u201d\tthing. \nde.utf8=Ein rotes Ding.\n")
            stamp("things/plain", red, "A thing.")
            stamp("things/silent", red, None)
            stamp("things/empty", red, "\nde.utf8=Ein Ding.\n")
            stamp("things/latin1", red, b"A caf\xe9.\n")
            stamp("things/cut", Image.effect_noise((64, 64), 50), "A cut thing.")
            whole = (folder / "things/cut.png").read_bytes()
            (folder / "things/cut.png").write_bytes(whole[:len(whole) // 2])
            stamp("things/text", red, "Not a picture.")
            (folder / "things/text.png").write_text("not a picture")
            stamp("things/clear", Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "Nothing.")
            stamp("things/white", Image.new("L", (8, 8), 255), "Snow.")
            (folder / "things/drawing.svg").write_text("<svg/>")

            items = list(stamp_pictures(SIDE, folder))
        pictures = {item.key: item for item in items if isinstance(item, Picture)}
        reasons = {item.name: item.reason.partition(":")[0] for item in items if isinstance(item, LeftOut)}
        self.assertEqual(sorted(pictures), ["tuxpaint_things_plain", "tuxpaint_things_small_good"])
        self.assertEqual(pictures["tuxpaint_things_small_good"].caption, "A \u201cred\u201d thing.")
        self.assertEqual(pictures["tuxpaint_things_small_good"].subgroup, "small")
        self.assertEqual(pictures["tuxpaint_things_plain"].subgroup, "things")
        self.assertEqual(reasons, {
            "things/clear.png": "shows nothing on white", "things/cut.png": "cannot be read",
            "things/drawing.svg": "is an SVG drawing", "things/empty.png": "cannot be read",
            "things/latin1.png": "cannot be read", "things/silent.png": "has no description",
            "things/text.png": "cannot be read", "things/white.png": "shows nothing on white"})


class Form(unittest.TestCase):
    def test_fit_keeps_the_aspect_and_centres_on_white(self):
        fitted = fit_to_square(Image.new("RGB", (200, 100), "blue"), SIDE)
        self.assertEqual(fitted.getpixel((16, 7)), (255, 255, 255))
        self.assertEqual(fitted.getpixel((16, 8)), (0, 0, 255))
        self.assertEqual(fitted.getpixel((16, 23)), (0, 0, 255))
        self.assertEqual(fitted.getpixel((16, 24)), (255, 255, 255))

    def test_hidden_colours_do_not_bleed_into_the_edges(self):
        image = Image.new("RGBA", (128, 128), (255, 0, 0, 0))
        image.paste((255, 255, 255, 255), (0, 0, 67, 128))
        self.assertEqual(fit_to_square(image, SIDE).getextrema(), ((255, 255),) * 3)

    def test_an_interrupted_run_leaves_no_index(self):
        red = Picture("red", "red", "g", "s", "t", Image.new("RGB", (SIDE, SIDE), "red"))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with PictureFolder(folder, folder / "set.tar") as out:
                out.add(red)
            self.assertEqual(len(read_table(folder / "index.tsv")), 1)
            (folder / "set.tar").unlink()
            with self.assertRaises(ValueError):
                with PictureFolder(folder, folder / "set.tar") as out:
                    out.add(red)
                    out.add(red)  # the same key twice
            self.assertEqual([path.name for path in sorted(folder.iterdir())], ["images", "left_out.tsv"])

    def test_what_is_missing_is_named_with_its_package(self):
        nowhere = Path("/nonexistent")
        cases = ((lambda: read_emoji_test(nowhere), "unicode-data"), (lambda: EmojiFont(nowhere), "fonts-noto-color-emoji"),
                 (lambda: list(stamp_pictures(SIDE, nowhere)), "tuxpaint-stamps-default"))
        for case, package in cases:
            with self.assertRaisesRegex(MissingPackage, package):
                case()

    def test_sentence_encoder_is_found(self):
        run = subprocess.run([sys.executable, POSTPROC / "sentence_encoder_path.py"], capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertTrue((Path(run.stdout.strip()) / "modules.json").is_file())


if __name__ == "__main__":
    result = unittest.main(argv=sys.argv[:1], exit=False, verbosity=1).result
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed} passed, {failed} failed")
    sys.exit(0 if result.wasSuccessful() else 1)
