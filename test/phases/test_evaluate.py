"""Phase evaluate on a small chain: its numbers against numpy, and what must not change them.

Pictures are made here, so that their features can be foretold: the first are the real ones, which must get the real ones' features.
Frechet distance (eigenvalues of the product of the covariances), CMMD (plain loops) and CLIP score are found again from the features
in the caches; the denoising means from the items. The same on 1 and 2 ranks, from caches whole, cut short and stale, and after a
stop; refused where files do not belong together; rows of experts without prompts are NaN.

Usage: test_evaluate.py APTP
"""
import math
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from PIL import Image  # noqa: E402
from chain import SIZE, Chain, Checks, differences  # noqa: E402

INPUT_FAULT, STOPPED = 3, 75
TIMED = "seconds_per_image", "settings/timing_batch"
QUIET = {"evaluate.split": "train", "evaluate.timing_batch": 0, "evaluate.teacher_pictures": "true"}  # most runs: 44 items, no time
# Frechet: of singular covariances the eigenvalues that should be 0 are 1e-16 of the largest here, their roots 1e-8; the program
# takes those roots otherwise. CMMD: k is next to 1, so that the plain loops lose digits: 1000 x 1e-16 x some. Means: rounding.
LIMITS = {"frechet": 1e-6, "cmmd": 1e-9, "clip_score": 1e-10, "mean": 1e-12}


def text(value):
    return numpy.bytes_(value.encode())


def write_samples(chain, name, split, expert, item, pixels, **changes):
    """samples.h5 as phase sample writes it; `changes` replaces root datasets or parents."""
    def content_id(file):
        with h5py.File(chain.path(file)) as opened:
            return opened.attrs["content_id"]
    count = len(expert)
    values = {"prompt": numpy.full(count, text("a prompt")), "expert": numpy.asarray(expert, "i4"), "item": numpy.asarray(item, "i8"),
              "index": numpy.zeros(count, "i8"), "seed": numpy.full(count, 7, "i8"), "pixels": pixels,
              "split": numpy.array([text(split)]), "model": numpy.array([text("teacher" if min(expert) < 0 else "routed")]), "experts": numpy.array([text("sliced")]),
              "settings/sampler": numpy.array([text("ddim")]), "settings/steps": numpy.array([2]),
              "settings/guidance": numpy.array([3.0])}
    parents = {"data.h5": content_id("data.h5"), "router.h5": content_id("router.h5"), "teacher.h5": content_id("teacher.h5")}
    parents.update({key: text(value) for key, value in changes.pop("parents", {}).items()})
    values.update(changes)
    with h5py.File(chain.path(name), "w") as file:
        for key, value in values.items():
            file.create_dataset(key, data=value)
        file.attrs["schema"], file.attrs["schema_version"] = text("samples"), 1
        file.attrs["content_id"] = text(f"{abs(hash(pixels.tobytes())):064x}"[-64:])
        file.attrs["parents"] = numpy.array([text(key) for key in parents])
        file.attrs["parent_content_ids"] = numpy.array(list(parents.values()), "S64")


def read(path, name):
    with h5py.File(path) as file:
        return file[name][()]


def real_pixels(chain, split):
    """The pictures of a split as they were drawn: latents undo exactly."""
    names = read(chain.path("data.h5"), f"{split}/image")
    return numpy.stack([numpy.asarray(Image.open(chain.path("pictures") / name.decode())) for name in names])


# ---- quantities, found again

def frechet(a, b):
    difference = a.mean(0) - b.mean(0)
    first, second = numpy.cov(a, rowvar=False), numpy.cov(b, rowvar=False)
    roots = numpy.sqrt(numpy.linalg.eigvals(first @ second).astype(complex)).real
    return difference @ difference + numpy.trace(first) + numpy.trace(second) - 2 * roots.sum()


def cmmd(a, b):
    def kernel_mean(x, y):
        return numpy.mean([[math.exp(-numpy.sum((r / numpy.linalg.norm(r) - s / numpy.linalg.norm(s)) ** 2) / 200) for s in y] for r in x])
    return 1000 * (kernel_mean(a, a) + kernel_mean(b, b) - 2 * kernel_mean(a, b))


def clip_score(image, prompt):
    return numpy.mean([100 * x @ y / numpy.linalg.norm(x) / numpy.linalg.norm(y) for x, y in zip(image, prompt)])


QUANTITIES = {"frechet": frechet, "cmmd": cmmd, "clip_score": clip_score}


class Trial:
    def __init__(self, program, folder):
        self.checks, self.chain = Checks(), Chain(program, folder)
        self.chain.make("prepare", "pretrain", "clip", "prune", "assign")
        self.metrics = self.chain.path("metrics.h5")
        self.make_samples()

    def make_samples(self):
        """Two pictures of each training item by its expert, a real one and a noisy one, and a noisy one by the teacher."""
        assigned, real = read(self.chain.path("assignment.h5"), "train/expert"), real_pixels(self.chain, "train")
        noise = numpy.random.default_rng(3).integers(-60, 60, real.shape)
        noisy = numpy.clip(real + noise, 0, 255).astype("u1")
        count = len(assigned)
        self.assigned, self.count = assigned, count
        self.samples = {"split": "train", "expert": numpy.tile(assigned, 2), "item": numpy.tile(numpy.arange(count), 2),
                        "pixels": numpy.concatenate([real, noisy])}
        self.teachers = {"split": "train", "expert": numpy.full(count, -1), "item": numpy.arange(count), "pixels": noisy[:, ::-1]}
        write_samples(self.chain, "samples.h5", **self.samples)
        write_samples(self.chain, "teacher_samples.h5", **self.teachers)

    def caches(self):
        return sorted(self.chain.folder.glob("evaluate_cache_*.h5"))

    def evaluate(self, settings=None, ranks=0):
        """Runs it; what it says."""
        result = self.chain.run("evaluate", ranks=ranks, settings={**QUIET, "run.log": "normal", **(settings or {})})
        self.checks.that(result.returncode == 0, f"{settings}: exit code {result.returncode}\n{result.stdout}")
        return result.stdout

    def expect_same(self, what, kept):
        found = [line for line in differences(kept, self.metrics) if not line.startswith(TIMED)]
        self.checks.that(not found, f"{what}: metrics.h5 is not the same:\n" + "\n".join(found))

    def computed(self, said):
        """Rows that were computed, by cache."""
        lines = [line.removeprefix("aptp: ") for line in said.splitlines() if " rows to compute" in line]
        return {line.rsplit(": ", 1)[0]: int(line.rsplit(": ", 1)[1].split()[0]) for line in lines}

    def features(self, name):
        return read(self.chain.path(f"evaluate_cache_{name}_trained.h5"), "values").astype(float)

    # ---- numbers

    def near(self, what, found, expected, limit):
        self.checks.that(abs(found - expected) <= limit * max(1, abs(expected)), f"{what} is {found}, expected {expected}")

    def features_are_in_order(self):
        """The real pictures' rows are those of the same pictures generated; captions' rows are the projection of z."""
        real, captions, made = (self.features(name) for name in ("real", "captions", "samples"))
        self.checks.that(numpy.array_equal(real, made[:self.count]), "features of a real picture depend on where it came from")
        self.checks.that(len(numpy.unique(made[:self.count], axis=0)) > self.count // 2, "features of unlike pictures are alike")
        weight = read(self.chain.path("clip.h5"), "weights/text_projection.weight").astype(float)
        texts = read(self.chain.path("data.h5"), "train/embedding").astype(float) @ weight.T
        self.checks.that(numpy.allclose(captions, texts, rtol=0, atol=1e-6 * abs(texts).max()), "text features are not W z")

    def pictures_are_numpys(self):
        image, prompt, by_experts, by_teacher = (self.features(name) for name in ("real", "captions", "samples", "teacher_samples"))
        made, expert, item = (numpy.concatenate(pair) for pair in
                              [(by_experts, by_teacher), *((self.samples[name], self.teachers[name]) for name in ("expert", "item"))])
        names = [name.decode() for name in read(self.metrics, "model")]
        self.checks.that(names == ["all", "expert 0", "expert 1", "expert 2", "teacher"], f"rows {names}")
        groups = [expert >= 0, *(expert == k for k in range(3)), expert == -1]
        self.checks.that(read(self.metrics, "count").tolist() == [int(group.sum()) for group in groups], "counts of pictures")
        checked = 0
        for row, group in enumerate(groups):
            if group.sum() < 4:
                continue
            items = numpy.unique(item[group])
            for name, quantity in QUANTITIES.items():
                other = prompt[item[group]] if name == "clip_score" else image[items]
                self.near(f"{name} of {names[row]}", read(self.metrics, name)[row], quantity(made[group], other), LIMITS[name])
                checked += 1
            score = read(self.metrics, "real/clip_score")[row]
            self.near(f"CLIP score of real pictures of {names[row]}", score, clip_score(image[items], prompt[items]), LIMITS["clip_score"])
        self.checks.that(checked >= 9, f"{checked} quantities were compared")

    def partners_are_numpys(self):
        """With few pictures to be had in the other split, each of them is a partner once, within its expert."""
        others, real = self.features("others"), self.features("real")
        assigned = read(self.chain.path("assignment.h5"), "validation/expert")
        expected = sum(min(int((self.assigned == k).sum()), int((assigned == k).sum())) for k in range(3))
        self.checks.that(len(others) == expected == read(self.metrics, "real/count")[0], f"{len(others)} partners, {expected} expected")
        self.near("CMMD of real pictures", read(self.metrics, "real/cmmd")[0], cmmd(real, others), LIMITS["cmmd"])
        self.near("Frechet distance of real pictures", read(self.metrics, "real/frechet")[0], frechet(real, others), LIMITS["frechet"])

    def losses_are_means_of_items(self):
        loss, distill, teacher = (read(self.metrics, f"denoising/{name}") for name in ("loss", "distill_out", "teacher_loss"))
        value, interval = read(self.metrics, "denoising_loss"), read(self.metrics, "denoising_loss_interval")
        items = loss.mean(1)
        self.checks.that(loss.shape == (self.count, 3) and (loss > 0).all() and (distill > 0).all(), "losses are not all positive")
        self.checks.that(numpy.allclose(read(self.metrics, "denoising/item_loss"), items, rtol=1e-12), "item_loss is not the mean")
        self.near("denoising loss", value[0], items.mean(), LIMITS["mean"])
        self.near("denoising loss of the teacher", value[4], teacher.mean(), LIMITS["mean"])
        self.near("distance to the teacher", read(self.metrics, "distill_out")[0], distill.mean(), LIMITS["mean"])
        for k in range(3):
            mine = self.assigned == k
            if mine.any():
                self.near(f"denoising loss of expert {k}", value[1 + k], items[mine].mean(), LIMITS["mean"])
        # 1.96 standard errors to each side; of 1000 replicates a percentile is good to 0.1 errors
        error = items.std() / math.sqrt(self.count)
        self.near("lower end", interval[0, 0], value[0] - 1.96 * error, 0.3 * error)
        self.near("upper end", interval[0, 1], value[0] + 1.96 * error, 0.3 * error)
        # |loss - teacher's| is at most what the outputs' distance allows: (a - c)^2 mean vs (b - c)^2 mean, Minkowski
        gap = abs(numpy.sqrt(loss) - numpy.sqrt(teacher)) - numpy.sqrt(distill)
        self.checks.that((gap < 1e-5).all(), "losses of expert and teacher are farther apart than their outputs")

    def costs_are_weighted(self):
        """Of the experts' parameters and MACs, against their files."""
        macs, prompts, parameters = (read(self.metrics, name) for name in ("macs", "prompts", "parameters"))
        self.near("MACs by use", macs[0], (macs[1:4] * prompts[1:4]).sum() / prompts[0], 1e-12)
        ratios = read(self.chain.path("router.h5"), "ratio/total")
        self.checks.that(numpy.allclose(macs[1:4] / macs[4], ratios, rtol=1e-12), "MACs ratios are not the router's")
        with h5py.File(self.chain.path("teacher.h5")) as file:
            weights = sum(value.size for value in file["weights"].values())
        self.checks.that(parameters[4] == weights and parameters[0] == parameters[1:4].sum(), f"parameters {parameters}")

    # ---- what must not change them

    def numbers(self):
        said = self.evaluate({"evaluate.bootstrap": 1000})
        self.checks.that(sum(self.computed(said).values()) > 0, "the first run computed nothing")
        self.features_are_in_order()
        self.pictures_are_numpys()
        self.partners_are_numpys()
        self.losses_are_means_of_items()
        self.costs_are_weighted()

    def ranks_change_nothing(self):
        """Nor does a second run, which computes no row."""
        kept = self.chain.path("kept.h5")
        said = self.evaluate({"evaluate.timing_batch": 1})
        self.checks.that(max(self.computed(said).values()) == 0 and len(self.computed(said)) >= 5, f"a second run computed:\n{said}")
        timed = read(self.metrics, TIMED[0])
        self.checks.that((timed > 0).all() and timed.max() < 100, f"seconds a picture: {timed}")
        shutil.copy(self.metrics, kept)
        for path in self.caches():
            path.unlink()
        said = self.evaluate(ranks=2)
        self.checks.that(min(self.computed(said).values()) > 0, f"caches that were removed were used:\n{said}")
        self.expect_same("1 and 2 ranks", kept)
        return kept

    def caches_are_continued_or_dropped(self, kept):
        """Cut short: the rest is computed. Of another key, with wrong values: never used."""
        path = max(self.chain.folder.glob("evaluate_cache_expert_*.h5"), key=lambda path: len(read(path, "values")))
        values, key = read(path, "values"), read(path, "key")
        rows = len(values)

        def rewrite(key, values):
            with h5py.File(path, "r+") as file:
                del file["values"], file["key"]
                file["values"], file["key"] = values, key
        rewrite(key, values[:3])
        said = self.evaluate()
        self.checks.that(f": {rows - 3} rows to compute, 3 are in" in said, f"a cut cache was not continued:\n{said}")
        self.expect_same("a cache that was cut short", kept)
        rewrite(numpy.array([key[0].replace(b"seed 7", b"seed 8")]), values + 1)
        said = self.evaluate()
        self.checks.that("was made from something else: computed anew" in said, f"a stale cache was not noticed:\n{said}")
        self.expect_same("a stale cache", kept)
        rewrite(key, values[:, :-1])
        result = self.chain.run("evaluate", settings=QUIET)
        self.checks.that(result.returncode == INPUT_FAULT and "values" in result.stdout, f"a cache of another width:\n{result.stdout}")
        path.unlink()

    def new_samples_are_seen(self, kept):
        """Other pictures: their features are computed, the real ones' are not, and the numbers change."""
        write_samples(self.chain, "samples.h5", **{**self.samples, "pixels": 255 - self.samples["pixels"]})
        computed = self.computed(self.evaluate())
        self.checks.that(computed["features of generated pictures (trained)"] == 2 * self.count, f"generated pictures: {computed}")
        self.checks.that(computed["features of real pictures (trained)"] == 0, f"real pictures: {computed}")
        changed = {line.split(":")[0] for line in differences(kept, self.metrics)}
        self.checks.that("frechet" in changed and "denoising_loss" not in changed, f"changed: {changed}")
        write_samples(self.chain, "samples.h5", **self.samples)

    def stop_and_go_on(self, kept):
        for path in self.caches():
            path.unlink()
        self.chain.path("stop").touch()
        result = self.chain.run("evaluate", settings=QUIET)
        self.checks.that(result.returncode == STOPPED, f"stop: exit code {result.returncode}\n{result.stdout}")
        self.checks.that(len(self.caches()) == 1, f"stop left {self.caches()}")
        said = self.evaluate()
        self.checks.that(0 in self.computed(said).values(), f"nothing was kept:\n{said}")
        self.expect_same("stopped and gone on", kept)

    def cases_are_fixed(self):
        """An item's errors depend neither on the other timesteps nor, but for rounding, on the batch."""
        loss = read(self.metrics, "denoising/loss")
        without = {"evaluate.pictures": "false", "evaluate.teacher_pictures": "false"}
        self.evaluate({**without, "evaluate.timesteps": "[500]"})
        self.checks.that(numpy.array_equal(read(self.metrics, "denoising/loss")[:, 0], loss[:, 1]), "other timesteps change a loss")
        self.evaluate({**without, "evaluate.batch": 7, "evaluate.teacher": "false"})
        self.checks.that(numpy.allclose(read(self.metrics, "denoising/loss"), loss, rtol=1e-4), "the batch changes losses")  # fp32 UNet
        with h5py.File(self.metrics) as file:
            self.checks.that("frechet" not in file and "distill_out" not in file and len(file["model"]) == 4, "what was not asked for is there")

    # ---- rows without prompts, one expert, files that do not fit

    def empty_rows_are_nan(self):
        """The held-out split has 4 items, which not every expert gets; two pictures of each by phase sample."""
        self.chain.make("sample")
        self.evaluate({"evaluate.split": "validation", "evaluate.teacher_pictures": "false"})
        counts = read(self.metrics, "prompts")
        self.checks.that(0 in counts[1:4] and counts[0] == 4, f"every expert has prompts: {counts}")
        self.checks.that(numpy.array_equal(read(self.metrics, "count")[:4], 2 * counts[:4]), "two pictures of each prompt")
        for name in "frechet", "cmmd", "clip_score", "denoising_loss", "distill_out":
            value, interval = read(self.metrics, name), read(self.metrics, f"{name}_interval")
            self.checks.that(numpy.isnan(value[1:4][counts[1:4] == 0]).all(), f"{name} of no prompts: {value}")
            self.checks.that(numpy.isfinite(value[0]) and numpy.isnan(interval).all(), f"{name} of 4 pictures: {value} {interval}")

    def one_expert(self):
        """K = 1: all and expert 0 are the same. The router keeps the first of its codes."""
        chain = self.chain
        with h5py.File(chain.path("router.h5"), "r+") as file:
            for name in "codes", "gates", "masks", "ratio/prunable", "ratio/total":
                value = file[name][:1]
                del file[name]
                file[name] = value
        chain.make("assign")
        teacher = read(chain.path("kept.h5"), "denoising/teacher_loss")
        count = len(read(chain.path("assignment.h5"), "train/expert"))
        write_samples(chain, "samples.h5", "train", numpy.zeros(count, "i4"), numpy.arange(count), real_pixels(chain, "train")[:, :, ::-1])
        self.evaluate()
        for name in "frechet", "cmmd", "clip_score", "denoising_loss", "macs":
            value = read(self.metrics, name)
            self.checks.that(len(value) == 3 and value[0] == value[1] and numpy.isfinite(value[:2]).all(), f"one expert, {name}: {value}")
        # Which expert was beside the teacher, and in which batch, changes the rounding of an fp32 UNet alone.
        again = read(self.metrics, "denoising/teacher_loss")
        self.checks.that(numpy.allclose(again, teacher, rtol=1e-4), "the teacher's losses depend on the experts")

    def refuse(self, what, *messages, settings=None, **changes):
        write_samples(self.chain, "samples.h5", **{**self.samples, **changes})
        result = self.chain.run("evaluate", settings={**QUIET, **(settings or {})})
        self.checks.that(result.returncode == INPUT_FAULT and all(message in result.stdout for message in messages),
                         f"{what}: exit code {result.returncode}, expected {messages}\n{result.stdout}")

    def refusals(self):
        self.refuse("another split", "evaluate.split", split="validation")
        self.refuse("another router", "another router.h5", "run sample again", parents={"router.h5": "0" * 64})
        self.refuse("an item that is not there", "item 1000", item=numpy.where(self.samples["item"] == 0, 1000, self.samples["item"]))
        self.refuse("an expert that is not there", "expert 3", expert=numpy.full(2 * self.count, 3))
        self.refuse("pictures of another size", "8 x 8", pixels=self.samples["pixels"][:, :8, :8])
        result = self.chain.run("evaluate", settings=QUIET, arguments=["--check"])
        self.checks.that(result.returncode == INPUT_FAULT and "8 x 8" in result.stdout, f"--check takes pictures of another size:\n{result.stdout}")
        self.refuse("a teacher's pictures by experts", 'model "routed"', "sample.model", settings={"files.teacher_samples": "samples.h5"})
        self.refuse("pictures of one expert", 'model "expert"', "sample.model", model=numpy.array([text("expert")]))
        self.refuse("pictures of the teacher that are not evaluated", "evaluate.teacher is false", model=numpy.array([text("teacher")]),
                    settings={"evaluate.teacher": "false", "evaluate.teacher_pictures": "false"})
        self.refuse("pictures of another sampler", "not sampled alike", "3 and 2 steps", **{"settings/steps": numpy.array([3])})
        self.refuse("sliced samples of finetuned experts", "expert_00.h5 is missing", "finetune", settings={"evaluate.experts": "finetuned"})
        self.refuse("no metric network", "none.h5 is missing", "pretrain.model", settings={"files.clip": "none.h5"})
        self.chain.remove("samples.h5")
        result = self.chain.run("evaluate", settings=QUIET)
        self.checks.that(result.returncode == INPUT_FAULT and "samples.h5 is missing: it is made by sample" in result.stdout, result.stdout)

    def check_writes_nothing(self):
        before = sorted(path.name for path in self.chain.folder.iterdir())
        result = self.chain.run("evaluate", settings={**QUIET, "run.log": "normal"}, arguments=["--check"])
        self.checks.that(result.returncode == 0 and "planned memory" in result.stdout, f"--check:\n{result.stdout}")
        self.checks.that(sorted(path.name for path in self.chain.folder.iterdir()) == before, "--check wrote files")


def main():
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(sys.argv[1], folder)
        trial.check_writes_nothing()
        trial.numbers()
        kept = trial.ranks_change_nothing()
        trial.caches_are_continued_or_dropped(kept)
        trial.new_samples_are_seen(kept)
        trial.stop_and_go_on(kept)
        trial.cases_are_fixed()
        trial.refusals()
        trial.empty_rows_are_nan()
        trial.one_expert()
        trial.checks.end()


if __name__ == "__main__":
    main()
