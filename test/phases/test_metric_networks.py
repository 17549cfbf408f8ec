"""Phase evaluate with published metric networks: InceptionV3 for the Frechet distance, CLIPs for CMMD and CLIP score.

The networks are small ones with random weights; the numbers must be those that numpy finds in the features that PyTorch, pytorch-fid
and transformers make of the same files (test/reference/metric_networks.py): pictures larger than the run's, brought to its size, read
by each network in its own way. Real pictures come from a folder, an index or a tar; missing and broken ones are left out. Features are
kept by network; neither ranks nor caches change a bit.

Usage: test_metric_networks.py APTP
"""
import pathlib
import shutil
import sys
import tarfile
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import h5py  # noqa: E402
import numpy  # noqa: E402
from PIL import Image  # noqa: E402
from chain import PICTURES, Chain, Checks, differences  # noqa: E402
from published import FIXTURES, read_safetensors, write_safetensors  # noqa: E402
from test_evaluate import INPUT_FAULT, clip_score, cmmd, frechet, read, text, write_samples  # noqa: E402

NETWORKS = {"evaluate.inception": FIXTURES / "inception_narrow", "evaluate.clip_folder": FIXTURES / "clip_metric",
            "evaluate.cmmd_folder": FIXTURES / "clip_vision_whole", "evaluate.pictures_source": "originals"}
QUIET = {"evaluate.split": "train", "evaluate.timing_batch": 0, "evaluate.teacher": "false", "evaluate.half_samples": 0}
FEATURES = 1e-5  # of the largest: fp32 of networks of random weights against fp64
# Of the values: the Frechet distance adds differences of the features, CMMD is small beside the kernels' means, which are next to 1.
LIMITS = {"frechet": 1e-5, "cmmd": 1e-4, "clip_score": 1e-5}
MEASURES = {"frechet": ("inception", frechet), "cmmd": ("other", cmmd), "clip_score": ("clip", clip_score)}


class Trial:
    def __init__(self, program, folder):
        self.checks, self.chain = Checks(), Chain(program, folder)
        self.chain.make("prepare", "pretrain", "prune", "assign")
        self.metrics = self.chain.path("metrics.h5")
        with h5py.File(FIXTURES / "metric_networks.h5") as file:
            self.reference = {name: values[()] for name, values in file["features"].items()}
            self.originals, self.made = file["pictures/originals"][()], file["pictures/made"][()]
        self.chain.path("originals").mkdir()
        for i in range(PICTURES):
            self.write_original(i)
        self.number = {split: [int(name.decode().split(".")[0]) for name in read(self.chain.path("data.h5"), f"{split}/image")]
                       for split in ("train", "validation")}
        self.assigned = {split: read(self.chain.path("assignment.h5"), f"{split}/expert") for split in self.number}
        # Not of every item, and in another order than theirs.
        self.items = numpy.arange(2, len(self.number["train"]))[::-1]
        self.places = numpy.array(self.number["train"])[self.items]
        write_samples(self.chain, "samples.h5", "train", self.assigned["train"][self.items], self.items, self.made[self.places])

    def write_original(self, i):
        Image.fromarray(self.originals[i]).save(self.chain.path("originals") / f"{i}.png")

    def run(self, settings=None, ranks=0):
        return self.chain.run("evaluate", ranks=ranks, settings={**QUIET, **NETWORKS, "run.log": "normal", **(settings or {})})

    def evaluate(self, settings=None, ranks=0):
        result = self.run(settings, ranks)
        self.checks.that(result.returncode == 0, f"{settings}: exit code {result.returncode}\n{result.stdout}")
        return result.stdout

    def refuse(self, what, *messages, **settings):
        result = self.run({f"evaluate.{key}" if "." not in key else key: value for key, value in settings.items()})
        self.checks.that(result.returncode == INPUT_FAULT and all(message in result.stdout for message in messages),
                         f"{what}: exit code {result.returncode}, expected {messages}\n{result.stdout}")

    def computed(self, said):
        """Rows that were computed, by cache."""
        lines = [line.removeprefix("aptp: ") for line in said.splitlines() if "features" in line and " rows to compute" in line]
        return {line.rsplit(": ", 1)[0]: int(line.rsplit(": ", 1)[1].split()[0]) for line in lines}

    # ---- numbers

    def features_are_the_references(self):
        rows = {"real": "originals", "samples": "made", "captions": "caption"}
        for cache, network in ("inception", "inception"), ("cmmd_folder", "other"), ("clip_folder", "clip"):
            for name, column in rows.items():
                if name == "captions" and cache != "clip_folder":
                    continue
                found = read(self.chain.path(f"evaluate_cache_{name}_{cache}.h5"), "values")
                expected = self.reference[f"{network}_{column}"][self.places if name == "samples" else self.places[::-1]]
                error = abs(found - expected).max() / abs(expected).max()
                self.checks.that(error <= FEATURES, f"{name} by {cache}: features are off by {error:.1e}")

    def expected(self, name, row, left_out=()):
        """Of experts as a whole (row 0) or one: the value, and with real pictures in the place of the generated ones."""
        network, quantity = MEASURES[name]
        made = numpy.array([self.number["train"][i] for i in self.items if row in (0, self.assigned["train"][i] + 1)])
        real = numpy.array([place for place in made if place not in left_out])
        features = {column: self.reference[f"{network}_{column}"].astype(float) for column in ("originals", "made")}
        if name == "clip_score":
            captions = self.reference["clip_caption"].astype(float)
            return quantity(features["made"][made], captions[made]), quantity(features["originals"][real], captions[real])
        return quantity(features["made"][made], features["originals"][real]), None

    def numbers_are_numpys(self, left_out=()):
        for name in MEASURES:
            for row in range(4):
                count = read(self.metrics, "count")[row]
                if count < 3:
                    continue
                value, real = self.expected(name, row, left_out)
                for what, found, wanted in (name, read(self.metrics, name)[row], value), (f"real {name}", read(self.metrics, f"real/{name}")[row], real):
                    if wanted is not None:
                        self.checks.that(abs(found - wanted) <= LIMITS[name] * abs(wanted), f"{what} of row {row} is {found}, expected {wanted}")

    def partners_are_read_from_files_too(self):
        others = read(self.chain.path("evaluate_cache_others_inception.h5"), "values")
        names = self.reference["inception_originals"][self.number["validation"]]
        for row in others:
            self.checks.that(abs(names - row).max(axis=1).min() <= FEATURES * abs(names).max(), "a partner is no picture of the other split")
        self.checks.that(len(others) == read(self.metrics, "real/count")[0] > 0, f"{len(others)} partners")

    def networks_are_told(self, said):
        kinds = {"frechet": "inception", "cmmd": "clip", "clip_score": "clip"}
        for name, kind in kinds.items():
            key = read(self.metrics, f"network/{name}_id")[0].decode()
            self.checks.that(read(self.metrics, f"network/{name}")[0].decode() == kind and len(key) == 64, f"network of {name}")
            self.checks.that(f"{name} by the network {kind} of " in said and key[:12] in said, f"the network of {name} is not told")
        widths = [read(self.metrics, f"network/{name}_features")[0] for name in kinds]
        self.checks.that(widths == [128, 11, 9], f"features {widths}")
        self.checks.that("pictures of 20 x 20 pixels are brought to 16 a side" in said, "the size is not told")

    # ---- caches, networks, ranks

    def nothing_is_computed_twice(self):
        kept = self.chain.path("kept.h5")
        shutil.copy(self.metrics, kept)
        computed = self.computed(self.evaluate())
        self.checks.that(len(computed) == 10 and not any(computed.values()), f"a second run computed {computed}")
        for path in self.chain.folder.glob("evaluate_cache_*.h5"):
            path.unlink()
        computed = self.computed(self.evaluate(ranks=2))
        self.checks.that(all(computed.values()), f"caches that were removed were used: {computed}")
        found = differences(kept, self.metrics)
        self.checks.that(not found, "1 and 2 ranks:\n" + "\n".join(found))
        return kept

    def other_sources_are_the_same(self, kept):
        """The same files by an index and in a tar, without the folder's own."""
        folder = self.chain.path("originals")
        (folder / "index.csv").write_text("file,caption\n" + "".join(f"{i}.png,x\n" for i in reversed(range(PICTURES))))
        computed = self.computed(self.evaluate())
        self.checks.that(not any(computed.values()), f"an index of the same files: {computed}")
        (folder / "index.csv").unlink()
        with tarfile.open(self.chain.path("originals.tar"), "w", format=tarfile.USTAR_FORMAT) as tar:
            for i in range(PICTURES):
                (folder / f"{i}.txt").write_text("x")
                for ending in "png", "txt":
                    tar.add(folder / f"{i}.{ending}", f"{i}.{ending}")
        computed = self.computed(self.evaluate({"evaluate.pictures_source": "originals.tar"}))
        self.checks.that(computed["features of real pictures (inception)"] > 0, f"pictures in a tar: {computed}")
        found = differences(kept, self.metrics)
        self.checks.that(not found, "a tar:\n" + "\n".join(found))
        self.evaluate()  # the folder's again

    def another_network_is_noticed(self, kept):
        folder = self.chain.path("other_inception")
        shutil.copytree(NETWORKS["evaluate.inception"], folder)
        weights = {name: values.copy() for name, values in read_safetensors(folder / "model.safetensors").items()}
        weights["Mixed_7c.branch1x1.bn.weight"] *= 1.25
        write_safetensors(folder / "model.safetensors", weights)
        computed = self.computed(self.evaluate({"evaluate.inception": folder}))
        self.checks.that(all((count > 0) == ("(inception)" in name) for name, count in computed.items()), f"another InceptionV3: {computed}")
        changed = {line.split(":")[0] for line in differences(kept, self.metrics)}
        self.checks.that({"frechet", "network/frechet_id"} <= changed and "cmmd" not in changed, f"changed: {changed}")
        # One folder for both: opened once, CMMD by the same features.
        said = self.evaluate({"evaluate.cmmd_folder": NETWORKS["evaluate.clip_folder"]})
        self.checks.that(not any("cmmd_folder" in name for name in self.computed(said)), f"one network twice:\n{said}")
        made, real = (self.reference[f"clip_{name}"].astype(float)[self.places] for name in ("made", "originals"))
        found, wanted = read(self.metrics, "cmmd")[0], cmmd(made, real)
        self.checks.that(abs(found - wanted) <= LIMITS["cmmd"] * wanted, f"CMMD by the other network is {found}, expected {wanted}")

    def what_has_no_network_is_left_out(self):
        said = self.evaluate({"evaluate.clip_folder": '""', "evaluate.cmmd_folder": '""'})
        self.checks.that(said.count("is left out: evaluate.") == 2, f"left out silently:\n{said}")
        with h5py.File(self.metrics) as file:
            self.checks.that("frechet" in file and not {"cmmd", "clip_score"} & set(file), f"datasets {list(file)}")

    # ---- pictures that are not there

    def broken_pictures_are_left_out(self):
        broken, missing = self.number["train"][3], self.number["train"][-2]
        folder = self.chain.path("originals")
        (folder / f"{broken}.png").write_bytes((folder / f"{broken}.png").read_bytes()[:60])
        (folder / f"{missing}.png").unlink()
        for again in range(2):  # computed, and from the caches
            said = self.evaluate()
            self.checks.that("2 of " in said and "no real picture of item 3 of train" in said and "it is not in originals" in said,
                             f"broken pictures are not told:\n{said}")
        self.numbers_are_numpys({broken, missing})
        self.refuse("more broken pictures than allowed", "2 pictures of train", "1 are allowed", **{"data.bad_picture_limit": 1})
        self.write_original(broken)
        self.write_original(missing)
        said = self.evaluate()
        self.checks.that("no real picture" not in said and self.computed(said)["features of real pictures (inception)"] > 0,
                         f"mended pictures:\n{said}")
        self.numbers_are_numpys()

    def without_the_other_split(self):
        """Pictures of the validation alone, as COCO's are in a folder of their own: nothing stands in for the generated ones."""
        for i in self.number["validation"]:
            (self.chain.path("originals") / f"{i}.png").unlink()
        said = self.evaluate()
        self.checks.that("originals has no picture of the split validation" in said, f"no partners:\n{said}")
        self.checks.that(not read(self.metrics, "real/count").any() and numpy.isnan(read(self.metrics, "real/frechet")).all(), "partners of nothing")
        self.numbers_are_numpys()

    def refusals(self):
        self.refuse("a CLIP without tokenizer", "evaluate.clip_folder", "text tower", "vocab.json", clip_folder=FIXTURES / "clip_vision_whole")
        self.refuse("an image encoder alone", "evaluate.clip_folder", "text tower", clip_folder=FIXTURES / "clip_vision_quick")
        self.refuse("a CLIP as InceptionV3", "evaluate.inception", "unknown key", inception=FIXTURES / "clip_metric")
        self.refuse("InceptionV3 as a CLIP", "evaluate.cmmd_folder", "model_type", cmmd_folder=FIXTURES / "inception_narrow")
        elsewhere = self.chain.path("elsewhere")
        elsewhere.mkdir()
        self.refuse("a folder without pictures", "elsewhere: ", pictures_source="elsewhere")
        shutil.copy(self.chain.path("originals") / "0.png", elsewhere / "other.png")
        self.refuse("pictures of other names", f"{len(self.items)} pictures of train are missing from elsewhere", pictures_source="elsewhere",
                    **{"data.bad_picture_limit": 3})
        result = self.run({"evaluate.clip_folder": FIXTURES / "clip_vision_whole"}, ranks=2)
        self.checks.that(result.returncode == INPUT_FAULT, f"2 ranks: exit code {result.returncode}")
        result = self.chain.run("evaluate", settings={**QUIET, **NETWORKS, "run.log": "normal"}, arguments=["--check"])
        self.checks.that(result.returncode == 0 and "planned memory" in result.stdout and "features: " in result.stdout, f"--check:\n{result.stdout}")

    def experts_of_another_assignment(self):
        self.chain.make("finetune")
        settings = {"evaluate.experts": "finetuned", "evaluate.pictures": "false"}
        self.evaluate(settings)
        with h5py.File(self.chain.path("expert_01.h5"), "r+") as file:
            parents = [name.decode() if isinstance(name, bytes) else name for name in file.attrs["parents"]]
            ids = file.attrs["parent_content_ids"]
            ids[parents.index("assignment.h5")] = text("0" * 64)
            file.attrs["parent_content_ids"] = ids
        result = self.run(settings)
        self.checks.that(result.returncode == INPUT_FAULT and "expert_01.h5" in result.stdout and "assignment.h5" in result.stdout,
                         f"experts of another assignment:\n{result.stdout}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(sys.argv[1], folder)
        said = trial.evaluate()
        trial.networks_are_told(said)
        trial.features_are_the_references()
        trial.numbers_are_numpys()
        trial.partners_are_read_from_files_too()
        kept = trial.nothing_is_computed_twice()
        trial.other_sources_are_the_same(kept)
        trial.another_network_is_noticed(kept)
        trial.what_has_no_network_is_left_out()
        trial.broken_pictures_are_left_out()
        trial.without_the_other_split()
        trial.refusals()
        trial.experts_of_another_assignment()
        trial.checks.end()


if __name__ == "__main__":
    main()
