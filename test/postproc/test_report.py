"""postproc/report.py and what it rests on, on a run folder made here: numbers that are known beforehand."""

import re
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np

POSTPROC = Path(__file__).resolve().parents[2] / "postproc"
sys.path[:0] = [str(POSTPROC), str(POSTPROC.parent / "test/support")]

from clusters import chance_agreement, normalised_mutual_information, typical_words  # noqa: E402
from page_parser import Page  # noqa: E402
from run_folder import latents_to_pictures, read_run  # noqa: E402
from tools import call  # noqa: E402

GROUPS = ["Flags", "Food", "Flags", "Food", "Food", "Flags", "Animals", "Animals"]
EXPERT = [0, 1, 0, 1, 1, 0, 1, 1]
CAPTIONS = ["flag: France", "red apple", "flag: Chile", "green apple", "apple pie", "flag: Peru", "cat | face", "cat"]
RATIO = [[0.40, 0.72], [0.50, 0.80]]  # [resolutions, experts]


def texts(values: list[str]) -> np.ndarray:
    return np.array([value.encode() for value in values])


DECK = 'phase = "%s";\nrun: { seed = 7; folder = "run"; };\n%s'
DECKS = {"router": "prune: { budget = 0.6; warmup_steps = 10; half = true; };", "assignment": "assign: { macs_resolutions = [16, 32]; };"}


def new_file(path: Path, schema: str) -> h5py.File:
    """With the root attributes that every file has."""
    file = h5py.File(path, "w")
    attributes = {"schema": schema, "program": "0.1.0", "commit": "abc123", "time": "2026-01-02T03:04:05Z", "backend": "cpu fp32", "hosts": "node7",
                  "content_id": f"{schema}-id".ljust(64, "0"), "deck": DECK % (schema, DECKS.get(schema, ""))}
    for name, value in attributes.items():
        file.attrs[name] = np.bytes_(value)
    file.attrs["ranks"], file.attrs["seed"] = np.int64(4), np.uint64(7)
    if schema == "assignment":
        file.attrs["parents"] = texts(["router.h5", "data.h5"])
        file.attrs["parent_content_ids"] = texts(["router-id".ljust(64, "0"), "data-id".ljust(64, "0")])
    return file


def write_run(folder: Path, bench: bool = True) -> None:
    """Two experts; one ResNet with 4 entries and a depth entry, one cross-attention with 2."""
    with new_file(folder / "router.h5", "router") as router:
        masks = np.array([[1, 0, 0, 0, 1, 0, 1], [1, 1, 1, 0, 1, 1, 0]], dtype=np.uint8)
        router["masks"] = masks
        router["gates"] = np.where(masks, 0.9, 0.1)
        router["units/path"] = texts(["down_blocks.0.resnets.1", "mid_block.attentions.0.transformer_blocks.0.attn2"])
        router["units/kind"] = texts(["resnet", "cross_attention"])
        router["units/first"], router["units/width"], router["units/depth"] = [0, 4], [4, 2], [0, -1]
        router["units/macs"], router["ratio/total"], router["settings/budget"] = [3e6, 1e6], RATIO[0], [0.6]
        router["depth/path"] = texts(["down_blocks.0.resnets.1"])
        router["history/step"] = np.arange(1, 41)
        for name in ("total", "ddpm", "distill_out", "distill_block", "resource", "contrastive", "entropy"):
            router[f"history/{name}"] = np.linspace(2, 1, 40)
        router["history/expert_ratio"] = np.full((40, 2), 0.5)
        router["history/expert_use"] = np.full((40, 2), 0.5)
    with new_file(folder / "assignment.h5", "assignment") as assignment:
        assignment["ratio/resolution"], assignment["ratio/total"] = [[16, 16], [32, 32]], RATIO
        assignment["ratio/target"] = [0.6]
        for split, items in (("train", 8), ("validation", 2)):
            expert = np.array(EXPERT[:items])
            assignment[f"{split}/expert"] = expert
            assignment[f"{split}/caption"], assignment[f"{split}/group"] = texts(CAPTIONS[:items]), texts(GROUPS[:items])
            assignment[f"{split}/mean_ratio"] = np.array(RATIO)[:, expert].mean(axis=1)
    with new_file(folder / "data.h5", "data") as data:
        data["latent/kind"], data["latent/scale"] = texts(["haar"]), np.ones(12)
        data["train/group"], data["train/subgroup"] = texts(GROUPS), texts(GROUPS)
        data["train/source"] = texts(["emoji"] * 6 + ["tuxpaint"] * 2)
        data["train/latents"] = np.zeros((8, 1, 12, 4, 4), dtype=np.float16)
    if bench:
        with new_file(folder / "bench.h5", "bench") as file:
            file["parameters"], file["resolution"], file["batch"] = [4000000, 1000000, 3000000], [16], [1, 8]
            file["macs"] = np.array([[1e9], [0.4e9], [0.72e9]])
            file["time"] = np.array([[[0.010, 0.080]], [[0.005, 0.032]], [[0.008, 0.064]]])
            file["peak_memory"] = np.full((3, 1, 2), 2.0**24)


def write_later_files(folder: Path) -> None:
    """What finetune, sample and evaluate write: expert 1 is not fine-tuned; the last picture is the teacher's."""
    with new_file(folder / "expert_00.h5", "expert") as file:
        file["expert"], file["ratio"], file["mask"] = np.int32(0), 0.40, np.ones(7, dtype=np.uint8)
        file["training/step"], file["training/samples"], file["training/skipped"] = 30, 960, 2
        file["history/step"] = np.arange(1, 31)
        for i, name in enumerate(("loss", "ddpm", "distill_out", "distill_block", "gradient_norm", "learning_rate")):
            file[f"history/{name}"] = np.linspace(3, 1, 30) / (1 + i)
    with new_file(folder / "samples.h5", "samples") as file:
        file["prompt"] = texts(["red apple", "flag: Peru", "cat <b>", "red apple"])
        file["expert"], file["seed"], file["index"] = np.array([1, 0, 1, -1], dtype=np.int32), [5] * 4, [0] * 4
        file["pixels"] = np.arange(4 * 300 * 200 * 3).reshape(4, 300, 200, 3).astype(np.uint8)
    with new_file(folder / "metrics.h5", "metrics") as file:
        file["model"], file["count"] = texts(["all", "expert 0", "expert 1"]), [8, 3, 5]
        file["frechet"], file["frechet_interval"] = [12.5, 14.0, np.nan], [[11.0, 13.5], [12.0, 16.25], [np.nan, np.nan]]
        file["clip_score"], file["clip_score_interval"] = [28.0, 27.0, 29.0], [[27.0, 29.0], [26.0, 28.0], [28.0, 30.0]]
        file["macs"], file["parameters"], file["seconds_per_image"] = [0.6, 0.4, 0.72], [2250000, 1000000, 3000000], [0.5, 0.4, 0.6]
        file["teacher/frechet"] = 10.25


class Numbers(unittest.TestCase):
    def test_mutual_information_of_known_labelings(self):
        same = np.array([0, 0, 1, 1, 2, 2])
        self.assertAlmostEqual(normalised_mutual_information(same, np.array(list("bbccaa"))), 1.0)
        self.assertAlmostEqual(normalised_mutual_information(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])), 0.0)
        # I = log 2 where one class of two is split: H = log 2 and 1.5 log 2, so 2 / 2.5
        self.assertAlmostEqual(normalised_mutual_information(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])), 0.8)
        self.assertEqual(normalised_mutual_information(np.zeros(4), np.zeros(4)), 0.0)

    def test_shuffled_labels_agree_little(self):
        labels = np.arange(2000) % 4
        self.assertAlmostEqual(normalised_mutual_information(labels, labels), 1.0)
        self.assertLess(chance_agreement(labels, labels), 0.01)

    def test_typical_words_are_frequent_here_and_rare_elsewhere(self):
        captions = np.array(["flag: France", "flag: Peru", "flag: red Chile", "red apple", "apple pie", "apple"], dtype=object)
        words = typical_words(captions, np.array([0, 0, 0, 1, 1, 1]), 3)
        self.assertEqual(words, [["flag"], ["apple"], []])  # expert 2 has no prompt

    def test_haar_latents_become_the_picture_again(self):
        picture = np.random.default_rng(1).integers(0, 256, (1, 6, 4, 3), dtype=np.uint8)
        x = picture.astype(float).transpose(0, 3, 1, 2) / 127.5 - 1
        a, b, c, d = x[:, :, 0::2, 0::2], x[:, :, 0::2, 1::2], x[:, :, 1::2, 0::2], x[:, :, 1::2, 1::2]
        bands = np.concatenate([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], axis=1) / 2
        scale = np.linspace(0.5, 8, 12)
        self.assertTrue(np.array_equal(latents_to_pictures(bands * scale[:, None, None], "haar", scale), picture))


SECTIONS = ["budget", "experts", "cost", "prompts", "training", "finetuning", "samples", "metrics", "settings", "provenance"]


class Report(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def page(self) -> Page:
        self.assertEqual(call("report", self.folder), (0, f"report: {self.folder}/report.html\n", ""))
        page = Page((self.folder / "report.html").read_text(encoding="utf-8"))
        self.assertEqual(list(page.section), SECTIONS)
        self.assertEqual(page.links, [])  # all of it is in the page itself
        return page

    def assert_fails(self, pattern: str) -> None:
        status, out, err = call("report", self.folder)
        self.assertEqual((status, out), (2, ""))
        self.assertRegex(err, pattern)
        self.assertEqual(err.count("\n"), 1)  # one line

    def test_numbers_of_the_report(self):
        write_run(self.folder)
        page = self.page()
        part = page.section
        self.assertIn("0.6000budget 0.6000, +0.00 % off", page.head.text)
        self.assertIn("2 of 2from 40.0 % to 72.0 % of the MACs", page.head.text)
        # The mean time of the experts, batch 8: (3 x 32 + 5 x 64) / 8 = 52 ms, the teacher's 80.
        self.assertIn("1.54 ×", page.head.text)
        self.assertEqual(part["budget"].table("split")[1:4], [["train", "16 × 16", "8", "0.6000", "+0.00 %"],  # (3 x 0.40 + 5 x 0.72) / 8
                                                              ["train", "32 × 32", "8", "0.6875", ""],
                                                              ["validation", "16 × 16", "2", "0.5600", "-6.67 %"]])
        experts = part["experts"]
        self.assertEqual(experts.table("expert", "MACs, of the teacher's"),
                         [["expert", "MACs, of the teacher's", "resnet kept", "cross attention kept", "blocks dropped"],
                          ["expert 0", "40.0 %", "25.0 %", "50.0 %", "0 of 1"], ["expert 1", "72.0 %", "0.0 %", "100.0 %", "1 of 1"]])
        self.assertEqual(experts.table("expert", "train prompts")[1:], [["expert 0", "3", "1", "40.0 %", "50.0 %"], ["expert 1", "5", "1", "72.0 %", "80.0 %"]])
        self.assertEqual(experts.table("unit")[1:], [["down_blocks.0.resnets.1", "resnet", "4", "3.00 M", "25 %", "dropped"],
                                                     ["mid_block.attentions.0.transformer_blocks.0.attn2", "cross attention", "2", "1.00 M", "50 %", "100 %"]])
        cosine, overlap = (table for table in experts.tables if table[0] == ["", "expert 0", "expert 1"])
        gates = np.where([[1, 0, 0, 0, 1, 0, 1], [1, 1, 1, 0, 1, 1, 0]], 0.9, 0.1)
        expected = gates[0] @ gates[1] / np.linalg.norm(gates[0]) / np.linalg.norm(gates[1])
        self.assertEqual(cosine[1], ["expert 0", "1.000", f"{expected:.3f}"])
        self.assertEqual(overlap[1:], [["expert 0", "1.000", "0.333"], ["expert 1", "0.333", "1.000"]])  # 2 of 6 entries
        cost = {tuple(table[2]) for table in part["cost"].tables}
        self.assertIn(("expert 0", "1.00 M", "0.400 G", "32.00 ms", "2.50 ×", "16.0 MiB"), cost)
        self.assertIn(("expert 0", "1.00 M", "0.400 G", "5.00 ms", "2.00 ×", "16.0 MiB"), cost)
        prompts = part["prompts"]
        self.assertEqual(prompts.table("group")[1:], [["Flags", "3", "3", "0"], ["Food", "3", "0", "3"], ["Animals", "2", "0", "2"]])
        self.assertEqual(prompts.table("expert")[1:], [["expert 0", "3", "flag"], ["expert 1", "5", "apple"]])
        agreement = prompts.table("prompts", "label")
        self.assertEqual(agreement[1][:5], ["emoji", "group", "6", "2", "1.000"])
        share = np.array([3, 3, 2]) / 8
        groups, experts = -np.sum(share * np.log(share)), -(3 / 8 * np.log(3 / 8) + 5 / 8 * np.log(5 / 8))
        self.assertEqual(agreement[3][:5], ["all prompts", "group", "8", "3", f"{2 * experts / (groups + experts):.3f}"])
        self.assertEqual(part["training"].table("quantity")[1][:2], ["total", f"{np.linspace(2, 1, 40)[:4].mean():.4g}"])
        settings = {row[0]: row[1:] for table in part["settings"].tables for row in table[1:]}
        self.assertEqual(settings["prune.budget"], ["0.6", "router.h5"])
        self.assertEqual(settings["prune.half"], ["true", "router.h5"])
        self.assertEqual(settings["run.seed"], ["7", "data.h5, router.h5, assignment.h5, bench.h5"])
        self.assertIn(["router.h5", "2026-01-02T03:04:05Z", "0.1.0 abc123", "cpu fp32", "node7", "4", "7", "router-id000", ""], part["provenance"].tables[0])
        self.assertNotIn("was made from another", page.head.text)

    def test_pictures_of_the_report(self):
        write_run(self.folder)
        write_later_files(self.folder)
        page = self.page()
        plots = {"budget": 1, "experts": 1, "cost": 1, "training": 1, "finetuning": 1, "metrics": 1}
        for name, count in plots.items():
            pictures = page.section[name].pictures()
            self.assertEqual(len(pictures), count, name)
            for alt, picture in pictures:
                self.assertTrue(alt)
                self.assertTrue(1500 <= picture.width <= 1800 and 200 <= picture.height <= 1500, (alt, picture.size))
                pixels = np.asarray(picture.convert("RGB")).astype(int)
                coloured = np.count_nonzero(pixels.max(axis=2) - pixels.min(axis=2) > 60)  # axes and texts are grey
                self.assertGreater(coloured, 500, alt)
        self.assertEqual([(alt, picture.size) for alt, picture in page.section["prompts"].pictures()],
                         [(CAPTIONS[i], (8, 8)) for k in (0, 1) for i in range(8) if EXPERT[i] == k])
        # Larger pictures are made smaller; the teacher comes first. A prompt is no markup.
        self.assertEqual([(alt, picture.size) for alt, picture in page.section["samples"].pictures()],
                         [(prompt, (107, 160)) for prompt in ("red apple", "flag: Peru", "red apple", "cat <b>")])
        self.assertIn("Teacher: 1 of 1", page.section["samples"].text)
        self.assertIn("Expert 1: 2 of 2", page.section["samples"].text)

    def test_numbers_of_later_phases(self):
        write_run(self.folder)
        write_later_files(self.folder)
        part = self.page().section
        loss = np.linspace(3, 1, 30)
        self.assertEqual(part["finetuning"].table("expert")[1:],
                         [["expert 0", "40.0 %", "30", "960", "2", f"{loss[:3].mean():.4g}", f"{loss[-3:].mean():.4g}"]])
        self.assertIn("expert_01.h5", part["finetuning"].text)
        self.assertNotIn("expert_00.h5", part["finetuning"].text)
        self.assertEqual(part["metrics"].table("model", "pictures"),
                         [["model", "pictures", "Fréchet distance ↓", "CLIP score ↑"],
                          ["all", "8", "12.5 [11, 13.5]", "28 [27, 29]"],
                          ["expert 0", "3", "14 [12, 16.25]", "27 [26, 28]"],
                          ["expert 1", "5", "–", "29 [28, 30]"],
                          ["teacher", "", "10.25", ""]])
        self.assertEqual(part["metrics"].table("model", "GMACs a picture"),
                         [["model", "GMACs a picture", "parameters", "time a picture"], ["all", "0.600", "2.25 M", "0.500 s"],
                          ["expert 0", "0.400", "1.00 M", "0.400 s"], ["expert 1", "0.720", "3.00 M", "0.600 s"]])

    def test_what_is_missing_is_named_with_its_command(self):
        write_run(self.folder, bench=False)
        part = self.page().section
        for name, phase in {"cost": "bench", "finetuning": "finetune", "samples": "sample", "metrics": "evaluate"}.items():
            self.assertEqual(part[name].commands, [f"./aptp input/{phase}.cfg --set run.folder={self.folder}"], name)
        for name in ("budget", "experts", "prompts", "training"):
            self.assertEqual(part[name].commands, [], name)

    def test_a_run_that_has_just_begun(self):
        """prune is at its fourth step, the fifth line is half written"""
        (self.folder / "prune.csv").write_text("step,total,ddpm,expert_ratio_0,expert_ratio_1\n" + "".join(f"{i},{2 / i},{1 / i},0.9,1\n" for i in range(1, 5)) + "5,0.4,0.")
        part = self.page().section
        self.assertEqual(part["training"].table("quantity")[1], ["total", "2", "0.5"])
        self.assertEqual(part["budget"].commands, [f"./aptp input/assign.cfg --set run.folder={self.folder}"])

    def test_files_that_do_not_belong_together(self):
        write_run(self.folder)
        with h5py.File(self.folder / "router.h5", "a") as router:
            router.attrs["content_id"] = np.bytes_("another".ljust(64, "0"))
        self.assertIn("assignment.h5 was made from another router.h5 than the one in this folder", self.page().head.text)

    def test_a_dropped_unit_keeps_nothing(self):
        write_run(self.folder)
        resnet, attention = read_run(self.folder).router.units
        self.assertEqual((resnet.block, attention.block), ("down 0", "middle"))
        self.assertEqual(resnet.kept.tolist(), [0.25, 0.0])
        self.assertEqual(resnet.dropped.tolist(), [False, True])
        self.assertEqual(attention.kept.tolist(), [0.5, 1.0])

    def test_a_folder_without_a_run(self):
        self.assert_fails("holds no file of a run")
        self.folder = self.folder / "nowhere"
        self.assert_fails("nowhere is no folder")

    def test_foreign_and_damaged_files(self):
        for name, content in {"router.h5": b"no HDF5 file", "prune.csv": b"step,loss\n1,high\n"}.items():
            (self.folder / name).write_bytes(content)
            self.assert_fails(re.escape(name))
            (self.folder / name).unlink()
        write_run(self.folder)
        whole = (self.folder / "router.h5").read_bytes()
        changes = {"masks": ("masks", np.ones((3, 7), dtype=np.uint8)), "units": ("units/width", np.array([4, 20])), "first": ("units/first", np.array([-1, 4])),
                   "history": ("history/total", np.ones(3))}
        for what, (name, values) in changes.items():
            with h5py.File(self.folder / "router.h5", "a") as router:
                del router[name]
                router[name] = values
            with self.subTest(what):
                self.assert_fails("router.h5 is no router file of aptp, or is damaged")
            (self.folder / "router.h5").write_bytes(whole)
        with h5py.File(self.folder / "router.h5", "a") as router:
            del router["gates"]
        self.assert_fails("router.h5 .*gates")
        (self.folder / "router.h5").write_bytes((self.folder / "data.h5").read_bytes())
        self.assert_fails("its schema is 'data', expected 'router'")


if __name__ == "__main__":
    result = unittest.main(argv=sys.argv[:1], exit=False, verbosity=1).result
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed} passed, {failed} failed")
    sys.exit(0 if result.wasSuccessful() else 1)
