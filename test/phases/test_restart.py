"""Runs of pretrain (of both its models), prune and finetune that end early and go on: every dataset of the finished file is bit for bit that of a run that never
stopped, and so is the CSV but for its timing column. Ended by a file `stop`, by SIGUSR1, by the wall-clock limit, and by kill -9 at
random moments. A checkpoint of another deck, teacher or data set is refused.

Usage: test_restart.py APTP
"""
import csv
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from PIL import Image  # noqa: E402
from chain import OUTPUT, TIMEOUT, Chain, Checks, differences, environment  # noqa: E402

KILLS = 4  # of each phase
STOPPED = 75
TIMING = "samples_per_second"
MORE_STEPS = {"pretrain": {"pretrain.steps": 24, "pretrain.checkpoint_every": 3},
              "clip": {"pretrain.steps": 24, "pretrain.checkpoint_every": 3, "pretrain.sample_every": 5},
              "prune": {"prune.warmup_steps": 8, "prune.steps": 16, "prune.checkpoint_every": 3,
                        "router.codes_init": "kmeans"},
              "finetune": {"finetune.expert": 2, "finetune.steps": 24, "finetune.checkpoint_every": 3}}
# What a run ends with, its log and its checkpoint.
FILES = {"pretrain": ("teacher.h5", "pretrain.csv", "pretrain.checkpoint.h5"),
         "clip": ("clip.h5", "clip.csv", "clip.checkpoint.h5"),
         "prune": ("router.h5", "prune.csv", "prune.checkpoint.h5"),
         "finetune": ("expert_02.h5", "finetune_02.csv", "finetune_02.checkpoint.h5")}


def metrics(path):
    """The lines of a CSV without the timing column."""
    with open(path, newline="") as file:
        return [{key: value for key, value in row.items() if key != TIMING} for row in csv.DictReader(file)]


class Trial:
    """Runs of one phase, compared with one that was not stopped."""

    def __init__(self, checks, chain, phase):
        self.checks, self.chain, self.phase = checks, chain, phase
        self.settings = MORE_STEPS[phase]
        began = time.monotonic()
        chain.make(phase, settings=self.settings)
        self.seconds = time.monotonic() - began
        for name in self.files():
            shutil.copy(chain.path(name), chain.path(f"whole_{name}"))
        self.clear()

    def files(self):
        return FILES[self.phase]

    def clear(self):
        self.chain.remove(*self.files())

    def finish(self, name):
        """Goes on to the end, and compares all that is there with the run that was not stopped."""
        result = self.chain.run(self.phase, settings=self.settings)
        what = f"{self.phase} after {name}"
        if self.checks.that(result.returncode == 0, f"{what}: exit code {result.returncode}\n{result.stdout}"):
            for file in self.files():
                if not file.endswith(".csv"):
                    found = differences(self.chain.path(f"whole_{file}"), self.chain.path(file))
                    self.checks.that(not found, f"{what}: {file} is not the same:\n" + "\n".join(found))
            log = self.files()[1]
            same = metrics(self.chain.path(f"whole_{log}")) == metrics(self.chain.path(log))
            self.checks.that(same, f"{what}: the CSV is not the same")
        partial = sorted(self.chain.folder.glob("*.partial"))
        self.checks.that(not partial, f"{what}: left behind: {partial}")
        self.clear()

    def wait_for_steps(self, process, count):
        """Until the CSV has that many lines of steps."""
        path = self.chain.path(self.files()[1])
        limit = time.monotonic() + TIMEOUT
        while time.monotonic() < limit and process.poll() is None:
            if path.exists() and path.read_text().count("\n") > count:
                return
            time.sleep(0.002)

    def expect_stop(self, name, process):
        text = process.communicate(timeout=TIMEOUT)[0]
        self.checks.that(process.returncode == STOPPED, f"{self.phase}, {name}: exit code {process.returncode}\n{text}")
        self.checks.that(text.count("stopped by") == 1, f"{self.phase}, {name}: says\n{text}")

    def stop_by_file(self):
        self.chain.path("stop").touch()
        self.expect_stop("file stop", self.chain.start(self.phase, settings=self.settings))
        self.checks.that(not self.chain.path("stop").exists(), "the file stop is still there")
        self.finish("a file stop")

    def stop_by_signal(self, ranks):
        process = self.chain.start(self.phase, ranks=ranks, settings=self.settings)
        self.wait_for_steps(process, 5)
        process.send_signal(signal.SIGUSR1)
        self.expect_stop(f"SIGUSR1, {ranks} ranks", process)
        if ranks <= 1 or self.phase == "prune":  # the others' sums over ranks are not those of one
            self.finish("SIGUSR1")
        else:
            self.clear()

    def stop_by_clock(self):
        settings = {**self.settings, "run.wall_clock_limit": 0.001}
        self.expect_stop("wall-clock limit", self.chain.start(self.phase, settings=settings))
        self.finish("the wall-clock limit")

    def kill_at_random(self, generator):
        """Killed again and again at random moments, going on in between, then finished."""
        for _ in range(KILLS):
            process = self.chain.start(self.phase, settings=self.settings)
            if generator.random() < 0.5:  # in the loop, often while a checkpoint is written
                have = self.chain.path(self.files()[1])
                lines = have.read_text().count("\n") if have.exists() else 0
                self.wait_for_steps(process, lines + generator.randrange(4))
                time.sleep(generator.random() * 0.02)
            else:
                time.sleep(generator.random() * self.seconds)
            process.kill()
            process.communicate(timeout=TIMEOUT)
        self.finish("kill -9")


def expect_refused(checks, chain, phase, settings, code, message):
    """A checkpoint that does not belong to the run: nothing is changed."""
    before = chain.path(f"{phase}.checkpoint.h5").read_bytes()
    result = chain.run(phase, settings=settings)
    checks.that(result.returncode == code and result.stdout.count(message) == 1,
                f"{phase} with {settings}: exit code {result.returncode}, expected {code} and '{message}':\n{result.stdout}")
    checks.that(before == chain.path(f"{phase}.checkpoint.h5").read_bytes(), f"{phase}: the checkpoint was changed")
    checks.that(not chain.path(OUTPUT[phase]).exists(), f"{phase} wrote {OUTPUT[phase]}")


def other_owners(checks, chain):
    """Checkpoints with another deck, teacher, data set, network."""
    chain.path("stop").touch()
    chain.run("prune")
    expect_refused(checks, chain, "prune", {"prune.tau": 0.05}, 2, "prune.tau = 0.03")
    expect_refused(checks, chain, "prune", {"run.seed": 8}, 2, "run.seed = 7")
    teacher, data = chain.path("teacher.h5").read_bytes(), chain.path("data.h5").read_bytes()
    chain.remove("teacher.h5", "pretrain.checkpoint.h5")
    chain.make("pretrain", settings={"pretrain.steps": 3})
    expect_refused(checks, chain, "prune", {}, 3, "belongs to another teacher")
    chain.path("teacher.h5").write_bytes(teacher)
    index = chain.path("pictures/index.csv").read_text()
    chain.path("pictures/index.csv").write_text(index.replace(",bar", ",line"))  # the label alone
    chain.make("prepare")
    other_data = chain.path("data.h5").read_bytes()
    expect_refused(checks, chain, "prune", {}, 3, "belongs to other data")
    chain.path("data.h5").write_bytes(data)

    chain.remove("pretrain.checkpoint.h5", "teacher.h5")
    chain.path("stop").touch()
    chain.run("pretrain")
    expect_refused(checks, chain, "pretrain", {"pretrain.learning_rate": 2e-3}, 2, "pretrain.learning_rate = 0.001")
    expect_refused(checks, chain, "pretrain", {"run.seed": 8}, 2, "run.seed = 7")
    expect_refused(checks, chain, "pretrain", {"run.precision": "bf16"}, 2, "run.precision")
    unet = chain.path("unet.json").read_text()
    chain.path("unet.json").write_text(unet.replace('"attention_head_dim": [2, 4]', '"attention_head_dim": [4, 4]'))
    expect_refused(checks, chain, "pretrain", {}, 3, "belongs to another network")
    chain.path("unet.json").write_text(unet)
    chain.path("data.h5").write_bytes(other_data)
    expect_refused(checks, chain, "pretrain", {}, 3, "belongs to other data")


def folders_that_differ(checks, chain):
    """Ranks that do not see the same folder: one would begin anew where the other goes on, and wait for it for ever."""
    chain.remove("pretrain.checkpoint.h5", "prune.checkpoint.h5")
    chain.make("pretrain")
    for phase in "prune", "pretrain":
        chain.remove(f"{phase}.checkpoint.h5", OUTPUT[phase])
        other = chain.folder.parent / f"{chain.folder.name}_{phase}"
        shutil.copytree(chain.folder, other)
        try:
            chain.path("stop").touch()
            chain.run(phase)
            command = chain.command(phase, ranks=1)
            place = command.index("-np")
            command = [*command[:place], "-wdir", str(chain.folder), *command[place:], ":", "-wdir", str(other), *command[place:]]
            result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=TIMEOUT, errors="replace")
            checks.that(result.returncode == 3 and f"{phase}.checkpoint.h5: No such file" in result.stderr,
                        f"{phase} in two folders: exit code {result.returncode}\n{result.stdout}{result.stderr}")
        finally:
            shutil.rmtree(other)


def no_finished_file(checks, chain):
    """A checkpoint, which has the schema of the file that a run ends with, is not taken for it. Both lie there after a run."""
    chain.remove("pretrain.checkpoint.h5", "prune.checkpoint.h5")
    chain.make("pretrain", "prune")
    for phase, key, taken in (("prune", "files.teacher", "pretrain.checkpoint.h5"), ("bench", "files.teacher", "pretrain.checkpoint.h5"),
                              ("bench", "files.router", "prune.checkpoint.h5"), ("assign", "files.router", "prune.checkpoint.h5")):
        result = chain.run(phase, settings={key: taken})
        checks.that(result.returncode == 3 and f"{taken} is the checkpoint of a run" in result.stdout,
                    f"{phase} with {key} = {taken}: exit code {result.returncode}\n{result.stdout}")
    chain.make("bench", "assign")


def begin_with_weights(checks, chain):
    """pretrain.initial: a step so small that nothing moves gives the weights back, to the rounding of their average. What does not belong
    to the run is refused: another network, a checkpoint, another prediction, latents of other pictures."""
    chain.remove("pretrain.checkpoint.h5", "teacher.h5", "pretrain.csv")
    chain.make("pretrain")
    shutil.copy(chain.path("teacher.h5"), chain.path("initial.h5"))
    shutil.copy(chain.path("pretrain.checkpoint.h5"), chain.path("checkpoint.h5"))
    still, moved = {"pretrain.steps": 1, "pretrain.learning_rate": 1e-12}, {}
    for initial in "initial.h5", "":
        chain.remove("pretrain.checkpoint.h5", "teacher.h5")
        chain.make("pretrain", settings={**still, **({"pretrain.initial": initial} if initial else {})})
        with h5py.File(chain.path("initial.h5")) as a, h5py.File(chain.path("teacher.h5")) as b:
            moved[initial] = max(float(numpy.abs(a["weights"][name][()] - b["weights"][name][()]).max()) for name in a["weights"])
    checks.that(moved["initial.h5"] < 1e-6 and moved[""] > 1e-3, f"weights moved by {moved}")

    def refused(expected, initial="initial.h5", settings=None):
        chain.remove("pretrain.checkpoint.h5", "teacher.h5")
        result = chain.run("pretrain", settings={**still, **(settings or {}), "pretrain.initial": initial})
        checks.that(result.returncode == 3 and expected in result.stdout and not chain.path("teacher.h5").exists(),
                    f"pretrain.initial = {initial}, expected '{expected}':\n{result.stdout}")

    refused("is the checkpoint of a run", "checkpoint.h5")
    refused("pretrain.prediction is epsilon", settings={"pretrain.prediction": "epsilon"})
    unet = chain.path("unet.json").read_text()
    chain.path("unet.json").write_text(unet.replace('"attention_head_dim": [2, 4]', '"attention_head_dim": [4, 4]'))
    refused("belongs to another network")
    chain.path("unet.json").write_text(unet)
    for path in chain.path("pictures").glob("*.png"):
        with Image.open(path) as picture:
            darker = picture.point(lambda value: value // 2)
        darker.save(path)
    chain.make("prepare")
    refused("they do not belong together")


def settled_precision(checks, chain):
    """Precision auto is measured once, backend auto looked for: the file's deck, with which a restart compares, names what computed."""
    chain.remove("pretrain.checkpoint.h5", "teacher.h5")
    chain.make("pretrain", settings={"run.precision": "auto", "pretrain.steps": 1})
    with h5py.File(chain.path("teacher.h5")) as file:
        deck, backend = (str(numpy.asarray(file.attrs[name]).astype(str)) for name in ("deck", "backend"))
    name, precision = backend.split()
    checks.that(precision in ("fp32", "bf16") and f'precision = "{precision}"' in deck and f'    backend = "{name}"' in deck,
                f"computed with {backend}, but the deck says\n{deck}")


def main():
    checks, generator = Checks(), random.Random(11)
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(sys.argv[1], folder)
        chain.make("prepare")
        for phase in FILES:
            if phase == "finetune":
                chain.make("assign")
            trial = Trial(checks, chain, phase)
            trial.stop_by_file()
            trial.stop_by_signal(0)
            trial.stop_by_signal(2)
            trial.stop_by_clock()
            trial.kill_at_random(generator)
            chain.make(phase)
            chain.remove(FILES[phase][2])
        chain.remove("router.h5")
        other_owners(checks, chain)
        folders_that_differ(checks, chain)
        no_finished_file(checks, chain)
        settled_precision(checks, chain)
        begin_with_weights(checks, chain)
    checks.end()


if __name__ == "__main__":
    main()
