"""The runs of a study, as a TOML file declares them (input/emoji/study/runs.toml explains every field), and their commands."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import h5py

from run_folder import RunError, text_of

RUNS = Path("input/emoji/study/runs.toml")
RUN_FIELDS = {"name", "title", "variant", "parts", "against", "phases", "needs"}
STUDY_FIELDS = {"decks", "work", "minutes", "needs", "teacher", "shown", "inputs", "phases", "every", "run"}


@dataclass
class StudyRun:
    name: str
    title: str
    variant: str  # runs of one variant differ in seed and budget
    parts: list[int]
    against: str  # the variant that it is compared with; "": none
    needs: list[str]  # runs whose files it reads
    words: dict[str, list[str]]  # phase -> the words of its command behind the program's, in the order of the phases


@dataclass
class Study:
    path: Path
    work: Path  # a folder in it for each run
    minutes: float  # that a run is expected to take
    teacher: str  # the run that made the teacher's pictures
    shown: list[str]  # prompts of the validation split
    inputs: dict[str, str]  # data, teacher, clip -> path
    runs: dict[str, StudyRun]  # in the order in which they are made

    @property
    def folder(self) -> Path:
        """of the results"""
        return self.path.parent

    def result_path(self, name: str) -> Path:
        return self.folder / f"{name}.h5"

    def run_folder(self, name: str) -> Path:
        return self.work / name

    def of_part(self, part: int | None) -> list[StudyRun]:
        return [run for run in self.runs.values() if part is None or part in run.parts]

    @property
    def parts(self) -> list[int]:
        return sorted({part for run in self.runs.values() for part in run.parts})


def command_words(study: dict, run: dict, phase: str) -> list[str]:
    settings = [f"run.folder={study['work']}/{run['name']}", *(f"files.{name}={study['inputs'][name]}" for name in study["phases"][phase]),
                *study.get("every", {}).get(phase, []), *run.get(phase, [])]
    return [f"{study['decks']}/{phase}.cfg", *(word for setting in settings for word in ("--set", setting))]


def run_of(study: dict, run: dict) -> StudyRun:
    unknown = set(run) - RUN_FIELDS - set(study["phases"])
    if unknown:
        raise ValueError(f"run {run['name']} has an unknown field '{min(unknown)}'")
    needs = [name for name in run.get("needs", study.get("needs", [])) if name != run["name"]]
    phases = [phase for phase in study["phases"] if phase in run.get("phases", study["phases"])]
    return StudyRun(run["name"], run["title"], run.get("variant", run["name"]), run["parts"], run.get("against", ""), needs,
                    {phase: command_words(study, run, phase) for phase in phases})


def read_study(path: Path) -> Study:
    try:
        declared = tomllib.loads(path.read_text(encoding="utf-8"))
        unknown = set(declared) - STUDY_FIELDS
        if unknown:
            raise ValueError(f"unknown field '{min(unknown)}'")
        runs = [run_of(declared, run) for run in declared["run"]]
        by_name = {run.name: run for run in runs}
        if len(by_name) != len(runs):
            raise ValueError("two runs have one name")
        for run in runs:
            if any(name not in by_name for name in run.needs):
                raise ValueError(f"run {run.name} needs a run that there is not")
            if run.against and run.against not in {other.variant for other in runs}:
                raise ValueError(f"run {run.name} is compared with a variant that there is not: '{run.against}'")
        return Study(path, Path(declared["work"]), float(declared["minutes"]), declared.get("teacher", ""), declared.get("shown", []),
                     declared["inputs"], by_name)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as fault:
        reason = f"the field {fault} is missing" if isinstance(fault, KeyError) else fault
        raise RunError(f"{path}: {reason}") from fault


def run_named(study: Study, name: str) -> StudyRun:
    if name not in study.runs:
        raise RunError(f"{study.path} has no run '{name}'; it has {', '.join(study.runs)}")
    return study.runs[name]


def input_ids(study: Study) -> dict[str, str]:
    """data, teacher, clip -> content id"""
    ids = {}
    for name, path in study.inputs.items():
        if not Path(path).is_file():
            raise RunError(f"{path} is missing: every run of the study reads it")
        try:
            with h5py.File(path) as file:
                ids[name] = text_of(file.attrs["content_id"])
        except (OSError, KeyError) as fault:
            raise RunError(f"{path} is no file of aptp, or is damaged: {fault}") from fault
    return ids
