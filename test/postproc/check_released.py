"""postproc/released_router.py: a checkpoint in the original code's format becomes a router of ours (make check-python; it needs torch).

The checkpoint is made here, of the chain's small UNet: linear maps one a unit, codes, a draw; or, as a cross-check of the format, by the
original classes where that repository's folder is given. Its router must assign prompts as those formulas say, and its experts must be
sliced by its masks.

Usage: check_released.py APTP [ORIGINAL_REPOSITORY]
"""
import json
import math
import pathlib
import pickle
import sys
import tempfile

import h5py
import numpy as np
import torch
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "test/support"), str(ROOT / "postproc")]
import tools  # noqa: E402
from chain import Chain, Checks  # noqa: E402
from released_router import content_id  # noqa: E402

K, D = 3, 32
WEIGHTS = "diffusion_pytorch_model.safetensors"
QUANTIZER = {"temperature": 0.4, "base": 3, "non_zero_width": True, "resource_aware_normalization": False, "optimal_transport": True}
HYPERNET = {"input_dim": D, "wn_flag": False, "linear_bias": True, "single_arch_param": False}


def structure_of(router):
    """The original code's nested lists: modules with the widths of their units, and whether they can be dropped."""
    paths = [path.decode() for path in router["units/path"][...]]
    modules = {}
    for path, width, depth in zip(paths, router["units/width"][...], router["units/depth"][...], strict=True):
        widths, _ = modules.setdefault(path.split(".transformer_blocks.")[0], ([], int(depth >= 0)))
        widths.append(int(width))
    return {"width": [widths for widths, _ in modules.values()], "depth": [[flag] for _, flag in modules.values()]}


def random_checkpoint(widths, depths):
    """Values far enough from their beginning that experts differ."""
    generator = torch.Generator().manual_seed(2)
    n = sum(widths) + depths
    maps = {f"mh_fc.{i}.{kind}": torch.randn(*shape, generator=generator) * scale for i, w in enumerate([*widths, depths])
            for kind, shape, scale in (("weight", (w, D), 0.3), ("bias", (w,), 1.0))}
    draw = torch.rand(K, n, generator=generator)
    draw[torch.arange(K)[:, None], torch.tensor(np.cumsum([0, *widths[:-1]]))] = 0.75  # no unit is empty
    return maps, {"embedding.weight": torch.randn(K, n, generator=generator), "embedding_gs": draw}


def write_checkpoint(folder, structure, order, maps, draws):
    for part, config, arrays in (("hypernet", HYPERNET, maps), ("quantizer", {**QUANTIZER, "n_e": K, "depth_order": order}, draws)):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps({"structure": structure, **config}))
        save_file(arrays, folder / part / WEIGHTS)
    torch.save(torch.nn.Parameter(draws["embedding_gs"], requires_grad=False), folder / "quantizer_embeddings.pt")
    for k in range(K):
        torch.save(draws["embedding_gs"][k : k + 1].clone(), folder / f"arch_vector_{k}.pt")


def write_by_original(folder, repository, structure, order, maps, draws):
    """The same values, saved by the original classes."""
    sys.path.insert(0, str(repository))
    from pdm.models.hypernet.hypernet import HyperStructure
    from pdm.models.vq.quantizer import StructureVectorQuantizer

    hypernet = HyperStructure(structure=structure, **HYPERNET)
    quantizer = StructureVectorQuantizer(n_e=K, structure=structure, depth_order=order, **QUANTIZER)
    hypernet.load_state_dict(maps)
    quantizer.load_state_dict(draws)
    hypernet.save_pretrained(folder / "hypernet")
    quantizer.save_pretrained(folder / "quantizer")


def similarity(maps, draw, structure, order, z):
    """The original formulas in fp64, with the median in place of the noise."""
    noise = -math.log(math.log(2))
    widths, flags = [w for inner in structure["width"] for w in inner], [f for inner in structure["depth"] for f in inner]
    out = [z @ maps[f"mh_fc.{i}.weight"].double().T + maps[f"mh_fc.{i}.bias"].double() for i in range(len(widths) + 1)]
    gates = [torch.sigmoid((logits + noise + 3) / 0.4) for logits in out[:-1]]
    for gate in gates:
        gate[(gate < 0.5).all(1), 0] += 0.5
    x = torch.softmax(out[-1], 1).cumsum(1).flip(1).clamp(max=1)
    x = torch.log(x + 1e-6) - torch.log1p(-(x - 1e-6))
    depth = torch.zeros_like(x)
    depth[:, [i % sum(flags) for i in order]] = torch.sigmoid((x + noise + 3) / 0.4)

    def form(vector):
        result, start, entry = (vector >= 0.5).double(), 0, 0
        for inner, flag in zip(structure["width"], flags, strict=True):
            for w in inner:
                if flag:
                    result[:, start : start + w] = vector[:, start : start + w] * vector[:, [sum(widths) + entry]]
                result[:, start : start + w] /= w**0.5
                start += w
            entry += flag
        return result / result.norm(dim=1, keepdim=True)

    return form(torch.cat([*gates, depth], 1)) @ form(draw.double()).T


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a pickle ran')",))


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as name:
        chain, checkpoint = Chain(sys.argv[1], name), pathlib.Path(name, "released")
        chain.make("prepare", "pretrain")
        chain.make("prune", settings={"prune.method": '"uniform"', "files.router": '"template.h5"'})
        template, out = chain.path("template.h5"), chain.path("router.h5")
        with h5py.File(template) as file:
            checks.that(content_id(file) == file.attrs["content_id"].decode(), "the template's content id is computed otherwise")
            structure, order = structure_of(file), [int(i) - len(file["depth/order"]) for i in file["depth/order"][...]]  # negative, as its configs may
        maps, draws = random_checkpoint([w for inner in structure["width"] for w in inner], len(order))
        write_checkpoint(checkpoint, structure, order, maps, draws)

        def convert(*arguments, folder=checkpoint):
            return tools.call("released_router", folder, out, "--template", template, *arguments)

        status, said, error = convert()
        checks.that(status == 0 and said.count("of the teacher's MACs") == K, f"conversion: {status} {said} {error}")
        chain.make("assign", "finetune", "export")
        with h5py.File(out) as file, h5py.File(chain.path("assignment.h5")) as assignment, h5py.File(chain.path("data.h5")) as data:
            checks.that(content_id(file) == file.attrs["content_id"].decode(), "the router's content id")
            checks.that(np.allclose(file["ratio/total"][...], assignment["ratio/total"][0], rtol=1e-12, atol=0), "ratios differ from those of the sliced experts")
            wanted = similarity(maps, draws["embedding_gs"], structure, order, torch.tensor(data["train/embedding"][...]).double()).numpy()
            worst = np.abs(assignment["train/similarity"][...] - wanted).max()
            checks.that(worst < 1e-12, f"similarities are {worst:.1e} off the original formulas")
            ids = file.attrs["content_id"]
        for k in range(K):
            with h5py.File(chain.path(f"expert_{k:02d}.h5")) as expert:
                checks.that(np.array_equal(expert["mask"][...], (draws["embedding_gs"][k] >= 0.5).numpy()), f"expert {k}: mask")

        def same_router(what, *arguments, folder=checkpoint):
            out.unlink()
            status, _, error = convert(*arguments, folder=folder)
            with h5py.File(out) as file:
                checks.that(status == 0 and file.attrs["content_id"] == ids, f"{what}: another router {error}")

        same_router("quantizer_embeddings.pt", "--gates", checkpoint / "quantizer_embeddings.pt")
        same_router("arch_vector.pt", "--gates", *(checkpoint / f"arch_vector_{k}.pt" for k in range(K)))
        if len(sys.argv) > 2:
            write_by_original(chain.path("original"), sys.argv[2], structure, order, maps, draws)
            same_router("the original classes", folder=chain.path("original"))

        def refused(what, message, *arguments, part="quantizer", **changed):
            path = checkpoint / part / "config.json"
            text = path.read_text()
            path.write_text(json.dumps({**json.loads(text), **changed}))
            before = out.read_bytes()
            status, _, error = convert(*arguments)
            checks.that(status == 2 and message in error and out.read_bytes() == before, f"{what}: {status} {error}")
            path.write_text(text)

        refused("one architecture", "single_arch_param is True", part="hypernet", single_arch_param=True)
        refused("weight norm", "wn_flag is True", part="hypernet", wn_flag=True)
        refused("weighed normal form", "resource_aware_normalization is True", resource_aware_normalization=True)
        refused("another keep order", "keep order", depth_order=order[::-1])
        refused("two UNets", "hypernet and quantizer are of different UNets", structure={"width": [[1]], "depth": [[0]]})
        refused("an expert less", "entries are expected", "--gates", checkpoint / "arch_vector_0.pt")
        torch.save(torch.zeros(K, draws["embedding_gs"].shape[1]), checkpoint / "empty.pt")
        refused("an empty unit", "keeps nothing of", "--gates", checkpoint / "empty.pt")
        with open(checkpoint / "evil.pt", "wb") as file:
            pickle.dump(Evil(), file)
        refused("a pickle with code", "UnpicklingError", "--gates", checkpoint / "evil.pt")
    checks.end()


if __name__ == "__main__":
    main()
