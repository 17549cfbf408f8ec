"""What the phases left in a run folder, read for the report: arrays by name, texts as str.

The layout of every file is what `aptp --help files` prints. Letters: N prompts of a split, K experts, n entries of an architecture
vector, U width units, E depth entries, L logged steps.
"""

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

SPLITS = ("train", "validation")


class MissingFile(Exception):
    """A file that the report needs is not in the run folder."""


@dataclass
class Split:
    """The prompts of one split, in the order of data.h5."""

    caption: np.ndarray  # [N] str
    expert: np.ndarray  # [N] int
    mean_ratio: np.ndarray  # [R] mean over prompts of the share of the teacher's MACs, at each resolution
    label: dict[str, np.ndarray] = field(default_factory=dict)  # group, subgroup, source -> [N] str
    pictures: np.ndarray | None = None  # [N, H, W, 3] uint8


@dataclass
class Unit:
    """A prunable unit of the UNet."""

    path: str
    kind: str
    kept: np.ndarray  # [K] share of its width that each expert keeps, 0 where the whole unit is dropped
    dropped: np.ndarray  # [K] bool: its depth entry is 0
    has_depth: bool

    @property
    def block(self) -> str:
        """down_blocks.0.resnets.1 -> down 0; mid_block.attentions.0 -> middle"""
        parts = self.path.split(".")
        return "middle" if parts[0] == "mid_block" else f"{parts[0].removesuffix('_blocks')} {parts[1]}"


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
class Run:
    history: dict[str, np.ndarray]  # [L] or [L, K]
    units: list[Unit]
    gates: np.ndarray  # [K, n] soft gates of the stored draws
    masks: np.ndarray  # [K, n]
    ratio: np.ndarray  # [R, K] share of the teacher's MACs
    resolution: np.ndarray  # [R, 2] of the latents; the first is the budget's
    target: float  # p
    splits: dict[str, Split]
    bench: Bench | None

    @property
    def experts(self) -> int:
        return len(self.masks)


def text_of(value) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_texts(dataset: h5py.Dataset) -> np.ndarray:
    return np.array([text_of(value) for value in dataset[()]], dtype=object)


def open_file(folder: Path, name: str, phase: str) -> h5py.File:
    path = folder / name
    if not path.is_file():
        raise MissingFile(f"{path} is missing; the phase {phase} writes it")
    return h5py.File(path, "r")


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


def read_units(router: h5py.File) -> list[Unit]:
    """In the order of the network: blocks from the input to the output, as the vector has them."""
    masks = router["masks"][()].astype(bool)
    depth_first = masks.shape[1] - (len(router["depth/path"]) if "depth/path" in router else 0)
    units = []
    for path, kind, first, width, depth in zip(read_texts(router["units/path"]), read_texts(router["units/kind"]),
                                               router["units/first"][()], router["units/width"][()],
                                               router["units/depth"][()]):
        dropped = ~masks[:, depth_first + depth] if depth >= 0 else np.zeros(len(masks), dtype=bool)
        kept = np.where(dropped, 0.0, masks[:, first:first + width].mean(axis=1))
        units.append(Unit(path, kind, kept, dropped, depth >= 0))
    return units


def read_splits(assignment: h5py.File, data: h5py.File | None) -> dict[str, Split]:
    splits = {}
    for name in SPLITS:
        if f"{name}/expert" not in assignment or len(assignment[f"{name}/expert"]) == 0:
            continue
        group = assignment[name]
        split = Split(read_texts(group["caption"]), group["expert"][()].astype(int), group["mean_ratio"][()])
        if "group" in group:
            split.label["group"] = read_texts(group["group"])
        if data is not None and name in data:
            for label in ("group", "subgroup", "source"):
                if label in data[name]:
                    split.label[label] = read_texts(data[name][label])
            kind = text_of(data["latent/kind"][()].ravel()[0])
            if kind in ("pixel", "haar") and "latents" in data[name]:
                split.pictures = latents_to_pictures(data[name]["latents"][:, 0], kind, data["latent/scale"][()])
        splits[name] = split
    return splits


def read_bench(bench: h5py.File) -> Bench:
    known = []
    if "precision" in bench:
        known.append(text_of(bench["precision"][()].ravel()[0]))
    if "threads" in bench:
        threads = int(bench["threads"][()].ravel()[0])
        known.append(f"{threads} thread{'s' if threads > 1 else ''}")
    arrays = {name: bench[name][()] for name in ("parameters", "resolution", "batch", "macs", "time", "peak_memory")}
    return Bench(**arrays, settings=", ".join(known))


def read_run(folder: Path) -> Run:
    """Needs router.h5 and assignment.h5; uses data.h5 (labels, pictures) and bench.h5 where they are."""
    with open_file(folder, "router.h5", "prune") as router, open_file(folder, "assignment.h5", "assign") as assignment:
        history = {name: values[()] for name, values in router["history"].items()} if "history" in router else {}
        data = h5py.File(folder / "data.h5", "r") if (folder / "data.h5").is_file() else None
        splits = read_splits(assignment, data)
        if data is not None:
            data.close()
        bench = None
        if (folder / "bench.h5").is_file():
            with h5py.File(folder / "bench.h5", "r") as file:
                bench = read_bench(file)
        return Run(history=history, units=read_units(router), gates=router["gates"][()],
                   masks=router["masks"][()].astype(bool), ratio=assignment["ratio/total"][()],
                   resolution=assignment["ratio/resolution"][()], target=float(assignment["ratio/target"][()].ravel()[0]),
                   splits=splits, bench=bench)
