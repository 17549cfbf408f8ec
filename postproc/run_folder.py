"""What the phases left in a run folder: arrays by name, texts as str. Every file is optional here; a tool says what it needs.

The layout of every file is what `aptp --help files` prints. Letters: N prompts of a split, K experts, n entries of an architecture
vector, U width units, E depth entries, L logged steps, M models, R resolutions.
"""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import libconf
import numpy as np

from command_line import RunError

SPLITS = ("train", "validation")
# Which phase writes a file: what to say when it is missing.
PHASE_OF = {"data.h5": "prepare", "teacher.h5": "pretrain", "router.h5": "prune", "assignment.h5": "assign", "bench.h5": "bench",
            "expert_*.h5": "finetune", "samples.h5": "sample", "metrics.h5": "evaluate"}
QUANTITIES = ("frechet", "cmmd", "clip_score", "denoising_loss")  # of metrics.h5


@dataclass
class Provenance:
    """Root attributes of a file: how it was made."""

    file: str
    attribute: dict[str, str]  # program, commit, time, ranks, hosts, backend, seed, content_id: those that are there
    settings: dict[str, str]  # "prune.budget" -> "0.6", of the deck
    parents: dict[str, str]  # name of each file that it was made from -> content id


@dataclass
class Unit:
    """A prunable unit of the UNet."""

    path: str
    kind: str
    width: int  # entries
    macs: float  # at full width, one sample
    kept: np.ndarray  # [K] share of its width that each expert keeps, 0 where the whole unit is dropped
    dropped: np.ndarray  # [K] bool: its depth entry is 0

    @property
    def block(self) -> str:
        """down_blocks.0.resnets.1 -> down 0; mid_block.attentions.0 -> middle"""
        parts = self.path.split(".")
        return "middle" if parts[0] == "mid_block" else f"{parts[0].removesuffix('_blocks')} {parts[1]}"


@dataclass
class Router:
    history: dict[str, np.ndarray]  # [L] or [L, K]
    units: list[Unit]  # in the order of the network
    gates: np.ndarray  # [K, n] soft gates of the stored draws
    masks: np.ndarray  # [K, n] bool
    depth_path: list[str]  # [E]
    ratio: np.ndarray  # [K] share of the teacher's MACs
    target: float  # p
    warmup_steps: int  # 0 where the deck does not say

    @property
    def depth_masks(self) -> np.ndarray:
        """[K, E] bool: the blocks that each expert has"""
        return self.masks[:, self.masks.shape[1] - len(self.depth_path):]


@dataclass
class Split:
    """The prompts of one split, in the order of data.h5."""

    caption: np.ndarray  # [N] str
    expert: np.ndarray  # [N] int
    mean_ratio: np.ndarray  # [R] mean over prompts of the share of the teacher's MACs
    label: dict[str, np.ndarray] = field(default_factory=dict)  # group, subgroup, source -> [N] str


@dataclass
class Assignment:
    ratio: np.ndarray  # [R, K] share of the teacher's MACs
    resolution: np.ndarray  # [R, 2] of the latents; the first is the budget's
    target: float  # p
    splits: dict[str, Split]

    @property
    def experts(self) -> int:
        return self.ratio.shape[1]

    def prompts(self, split: str) -> np.ndarray:
        """[K] prompts of each expert"""
        return np.bincount(self.splits[split].expert, minlength=self.experts)


@dataclass
class Bench:
    """Rows: the teacher, then the experts."""

    parameters: np.ndarray  # [M]
    resolution: np.ndarray  # [R]
    batch: np.ndarray  # [B]
    macs: np.ndarray  # [M, R]
    time: np.ndarray  # [M, R, B] s
    peak_memory: np.ndarray  # [M, R, B] bytes
    settings: str  # "bf16, 2 threads", or what of it is known


@dataclass
class FinetunedExpert:
    expert: int
    ratio: float
    steps: int
    samples: int
    skipped: int
    history: dict[str, np.ndarray]


@dataclass
class Samples:
    path: Path
    prompt: np.ndarray  # [N] str
    expert: np.ndarray  # [N] int, -1: the teacher
    seed: np.ndarray  # [N]
    index: np.ndarray  # [N]

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """[len(rows), H, W, 3] uint8 of ascending rows"""
        with h5py.File(self.path, "r") as file:
            return file["pixels"][rows]


@dataclass
class Metrics:
    """Row 0 is over all pictures, row 1 + k of expert k."""

    model: np.ndarray  # [M] str
    count: np.ndarray  # [M] pictures
    value: dict[str, np.ndarray]  # quantity -> [M], and macs (GMACs), parameters, seconds_per_image where they are
    interval: dict[str, np.ndarray]  # quantity -> [M, 2]
    teacher: dict[str, float]  # quantity of the teacher's own pictures


@dataclass
class Run:
    folder: Path
    files: list[Provenance]
    router: Router | None
    assignment: Assignment | None
    bench: Bench | None
    finetuned: list[FinetunedExpert]
    samples: Samples | None
    metrics: Metrics | None
    logs: dict[str, dict[str, np.ndarray]]  # "prune" -> columns of prune.csv

    @property
    def experts(self) -> int:
        if self.router is not None:
            return len(self.router.masks)
        return self.assignment.experts if self.assignment is not None else 0

    @property
    def prune_history(self) -> dict[str, np.ndarray]:
        """Of the finished router, else of the running job."""
        return self.router.history if self.router is not None else self.logs.get("prune", {})

    @property
    def finetune_history(self) -> dict[int, dict[str, np.ndarray]]:
        """Of finished experts, else of running jobs."""
        running = {int(match[1]): columns for name, columns in self.logs.items() if (match := re.fullmatch(r"finetune_(\d+)", name))}
        return dict(sorted({**running, **{expert.expert: expert.history for expert in self.finetuned if expert.history}}.items()))


# ---- one file


def text_of(value) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_texts(dataset: h5py.Dataset) -> np.ndarray:
    return np.array([text_of(value) for value in dataset[()]], dtype=object)


def read_scalar(dataset: h5py.Dataset):
    """A scalar is stored with or without a dimension of 1."""
    values = np.ravel(dataset[()])
    if len(values) != 1:
        raise ValueError(f"{dataset.name} holds {len(values)} values, 1 expected")
    return values[0]


def read_history(file: h5py.File) -> dict[str, np.ndarray]:
    history = {name: values[()] for name, values in file["history"].items()} if "history" in file else {}
    if any(len(values) != len(history["step"]) for values in history.values()):
        raise ValueError("columns of history/ have different lengths")
    return history


def flat(settings: dict, before: str = "") -> dict[str, str]:
    """{"prune": {"steps": 5}} -> {"prune.steps": "5"}"""
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{before}{name}."))
        else:
            found[before + name] = setting_text(value)
    return found


def setting_text(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(setting_text(item) for item in value)
    return str(value)


def read_settings(file: h5py.File) -> dict[str, str]:
    """The deck that every file carries."""
    try:
        return flat(libconf.loads(text_of(file.attrs["deck"]))) if "deck" in file.attrs else {}
    except libconf.ConfigParseError as fault:
        raise ValueError(f"its deck: {fault}") from fault


def read_provenance(path: Path, file: h5py.File) -> Provenance:
    attribute = {name: text_of(file.attrs[name]) for name in ("program", "commit", "time", "seed", "ranks", "hosts", "backend", "content_id")
                 if name in file.attrs}
    parents = {}
    if "parents" in file.attrs:
        parents = {text_of(name): text_of(identity) for name, identity in zip(file.attrs["parents"], file.attrs["parent_content_ids"])}
    return Provenance(path.name, attribute, read_settings(file), parents)


def read_file(path: Path, schema: str, read: Callable[[h5py.File], object]):
    """read(file), and the file's provenance. Whatever is wrong with the file is a RunError that names it."""
    try:
        with h5py.File(path, "r") as file:
            found = text_of(file.attrs["schema"]) if "schema" in file.attrs else "none"
            if found != schema:
                raise ValueError(f"its schema is '{found}', expected '{schema}'")
            return read(file), read_provenance(path, file)
    except (OSError, KeyError, ValueError, IndexError, TypeError, AttributeError) as fault:
        reason = fault.args[0] if isinstance(fault, KeyError) and fault.args else fault
        raise RunError(f"{path} is no {schema} file of aptp, or is damaged: {reason}") from fault


def last_tenth(values: np.ndarray) -> float:
    """Mean over the last tenth of the steps, of what is finite; NaN where nothing is."""
    values = values[np.isfinite(values)]
    return float(values[-max(len(values) // 10, 1):].mean()) if len(values) else float("nan")


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Of a live CSV, also while it grows: a line that is not whole is left out. name_0, name_1, ... become one array [L, K]."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            head, *lines = list(csv.reader(stream)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise RunError(f"{path} cannot be read: {fault}") from fault
    if head[:1] != ["step"]:
        raise RunError(f"{path} is no log of aptp: its first column is not 'step'")
    try:
        values = np.array([[float(cell) for cell in line] for line in lines if len(line) == len(head) and "" not in line])
    except ValueError as fault:
        raise RunError(f"{path} is no log of aptp: {fault}") from fault
    values = values.reshape(-1, len(head))
    columns: dict[str, list[np.ndarray]] = {}
    for name, column in zip(head, values.T):
        columns.setdefault(re.sub(r"_\d+$", "", name), []).append(column)
    wide = {re.sub(r"_\d+$", "", name) for name in head if re.search(r"_\d+$", name)}
    return {name: np.stack(parts, axis=1) if name in wide else parts[0] for name, parts in columns.items()}


# ---- the files of a run


def read_units(file: h5py.File) -> list[Unit]:
    masks = file["masks"][()].astype(bool)
    depth_first = masks.shape[1] - (len(file["depth/path"]) if "depth/path" in file else 0)
    width = file["units/width"][()]
    macs = file["units/macs"][()] if "units/macs" in file else np.full(len(width), np.nan)
    units = []
    for path, kind, first, width, depth, macs in zip(read_texts(file["units/path"]), read_texts(file["units/kind"]), file["units/first"][()],
                                                     width, file["units/depth"][()], macs):
        if first < 0 or width < 1 or first + width > depth_first or depth_first + depth >= masks.shape[1]:
            raise ValueError(f"unit {path} lies outside the vector")
        dropped = ~masks[:, depth_first + depth] if depth >= 0 else np.zeros(len(masks), dtype=bool)
        units.append(Unit(path, kind, int(width), float(macs), np.where(dropped, 0.0, masks[:, first:first + width].mean(axis=1)), dropped))
    return units


def read_router(file: h5py.File) -> Router:
    masks, gates = file["masks"][()].astype(bool), file["gates"][()]
    if masks.shape != gates.shape or masks.ndim != 2 or len(masks) == 0:
        raise ValueError(f"masks have the shape {masks.shape}, gates {gates.shape}")
    return Router(history=read_history(file), units=read_units(file), gates=gates, masks=masks,
                  depth_path=list(read_texts(file["depth/path"])) if "depth/path" in file else [], ratio=file["ratio/total"][()],
                  target=float(read_scalar(file["settings/budget"])), warmup_steps=int(read_settings(file).get("prune.warmup_steps", 0)))


def read_assignment(file: h5py.File) -> Assignment:
    ratio, splits = file["ratio/total"][()], {}
    for name in SPLITS:
        if f"{name}/expert" not in file or len(file[f"{name}/expert"]) == 0:
            continue
        group = file[name]
        split = Split(read_texts(group["caption"]), group["expert"][()].astype(int), group["mean_ratio"][()])
        if len(split.caption) != len(split.expert) or split.expert.min() < 0 or split.expert.max() >= ratio.shape[1]:
            raise ValueError(f"{name}/expert does not fit to the captions or the {ratio.shape[1]} experts")
        if "group" in group:
            split.label["group"] = read_texts(group["group"])
        splits[name] = split
    if not splits:
        raise ValueError("it holds no prompts")
    return Assignment(ratio, file["ratio/resolution"][()], float(read_scalar(file["ratio/target"])), splits)


def read_labels(file: h5py.File) -> dict[str, dict[str, np.ndarray]]:
    """split -> label -> [N]"""
    return {name: {label: read_texts(file[name][label]) for label in ("group", "subgroup", "source") if label in file[name]}
            for name in SPLITS if name in file}


def read_bench(file: h5py.File) -> Bench:
    known = []
    if "precision" in file:
        known.append(text_of(read_scalar(file["precision"])))
    if "threads" in file:
        threads = int(read_scalar(file["threads"]))
        known.append(f"{threads} thread{'s' if threads > 1 else ''}")
    arrays = {name: file[name][()] for name in ("parameters", "resolution", "batch", "macs", "time", "peak_memory")}
    if arrays["time"].shape != (len(arrays["parameters"]), len(arrays["resolution"]), len(arrays["batch"])):
        raise ValueError("time has another shape than [models, resolutions, batches]")
    return Bench(**arrays, settings=", ".join(known))


def read_finetuned(file: h5py.File) -> FinetunedExpert:
    number = {name: int(read_scalar(file[f"training/{name}"])) for name in ("step", "samples", "skipped")}
    return FinetunedExpert(int(read_scalar(file["expert"])), float(read_scalar(file["ratio"])), number["step"], number["samples"],
                           number["skipped"], read_history(file))


def read_samples(file: h5py.File) -> Samples:
    samples = Samples(Path(file.filename), read_texts(file["prompt"]), *(file[name][()] for name in ("expert", "seed", "index")))
    if not len(samples.prompt) == len(samples.expert) == len(samples.seed) == len(samples.index) == len(file["pixels"]):
        raise ValueError("its arrays have different lengths")
    if file["pixels"].dtype != np.uint8 or file["pixels"].shape[3:] != (3,):
        raise ValueError(f"pixels are {file['pixels'].dtype} {file['pixels'].shape}, expected uint8 [N, H, W, 3]")
    return samples


def read_metrics(file: h5py.File) -> Metrics:
    model = read_texts(file["model"])
    value = {name: file[name][()] for name in (*QUANTITIES, "macs", "parameters", "seconds_per_image") if name in file}
    interval = {name: file[f"{name}_interval"][()] for name in QUANTITIES if f"{name}_interval" in file and name in file}
    teacher = {name: float(read_scalar(file[f"teacher/{name}"])) for name in QUANTITIES if f"teacher/{name}" in file}
    if any(len(values) != len(model) for values in (*value.values(), *interval.values())):
        raise ValueError(f"an array is not as long as the list of {len(model)} models")
    return Metrics(model, file["count"][()], value, interval, teacher)


def latents_to_pictures(latents: np.ndarray, kind: str, scale: np.ndarray) -> np.ndarray:
    """8-bit pictures [N, H, W, 3] of pixel or Haar latents [N, C, h, w] (src/diffusion/latent.h)."""
    channels = latents.astype(np.float64) / scale[:, None, None]
    if kind == "haar":
        count, _, height, width = channels.shape
        mean, across, down, diagonal = np.split(channels, 4, axis=1)  # each [N, 3, h, w]
        pixels = np.empty((count, 3, 2 * height, 2 * width))
        pixels[:, :, 0::2, 0::2] = (mean + across + down + diagonal) / 2
        pixels[:, :, 0::2, 1::2] = (mean - across + down - diagonal) / 2
        pixels[:, :, 1::2, 0::2] = (mean + across - down - diagonal) / 2
        pixels[:, :, 1::2, 1::2] = (mean - across - down + diagonal) / 2
    else:
        pixels = channels
    return np.clip(np.rint((pixels.transpose(0, 2, 3, 1) + 1) * 127.5), 0, 255).astype(np.uint8)


def data_pictures(folder: Path, split: str, rows: np.ndarray) -> np.ndarray | None:
    """[len(rows), H, W, 3] of ascending rows of data.h5; None where there is no such file or its latents are no pictures."""
    def read(file: h5py.File) -> np.ndarray | None:
        kind = text_of(read_scalar(file["latent/kind"]))
        if kind not in ("pixel", "haar") or f"{split}/latents" not in file:
            return None
        return latents_to_pictures(file[f"{split}/latents"][rows, 0], kind, file["latent/scale"][()])
    path = folder / "data.h5"
    return read_file(path, "data", read)[0] if path.is_file() else None


def read_run(folder: Path, data: Path | None = None) -> Run:
    """Everything that is there. A folder without a single file of a run is a RunError. `data`: the data.h5 of a run that has none of
    its own."""
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder")
    run = Run(folder, [], None, None, None, [], None, None, {})

    def optional(name: str, schema: str, read: Callable[[h5py.File], object]):
        path = data if data is not None and name == "data.h5" else folder / name
        if not path.is_file():
            return None
        found, provenance = read_file(path, schema, read)
        run.files.append(provenance)
        return found

    labels = optional("data.h5", "data", read_labels)
    optional("teacher.h5", "teacher", lambda file: None)
    run.router = optional("router.h5", "router", read_router)
    run.assignment = optional("assignment.h5", "assignment", read_assignment)
    run.bench = optional("bench.h5", "bench", read_bench)
    run.finetuned = [optional(path.name, "expert", read_finetuned) for path in sorted(folder.glob("expert_[0-9]*.h5"))
                     if re.fullmatch(r"expert_\d+\.h5", path.name)]
    run.samples = optional("samples.h5", "samples", read_samples)
    run.metrics = optional("metrics.h5", "metrics", read_metrics)
    run.logs = {path.stem: read_columns(path) for path in logs_of(folder)}
    if not run.files and not run.logs:
        raise RunError(f"{folder} holds no file of a run: neither {', '.join(PHASE_OF)} nor the log of a running job")
    if run.router is not None and run.assignment is not None and run.assignment.experts != len(run.router.masks):
        raise RunError(f"{folder}: assignment.h5 has {run.assignment.experts} experts, router.h5 {len(run.router.masks)}")
    for name, split in (run.assignment.splits if run.assignment is not None else {}).items():
        found = (labels or {}).get(name, {})
        split.label.update({label: values for label, values in found.items() if len(values) == len(split.expert)})
    return run


def logs_of(folder: Path) -> list[Path]:
    """The live CSVs of the phases: their first column is the step."""
    found = []
    for path in sorted(folder.glob("*.csv")):
        with path.open("rb") as stream:
            if stream.read(5) == b"step,":
                found.append(path)
    return found
