"""Phase prepare: what is in data.h5, that neither ranks nor interruptions change it, and how it fails.

Run with the Python of the virtual environment: test_prepare.py PROGRAM. The sentence encoder is the small one of test/fixtures.
"""

import json
import os
import resource
import shutil
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
from PIL import Image

PROGRAM = Path("aptp")
ENCODER = Path(__file__).resolve().parents[1] / "fixtures" / "bert_small"
MPIRUN = os.environ.get("APTP_MPIRUN", "mpirun --bind-to none --oversubscribe").split()
SIDE = 8
TOKENS = 12
WORDS = ("red apple", "grinning face", "Red apple", "flag", "small blue house with a very long description that goes on and on and on", "cat")
DECK = f"""
phase = "prepare";
run: {{ precision = "fp32"; threads = 1; log = "normal"; }};
data: {{
    sentence_encoder = "{ENCODER}";
    image_size = {SIDE};
    max_tokens = {TOKENS};
    text_batch = 3;
    shard_size = 5;
    validation_fraction = 0.3;
    bad_picture_limit = 2;
}};
"""


class Source:
    """Pictures of many sizes with captions, many of them twice; one file is broken, one is missing."""

    BROKEN, MISSING = 7, 21

    def __init__(self, folder: Path, count: int = 33):
        self.folder = folder
        self.rows = []
        random = np.random.default_rng(3)
        folder.mkdir()
        for i in range(count):
            width, height = (SIDE, SIDE) if i % 3 == 0 else (int(random.integers(5, 30)), int(random.integers(5, 30)))
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            file = f"picture_{i:03d}.{'jpg' if i % 5 == 4 else 'png'}"
            Image.fromarray(pixels).save(folder / file)
            caption = WORDS[i] if i < len(WORDS) else f"{WORDS[i % len(WORDS)]} {i % 12}"
            if i >= 18:
                caption = caption.upper()  # the encoder knows no capitals
            self.rows.append({"file": file, "caption": caption, "group": f"group {i % 4}", "subgroup": f"sub {i % 9}", "source": "noise"})
        (folder / self.rows[self.BROKEN]["file"]).write_bytes(b"\x89PNG\r\n\x1a\n, and then nothing of the kind")
        (folder / self.rows[self.MISSING]["file"]).unlink()
        self.write_index()

    def write_index(self) -> None:
        lines = ["\t".join(self.rows[0])] + ["\t".join(row.values()) for row in self.rows]
        (self.folder / "index.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def good(self) -> list[dict[str, str]]:
        return [row for i, row in enumerate(self.rows) if i not in (self.BROKEN, self.MISSING)]

    def as_tar(self, path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            for row in self.rows:
                if not (self.folder / row["file"]).exists():
                    continue
                tar.add(self.folder / row["file"], row["file"])
                labels = self.folder / "labels.json"
                labels.write_text(json.dumps({key: row[key] for key in ("caption", "group", "subgroup", "source")}))
                tar.add(labels, row["file"].partition(".")[0] + ".json")


def datasets(path: Path) -> dict[str, np.ndarray]:
    """All datasets of a file by their paths."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None)
    return found


def texts(values: np.ndarray) -> list[str]:
    return [value.decode() for value in values]


def haar_inverse(bands: np.ndarray) -> np.ndarray:
    """[12, h, w] without factors to [2 h, 2 w, 3] in 0..255, by the definition in src/diffusion/latent.h."""
    bands = bands.reshape(4, 3, *bands.shape[1:])
    signs = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    pixels = np.zeros((2 * bands.shape[2], 2 * bands.shape[3], 3))
    for place in range(4):
        pixels[place // 2::2, place % 2::2] = (np.tensordot(signs[:, place], bands, 1) / 2).transpose(1, 2, 0)
    return np.rint((pixels + 1) * 127.5)


class PrepareTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.root = Path(cls.temporary.name)
        (cls.root / "deck.cfg").write_text(DECK)
        cls.source = Source(cls.root / "pictures")
        cls.usual = cls.root / "usual"
        cls.report = cls.prepare(cls, cls.usual).stdout
        cls.data = datasets(cls.usual / "data.h5")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def command(self, folder: Path, *settings: str, ranks: int = 0, check: bool = False) -> list[str]:
        settings = (f"run.folder=\"{folder}\"", f"data.source=\"{self.root / 'pictures'}\"", *settings)
        launcher = [*MPIRUN, "-np", str(ranks)] if ranks else []
        options = [part for setting in settings for part in ("--set", setting)]
        return [*launcher, str(PROGRAM), str(self.root / "deck.cfg"), *options, *(["--check"] if check else [])]

    def prepare(self, folder: Path, *settings: str, expect: int = 0, limit: int | None = None, **how) -> subprocess.CompletedProcess:
        """Runs the program; `limit`: the largest size of a file that it may write (a singleton's Open MPI would write some of its own)."""
        def set_limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        command = PrepareTest.command(self, folder, *settings, **how)
        ran = subprocess.run(command, capture_output=True, text=True, preexec_fn=set_limit if limit else None,
                             env=os.environ | ({"OMPI_MCA_ess_singleton_isolated": "1"} if limit else {}))
        if ran.returncode != expect:
            raise AssertionError(f"exit code {ran.returncode}, expected {expect}: {' '.join(command)}\n{ran.stdout}{ran.stderr}")
        return ran

    def assert_same_data(self, folder: Path, expected: dict[str, np.ndarray] | None = None, but: tuple[str, ...] = ()):
        found, expected = datasets(folder / "data.h5"), expected or self.data
        self.assertEqual(set(found), set(expected))
        for name in expected:
            if name.partition("/")[2] not in but:
                self.assertEqual(found[name].dtype, expected[name].dtype, name)
                self.assertEqual(found[name].tobytes(), expected[name].tobytes(), name)

    # ---- what is in the file

    def test_every_good_item_once_in_the_order_of_the_source(self):
        good = {row["file"]: row for row in self.source.good()}
        images = {split: texts(self.data[f"{split}/image"]) for split in ("train", "validation")}
        self.assertEqual(sorted(images["train"] + images["validation"]), sorted(good))
        self.assertTrue(images["train"] and images["validation"])
        for split, names in images.items():
            self.assertEqual(names, sorted(names))
            for column in ("caption", "group", "subgroup", "source"):
                self.assertEqual(texts(self.data[f"{split}/{column}"]), [good[name][column] for name in names])

    def test_a_caption_is_in_one_split(self):
        train, validation = ({text.lower() for text in texts(self.data[f"{split}/caption"])} for split in ("train", "validation"))
        self.assertFalse(train & validation)
        self.assertLess(len(train | validation), len(self.source.good()) - 5)  # there are captions that occur twice

    def test_latents_give_the_pictures_back(self):
        self.assertEqual(texts(self.data["latent/kind"]), ["haar"])
        scale = self.data["latent/scale"][:, None, None]
        compared = 0
        for split in ("train", "validation"):
            latents = self.data[f"{split}/latents"].astype(float)
            self.assertEqual(self.data[f"{split}/latents"].dtype, np.float16)
            self.assertEqual(latents.shape[1:], (2, 12, SIDE // 2, SIDE // 2))
            for name, views in zip(texts(self.data[f"{split}/image"]), latents):
                plain = haar_inverse(views[0] / scale)
                np.testing.assert_array_equal(haar_inverse(views[1] / scale), plain[:, ::-1])
                with Image.open(self.source.folder / name) as image:
                    if image.size == (SIDE, SIDE) and image.format == "PNG":  # neither scaled nor lossy
                        np.testing.assert_array_equal(plain, np.asarray(image))
                        compared += 1
        self.assertGreater(compared, 5)

    def test_factors_are_of_the_training_split(self):
        latents = self.data["train/latents"][:, 0].astype(float)
        np.testing.assert_allclose(latents.var(axis=(0, 2, 3)), 1, rtol=2e-3)  # halves

    def test_texts_are_encoded(self):
        for split in ("train", "validation"):
            states, length = self.data[f"{split}/text_states"].astype(float), self.data[f"{split}/text_length"]
            self.assertEqual(states.shape[1], TOKENS)
            self.assertTrue(((length >= 2) & (length <= TOKENS)).all())
            visible = np.arange(TOKENS) < length[:, None]
            self.assertFalse(states[~visible].any())
            mean = (states * visible[..., None]).sum(1) / length[:, None]
            np.testing.assert_allclose(self.data[f"{split}/embedding"], mean, atol=2e-3)  # states are halves
            for caption, first in zip(texts(self.data[f"{split}/caption"]), states):
                same = [other for text, other in zip(texts(self.data[f"{split}/caption"]), states) if text == caption]
                self.assertTrue(all((other == first).all() for other in same))
        self.assertEqual(self.data["empty/text_length"][0], 2)
        self.assertEqual(self.data["empty/text_states"].shape, (TOKENS, states.shape[2]))
        self.assertEqual(len(self.data["encoder/text"][0]), 64)
        self.assertEqual(self.data["encoder/text"], self.data["encoder/sentence"])

    def test_embeddings_are_those_of_the_reference(self):
        with h5py.File(ENCODER.with_name("sentence_encoder_small.h5")) as reference:
            sentences, expected = texts(reference["inputs/text"][()]), reference["outputs/embedding"][()]
        # the reference's sentences have up to 40 tokens, and the folder no Normalize module
        plain = [i for i, text in enumerate(sentences) if text and text.isascii() and text.isprintable() and '"' not in text][:40]
        source, random = self.root / "sentences", np.random.default_rng(0)
        source.mkdir()
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(source / "a.png")
        lines = [json.dumps({"file": "a.png", "caption": sentences[i], "group": str(i)}) for i in plain]
        (source / "index.jsonl").write_text("\n".join(lines) + "\n")
        self.prepare(self.root / "encoded", f"data.source=\"{source}\"", "data.max_tokens=40", "data.validation_fraction=0.0")
        data = datasets(self.root / "encoded" / "data.h5")
        self.assertNotIn("validation/caption", data)
        rows = [int(text) for text in texts(data["train/group"])]
        self.assertEqual(rows, plain)
        np.testing.assert_allclose(data["train/embedding"], expected[rows], atol=1e-5)

    def test_embeddings_are_normalised_if_the_deck_says_so(self):
        """A folder with a Normalize module: ignored by default; applied, z has length 1, and the token states are those of the same encoder."""
        folder = self.root / "normalising_encoder"
        shutil.copytree(ENCODER, folder)
        modules = json.loads((folder / "modules.json").read_text())
        modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})
        (folder / "modules.json").write_text(json.dumps(modules))
        encoder = f"data.sentence_encoder={folder}"
        self.prepare(self.root / "not_normalised", encoder)
        self.assert_same_data(self.root / "not_normalised")
        self.prepare(self.root / "normalised", encoder, "data.normalize_embedding=true")
        self.assert_same_data(self.root / "normalised", but=("embedding", "sentence"))
        data = datasets(self.root / "normalised" / "data.h5")
        self.assertNotEqual(data["encoder/sentence"], self.data["encoder/sentence"])
        for name in "train/embedding", "validation/embedding":
            lengths = np.linalg.norm(self.data[name], axis=1, keepdims=True)
            self.assertGreater(np.abs(lengths - 1).max(), 0.1)
            np.testing.assert_allclose(data[name], self.data[name] / lengths, atol=1e-6)  # fp32

    def test_broken_pictures_are_named(self):
        skipped = dict(zip(texts(self.data["skipped/image"]), texts(self.data["skipped/reason"])))
        broken, missing = (self.source.rows[i]["file"] for i in (Source.BROKEN, Source.MISSING))
        self.assertEqual(set(skipped), {broken, missing})
        for name, reason in skipped.items():
            self.assertIn(name, reason)
        self.assertIn("31 pictures (2 broken ones skipped)", self.report)

    def test_long_captions_are_counted(self):
        rows = {}
        for tokens in (TOKENS, 40):  # no caption has 40
            folder = self.root / f"tokens_{tokens}"
            self.prepare(folder, f"data.max_tokens={tokens}", "data.validation_fraction=0.0")
            data = datasets(folder / "data.h5")
            rows[tokens] = data["train/text_length"]
        cut = int((rows[40] > TOKENS).sum())
        self.assertGreater(cut, 3)
        np.testing.assert_array_equal(rows[TOKENS], np.minimum(rows[40], TOKENS))
        self.assertIn(f"{cut} were longer than {TOKENS} and cut", self.report)

    def test_provenance(self):
        with h5py.File(self.usual / "data.h5") as file:
            attributes = dict(file.attrs)
            self.assertTrue(file["train/latents"].fletcher32)
        self.assertEqual(attributes["schema"].decode(), "data")
        self.assertIn("validation_fraction", attributes["deck"].decode())
        self.assertEqual([name.decode() for name in attributes["parents"]], ["source", "sentence encoder"])
        self.assertTrue(all(len(content_id) == 64 for content_id in attributes["parent_content_ids"]))

    def test_no_shards_are_left(self):
        self.assertEqual({path.name for path in self.usual.iterdir()}, {"data.h5", "timers_prepare.json"})

    # ---- other sources and kinds

    def test_a_tar_gives_the_same(self):
        self.source.as_tar(self.root / "pictures.tar")
        self.prepare(self.root / "tar", f"data.source=\"{self.root / 'pictures.tar'}\"")
        # what is missing in a folder does not exist in a tar
        self.assert_same_data(self.root / "tar", but=("image", "reason"))

    def test_pixels(self):
        self.prepare(self.root / "pixels", "data.latent=pixel", "data.flips=false")
        data = datasets(self.root / "pixels" / "data.h5")
        self.assertEqual(data["train/latents"].shape[1:], (1, 3, SIDE, SIDE))
        self.assertEqual(data["latent/scale"].tolist(), [1, 1, 1])
        split = "train" if "picture_000.png" in texts(data["train/image"]) else "validation"
        row = texts(data[f"{split}/image"]).index("picture_000.png")
        pixels = np.rint((data[f"{split}/latents"][row, 0].astype(float).transpose(1, 2, 0) + 1) * 127.5)
        with Image.open(self.source.folder / "picture_000.png") as image:
            np.testing.assert_array_equal(pixels, np.asarray(image))

    # ---- ranks and interruptions

    def test_ranks_do_not_matter(self):
        for ranks in (1, 2, 4):
            self.prepare(self.root / f"ranks_{ranks}", ranks=ranks)
            self.assert_same_data(self.root / f"ranks_{ranks}")

    def test_shard_size_does_not_matter(self):
        for size in (1, 3, 1000):
            self.prepare(self.root / f"shards_of_{size}", f"data.shard_size={size}")
            self.assert_same_data(self.root / f"shards_of_{size}")

    def test_stop_and_go_on(self):
        for ranks in (0, 2):
            folder = self.root / f"stopped_{ranks}"
            folder.mkdir()
            (folder / "stop").touch()
            stopped = self.prepare(folder, expect=75, ranks=ranks)
            self.assertIn("shards left to make", stopped.stderr)
            self.assertFalse((folder / "data.h5").exists())
            shard = folder / "data.h5.shards" / "shard_000000.h5"
            before = shard.stat().st_mtime_ns, shard.stat().st_ino
            (folder / "stop").touch()
            self.prepare(folder, expect=75)
            self.assertEqual((shard.stat().st_mtime_ns, shard.stat().st_ino), before)  # not made again
            self.assertIn("of 7 shards are there already", self.prepare(folder).stdout)
            self.assert_same_data(folder)

    def test_kill_and_go_on(self):
        folder = self.root / "killed"
        for shards in range(1, 7):  # each run is killed when one more shard is there
            process = subprocess.Popen(self.command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and len(list(folder.glob("data.h5.shards/*.h5"))) < shards:
                time.sleep(0.0005)
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.prepare(folder)
        self.assert_same_data(folder)

    def test_broken_shards_are_made_again(self):
        folder = self.root / "broken_shard"
        folder.mkdir()
        (folder / "stop").touch()
        self.prepare(folder, expect=75)
        shard = folder / "data.h5.shards" / "shard_000000.h5"
        shard.write_bytes(shard.read_bytes()[:-100])
        self.assertNotIn("are there already", self.prepare(folder).stdout)
        self.assert_same_data(folder)

    def test_shards_of_another_deck_or_text_are_made_again(self):
        for name, settings in {"seed": ("run.seed=2",), "size": ("data.image_size=10",), "shards": ("data.shard_size=4",)}.items():
            folder, fresh = self.root / f"other_{name}", self.root / f"fresh_{name}"
            folder.mkdir()
            (folder / "stop").touch()
            self.prepare(folder, expect=75)
            self.assertNotIn("are there already", self.prepare(folder, *settings).stdout)
            self.assertFalse((folder / "data.h5.shards").exists())
            self.prepare(fresh, *settings)
            self.assert_same_data(folder, datasets(fresh / "data.h5"))
        folder = self.root / "other_text"
        folder.mkdir()
        (folder / "stop").touch()
        self.prepare(folder, expect=75)
        caption = self.source.rows[1]["caption"]
        try:
            self.source.rows[1]["caption"] = "something else"
            self.source.write_index()
            self.assertNotIn("are there already", self.prepare(folder).stdout)
        finally:
            self.source.rows[1]["caption"] = caption
            self.source.write_index()
        data = datasets(folder / "data.h5")
        self.assertIn("something else", texts(data["train/caption"]) + texts(data["validation/caption"]))

    def test_pictures_that_changed_are_read_again(self):
        """A run ended with finished shards; then a broken picture is repaired, and another one replaced under the same name."""
        source, folder = Source(self.root / "changing"), self.root / "changed"
        broken, replaced = (source.folder / source.rows[i]["file"] for i in (Source.BROKEN, 0))
        here = f"data.source={source.folder}"
        self.prepare(folder, here, "data.bad_picture_limit=1", expect=3)  # the second one that cannot be read ends it
        self.assertTrue((folder / "data.h5.shards").exists())
        for path, colour in (broken, (1, 2, 3)), (replaced, (250, 0, 0)):
            Image.new("RGB", (SIDE, SIDE), colour).save(path)
        self.prepare(folder, here)
        self.prepare(self.root / "changed_fresh", here)
        self.assert_same_data(folder, datasets(self.root / "changed_fresh" / "data.h5"))
        self.assertNotIn(broken.name, texts(datasets(folder / "data.h5")["skipped/image"]))

    # ---- failures

    def test_too_many_broken_pictures(self):
        for ranks in (0, 2):
            folder = self.root / f"limit_{ranks}"
            failed = self.prepare(folder, "data.bad_picture_limit=1", expect=3, ranks=ranks)
            self.assertIn("data.bad_picture_limit", failed.stderr)
            self.assertEqual(failed.stderr.count("aptp: error"), 1)
            self.assertFalse((folder / "data.h5").exists())
            self.prepare(folder, "data.bad_picture_limit=1", expect=3, ranks=ranks)  # finished shards count too
            self.prepare(folder, ranks=ranks)
            self.assert_same_data(folder)

    def test_bad_inputs(self):
        empty = self.root / "empty"
        empty.mkdir()
        for settings, code, message in (
            (("data.source=nowhere",), 3, "nowhere"),
            ((f"data.source=\"{empty}\"",), 3, "index"),
            (("data.sentence_encoder=nowhere",), 3, "nowhere"),
            (("data.max_tokens=512",), 3, "512"),
            (("data.image_size=9",), 2, "image_size"),
            (("data.latent=wavelet",), 2, "wavelet"),
            (("data.validation_fraction=1.0",), 2, "validation_fraction"),
        ):
            failed = self.prepare(self.root / "bad", *settings, expect=code)
            self.assertIn(message, failed.stderr)
            self.assertFalse((self.root / "bad" / "data.h5").exists())

    def test_every_caption_held_out(self):
        failed = self.prepare(self.root / "no_train", "data.validation_fraction=0.999999999", expect=3)
        self.assertIn("no picture is left to train with", failed.stderr)

    def test_full_disk(self):
        folder = self.root / "full"
        self.prepare(folder, expect=4, limit=4096)  # of a shard
        self.assertFalse((folder / "data.h5").exists())
        failed = self.prepare(folder, expect=4, limit=(self.usual / "data.h5").stat().st_size - 1)  # of the joined file
        self.assertIn("data.h5", failed.stderr)
        self.assertFalse((folder / "data.h5").exists())
        self.assertEqual(list(folder.glob("**/*.partial")), [])
        self.prepare(folder)
        self.assert_same_data(folder)

    def test_folder_that_cannot_be_made(self):
        (self.root / "file").touch()
        self.prepare(self.root / "file" / "run", expect=4)

    def test_an_older_file_stays_when_a_run_fails(self):
        folder = self.root / "older"
        shutil.copytree(self.usual, folder)
        self.prepare(folder, "data.bad_picture_limit=0", expect=3)
        self.assert_same_data(folder)

    def test_check_writes_nothing(self):
        folder = self.root / "checked"
        ran = self.prepare(folder, check=True)
        self.assertIn("33 pictures, 7 shards of at most 5, 7 of them to be made", ran.stdout)
        self.assertIn("disk needed", ran.stdout)
        self.assertFalse(folder.exists())
        self.prepare(folder, "data.source=nowhere", check=True, expect=3)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        PROGRAM = Path(sys.argv.pop(1)).resolve()
    os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    unittest.main()
