"""Phase export without PyTorch: its files by a plain reader against the HDF5 files, the router in NumPy, what is refused.

The arrays of every expert bit for bit; the description against the mask and the arrays' shapes; the router's experts and
similarities against assignment.h5, in every normal form; one expert alone, halves, ranks, --check; a checkpoint, missing files,
files of other runs and teachers, masks that empty a unit, a full disk.

Usage: test_export.py APTP
"""
import json
import pathlib
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "test/support"), str(ROOT / "postproc")]
import h5py  # noqa: E402
import numpy as np  # noqa: E402
from aptp_router import Router  # noqa: E402
from chain import Chain, Checks  # noqa: E402
from published import read_safetensors  # noqa: E402

DECK, INPUT, OUTPUT = 2, 3, 4  # exit codes


def stored_weights(path):
    with h5py.File(path) as file:
        return {name: file["weights"][name][...] for name in file["weights"]}


def same(a, b):
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]) for name in a)


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def elsewhere(folder, *files):
    """Settings of a run in a folder of its own that reads these files of the chain."""
    return {"run.folder": f'"{folder}"', **{f"files.{name}": f'"./{name}.h5"' for name in files}}


# ---- what is written


def check_description(checks, folder, run, k):
    """aptp.json of expert k against the router's table, the mask and the arrays."""
    text, arrays = json.loads((folder / "aptp.json").read_text()), read_safetensors(folder / "diffusion_pytorch_model.safetensors")
    with h5py.File(run / f"expert_{k:02d}.h5") as expert, h5py.File(run / "router.h5") as router:
        checks.that((folder / "config.json").read_text() == expert["config"][0].decode(), f"expert {k}: config.json is not the teacher's")
        mask, depth_paths = expert["mask"][...], [path.decode() for path in router["depth/path"][...]]
        table = list(zip(*(router[f"units/{name}"][...] for name in ("path", "kind", "first", "width", "depth")), strict=True))
        facts = {"format": "aptp-expert", "format_version": 1, "expert": k, "experts": len(router["codes"]), "ratio": expert["ratio"][0],
                 "prediction": expert["prediction"][0].decode(), "teacher": expert["teacher"][0].decode(), "router": expert["router"][0].decode(),
                 "content_id": expert.attrs["content_id"].decode(), "budget": router["settings/budget"][0],
                 "latent": {"kind": expert["latent/kind"][0].decode(), "scale": list(expert["latent/scale"])},
                 "encoder": {"text": expert["encoder/text"][0].decode(), "sentence": router["encoder/sentence"][0].decode()}}
    for name, value in facts.items():
        checks.that(text[name] == value, f"expert {k}: {name} is {text[name]}, expected {value}")
    depth = mask[len(mask) - len(depth_paths):]
    checks.that(text["dropped"] == [path for path, keeps in zip(depth_paths, depth, strict=True) if not keeps], f"expert {k}: dropped {text['dropped']}")
    left = [row for row in table if row[4] < 0 or depth[row[4]]]
    checks.that([unit["path"] for unit in text["units"]] == [row[0].decode() for row in left], f"expert {k}: not the units that are left")
    for unit, (path, kind, first, width, _) in zip(text["units"], left, strict=True):
        path, kept = path.decode(), mask[first : first + width]
        sizes = {"resnet": lambda p=path, n=kept: {"groups": n.sum(), "channels": len(arrays[p + ".conv1.bias"])},
                 "feed_forward": lambda p=path: {"inner": arrays[p + ".net.2.weight"].shape[1]}}.get(kind.decode(), lambda n=kept: {"heads": n.sum()})()
        checks.that(unit == {"path": path, "kind": kind.decode(), "mask": list(kept), **sizes}, f"expert {k}: {unit}, expected {sizes} of {kept}")
    return bool(text["dropped"]), any(0 in unit["mask"] for unit in text["units"])


def check_experts(checks, run, experts):
    dropped = sliced = False
    for k in range(experts):
        folder = run / f"export/expert_{k:02d}"
        checks.that(sorted(path.name for path in folder.iterdir()) == ["aptp.json", "config.json", "diffusion_pytorch_model.safetensors"], f"expert {k}: files")
        checks.that(same(read_safetensors(folder / "diffusion_pytorch_model.safetensors"), stored_weights(run / f"expert_{k:02d}.h5")),
                    f"expert {k}: arrays differ from the HDF5 file's")
        d, s = check_description(checks, folder, run, k)
        dropped, sliced = dropped or d, sliced or s
    checks.that(dropped and sliced, f"a weak test: units dropped {dropped}, sliced {sliced}")


def exported_router(run):
    folder = run / "export/router"
    return json.loads((folder / "router.json").read_text()), read_safetensors(folder / "router.safetensors")


def check_router(checks, run, what):
    settings, arrays = exported_router(run)
    with h5py.File(run / "router.h5") as file:
        stored = {"predictor.weight": "predictor/weight", "predictor.bias": "predictor/bias", "codes": "codes", "gates": "gates"}
        checks.that(same(arrays, {name: file[path][...] for name, path in stored.items()}), f"{what}: arrays differ from router.h5's")
        checks.that(settings["ratio"] == list(file["ratio/total"][...]), f"{what}: ratios differ from router.h5's")
        checks.that(settings["content_id"] == file.attrs["content_id"].decode(), f"{what}: content id")
    router = Router(settings, arrays)
    with h5py.File(run / "data.h5") as data, h5py.File(run / "assignment.h5") as assignment:
        for split in ("train", "validation"):
            z, expert, similarity = data[f"{split}/embedding"][...], assignment[f"{split}/expert"][...], assignment[f"{split}/similarity"][...]
            # Both are fp64; sums of some hundred terms in another order.
            error = np.abs(router.similarity(z) - similarity).max()
            checks.that(error < 1e-12, f"{what}: similarities of {split} are {error:.1e} off")
            checks.that(np.array_equal(router.experts_of(z), expert), f"{what}: experts of {split}")
            checks.that(settings["prompts"][split] == list(assignment[f"{split}/count"][...]), f"{what}: prompts of {split}")


# ---- what is refused


def expect(checks, chain, what, code, message, **options):
    before = snapshot(chain.path("export"))
    result = chain.run("export", **options)
    said = result.stdout.count("aptp: error:") == 1 and message in result.stdout
    checks.that(result.returncode == code and said, f"{what}: exit code {result.returncode}, expected {code} and {message}:\n{result.stdout}")
    checks.that(snapshot(chain.path("export")) == before, f"{what}: the exported files have changed")


def replace(file, name, value):
    """The values of a dataset, of the same length."""
    with h5py.File(file, "r+") as opened:
        opened[name][...] = value


def check_refusals(checks, chain, unfinished):
    kept = {name: chain.path(name).read_bytes() for name in ("router.h5", "assignment.h5", "expert_00.h5", "expert_01.h5", "expert_02.h5")}

    def restored(what, code, message, **options):
        expect(checks, chain, what, code, message, **options)
        for name, data in kept.items():
            chain.path(name).write_bytes(data)

    chain.remove("expert_02.h5")
    restored("a missing expert", INPUT, "expert_02.h5", settings={"files.export": '"fresh"'})
    checks.that(not chain.path("fresh").exists(), "a missing expert: others were exported before it was missed")
    chain.remove("assignment.h5")
    restored("no assignment", INPUT, "assignment.h5")
    shutil.copy(chain.path("expert_01.h5"), chain.path("expert_02.h5"))
    restored("two times the same expert", INPUT, "holds expert 1, expert 2 is wanted")
    with h5py.File(chain.path("expert_01.h5")) as file:
        teacher = file["teacher"][0].decode()
    replace(chain.path("expert_01.h5"), "teacher", ("0" if teacher[0] != "0" else "1") + teacher[1:])
    restored("another teacher", INPUT, "expert_01.h5 was sliced out of another teacher than the router's")
    chain.make("assign", settings={"files.router": '"other/router.h5"'})
    restored("another router's assignment", INPUT, "assignment.h5 was made with another router.h5: run assign again")
    restored("another router", INPUT, "expert_00.h5 was made with another router file", settings={"files.router": '"other/router.h5"'})
    with h5py.File(chain.path("router.h5"), "r+") as file:
        file["gates"][1, : file["units/width"][0]] = 0.1
    restored("a mask that empties a unit", INPUT, "router.h5: down_blocks.0.resnets.0 keeps none of its 4 entries")
    restored("no such expert", DECK, "export.expert is 3, ", settings={"export.expert": 3})
    restored("a checkpoint", INPUT, "is the checkpoint of a run", ranks=2, settings={"files.expert": '"unfinished"', "export.expert": unfinished})
    replace(chain.path("expert_02.h5"), "weights/conv_in.bias", np.full(8, 1e6))
    restored("a weight that a half cannot hold", OUTPUT, "conv_in.bias: element 0 is 1e+06, which a half cannot hold",
             settings={"export.half": "true", "export.expert": 2, "files.export": '"export_half_never"'})
    restored("a full disk", OUTPUT, "File too large", file_limit=100000, settings={"export.expert": 1})
    checks.that(not list(chain.folder.rglob("*.partial")), "partial files are left")


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as name:
        chain = Chain(sys.argv[1], name)
        run, experts = chain.folder, 3
        chain.make("prepare", "pretrain", "prune", "assign")
        chain.make("prune", settings={**elsewhere("other", "data", "teacher"), "run.seed": 8})
        # A checkpoint in the place of a finished expert.
        with h5py.File(chain.path("assignment.h5")) as file:
            k = int(file["train/count"][...].argmax())
        stopped = chain.run("finetune", settings={"run.wall_clock_limit": 1e-6, "finetune.expert": k})
        checks.that(stopped.returncode == 75, f"finetune was not stopped:\n{stopped.stdout}")
        shutil.copy(chain.path(f"finetune_{k:02d}.checkpoint.h5"), chain.path(f"unfinished_{k:02d}.h5"))
        chain.make("finetune")

        result = chain.run("export", arguments=["--check"])
        checks.that(result.returncode == 0 and not chain.path("export").exists(), f"--check: {result.returncode}\n{result.stdout}")
        chain.make("export", settings={"run.log": '"normal"'})
        check_experts(checks, run, experts)
        check_router(checks, run, "mixed")
        first = snapshot(run / "export")
        chain.make("export", ranks=2, settings={"files.export": '"export_two"'})
        checks.that(snapshot(run / "export_two") == first, "two ranks write other files")
        chain.make("export", settings={"files.export": '"export_half"', "export.half": "true", "export.expert": 1})
        half, full = (read_safetensors(run / f"{folder}/expert_01/diffusion_pytorch_model.safetensors") for folder in ("export_half", "export"))
        checks.that(same(half, {key: value.astype(np.float16) for key, value in full.items()}), "half: not the nearest halves")
        checks.that(sorted(path.name for path in (run / "export_half").iterdir()) == ["expert_01"], "one expert: more is written")
        check_refusals(checks, chain, k)

        # The other ways to compare, which the chain's router does not use.
        for form, weights in (("hard", "false"), ("soft", "true")):
            own = f"{form}_{weights}"
            chain.make("prune", settings={**elsewhere(own, "data", "teacher"), "router.normal_form": f'"{form}"', "router.mac_weights": weights})
            chain.make("assign", settings=elsewhere(own, "data"))
            chain.make("finetune", settings={**elsewhere(own, "data", "teacher"), "finetune.steps": 1})
            chain.make("export", settings=elsewhere(own))
            shutil.copy(run / "data.h5", run / own)
            check_router(checks, run / own, own)
    checks.end()


if __name__ == "__main__":
    main()
