"""Phase prepare on the data sets of the paper: COCO's annotations and webdataset tars, small ones in the same formats.

Run with the Python of the virtual environment: test_sources.py PROGRAM. What is in data.h5 is compared with a reading in Python: json and tarfile
for items and captions, Pillow for pictures and crops, NumPy's Philox for what is drawn.
"""
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
from pathlib import Path

import h5py
import numpy as np
from PIL import Image, ImageDraw

PROGRAM = Path("aptp")
ENCODER = Path(__file__).resolve().parents[1] / "fixtures" / "bert_small"
MPIRUN = os.environ.get("APTP_MPIRUN", "mpirun --bind-to none --oversubscribe").split()
SIDE, CROPS, SEED = 8, 3, 4
RANDOM_SOURCE, RANDOM_CROP = 18, 19  # src/base/random.h
DECK = f"""
phase = "prepare";
run: {{ precision = "fp32"; threads = 1; log = "normal"; seed = {SEED}; }};
data: {{
    sentence_encoder = "{ENCODER}"; image_size = {SIDE}; latent = "pixel"; max_tokens = 12; text_batch = 3; shard_size = 5;
    validation_fraction = 0.0; bad_picture_limit = 3;
}};
"""
HUGE = 2**63 - 1  # an id
EIGHT_BITS = 1.01  # a JPEG: libjpeg versions differ by 1


def uniform(stream: int, step: int, sample: int, index: int, seed: int = SEED) -> float:
    """Element `index` < 4 of a sequence of base/random.h. NumPy adds 1 to the counter before it draws."""
    counter = (sample << 64 | step << 128) - 1 & 2**256 - 1
    words = [counter >> 64 * i & 2**64 - 1 for i in range(4)]
    philox = np.random.Philox(counter=np.array(words, np.uint64), key=np.array([seed, stream], np.uint64))
    return ((int(philox.random_raw(4)[index]) >> 11) + 0.5) * 2.0**-53


def name_number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])


def draw(items: list[tuple[str, str]], images: int, one: bool, seed: int = SEED) -> list[tuple[str, str]]:
    """Of (name, caption) in the order of the source: `images` names if not 0, one caption of each if asked for."""
    captions: dict[str, list[int]] = {}
    for place, (name, _) in enumerate(items):
        captions.setdefault(name, []).append(place)
    names = sorted(captions, key=lambda name: uniform(RANDOM_SOURCE, 0, name_number(name), 0, seed))
    kept = []
    for name in names[:images or None]:
        places = captions[name]
        kept += [places[int(uniform(RANDOM_SOURCE, 1, name_number(name), 0, seed) * len(places))]] if one else places
    return [items[place] for place in sorted(kept)]


def scaled(image: Image.Image) -> Image.Image:
    """torchvision's Resize, rows first in every version of Pillow."""
    width, height = image.size
    if min(width, height) != SIDE:
        width, height = (SIDE, int(SIDE * height / width)) if width <= height else (int(SIDE * width / height), SIDE)
        image = image.resize((width, image.height), Image.BILINEAR).resize((width, height), Image.BILINEAR)
    return image


def crops_of(image: Image.Image, item: int, crops: int) -> np.ndarray:
    """[V, H, W, 3]: the middle, or random crops of item `item`."""
    image = scaled(image.convert("RGB"))
    down, across = image.height - SIDE, image.width - SIDE
    places = [(round(down / 2), round(across / 2))]
    if crops:
        places = [(int(uniform(RANDOM_CROP, crop, item, 0) * (down + 1)), int(uniform(RANDOM_CROP, crop, item, 1) * (across + 1)))
                  for crop in range(crops)]
    return np.stack([np.asarray(image.crop((left, top, left + SIDE, top + SIDE))) for top, left in places])


def picture(number: int) -> Image.Image:
    """A drawing, wide or tall."""
    random = np.random.default_rng(number)
    width, height = int(random.integers(9, 40)), int(random.integers(9, 40))
    image = Image.new("RGB", (width, height), tuple(random.integers(0, 256, 3).tolist()))
    for _ in range(12):
        box = [sorted(random.integers(0, limit, 2).tolist()) for limit in (width, height)]
        ImageDraw.Draw(image).ellipse((box[0][0], box[1][0], box[0][1], box[1][1]), fill=tuple(random.integers(0, 256, 3).tolist()))
    return image


def save(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number).save(path, quality=95)


class Coco:
    """COCO's folders for one split: NAME/*.jpg or .png and annotations/captions_NAME.json.

    Of its 9 pictures one has no caption, one no file; the others have 1 to 5 captions, in a mixed order.
    """

    def __init__(self, root: Path, name: str, first: int):
        self.folder, self.file = root / name, root / "annotations" / f"captions_{name}.json"
        names = [f"COCO_{name}_{first + i:012d}.{'jpg' if i % 3 == 0 else 'png'}" for i in range(6)] + ["Übersicht 図.png", "without.png", "sub/missing.png"]
        ids = [first + 7 * i for i in range(8)] + [HUGE - first]
        images = [{"license": 3, "file_name": file, "height": 1, "width": 1, "date_captured": "2013-11-14 17:02:52", "id": number}
                  for file, number in zip(names, ids)]
        for number, file in enumerate(names[:-1]):
            save(self.folder / file, first + number)
        annotations = [{"image_id": ids[i], "id": 1000 * first + 10 * i + k, "caption": f"{name}: picture {i}, caption {k} of it €\n" if k == 1 else f"A red apple {i} {k} {name}"}
                       for i in range(9) if i != 7 for k in range(1 + (i * 2) % 5)]
        np.random.default_rng(first).shuffle(annotations)
        self.document = {"info": {"year": 2014}, "images": images[::-1], "licenses": [], "annotations": annotations}
        self.write(self.document)
        file_of = dict(zip(ids, names))
        self.items = [(file_of[row["image_id"]], row["caption"]) for row in annotations]

    def write(self, document: object) -> None:
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(json.dumps(document))

    def settings(self, prefix: str = "") -> tuple[str, ...]:
        return f'data.{prefix}source="{self.file}"', f'data.{prefix}image_folder="{self.folder}"'


def good(items: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [item for item in items if item[0] != "sub/missing.png"]


def datasets(path: Path) -> dict[str, np.ndarray]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None)
    return found


def items_of(data: dict[str, np.ndarray], split: str = "train") -> list[tuple[str, str]]:
    return [(name.decode(), caption.decode()) for name, caption in zip(data[f"{split}/image"], data[f"{split}/caption"])]


def pixels_of(latents: np.ndarray) -> np.ndarray:
    """[..., C, H, W] in -1..1 to [..., H, W, C] in 0..255."""
    return np.rint((np.moveaxis(latents.astype(float), -3, -1) + 1) * 127.5)


class SourcesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.root = Path(cls.temporary.name)
        (cls.root / "deck.cfg").write_text(DECK)
        cls.train = Coco(cls.root, "train2014", 100)
        cls.validation = Coco(cls.root, "val2014", 500)
        # as the paper's: all captions of the one, so many distinct pictures of the other with one caption each
        cls.paper = (*cls.train.settings(), *cls.validation.settings("validation_"), "data.validation_images=6", "data.validation_captions=one",
                     f"data.crops={CROPS}")
        cls.report = cls.prepare(cls, "paper", *cls.paper).stdout
        cls.data = datasets(cls.root / "paper" / "data.h5")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def command(self, folder: str, *settings: str, ranks: int = 0, check: bool = False) -> list[str]:
        launcher = [*MPIRUN, "-np", str(ranks)] if ranks else []
        options = [part for setting in (f'run.folder="{self.root / folder}"', *settings) for part in ("--set", setting)]
        return [*launcher, str(PROGRAM), str(self.root / "deck.cfg"), *options, *(["--check"] if check else [])]

    def prepare(self, folder: str, *settings: str, expect: int = 0, **how) -> subprocess.CompletedProcess:
        command = SourcesTest.command(self, folder, *settings, **how)
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode != expect:
            raise AssertionError(f"exit code {ran.returncode}, expected {expect}: {' '.join(command)}\n{ran.stdout}{ran.stderr}")
        return ran

    def assert_same_data(self, folder: str):
        found = datasets(self.root / folder / "data.h5")
        self.assertEqual(set(found), set(self.data))
        for name, expected in self.data.items():
            self.assertEqual(found[name].tobytes(), expected.tobytes(), name)

    # ---- COCO

    def test_coco_gives_every_caption_of_the_one_and_the_drawn_of_the_other(self):
        self.assertEqual(items_of(self.data), good(self.train.items))
        drawn = draw(self.validation.items, 6, True)
        self.assertEqual(items_of(self.data, "validation"), good(drawn))
        self.assertEqual(len({name for name, _ in drawn}), 6)
        missing = [name for name, _ in self.train.items + drawn if name == "sub/missing.png"]
        self.assertEqual([name.decode() for name in self.data["skipped/image"]], missing)
        self.assertTrue(all(b"sub/missing.png: No such file" in reason for reason in self.data["skipped/reason"]))

    def test_crops_and_flips_are_those_of_pillow(self):
        """Of a training picture CROPS drawn crops, each plain, then mirrored; of one to validate with the middle."""
        rows = {"train": [i for i, item in enumerate(self.train.items) if good([item])],
                "validation": [len(self.train.items) + i for i, item in enumerate(draw(self.validation.items, 6, True)) if good([item])]}
        places = set()
        for split, source in ("train", self.train), ("validation", self.validation):
            latents = pixels_of(self.data[f"{split}/latents"])
            self.assertEqual(latents.shape[1], 2 * CROPS if split == "train" else 2)
            self.assertEqual(len(latents), len(rows[split]))
            for views, item, (name, _) in zip(latents, rows[split], items_of(self.data, split)):
                with Image.open(source.folder / name) as image:
                    expected = crops_of(image, item, CROPS if split == "train" else 0)
                np.testing.assert_allclose(views[0::2], expected, atol=EIGHT_BITS if name.endswith("jpg") else 0)
                np.testing.assert_array_equal(views[1::2], views[0::2, :, ::-1])
                places.add(views[0].tobytes() == views[2].tobytes() if split == "train" else None)
        self.assertIn(False, places)  # crops of one picture differ

    def test_draws_of_one_source(self):
        for name, images, one, seed in ("one", 0, True, SEED), ("two", 2, False, SEED + 1):
            self.prepare(name, *self.train.settings(), f"data.images={images}", f"data.captions={'one' if one else 'all'}", f"run.seed={seed}")
            self.assertEqual(items_of(datasets(self.root / name / "data.h5")), good(draw(self.train.items, images, one, seed)))
        failed = self.prepare("more", *self.train.settings(), "data.images=9", expect=3)
        self.assertIn("has 8 pictures with a caption, 9 are asked for", failed.stderr)

    def test_an_index_is_drawn_from_too(self):
        folder = self.root / "index"
        items = [(f"{i % 5}.png", f"row {i}") for i in range(14)]
        for i in range(5):
            save(folder / "pictures" / f"{i}.png", i)
        (folder / "list.tsv").write_text("caption\tfile\n" + "".join(f"{caption}\t{name}\n" for name, caption in items))
        self.prepare("index_run", f'data.source="{folder / "list.tsv"}"', f'data.image_folder="{folder / "pictures"}"', "data.images=3", "data.captions=one")
        self.assertEqual(items_of(datasets(self.root / "index_run" / "data.h5")), draw(items, 3, True))

    def test_check_says_what_is_needed(self):
        side = 256  # so that megabytes tell
        ran = self.prepare("unmade", *self.paper, f"data.image_size={side}", check=True)
        train, views = len(self.train.items), 2 * CROPS * len(self.train.items) + 2 * 6
        self.assertIn(f"captions_train2014.json: {train} captions of 8 pictures\n", ran.stdout)
        self.assertIn("captions_val2014.json: 6 captions of 6 pictures, to validate with\n", ran.stdout)
        self.assertIn(f"{train + 6} pictures, {-(-(train + 6) // 5)} shards of at most 5", ran.stdout)
        with h5py.File(self.root / "paper" / "data.h5") as file:
            tokens, width = file["train/text_states"].shape[1:]
        needed = views * 2 * side * side * 3 + (train + 6) * (2 * tokens * width + 4 * width + 4)
        self.assertIn(f"disk needed, without the texts: {needed / 2**20:.1f} MiB", ran.stdout)
        self.assertFalse((self.root / "unmade").exists())

    # ---- ranks and interruptions

    def test_ranks_and_interruptions_do_not_matter(self):
        for ranks in 1, 2:
            self.prepare(f"ranks_{ranks}", *self.paper, ranks=ranks)
            self.assert_same_data(f"ranks_{ranks}")
        (self.root / "stopped").mkdir()
        (self.root / "stopped" / "stop").touch()
        self.prepare("stopped", *self.paper, ranks=2, expect=75)
        self.assertIn("shards are there already", self.prepare("stopped", *self.paper).stdout)
        self.assert_same_data("stopped")
        for shards in 1, 3:  # killed when so many are there
            process = subprocess.Popen(self.command("killed", *self.paper), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and len(list((self.root / "killed").glob("data.h5.shards/*.h5"))) < shards:
                time.sleep(0.0005)
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.prepare("killed", *self.paper)
        self.assert_same_data("killed")

    def test_shards_of_another_choice_are_made_again(self):
        for number, other in enumerate(("data.crops=2", "data.captions=one")):
            folder = f"other_{number}"
            (self.root / folder).mkdir()
            (self.root / folder / "stop").touch()
            self.prepare(folder, *self.paper, other, expect=75)
            self.assertNotIn("are there already", self.prepare(folder, *self.paper).stdout)
            self.assert_same_data(folder)

    # ---- tars

    def write_tars(self, folder: Path, first: int, keys: list[list[int]]) -> list[tuple[str, str]]:
        """As img2dataset writes them; (name, caption) in order. Each picture's number is first + key."""
        folder.mkdir()
        items = []
        for shard, members in enumerate(keys):
            with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
                for key in members:
                    encoded = io.BytesIO()
                    picture(first + key + 100 * shard).save(encoded, "JPEG", quality=95)
                    caption = f"shard {shard}, key {key} ü"
                    labels = {"caption": caption, "url": "http://a.b/c.jpg", "key": f"{key:09d}", "status": "success", "error_message": None, "width": 3, "exif": "{}"}
                    for extension, content in ("jpg", encoded.getvalue()), ("txt", caption.encode()), ("json", json.dumps(labels).encode()):
                        member = tarfile.TarInfo(f"{key:09d}.{extension}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
                    items.append((f"{shard:05d}.tar/{key:09d}.jpg", caption))
            (folder / f"{shard:05d}_stats.json").write_text("{}")
        return items

    def test_a_folder_of_tars(self):
        """Two of each source, one key in both of a source, and in both sources."""
        train = self.write_tars(self.root / "cc3m_train", 0, [[0, 1, 2, 5], [3, 1, 4]])
        validation = self.write_tars(self.root / "cc3m_val", 1000, [[1, 7], [8]])
        settings = f'data.source="{self.root / "cc3m_train"}"', f'data.validation_source="{self.root / "cc3m_val"}"'
        self.prepare("tars", *settings, "data.crops=1")
        data = datasets(self.root / "tars" / "data.h5")
        self.assertEqual(items_of(data), train)
        self.assertEqual(items_of(data, "validation"), validation)
        for split, folder, first, crops in ("train", "cc3m_train", 0, 1), ("validation", "cc3m_val", len(train), 0):
            for row, (name, _) in enumerate(items_of(data, split)):
                shard, _, member = name.partition("/")
                with tarfile.open(self.root / folder / shard) as tar, Image.open(tar.extractfile(member)) as image:
                    expected = crops_of(image, first + row, crops)
                np.testing.assert_allclose(pixels_of(data[f"{split}/latents"])[row, 0::2], expected, atol=EIGHT_BITS)

    def test_what_is_no_folder_of_tars(self):
        folder = self.root / "odd_tars"
        self.write_tars(folder, 0, [[0], [1]])
        for source, message in (
            (f"{folder}/{{00000..00001}}.tar", "given by the folder that they are in, not by a pattern"),
            (self.train.folder, "no index.csv, index.tsv or index.jsonl in it, and no .tar"),
        ):
            self.assertIn(message, self.prepare("odd", f'data.source="{source}"', expect=3).stderr)
        tar = folder / "00001.tar"
        tar.write_bytes(tar.read_bytes()[:700])  # in the first picture
        self.assertIn(f"{tar}", self.prepare("odd", f'data.source="{folder}"', expect=3).stderr)

    # ---- what is refused

    def test_hostile_annotations(self):
        """Those that the program refuses; test_index.c has all of them."""
        file = self.root / "hostile.json"
        text = json.dumps({"images": [{"id": 1, "file_name": "../train2014/a.png"}], "annotations": [{"id": 5, "image_id": 1, "caption": "x"}]})
        for content, ranks, message in (text, 0, "images[0].file_name: file leads out of the folder"), (text[:-20], 2, "not valid JSON"):
            file.write_text(content)
            failed = self.prepare("hostile", f'data.source="{file}"', expect=3, ranks=ranks)
            self.assertIn(message, failed.stderr)
            self.assertEqual(failed.stderr.count("aptp: error"), 1)

    def test_a_link_out_of_the_folder_is_a_broken_picture(self):
        root = self.root / "linked"
        save(root / "outside.png", 0)
        save(root / "pictures" / "a.png", 1)
        (root / "pictures" / "b.png").symlink_to(root / "outside.png")
        file = root / "captions.json"
        file.write_text(json.dumps({"images": [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate("ab")],
                                    "annotations": [{"id": i, "image_id": i, "caption": str(i)} for i in range(2)]}))
        self.prepare("linked_run", f'data.source="{file}"', f'data.image_folder="{root / "pictures"}"')
        data = datasets(self.root / "linked_run" / "data.h5")
        self.assertEqual(items_of(data), [("a.png", "0")])
        self.assertIn(b"b.png: leads out of the folder", data["skipped/reason"][0])

    def test_bad_settings(self):
        for setting, code, message in (
            ("data.validation_captions=one", 2, "data.validation_captions is set, data.validation_source is not"),
            ('data.image_folder="nowhere"', 3, "the folder of its pictures, nowhere: No such file"),
            ('data.validation_source="nowhere.json"', 3, "nowhere.json: No such file"),
        ):
            self.assertIn(message, self.prepare("bad", *self.train.settings(), setting, expect=code).stderr)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        PROGRAM = Path(sys.argv.pop(1)).resolve()
    os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    unittest.main()
