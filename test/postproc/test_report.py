"""postproc/report.py and what it rests on, on a run folder made here: numbers that are known beforehand."""

import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np

POSTPROC = Path(__file__).resolve().parents[2] / "postproc"
sys.path.insert(0, str(POSTPROC))

from clusters import chance_agreement, normalised_mutual_information, typical_words  # noqa: E402
from run_folder import latents_to_pictures, read_run  # noqa: E402

GROUPS = ["Flags", "Food", "Flags", "Food", "Food", "Flags", "Animals", "Animals"]
EXPERT = [0, 1, 0, 1, 1, 0, 1, 1]
CAPTIONS = ["flag: France", "red apple", "flag: Chile", "green apple", "apple pie", "flag: Peru", "cat | face", "cat"]
RATIO = [[0.40, 0.72], [0.50, 0.80]]  # [resolutions, experts]


def texts(values: list[str]) -> np.ndarray:
    return np.array([value.encode() for value in values])


def write_run(folder: Path, bench: bool = True) -> None:
    """Two experts; one ResNet with 4 entries and a depth entry, one cross-attention with 2."""
    with h5py.File(folder / "router.h5", "w") as router:
        masks = np.array([[1, 0, 0, 0, 1, 0, 1], [1, 1, 1, 0, 1, 1, 0]], dtype=np.uint8)
        router["masks"] = masks
        router["gates"] = np.where(masks, 0.9, 0.1)
        router["units/path"] = texts(["down_blocks.0.resnets.1", "mid_block.attentions.0.transformer_blocks.0.attn2"])
        router["units/kind"] = texts(["resnet", "cross_attention"])
        router["units/first"], router["units/width"], router["units/depth"] = [0, 4], [4, 2], [0, -1]
        router["depth/path"] = texts(["down_blocks.0.resnets.1"])
        router["history/step"] = np.arange(1, 41)
        for name in ("total", "ddpm", "distill_out", "distill_block", "resource", "contrastive", "entropy"):
            router[f"history/{name}"] = np.linspace(2, 1, 40)
        router["history/expert_ratio"] = np.full((40, 2), 0.5)
        router["history/expert_use"] = np.full((40, 2), 0.5)
    with h5py.File(folder / "assignment.h5", "w") as assignment:
        assignment["ratio/resolution"], assignment["ratio/total"] = [[16, 16], [32, 32]], RATIO
        assignment["ratio/target"] = [0.6]
        for split, items in (("train", 8), ("validation", 2)):
            expert = np.array(EXPERT[:items])
            assignment[f"{split}/expert"] = expert
            assignment[f"{split}/caption"], assignment[f"{split}/group"] = texts(CAPTIONS[:items]), texts(GROUPS[:items])
            assignment[f"{split}/mean_ratio"] = np.array(RATIO)[:, expert].mean(axis=1)
    with h5py.File(folder / "data.h5", "w") as data:
        data["latent/kind"], data["latent/scale"] = texts(["haar"]), np.ones(12)
        data["train/group"], data["train/subgroup"] = texts(GROUPS), texts(GROUPS)
        data["train/source"] = texts(["emoji"] * 6 + ["tuxpaint"] * 2)
        data["train/latents"] = np.zeros((8, 1, 12, 4, 4), dtype=np.float16)
    if bench:
        with h5py.File(folder / "bench.h5", "w") as file:
            file["parameters"], file["resolution"], file["batch"] = [4000000, 1000000, 3000000], [16], [1, 8]
            file["macs"] = np.array([[1e9], [0.4e9], [0.72e9]])
            file["time"] = np.array([[[0.010, 0.080]], [[0.005, 0.032]], [[0.008, 0.064]]])
            file["peak_memory"] = np.full((3, 1, 2), 2.0**24)


def make_report(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, POSTPROC / "report.py", folder], capture_output=True, text=True)


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


class Report(unittest.TestCase):
    def test_numbers_of_the_report(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_run(folder)
            run = make_report(folder)
            self.assertEqual(run.returncode, 0, run.stderr)
            text = (folder / "report.md").read_text(encoding="utf-8")
            self.assertEqual((folder / "report.png").read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
        self.assertIn("2 experts, 2 of them used; mean share of the teacher's MACs 0.6000, budget 0.6000 (+0.00 %)", text)
        self.assertIn("| train | 16 x 16 | 0.6000 | +0.00 % |", text)  # (3 x 0.40 + 5 x 0.72) / 8
        self.assertIn("| train | 32 x 32 | 0.6875 |  |", text)
        self.assertIn("| validation | 16 x 16 | 0.5600 | -6.67 % |", text)
        self.assertIn("| 0 | 3 | 1 | 40.0 % | 50.0 % | 25.0 % | 50.0 % | 0 |", text)
        self.assertIn("| 1 | 5 | 1 | 72.0 % | 80.0 % | 0.0 % | 100.0 % | 1 |", text)  # its ResNet is dropped
        self.assertIn("| expert 0 | 1.00 M | 16 | 8 | 0.400 G | 32.00 ms | 2.50 x | 16.0 MiB |", text)
        self.assertIn("| emoji, group | 6 | 2 | 1.000 |", text)
        self.assertIn("| Flags | 3 | 3 | 0 |", text)
        self.assertIn("| 1 | apple |", text)
        self.assertIn("| expert 0 | 0.0 % | 57.1 % |", text)  # 4 of 7 gates
        agreement = re.search(r"\| all prompts, group \| 8 \| 3 \| ([0-9.]+) \|", text)
        share = np.array([3, 3, 2]) / 8
        groups, experts = -np.sum(share * np.log(share)), -(3 / 8 * np.log(3 / 8) + 5 / 8 * np.log(5 / 8))
        self.assertAlmostEqual(float(agreement.group(1)), 2 * experts / (groups + experts), places=3)

    def test_a_dropped_unit_keeps_nothing(self):
        with tempfile.TemporaryDirectory() as name:
            write_run(Path(name))
            resnet, attention = read_run(Path(name)).units
        self.assertEqual((resnet.block, attention.block), ("down 0", "middle"))
        self.assertEqual(resnet.kept.tolist(), [0.25, 0.0])
        self.assertEqual(resnet.dropped.tolist(), [False, True])
        self.assertEqual(attention.kept.tolist(), [0.5, 1.0])

    def test_without_measurements(self):
        with tempfile.TemporaryDirectory() as name:
            write_run(Path(name), bench=False)
            self.assertEqual(make_report(Path(name)).returncode, 0)
            self.assertIn("there is no bench.h5", (Path(name) / "report.md").read_text(encoding="utf-8"))

    def test_a_missing_file_is_named_with_its_phase(self):
        with tempfile.TemporaryDirectory() as name:
            run = make_report(Path(name))
        self.assertEqual(run.returncode, 2)
        self.assertRegex(run.stderr, r"router\.h5 is missing; the phase prune writes it")


if __name__ == "__main__":
    result = unittest.main(argv=sys.argv[:1], exit=False, verbosity=1).result
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed} passed, {failed} failed")
    sys.exit(0 if result.wasSuccessful() else 1)
