"""The study on a small chain: made in parts, killed, stopped and gone on with, and its results files and RESULTS.md compared with the
files of the runs. The rules of the verdicts on numbers made up here. The list of the true study: its settings are keys of their phases.

Usage: test_study.py APTP
"""
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "test/support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from chain import Chain, Checks, environment  # noqa: E402
from PIL import Image  # noqa: E402
from tools import call  # noqa: E402

import figures  # noqa: E402  (postproc, which tools.py makes known)
import study_claims  # noqa: E402
from clusters import normalised_mutual_information  # noqa: E402
from study_claims import FAILS, HOLDS, NOT_RUN, UNDECIDED, Difference  # noqa: E402
from study_file import Result, read_result  # noqa: E402
from study_runs import read_study  # noqa: E402
from text_prompts import are_text  # noqa: E402

STOPPED, EXPERTS, PATIENCE = 75, 3, 60
SHOWN = 3, 0, 2  # rows of the validation split
RUNS = """
decks = "."
work = "work"
minutes = 1
needs = ["teacher"]
teacher = "teacher"
shown = ["SHOWN", "no such prompt"]
[inputs]
data = "./data.h5"
teacher = "./teacher.h5"
clip = "./clip.h5"
[phases]
prune = ["data", "teacher"]
assign = ["data"]
finetune = ["data", "teacher"]
sample = ["data", "teacher"]
evaluate = ["data", "teacher", "clip"]
[every]
finetune = ["finetune.steps=STEPS"]
sample = ["sample.experts=finetuned", "sample.images=1", "sample.steps=2"]
evaluate = ["evaluate.experts=finetuned", "evaluate.timing_batch=0", "evaluate.teacher_pictures=true", "files.teacher_samples=work/teacher/samples.h5"]
[[run]]
name = "teacher"
title = "teacher"
parts = [1]
phases = ["sample"]
sample = ["sample.model=teacher"]
[[run]]
name = "aptp"
title = "APTP"
parts = [1]
[[run]]
name = "uniform"
title = "uniform width"
parts = [2]
against = "aptp"
prune = ["prune.method=uniform"]
"""


@contextlib.contextmanager
def working_in(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Trial:
    def __init__(self, program, folder):
        self.checks, self.chain = Checks(), Chain(program, folder)
        self.label_pictures()
        self.chain.make("prepare", "pretrain", "clip")
        self.kept = self.chain.path("kept")
        self.kept.mkdir()
        self.runs = self.kept / "runs.toml"
        self.runs.write_text(RUNS.replace("STEPS", "10"))
        with h5py.File(self.chain.path("data.h5")) as file:  # held-out prompts to be shown, not in the split's order
            self.shown = [file["validation/caption"][row].decode() for row in SHOWN]
        self.runs.write_text(self.runs.read_text().replace("SHOWN", '", "'.join(self.shown)))

    def label_pictures(self):
        """Grey pictures are the keycaps of this chain."""
        index = self.chain.path("pictures/index.csv")
        head, *rows = index.read_text().splitlines()
        index.write_text("\n".join([f"{head},subgroup", *(f"{row},{'keycap' if 'grey' in row else 'animal'}" for row in rows)]) + "\n")

    def words(self, *arguments):
        return ["--runs", str(self.runs), "--program", str(self.chain.program), *arguments]

    def study(self, *arguments):
        with working_in(self.chain.folder):
            return call("study", *self.words(*arguments))

    def results(self):
        with working_in(self.chain.folder):
            status, out, err = call("study_results", "--runs", self.runs)
        self.checks.that(status == 0 and err == "", f"study_results: exit code {status}\n{err}")
        return (self.kept / "RESULTS.md").read_text(encoding="utf-8")

    def start(self, *arguments):
        return subprocess.Popen([sys.executable, REPOSITORY / "postproc/study.py", *self.words(*arguments)], cwd=self.chain.folder,
                                env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def end_when(self, process, path, number):
        """Sends the signal as soon as the file is there; the output."""
        end = time.monotonic() + PATIENCE
        while not self.chain.path(path).exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(number)
        return process.communicate(timeout=PATIENCE)[0]


def check_nothing(trial):
    text = trial.results()
    trial.checks.that("0 of 3 runs are done" in text and "| `teacher`, `aptp` |" in text and "| `uniform` |" in text, f"nothing yet:\n{text}")
    trial.checks.that(text.count(f"**{NOT_RUN}**") == len(study_claims.QUESTIONS), "claims of no run")
    status, out, err = trial.study("--list")
    trial.checks.that(status == 0 and out.count("missing") == 3, f"--list: {out}{err}")


def check_interruptions(trial):
    """Killed in prune, then stopped in finetune, then to the end: prune and assign are not made again."""
    checks, chain = trial.checks, trial.chain
    trial.end_when(trial.start("--part", "1"), "work/aptp/prune.csv", signal.SIGKILL)
    checks.that(not (trial.kept / "aptp.h5").exists(), "a killed run has results")
    process = trial.start("--part", "1")
    out = trial.end_when(process, "work/aptp/finetune_00.csv", signal.SIGTERM)
    checks.that(process.returncode == STOPPED and "the same command goes on" in out, f"SIGTERM: exit code {process.returncode}\n{out}")
    checks.that((trial.kept / "teacher.h5").exists() and not (trial.kept / "aptp.h5").exists(), f"results of what was not finished\n{out}")
    made = {name: chain.path(f"work/aptp/{name}").stat().st_mtime_ns for name in ("router.h5", "assignment.h5")}
    status, out, err = trial.study("--part", "1")
    checks.that(status == 0 and err == "" and "2 runs, 1 done" in out and "aptp: done in" in out, f"gone on: exit code {status}\n{out}{err}")
    for name, when in made.items():
        checks.that(chain.path(f"work/aptp/{name}").stat().st_mtime_ns == when, f"{name} was made again")
    checks.that(not list(chain.path("work/aptp").glob("*.checkpoint.h5")), "checkpoints are left")


def check_one(trial):
    text = (trial.kept / "RESULTS.md").read_text(encoding="utf-8")  # the study has written it
    trial.checks.that("2 of 3 runs are done" in text and "| `uniform` |" in text and "Not run yet: `uniform`" in text, f"one run:\n{text}")
    trial.checks.that("| aptp and uniform |  | not run yet | missing: uniform |" in text, f"a claim without its rival:\n{text}")
    trial.checks.that(text == trial.results(), "study and study_results write different things")


def check_all(trial):
    checks = trial.checks
    before = (trial.kept / "aptp.h5").stat().st_mtime_ns
    status, out, err = trial.study()
    checks.that(status == 0 and err == "" and "3 runs, 2 done" in out and "[3/3] uniform" in out, f"all: exit code {status}\n{out}{err}")
    checks.that((trial.kept / "aptp.h5").stat().st_mtime_ns == before, "aptp was made again")
    status, out, err = trial.study()
    checks.that(status == 0 and "3 runs, 3 done" in out and "0 left" in out, f"once more: exit code {status}\n{out}{err}")
    text = trial.results()
    checks.that("3 of 3 runs are done" in text and "Not run yet" not in text and "not yet" not in text, f"all:\n{text}")
    for picture in ("quality", "samples", "experts", "text", "clusters"):
        checks.that(f"]({picture}.png)" in text and Image.open(trial.kept / f"{picture}.png").width > 100, f"{picture}.png")
    uniform = read_result(trial.kept / "uniform.h5")
    aptp = read_result(trial.kept / "aptp.h5")
    for command in (*uniform["commands"], *aptp["commands"]):
        checks.that(command in text, f"RESULTS.md lacks {command}")
    for result in (uniform, aptp):
        for quantity in ("frechet", "cmmd", "clip_score", "denoising_loss"):
            checks.that(f"{result.metric(quantity):.4g}" in text, f"RESULTS.md lacks the {quantity} of {result.name}")
    largest = aptp["metrics/denoising/expert"] == numpy.bincount(aptp["metrics/denoising/expert"]).argmax()
    for name, losses in (("`uniform`", uniform["metrics/denoising/item_loss"]), ("teacher", aptp["metrics/denoising/teacher_loss"].mean(axis=1))):
        row = [line for line in text.split("## Prompts of the experts")[1].split("## Training")[0].splitlines() if line.startswith(f"| {name} |")]
        expected = [f"{losses[largest].mean():.4g}", f"{losses.mean():.4g}"]
        checks.that(len(row) == 1 and set(expected) <= set(row[0].split(" | ")) | {row[0].rstrip(" |").split(" | ")[-1]}, f"{name}: {row}, {expected}")
    worse = float(numpy.mean(uniform["metrics/denoising/item_loss"] - aptp["metrics/denoising/item_loss"]))
    checks.that(f"| {worse:.4g} [" in text and "to `aptp`" in text, f"no paired difference {worse}")


def check_numbers(trial):
    """The results file of aptp against the files of its run."""
    checks, result = trial.checks, read_result(trial.kept / "aptp.h5")
    folder = trial.chain.path("work/aptp")
    with h5py.File(folder / "metrics.h5") as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        for name in names:
            ours, own = result[f"metrics/{name}"], file[name][()]
            own = numpy.array([text.decode() for text in own]) if own.dtype.kind in "SO" else own
            same = numpy.array_equal(ours, own) if own.dtype.kind not in "f" else numpy.array_equal(ours, own.astype(ours.dtype), equal_nan=True)
            checks.that(same and (ours.dtype == own.dtype or own.ndim == 2 or own.dtype.kind == "U"), f"metrics/{name} differs")
    with h5py.File(folder / "assignment.h5") as file:
        expert, caption = file["train/expert"][()], file["train/caption"].asstr()[()]
        checks.that(numpy.array_equal(result["assignment/train/expert"], expert), "experts of prompts")
        checks.that(numpy.array_equal(result["assignment/ratio"], file["ratio/total"][0]), "ratios")
        group = file["train/group"].asstr()[()]
    with h5py.File(folder / "router.h5") as file:
        total = file["history/total"][()]
        checks.that(float(result["prune/loss/total"]) == total[-max(len(total) // 10, 1):].mean(), "prune's last loss")
        checks.that(numpy.array_equal(result["experts/masks"], file["masks"][()]) and result.budget == file["settings/budget"][0], "masks, budget")
    for k in range(EXPERTS):
        with h5py.File(folder / f"expert_{k:02d}.h5") as file:
            checks.that(result["finetune/samples"][k] == file["training/samples"][0] and result["finetune/steps"][k] == file["training/step"][0], f"expert {k}")
            loss = file["history/loss"][()]
            checks.that(not len(loss) or result["finetune/loss/loss"][k] == loss[-max(len(loss) // 10, 1):].mean(), f"expert {k}: last loss")
    grey = numpy.char.find(caption.astype(str), "grey") >= 0
    for k in range(EXPERTS):
        own = expert == k
        checks.that(not own.any() or abs(result["experts/text_share"][k] - grey[own].mean()) < 1e-12, f"expert {k}: text prompts")
    checks.that(numpy.array_equal(result["experts/prompts"], numpy.bincount(expert, minlength=EXPERTS)), "prompts of experts")
    checks.that(float(result["agreement/group"]) == normalised_mutual_information(expert, group), "agreement with groups")
    with h5py.File(folder / "samples.h5") as file:
        prompts = list(file["prompt"].asstr()[()])
        pixels = [file["pixels"][prompts.index(prompt)] for prompt in trial.shown]
        checks.that(list(result["shown/prompt"]) == trial.shown and numpy.array_equal(result["shown/pixels"], pixels), "pictures that are shown")
    with h5py.File(trial.chain.path("data.h5")) as file:
        names = [file["validation/image"][row].decode() for row in SHOWN]
        identity = file.attrs["content_id"].decode()
    real = [numpy.asarray(Image.open(trial.chain.path("pictures") / name)) for name in names]
    checks.that(numpy.array_equal(read_result(trial.kept / "teacher.h5")["shown/real"], real), "the real pictures that are shown")
    checks.that(result.attribute["data_id"] == identity and len(result["seconds"]) == 5 and (result["seconds"] > 0).all(), "inputs, times")


def check_changes(trial):
    """Another list of settings: results are told to be of the old one, and the run's folder is not gone on with."""
    checks, text = trial.checks, trial.runs.read_text()
    trial.runs.write_text(text.replace('prune = ["prune.method=uniform"]', 'prune = ["prune.method=random"]'))
    written = trial.results()
    checks.that("no longer those of the list, to be made anew: `uniform`" in written and "2 of 3 runs are done" in written, f"stale results:\n{written}")
    status, out, err = trial.study("--part", "2")
    checks.that(status == 2 and "work/uniform was begun with other settings or inputs; remove it" in err, f"other settings: exit code {status}\n{out}{err}")
    for old, new, words in (("minutes = 1", "minuets = 1", "unknown field 'minuets'"), ('parts = [2]', 'part = [2]', "unknown field 'part'"),
                            ('against = "aptp"', 'against = "apt"', "a variant that there is not"), ("decks", "desks = 1 =", "runs.toml: ")):
        trial.runs.write_text(text.replace(old, new))
        status, out, err = trial.study("--list")
        checks.that(status == 2 and words in err and err.count("\n") == 1, f"{new}: exit code {status}\n{err}")
    trial.runs.write_text(text)
    status, out, err = trial.study("--part", "9")
    checks.that(status == 2 and "it has 1, 2" in err, f"part 9: {err}")
    (trial.kept / "uniform.h5").write_bytes(b"no results")
    with working_in(trial.chain.folder):
        status, out, err = call("study_results", "--runs", trial.runs)
    checks.that(status == 2 and "uniform.h5 is no results file" in err, f"a damaged file: exit code {status}\n{err}")


# ---- verdicts


def made_up(variant, seed=1, macs=1.0, **changes):
    """Results of 40 items whose loss is 1 with a little noise; changes: arrays by path, / written __."""
    noise = numpy.random.default_rng(seed).normal(0, 0.01, 40)
    arrays = {"metrics/model": numpy.array(["all"], dtype=object), "metrics/macs": numpy.array([macs]), "metrics/denoising/item": numpy.arange(40),
              "metrics/denoising/timestep": numpy.array([1]), "metrics/settings/seed": numpy.array([1]), "metrics/denoising/item_loss": 1 + noise}
    arrays.update({name.replace("__", "/"): numpy.asarray(value) for name, value in changes.items()})
    return Result(pathlib.Path(variant), {"run": variant, "variant": variant, "seed": seed, "budget": 0.6}, arrays)


def frechet(value, half):
    return {"metrics__frechet": [value], "metrics__frechet_interval": [[value - half, value + half]]}


def check_rules(checks):
    verdicts = [([1, 0], HOLDS), ([0, -1], FAILS), ([1, -1], UNDECIDED), ([0, 0], UNDECIDED), ([], UNDECIDED)]
    for voices, expected in verdicts:
        checks.that(study_claims.verdict_of(voices) == expected, f"voices {voices}")
    for several, expected in (([HOLDS, HOLDS], HOLDS), ([HOLDS, FAILS, NOT_RUN], FAILS), ([HOLDS, NOT_RUN], NOT_RUN), ([HOLDS, UNDECIDED], UNDECIDED),
                              ([NOT_RUN], NOT_RUN), ([], NOT_RUN)):
        checks.that(study_claims.together(several) == expected, f"verdicts {several}")
    for (low, high, each), voice in (((0.1, 0.3, [0.2]), 1), ((-0.1, 0.5, [0.2]), 0), ((0.1, 0.3, [0.5, -0.1]), 0), ((0.1, 0.3, [0.1, 0.3]), 1)):
        checks.that(Difference("cmmd", 0.2, low, high, each).voice == voice, f"voice of {low}, {high}, {each}")
        checks.that(Difference("cmmd", -0.2, -high, -low, [-value for value in each]).voice == -voice, f"voice of the opposite of {low}, {high}, {each}")
    # Zou and Donner's method for symmetric intervals is the root of the sum of squares: 5 +- 3 less 1 +- 4 is 4 +- 5
    checks.that(numpy.allclose(study_claims.recovered_interval([5, 1], [(2, 8), (-3, 5)], [1, -1]), (-1, 9)), "recovered interval")
    checks.that(numpy.allclose(study_claims.recovered_interval([5, 1], [(2, 6), (0, 5)], [1, -1]), (4 - 5, 4 + 2 ** 0.5)), "recovered interval, uneven")
    # The bootstrap's interval of a mean of 400 normal values is the normal one within 15 % (the replicates' own scatter is 3 %).
    values = numpy.random.default_rng(5).normal(2, 1, 400)
    low, high = study_claims.bootstrap_of_mean(values)
    half = study_claims.NORMAL * values.std() / 20
    checks.that(abs((high - low) / 2 / half - 1) < 0.15 and abs((low + high) / 2 - values.mean()) < 0.2 * half, f"bootstrap {low}, {high}")


def verdict(judge, *sides):
    return judge(*sides)[1]


def check_quality(checks):
    """Positive differences are better quality; losses of the same items are paired: 0.001 of difference in 0.01 of scatter is seen."""
    ours, better = made_up("aptp"), made_up("single")
    better.array["metrics/denoising/item_loss"] = ours["metrics/denoising/item_loss"] - 0.001
    checks.that(verdict(study_claims.quality, [ours], [better]) == FAILS and verdict(study_claims.quality, [better], [ours]) == HOLDS, "paired losses")
    checks.that(verdict(study_claims.quality, [ours], [made_up("single", seed=2)]) == UNDECIDED, "losses that differ by chance")
    other = made_up("single", metrics__denoising__item=numpy.arange(40) + 1)
    checks.that(study_claims.quality_differences([ours], [other]) == [], "losses of other items are compared")
    near, far = made_up("aptp", **frechet(1.0, 0.3)), made_up("single", **frechet(2.0, 0.4))
    near.array["metrics/denoising/item_loss"] = far["metrics/denoising/item_loss"]
    checks.that(verdict(study_claims.quality, [near], [far]) == HOLDS and verdict(study_claims.quality, [far], [near]) == FAILS, "Frechet distances")
    checks.that(verdict(study_claims.quality, [near], [made_up("single", **frechet(1.4, 0.4))]) == UNDECIDED, "Frechet distances within their intervals")
    rich = made_up("aptp", macs=1.1, **frechet(1.0, 0.3))
    checks.that(verdict(study_claims.quality, [rich], [far]) == UNDECIDED, "who has more MACs has won")
    checks.that(verdict(study_claims.quality, [far], [rich]) == UNDECIDED, "who has fewer MACs has lost")
    poor = made_up("aptp", macs=0.9, **frechet(1.0, 0.3))
    checks.that(verdict(study_claims.quality, [poor], [far]) == HOLDS, "better with fewer MACs")
    finding = study_claims.finding_of(study_claims.QUESTIONS[0], "single", [far, near, made_up("aptp", seed=2)], 0.6)
    checks.that(finding.what == "aptp and single" and finding.verdict == HOLDS and finding.note.startswith("1 seed"), f"finding {finding}")
    checks.that([c.verdict for c in study_claims.claims_of([near, far], [0.8])] == [NOT_RUN] * len(study_claims.QUESTIONS), "claims of another budget")


def check_experts(checks):
    """Sizes, use and clusters of experts whose prompts are given."""
    def run(variant, expert, ratio=(0.9, 0.5), text=None, group=None, loss=None):
        expert = numpy.asarray(expert)
        arrays = {"assignment__ratio": ratio, "assignment__train__expert": expert}
        arrays.update({} if text is None else {"assignment__train__text": text})
        arrays.update({} if group is None else {"assignment__train__group": group})
        arrays.update({} if loss is None else {"metrics__denoising__teacher_loss": numpy.asarray(loss)[:, None], "metrics__denoising__expert": expert})
        return made_up(variant, **arrays)
    text = numpy.arange(200) < 50
    mostly = numpy.where(numpy.arange(200) % 10 == 0, 1, numpy.where(text, 0, 1))  # of the text prompts 9 in 10 to the larger expert
    checks.that(verdict(study_claims.text_sizes, [run("aptp", mostly, text=text)]) == HOLDS, "text prompts in the larger expert")
    checks.that(verdict(study_claims.text_sizes, [run("aptp", 1 - mostly, text=text)]) == FAILS, "text prompts in the smaller expert")
    checks.that(verdict(study_claims.text_sizes, [run("aptp", numpy.arange(200) % 2, text=text)]) == UNDECIDED, "text prompts in both")
    value = study_claims.text_sizes([run("aptp", mostly, text=text)])[0][0].value
    checks.that(abs(value - (0.9 * 0.9 + 0.1 * 0.5 - 0.5)) < 1e-12, f"mean difference {value}")
    checks.that(verdict(study_claims.hard_sizes, [run("aptp", mostly, loss=text + 0.001 * numpy.arange(200)[::-1])]) == HOLDS, "hard prompts")
    even, uneven = run("aptp", numpy.arange(200) % 2), run("no_transport", numpy.arange(200) < 10)
    checks.that(verdict(study_claims.balance, [even], [uneven]) == HOLDS and verdict(study_claims.balance, [uneven], [even]) == FAILS, "even use")
    one = run("no_transport", numpy.zeros(200, int))
    difference = study_claims.balance([even], [one])[0][0]
    checks.that(abs(difference.value - 1) < 1e-12, f"one expert takes all: {difference}")
    group = numpy.arange(200) // 100
    alike, unlike = run("aptp", group, group=group), run("no_contrastive", numpy.arange(200) % 2, group=group)
    checks.that(verdict(study_claims.clustering, [alike], [unlike]) == HOLDS and verdict(study_claims.clustering, [unlike], [alike]) == FAILS, "clusters")
    difference = study_claims.clustering([alike], [unlike])[0][0]
    checks.that(abs(difference.value - 1) < 1e-12, f"agreement {difference}")


def check_text(checks):
    cases = {("keycap: 5", "keycap"): True, ("flag: France", "country-flag"): True, ("eight o’clock", "time"): True, ("six-thirty", "time"): True,
             ("hourglass done", "time"): False, ("The letter B.", "alphabets"): True, ("red apple", "food-fruit"): False, ("A clock face.", "symbols"): True,
             ("The sign for the letter W in American Sign Language.", "alphabets"): False, ("“Arrow”.", "roadsigns"): True}
    found = are_text(*numpy.array(list(cases), dtype=object).T)
    checks.that(list(found) == list(cases.values()), f"text prompts {dict(zip(cases, found))}")


def check_list(checks, program):
    """The true study: its parts, and that every setting is a key of its phase."""
    study = read_study(REPOSITORY / "input/emoji/study/runs.toml")
    names = [run.name for run in study.of_part(1)]
    checks.that(names == ["teacher", "aptp", "single", "uniform", "random", "magnitude", "block"], f"part 1: {names}")
    checks.that([run.name for run in study.of_part(3)] == ["aptp", "single", "k2", "k8"] and study.parts == [1, 2, 3, 4, 5, 6], "parts")
    order = [min(run.parts) for run in study.runs.values()]
    checks.that(order == sorted(order), f"the order of the parts: {order}")
    keys = {}
    for run in study.runs.values():
        for phase, (deck, *words) in run.words.items():
            if phase not in keys:
                help_text = subprocess.run([program, "--help", phase], capture_output=True, text=True, env=environment(), check=True).stdout
                keys[phase] = {line.split()[0] for line in help_text.splitlines() if line.startswith("  ") and "." in line.split()[0]}
            unknown = {word.split("=")[0] for word in words[1::2]} - keys[phase]
            checks.that((REPOSITORY / deck).is_file() and set(words[::2]) == {"--set"} and not unknown, f"{run.name}, {phase}: {deck}, no keys: {unknown}")
    tuned = {tuple(word for word in run.words["finetune"] if "epochs" in word or "steps" in word) for run in study.runs.values()
             if "finetune" in run.words and run.parts != [6]}
    checks.that(tuned == {("finetune.epochs=6",)}, f"fine-tuning is not equal: {tuned}")


def main():
    os.environ.update(environment())
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(sys.argv[1], folder)
        figures.DPI = 30  # small pictures are soon drawn
        check_rules(trial.checks)
        check_quality(trial.checks)
        check_experts(trial.checks)
        check_text(trial.checks)
        check_list(trial.checks, trial.chain.program)
        check_nothing(trial)
        check_interruptions(trial)
        check_one(trial)
        check_all(trial)
        check_numbers(trial)
        check_changes(trial)
        trial.checks.end()


if __name__ == "__main__":
    main()
