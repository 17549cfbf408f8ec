"""The results of a run of the study: one HDF5 file of numbers and a few small pictures, no weights; what is kept in the repository.

    /                   attributes run, title, variant, parts, budget, seed, machine, commit, data_id, teacher_id, clip_id
    commands, phases, seconds    [P] command line, phase and wall time, in order
    metrics/...         metrics.h5, as evaluate wrote it; arrays of items and timesteps [N, T] in single precision
    prune/loss/NAME, finetune/loss/NAME [K]      means over the last tenth of the steps
    finetune/steps, samples, prompts, skipped    [K]
    assignment/ratio [K], target; assignment/SPLIT/mean_ratio, expert [N], text [N], group [N], subgroup [N]: places in names/group, names/subgroup
    experts/masks [K, n], prompts, text_share, words [K]; agreement/group, subgroup and what chance gives: of the training split
    shown/prompt [S], expert [S], pixels [S, H, W, 3]; real [S, H, W, 3] in the teacher's
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from clusters import chance_agreement, normalised_mutual_information, typical_words
from run_folder import Run, RunError, data_pictures, last_tenth, read_run, read_texts, text_of
from study_runs import Study, StudyRun
from text_prompts import are_text

SCHEMA, VERSION = "study", 1
LABELS = ("group", "subgroup")
WORDS = 8
BY_TIMESTEP = ("denoising/loss", "denoising/distill_out", "denoising/teacher_loss")  # [N, T], the bulk of metrics.h5
LOSSES = {"prune": ("total", "ddpm", "distill_out", "distill_block", "resource", "contrastive"),
          "finetune": ("loss", "ddpm", "distill_out", "distill_block")}


@dataclass
class Result:
    """A results file, whole in memory: attributes, and arrays by path; texts are str."""

    path: Path
    attribute: dict
    array: dict[str, np.ndarray]

    def __getitem__(self, path: str) -> np.ndarray:
        return self.array[path]

    def __contains__(self, path: str) -> bool:
        return path in self.array

    @property
    def name(self) -> str:
        return self.attribute["run"]

    @property
    def variant(self) -> str:
        return self.attribute["variant"]

    @property
    def seed(self) -> int:
        return int(self.attribute["seed"])

    @property
    def budget(self) -> float:
        return float(self.attribute["budget"])

    @property
    def evaluated(self) -> bool:
        return "metrics/model" in self.array

    def metric(self, quantity: str, row: int = 0) -> float:
        """of metrics.h5: row 0 is over all, NaN where it is not there"""
        return float(self.array[f"metrics/{quantity}"][row]) if f"metrics/{quantity}" in self.array else np.nan

    def interval(self, quantity: str, row: int = 0) -> tuple[float, float]:
        low, high = self.array[f"metrics/{quantity}_interval"][row] if f"metrics/{quantity}_interval" in self.array else (np.nan, np.nan)
        return float(low), float(high)

    @property
    def teacher_row(self) -> int | None:
        """row of metrics.h5 that is the teacher's"""
        rows = [row for row, model in enumerate(self.array.get("metrics/model", [])) if model == "teacher"]
        return rows[0] if rows else None


# ---- writing


def machine() -> str:
    """Processor and cores that this process may use."""
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'}, {len(os.sched_getaffinity(0))} cores"


def put_history(out: dict, run: Run) -> None:
    for name in LOSSES["prune"]:
        if len(run.prune_history.get(name, ())):
            out[f"prune/loss/{name}"] = last_tenth(run.prune_history[name])
    experts = run.finetuned
    for name in LOSSES["finetune"] if experts else ():
        out[f"finetune/loss/{name}"] = np.array([last_tenth(expert.history.get(name, np.array([]))) for expert in experts])
    for name in ("steps", "samples", "skipped") if experts else ():
        out[f"finetune/{name}"] = np.array([getattr(expert, name) for expert in experts])


def put_assignment(out: dict, run: Run) -> None:
    assignment = run.assignment
    out["assignment/ratio"], out["assignment/target"] = assignment.ratio[0], assignment.target
    names = {label: sorted({name for split in assignment.splits.values() for name in split.label.get(label, ())}) for label in LABELS}
    for label in LABELS:
        out[f"names/{label}"] = np.array(names[label], dtype=object)
    for name, split in assignment.splits.items():
        out[f"assignment/{name}/mean_ratio"] = split.mean_ratio[0]
        out[f"assignment/{name}/expert"] = split.expert.astype(np.int16)
        out[f"assignment/{name}/text"] = are_text(split.caption, split.label.get("subgroup", split.caption)).astype(np.uint8)
        for label in split.label.keys() & LABELS:
            place = {text: i for i, text in enumerate(names[label])}
            out[f"assignment/{name}/{label}"] = np.array([place[text] for text in split.label[label]], dtype=np.int16)
    put_experts(out, run)


def put_experts(out: dict, run: Run) -> None:
    split, experts = next(iter(run.assignment.splits.values())), run.assignment.experts
    text = are_text(split.caption, split.label.get("subgroup", split.caption))
    prompts = np.bincount(split.expert, minlength=experts)
    out["experts/prompts"] = prompts
    out["experts/text_share"] = np.bincount(split.expert, weights=text, minlength=experts) / np.maximum(prompts, 1)
    out["experts/words"] = np.array([", ".join(words) for words in typical_words(split.caption, split.expert, experts, WORDS)], dtype=object)
    if run.router is not None:
        out["experts/masks"] = run.router.masks.astype(np.uint8)
    for label in split.label.keys() & LABELS:
        out[f"agreement/{label}"] = normalised_mutual_information(split.expert, split.label[label])
        out[f"agreement/{label}_chance"] = chance_agreement(split.expert, split.label[label])


def is_text(dataset: h5py.Dataset) -> bool:
    return h5py.check_string_dtype(dataset.dtype) is not None


def put_metrics(out: dict, path: Path) -> None:
    def put(name: str, item) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        values = read_texts(item) if is_text(item) else item[()]
        out[f"metrics/{name}"] = values.astype(np.float32) if name in BY_TIMESTEP else values
    with h5py.File(path) as file:
        file.visititems(put)


def put_shown(out: dict, study: Study, run: Run, name: str) -> None:
    """The first picture of each prompt that is to be shown."""
    rows = [int(np.flatnonzero((run.samples.prompt == prompt) & (run.samples.index == 0))[0]) for prompt in study.shown if prompt in run.samples.prompt]
    if not rows:
        return
    order = np.argsort(rows)
    pixels = run.samples.pixels(np.sort(rows))[np.argsort(order)]
    out["shown/prompt"], out["shown/expert"], out["shown/pixels"] = run.samples.prompt[rows], run.samples.expert[rows], pixels
    if name == study.teacher:
        with h5py.File(run.samples.path) as file:
            items = file["item"][()][rows]
        data = Path(study.inputs["data"])
        unique, place = np.unique(items, return_inverse=True)  # ascending, as h5py reads rows
        real = data_pictures(data.parent, "validation", unique)
        if real is not None:
            out["shown/real"] = real[place]


def collect(study: Study, run: StudyRun, commands: list[str], seconds: list[float], ids: dict[str, str]) -> Path:
    """Writes the results of a run whose phases have all ended, whole or not at all."""
    folder, out = study.run_folder(run.name), {}
    found = read_run(folder, data=Path(study.inputs["data"]))
    out["phases"], out["commands"] = np.array(list(run.words), dtype=object), np.array(commands, dtype=object)
    out["seconds"] = np.array(seconds, dtype=float)
    if found.router is not None:
        put_history(out, found)
    if found.assignment is not None:
        put_assignment(out, found)
    if (folder / "metrics.h5").is_file():
        put_metrics(out, folder / "metrics.h5")
    if found.samples is not None:
        put_shown(out, study, found, run.name)
    made = [file for file in found.files if file.file != Path(study.inputs["data"]).name]
    first = {file.file: file for file in made}.get("router.h5")
    attributes = {"schema": SCHEMA, "schema_version": VERSION, "run": run.name, "title": run.title, "variant": run.variant, "parts": run.parts,
                  "budget": found.router.target if found.router is not None else np.nan, "seed": int(first.attribute["seed"]) if first is not None else -1,
                  "machine": machine(), "commit": ", ".join(dict.fromkeys(file.attribute.get("commit", "unknown") for file in made)),
                  **{f"{name}_id": identity for name, identity in ids.items()}}
    return write_result(study.result_path(run.name), attributes, out)


def stored(value: np.ndarray) -> np.ndarray:
    """Texts as bytes of one length: checksums and compression take no others."""
    if value.dtype != object:
        return value
    texts = [text.encode() for text in value.ravel()]
    return np.array(texts, dtype=f"S{max(map(len, texts), default=1) or 1}").reshape(value.shape)


def write_result(path: Path, attributes: dict, arrays: dict) -> Path:
    part = path.with_name(path.name + ".part")
    with h5py.File(part, "w", libver=("v110", "v110")) as file:
        for name, value in attributes.items():
            file.attrs[name] = value
        for name, value in sorted(arrays.items()):
            value = stored(np.asarray(value))
            packed = {"compression": "gzip", "shuffle": True, "fletcher32": True} if value.ndim and value.size else {}
            file.create_dataset(name, data=value, **packed)
        file.flush()
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(part, path)
    return path


# ---- reading


def read_result(path: Path) -> Result:
    array: dict[str, np.ndarray] = {}

    def take(name: str, item) -> None:
        if isinstance(item, h5py.Dataset):
            array[name] = read_texts(item) if is_text(item) else item[()]
    try:
        with h5py.File(path) as file:
            attribute = {name: value.tolist() if isinstance(value, np.ndarray) else text_of(value) if isinstance(value, (bytes, str)) else value
                         for name, value in file.attrs.items()}
            if attribute.get("schema") != SCHEMA or attribute.get("schema_version") != VERSION:
                raise ValueError(f"its schema is '{attribute.get('schema', 'none')}' {attribute.get('schema_version', '')}, expected '{SCHEMA}' {VERSION}")
            missing = {"run", "title", "variant", "parts", "budget", "seed", "machine", "commit"} - set(attribute)
            if missing:
                raise ValueError(f"the attribute {min(missing)} is missing")
            file.visititems(take)
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise RunError(f"{path} is no results file of the study, or is damaged: {fault}") from fault
    return Result(path, attribute, array)


def is_current(result: Result, run: StudyRun, ids: dict[str, str] | None) -> bool:
    """Whether the results are of the commands that are declared now and, where they are told, of these inputs."""
    same_words = [shlex.split(command)[1:] for command in result["commands"]] == list(run.words.values())
    return same_words and (ids is None or all(result.attribute.get(f"{name}_id") == identity for name, identity in ids.items()))


def read_results(study: Study) -> dict[str, Result]:
    """Those that are there, by run, in the study's order."""
    return {name: read_result(study.result_path(name)) for name in study.runs if study.result_path(name).is_file()}
