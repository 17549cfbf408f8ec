"""Makes the InceptionV3 that FID is measured with readable for aptp: the published pickle as config.json and model.safetensors.

    python postproc/inception_weights.py pt_inception-2015-12-05-6726825d.pth FOLDER

The pickle is that of pytorch-fid (https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights); nothing in it is executed. Names and
shapes are checked; the classifier is left out, as FID takes the features before it. Needs PyTorch and safetensors.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from command_line import RunError, run_tool

PUBLISHED = "6726825d"  # the beginning of its SHA-256, as its name says
DIVISORS = (1, 2, 4, 8, 16)  # narrower networks of the same graph are for tests
NORM = ("weight", "bias", "running_mean", "running_var")


Conv = tuple[str, int, int, int, int]  # name, channels in and out, kernel height and width


def block_a(name: str, channels: int, pool: int) -> Iterator[Conv]:
    yield f"{name}.branch1x1", channels, 64, 1, 1
    yield f"{name}.branch5x5_1", channels, 48, 1, 1
    yield f"{name}.branch5x5_2", 48, 64, 5, 5
    yield f"{name}.branch3x3dbl_1", channels, 64, 1, 1
    yield f"{name}.branch3x3dbl_2", 64, 96, 3, 3
    yield f"{name}.branch3x3dbl_3", 96, 96, 3, 3
    yield f"{name}.branch_pool", channels, pool, 1, 1


def block_c(name: str, inner: int) -> Iterator[Conv]:
    yield f"{name}.branch1x1", 768, 192, 1, 1
    yield f"{name}.branch7x7_1", 768, inner, 1, 1
    yield f"{name}.branch7x7_2", inner, inner, 1, 7
    yield f"{name}.branch7x7_3", inner, 192, 7, 1
    yield f"{name}.branch7x7dbl_1", 768, inner, 1, 1
    yield f"{name}.branch7x7dbl_2", inner, inner, 7, 1
    yield f"{name}.branch7x7dbl_3", inner, inner, 1, 7
    yield f"{name}.branch7x7dbl_4", inner, inner, 7, 1
    yield f"{name}.branch7x7dbl_5", inner, 192, 1, 7
    yield f"{name}.branch_pool", 768, 192, 1, 1


def block_e(name: str, channels: int) -> Iterator[Conv]:
    yield f"{name}.branch1x1", channels, 320, 1, 1
    yield f"{name}.branch3x3_1", channels, 384, 1, 1
    yield f"{name}.branch3x3_2a", 384, 384, 1, 3
    yield f"{name}.branch3x3_2b", 384, 384, 3, 1
    yield f"{name}.branch3x3dbl_1", channels, 448, 1, 1
    yield f"{name}.branch3x3dbl_2", 448, 384, 3, 3
    yield f"{name}.branch3x3dbl_3a", 384, 384, 1, 3
    yield f"{name}.branch3x3dbl_3b", 384, 384, 3, 1
    yield f"{name}.branch_pool", channels, 192, 1, 1


def convolutions() -> Iterator[Conv]:
    yield "Conv2d_1a_3x3", 3, 32, 3, 3
    yield "Conv2d_2a_3x3", 32, 32, 3, 3
    yield "Conv2d_2b_3x3", 32, 64, 3, 3
    yield "Conv2d_3b_1x1", 64, 80, 1, 1
    yield "Conv2d_4a_3x3", 80, 192, 3, 3
    yield from block_a("Mixed_5b", 192, 32)
    yield from block_a("Mixed_5c", 256, 64)
    yield from block_a("Mixed_5d", 288, 64)
    yield "Mixed_6a.branch3x3", 288, 384, 3, 3
    yield "Mixed_6a.branch3x3dbl_1", 288, 64, 1, 1
    yield "Mixed_6a.branch3x3dbl_2", 64, 96, 3, 3
    yield "Mixed_6a.branch3x3dbl_3", 96, 96, 3, 3
    for name, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        yield from block_c(name, inner)
    yield "Mixed_7a.branch3x3_1", 768, 192, 1, 1
    yield "Mixed_7a.branch3x3_2", 192, 320, 3, 3
    yield "Mixed_7a.branch7x7x3_1", 768, 192, 1, 1
    yield "Mixed_7a.branch7x7x3_2", 192, 192, 1, 7
    yield "Mixed_7a.branch7x7x3_3", 192, 192, 7, 1
    yield "Mixed_7a.branch7x7x3_4", 192, 192, 3, 3
    yield from block_e("Mixed_7b", 1280)
    yield from block_e("Mixed_7c", 2048)


def expected_shapes(divisor: int) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name, channels, out, height, width in convolutions():
        shapes[f"{name}.conv.weight"] = (out // divisor, channels if channels == 3 else channels // divisor, height, width)
        shapes.update({f"{name}.bn.{key}": (out // divisor,) for key in NORM})
    return shapes


def is_left_out(name: str) -> bool:
    return name.startswith("fc.") or name.endswith(".num_batches_tracked")


def few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def check(tensors: dict, path: Path) -> int:
    """What the channels of the published network are divided by; an error that names what does not fit."""
    first = tensors.get("Conv2d_1a_3x3.conv.weight")
    divisor = next((d for d in DIVISORS if first is not None and first.shape[:1] == (32 // d,)), 1)
    shapes = expected_shapes(divisor)
    missing = [name for name in shapes if name not in tensors]
    unknown = [name for name in tensors if name not in shapes]
    wrong = [
        f"{name} is {list(tensors[name].shape)}, not {list(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    kinds = ((missing, "missing"), (wrong, "of another shape"), (unknown, "that the network does not have"))
    findings = [f"{len(names)} {what} ({few(names)})" for names, what in kinds if names]
    if findings:
        raise RunError(f"{path} is not pytorch-fid's InceptionV3: {'; '.join(findings)}")
    return divisor


def read_pickle(path: Path) -> dict:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as fault:  # of whatever kind the file makes torch raise
        raise RunError(f"{path} is not a file of weights alone: {str(fault).splitlines()[0]}") from fault
    if not isinstance(state, dict) or not all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()):
        raise RunError(f"{path} is not a table of named tensors")
    return {name: tensor.float().contiguous() for name, tensor in state.items() if not is_left_out(name)}


def convert(path: Path, folder: Path) -> None:
    try:
        import torch  # noqa: F401
        from safetensors.torch import save
    except ImportError as fault:
        raise RunError(f"PyTorch and safetensors are needed (pip install torch safetensors): {fault}") from fault
    tensors = read_pickle(path)
    divisor = check(tensors, path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    config = {"model_type": "fid_inception_v3", "channels_divided_by": divisor}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def origin_of(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    published = "the published file" if digest.startswith(PUBLISHED) else f"NOT the published file, whose begins with {PUBLISHED}"
    return f"SHA-256 {digest}: {published}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pickle", type=Path, metavar="FILE.pth")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()

    def work() -> None:
        convert(arguments.pickle, arguments.folder)
        print(f"{arguments.folder}: from {arguments.pickle}, {origin_of(arguments.pickle)}")

    return run_tool("inception_weights", work)


if __name__ == "__main__":
    sys.exit(main())
