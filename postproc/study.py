"""Makes the runs of the study, one after the other: each through all its phases, then its numbers into a results file.

A run whose results are there is skipped; one that was interrupted goes on where it was. Ctrl-C, SIGTERM and SIGUSR1 end the program
with a checkpoint and exit code 75; after a kill the same command goes on as well.
"""

import fcntl
import json
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import study_results
from command_line import parser_of, run_tool
from page import write_whole
from run_folder import RunError
from study_file import Result, collect, is_current, read_results
from study_runs import RUNS, Study, StudyRun, input_ids, read_study, run_named

EXAMPLES = """\
  python postproc/study.py                      all runs (hours); the same command goes on after an interruption
  python postproc/study.py --part 1 --part 2    those of two parts
  python postproc/study.py --minutes 60         what can be done in an hour
  python postproc/study.py --list               which there are, and which are done
  python postproc/study.py --commands single    the commands of one run
"""
STOPPED = 75  # as the program's: run it again to go on
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):
    """Asked to end; what is done is kept."""


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 60 else f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


# ---- programs


@dataclass
class Clock:
    """When to end, and what is to be told."""

    end: float = float("inf")  # of time.monotonic()
    asked: bool = False
    child: subprocess.Popen | None = None

    def ask(self, *_) -> None:
        self.asked = True
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGUSR1)  # it writes a checkpoint and ends

    def check(self) -> None:
        if self.asked or time.monotonic() >= self.end:
            raise Stopped

    def run(self, command: list[str], log: Path, lock: int) -> int:
        """The exit code; all that is said goes to the log. The child holds the lock of its run too, and is no member of our process
        group: Ctrl-C comes to us alone."""
        self.check()
        with log.open("ab") as stream:
            self.child = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, pass_fds=(lock,), process_group=0)
        if self.asked:  # between the check and now
            self.ask()
        try:
            return self.child.wait(None if self.end == float("inf") else max(self.end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            self.ask()
            return self.child.wait()
        finally:
            self.child = None


@contextmanager
def stopping(clock: Clock):
    """Signals ask the clock to stop."""
    before = {number: signal.signal(number, clock.ask) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- one run


@contextmanager
def locked(folder: Path):
    """One process works in the folder of a run; a program that a killed study left behind counts."""
    with (folder / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for the process that works in {folder}", flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream.fileno()


@dataclass
class Progress:
    """What has been done of a run: study.json in its folder."""

    path: Path
    plan: dict  # commands and content ids of the inputs: what the files in the folder are of
    done: list[str] = field(default_factory=list)  # phases
    seconds: dict[str, float] = field(default_factory=dict)  # of phases, also of those that were interrupted

    def write(self) -> None:
        write_whole(self.path, json.dumps({"plan": self.plan, "done": self.done, "seconds": self.seconds}, indent=1).encode())


def read_progress(folder: Path, plan: dict) -> Progress:
    path = folder / "study.json"
    if not path.is_file():
        return Progress(path, plan)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        progress = Progress(path, found["plan"], list(found["done"]), dict(found["seconds"]))
    except (ValueError, KeyError, TypeError) as fault:
        raise RunError(f"{path} is damaged: {fault}; remove {folder} to make the run anew") from fault
    if progress.plan != plan:
        raise RunError(f"{folder} was begun with other settings or inputs; remove it to make the run anew")
    return progress


@dataclass
class Maker:
    study: Study
    program: str
    ids: dict[str, str]
    clock: Clock

    def commands(self, run: StudyRun) -> list[list[str]]:
        return [[self.program, *words] for words in run.words.values()]

    def phase(self, progress: Progress, folder: Path, name: str, command: list[str], lock: int) -> None:
        log, began = folder / f"{name}.log", time.monotonic()
        code = self.clock.run(command, log, lock)
        progress.seconds[name] = progress.seconds.get(name, 0.0) + time.monotonic() - began
        if code == 0:
            progress.done.append(name)
        progress.write()
        if code == 0:
            print(f"    {name:<10} {duration(progress.seconds[name])}", flush=True)
            return
        if self.clock.asked or code == STOPPED:
            raise Stopped
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise RunError(f"{shlex.join(command)}: exit code {code}, {' '.join(last)} (all of it: {log})")

    def phases(self, run: StudyRun) -> Progress:
        """Whatever is not done of the run; it may have to be waited for."""
        folder = self.study.run_folder(run.name)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) as lock:
            progress = read_progress(folder, {"commands": list(run.words.values()), "inputs": self.ids})
            progress.write()
            for (name, _), command in zip(run.words.items(), self.commands(run)):
                if name not in progress.done:
                    self.phase(progress, folder, name, command, lock)
        return progress

    def make(self, run: StudyRun) -> float:
        """The run with its results; the seconds that it took in all."""
        for need in run.needs:
            self.phases(self.study.runs[need])
        progress = self.phases(run)
        seconds = [progress.seconds[phase] for phase in run.words]
        collect(self.study, run, [shlex.join(command) for command in self.commands(run)], seconds, self.ids)
        for checkpoint in self.study.run_folder(run.name).glob("*.checkpoint.h5"):  # three times the weights, of no more use
            checkpoint.unlink()
        return sum(seconds)


# ---- all of them


def seconds_of(result: Result) -> float:
    return float(result["seconds"].sum())


def expected(study: Study, taken: dict[str, float], runs: list[StudyRun]) -> float:
    """Seconds for runs that are not done: the mean of those with as many phases that are, else what the study declares."""
    total = 0.0
    for run in runs:
        alike = [seconds for name, seconds in taken.items() if len(study.runs[name].words) == len(run.words)]
        total += sum(alike) / len(alike) if alike else 60 * study.minutes * (len(run.words) / max(len(other.words) for other in study.runs.values()))
    return total


def make_all(maker: Maker, wanted: list[StudyRun]) -> None:
    study = maker.study
    results = read_results(study)
    taken = {name: seconds_of(result) for name, result in results.items() if is_current(result, study.runs[name], maker.ids)}
    left = [run for run in wanted if run.name not in taken]
    for run in left:
        if run.name in results:
            print(f"{run.name}: its results are of other settings or inputs; it is made anew")
    print(f"study: {len(wanted)} runs, {len(wanted) - len(left)} done ({duration(sum(taken.values()))}); "
          f"{len(left)} left, about {duration(expected(study, taken, left))}", flush=True)
    failed = []
    for run in list(left):
        print(f"[{len(wanted) - len(left) + 1}/{len(wanted)}] {run.name}: {run.title}; {', '.join(run.words)} in {study.run_folder(run.name)}", flush=True)
        left.remove(run)
        try:
            taken[run.name] = maker.make(run)
        except RunError as fault:  # the others can still be made
            print(f"{run.name} failed: {fault}", file=sys.stderr, flush=True)
            failed.append(run.name)
            continue
        study_results.write(study)
        print(f"{run.name}: done in {duration(taken[run.name])}; in all {duration(sum(taken.values()))}; "
              f"{len(left)} left, about {duration(expected(study, taken, left))}", flush=True)
    if failed:
        raise RunError(f"{len(failed)} of {len(wanted)} runs failed: {', '.join(failed)}")


def list_runs(study: Study, wanted: list[StudyRun]) -> None:
    results = read_results(study)
    for run in wanted:
        state = "missing" if run.name not in results else duration(seconds_of(results[run.name]))
        if run.name in results and not is_current(results[run.name], run, None):
            state = "of other settings"
        print(f"{run.name:<20} part {','.join(map(str, run.parts)):<5} {state:<18} {run.title}")


def main() -> int:
    parser = parser_of(__doc__, EXAMPLES)
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="FILE", help=f"the list of runs (default {RUNS})")
    parser.add_argument("--part", type=int, action="append", metavar="N", help="runs of this part; may be repeated")
    parser.add_argument("--program", default="./aptp", metavar="APTP", help="default ./aptp")
    parser.add_argument("--minutes", type=float, metavar="M", help="end after this time, as if asked to")
    parser.add_argument("--list", action="store_true", help="say which runs there are, and make none")
    parser.add_argument("--commands", metavar="NAME", help="print the commands of a run, and make none")
    arguments = parser.parse_args()
    clock = Clock(time.monotonic() + 60 * arguments.minutes if arguments.minutes else float("inf"))

    def work() -> None:
        study = read_study(arguments.runs)
        wanted = [run for run in study.runs.values() if not arguments.part or set(arguments.part) & set(run.parts)]
        if not wanted:
            raise RunError(f"{arguments.runs} has no such part; it has {', '.join(map(str, study.parts))}")
        if arguments.commands:
            run = run_named(study, arguments.commands)
            print("\n".join(shlex.join([arguments.program, *words]) for words in run.words.values()))
        elif arguments.list:
            list_runs(study, wanted)
        else:
            with stopping(clock):
                make_all(Maker(study, arguments.program, input_ids(study), clock), wanted)
    try:
        return run_tool("study", work)
    except Stopped:
        print("study: stopped; the same command goes on", flush=True)
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
