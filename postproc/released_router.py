"""A pruning checkpoint of the original APTP code (github.com/rezashkv/diffusion_pruning) as a router.h5.

    aptp input/prune.cfg --set prune.method='"uniform"' --set files.router='"template.h5"'    # seconds: the units of this teacher
    python postproc/released_router.py logs/RUN/checkpoint-5000 --template run/template.h5 run/router.h5

Read are, as that code's save hooks write them, hypernet/ and quantizer/ (config.json and safetensors): the predictor's linear maps, the
codes, and the draw of their gates that experts were made from. With --gates the draw is taken from its pickles instead:
quantizer_embeddings.pt, or every expert's arch_vector.pt in the experts' order. They are opened by PyTorch with weights_only, which
runs no code. Everything else (teacher, encoders, budget, units and their MACs) is the template's.

The masks, and so the experts' shapes, are the original ones. Prompts near the border of two experts may be routed otherwise: the
original code adds noise of a fixed seed to the predicted vector, in the order of its batch; here the noise is at its median.
"""

import argparse
import hashlib
import json
import pickle
import sys
import time
from pathlib import Path

import h5py
import numpy as np

from command_line import RunError, parser_of, run_tool

Array = np.ndarray
WEIGHTS = "diffusion_pytorch_model.safetensors"
TYPE_NAMES = {"f2": "float16", "f4": "float32", "f8": "float64", "i4": "int32", "i8": "int64", "u1": "uint8"}


# ---- the checkpoint


def read_part(folder: Path, **fixed: object) -> tuple[dict, dict[str, Array], str]:
    """Configuration, arrays and the SHA-256 of their file; `fixed`: settings that only one value is supported of."""
    from safetensors.numpy import load

    config = json.loads((folder / "config.json").read_text())
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise RunError(f"{folder / 'config.json'}: {key} is {config[key]}, {value} is supported")
    data = (folder / WEIGHTS).read_bytes()
    return config, {name: array.astype(float) for name, array in load(data).items()}, hashlib.sha256(data).hexdigest()


def flat(nested: list[list[int]]) -> list[int]:
    return [item for inner in nested for item in inner]


def depth_of_units(structure: dict) -> list[int]:
    """The depth entry of each width unit, or -1: one flag of each module, whose units follow one another."""
    depths, entry = [], 0
    for widths, flags in zip(structure["width"], structure["depth"], strict=True):
        depths += [entry if flags == [1] else -1] * len(widths)
        entry += flags == [1]
    return depths


def stack_predictor(arrays: dict[str, Array], parts: int) -> tuple[Array, Array]:
    """One matrix [n, D] and bias [n] of the linear maps, one a width unit and one for all depth entries."""
    weights = [arrays[f"mh_fc.{i}.weight"] for i in range(parts)]
    biases = [arrays.get(f"mh_fc.{i}.bias", np.zeros(len(weight))) for i, weight in enumerate(weights)]
    return np.concatenate(weights), np.concatenate(biases)


def read_gates(paths: list[Path]) -> Array:
    import torch

    rows = []
    for path in paths:
        value = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(value, torch.Tensor):
            raise RunError(f"{path} holds a {type(value).__name__}, a tensor is expected")
        rows.append(value.detach().double().numpy().reshape(-1, value.shape[-1]))
    return np.concatenate(rows)


# ---- the units, as the template has them


class Units:
    def __init__(self, file: h5py.File):
        self.path = [path.decode() for path in file["units/path"][...]]
        self.first, self.width, self.depth = (file[f"units/{name}"][...] for name in ("first", "width", "depth"))
        self.macs = file["units/macs"][...]
        has_depth = "depth" in file
        self.depth_macs = file["depth/macs"][...] if has_depth else np.zeros(0)
        self.order = list(file["depth/order"][...]) if has_depth else []
        self.total, self.prunable = file["macs/total"][0], file["macs/prunable"][0]
        self.entries = int(self.width.sum()) + len(self.order)

    def check(self, structure: dict, depth_order: list[int] | None) -> None:
        """Whether the checkpoint is of a UNet with these units."""
        for name, released, own in (("widths", flat(structure["width"]), list(self.width)), ("depth entries", depth_of_units(structure), list(self.depth)),
                                    ("keep order", [i % len(self.order) for i in depth_order or range(len(self.order))], self.order)):
            if released != own:
                raise RunError(f"the checkpoint's {name} are {released}, the template's {own}: another UNet, router.ff_entries or router.depth_gates")

    def ratios(self, masks: Array) -> tuple[Array, Array]:
        """Kept MACs of each expert: over all prunable ones, and over all."""
        depth = masks[:, self.entries - len(self.order):]
        kept = depth @ self.depth_macs
        for first, width, under, macs in zip(self.first, self.width, self.depth, self.macs, strict=True):
            kept = kept + masks[:, first : first + width].mean(axis=1) * macs * (depth[:, under] if under >= 0 else 1)
        prunable = kept / self.prunable
        return prunable, 1 - (1 - prunable) * self.prunable / self.total

    def check_masks(self, masks: Array) -> None:
        depth = masks[:, self.entries - len(self.order):]
        for path, first, width, under in zip(self.path, self.first, self.width, self.depth, strict=True):
            empty = ~masks[:, first : first + width].any(axis=1) & (depth[:, under] == 1 if under >= 0 else True)
            if empty.any():
                raise RunError(f"expert {int(empty.argmax())} keeps nothing of {path}, which is not dropped")


# ---- files of the program


def elements_digest(values: Array) -> str:
    data = hashlib.sha256()
    if values.dtype.kind == "S":
        for text in values.ravel():
            data.update(len(text).to_bytes(8, "little") + bytes(text))
    else:
        data.update(np.ascontiguousarray(values).tobytes())
    return data.hexdigest()


def content_id(file: h5py.File) -> str:
    """SHA-256 over all datasets in the order of their paths, as the program has it: path, type and shape, digest of the elements."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    whole = hashlib.sha256()
    for name in sorted(names, key=str.encode):
        values = file[name][...]
        kind = "string" if values.dtype.kind == "S" else TYPE_NAMES[values.dtype.str[1:]]
        for text in (name, " ".join([kind, *map(str, values.shape)]), elements_digest(values)):
            whole.update(text.encode() + b"\0")
    return whole.hexdigest()


def write_router(path: Path, template: h5py.File, values: dict[str, Array], parents: dict[str, str]) -> None:
    """The template's datasets with other values; without the history of its training."""
    partial = path.with_name(path.name + ".partial")
    names: list[str] = []
    template.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    with h5py.File(partial, "w", libver=("v110", "v110")) as file:
        for name in names:
            if name.split("/")[0] in ("history", "training", "optimizer"):
                continue
            data = np.asarray(values.get(name, template[name][...]))
            dataset = file.create_dataset(name, data=data, chunks=data.shape, fletcher32=True)
            dataset.attrs.update(template[name].attrs)
        for name, value in template.attrs.items():
            file.attrs[name] = value
        file.attrs["time"] = np.bytes_(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        file.attrs["backend"] = np.bytes_("none")
        known = dict(zip(template.attrs["parents"], template.attrs["parent_content_ids"], strict=True))
        known |= {np.bytes_(name): np.bytes_(identity) for name, identity in parents.items()}
        file.attrs["parents"], file.attrs["parent_content_ids"] = np.array(list(known), dtype="S"), np.array(list(known.values()), dtype="S")
        file.attrs["content_id"] = np.bytes_(content_id(file))
    partial.replace(path)


def convert(checkpoint: Path, template: Path, gates: list[Path], out: Path) -> None:
    """Whatever is wrong with the checkpoint is a RunError."""
    try:
        convert_checkpoint(checkpoint, template, gates, out)
    except (KeyError, ValueError, TypeError, IndexError, pickle.UnpicklingError) as fault:
        raise RunError(f"{checkpoint}: no pruning checkpoint of the original code, or damaged: {fault!r}") from fault


def convert_checkpoint(checkpoint: Path, template: Path, gates: list[Path], out: Path) -> None:
    hyper, predictor, hyper_id = read_part(checkpoint / "hypernet", wn_flag=False, single_arch_param=False)
    quantizer, arrays, quantizer_id = read_part(checkpoint / "quantizer", resource_aware_normalization=False, remap=None)
    if hyper["structure"] != quantizer["structure"]:
        raise RunError(f"{checkpoint}: hypernet and quantizer are of different UNets")
    with h5py.File(template) as file:
        units = Units(file)
        units.check(quantizer["structure"], quantizer["depth_order"])
        weight, bias = stack_predictor(predictor, len(units.width) + bool(units.order))
        codes = arrays["embedding.weight"]
        draw = read_gates(gates) if gates else arrays["embedding_gs"]
        if draw.shape != codes.shape or codes.shape[1] != units.entries or len(weight) != units.entries:
            raise RunError(f"gates {draw.shape}, codes {codes.shape}, predictor {weight.shape}: {units.entries} entries are expected")
        if not all(np.isfinite(array).all() for array in (weight, bias, codes, draw)):
            raise RunError(f"{checkpoint}: a value is not finite")
        masks = draw >= 0.5
        units.check_masks(masks)
        prunable, total = units.ratios(masks)
        values = {"predictor/weight": weight, "predictor/bias": bias, "codes": codes, "gates": draw, "masks": masks.astype(np.uint8),
                  "ratio/prunable": prunable, "ratio/total": total, "settings/gamma": np.array([float(quantizer["temperature"])]),
                  "settings/offset": np.array([float(quantizer["base"])]), "settings/normal_form": np.array([b"mixed"]),
                  "settings/mac_weights": np.array([0], dtype=np.uint8)}
        write_router(out, file, values, {f"hypernet/{WEIGHTS}": hyper_id, f"quantizer/{WEIGHTS}": quantizer_id})
    for k, share in enumerate(total):
        print(f"expert {k}: {share:.4f} of the teacher's MACs")


def main() -> int:
    parser: argparse.ArgumentParser = parser_of(
        "A pruning checkpoint of the original APTP code as a router.h5.",
        "  python postproc/released_router.py logs/RUN/checkpoint-5000 --template run/template.h5 run/router.h5")
    parser.add_argument("checkpoint", type=Path, help="folder with hypernet/ and quantizer/")
    parser.add_argument("out", type=Path, help="the router.h5 to write")
    parser.add_argument("--template", type=Path, required=True, help="a router.h5 that prune wrote for the teacher (prune.method = uniform)")
    parser.add_argument("--gates", type=Path, nargs="+", default=[], help="quantizer_embeddings.pt, or every expert's arch_vector.pt")
    args = parser.parse_args()
    return run_tool("released_router", lambda: convert(args.checkpoint, args.template, args.gates, args.out))


if __name__ == "__main__":
    sys.exit(main())
