"""The program on GPUs, real or emulated: whole phases on one rank and on two, beside the same on the CPU. On emulated GPUs, of which
there can be any number, also gradients summed in the GPUs' memory by an MPI that can, that says so wrongly, that is not to; and what the
program says of GPUs that are missing, shared or full.

Usage: test_gpu.py APTP, built with CUDA=1 or EMULATOR=1
"""
import os
import pathlib
import shutil
import sys
import tempfile
from unittest.mock import patch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from chain import OUTPUT, WEIGHT_LIMIT, Chain, Checks, differences, weights_apart  # noqa: E402

PICTURE_LIMIT = 1e-3  # of values in [-1, 1]: rounding, through three steps with guidance
GPU = {"run.backend": "cuda", "run.ranks_per_gpu": 2}
SHORT = {"pretrain": {"pretrain.steps": 3}, "prune": {"prune.warmup_steps": 1, "prune.steps": 2, "prune.final_draws": 1},
         "finetune": {"finetune.steps": 2}}  # an emulated GPU is slow
EMULATED = {"APTP_EMULATOR_DEVICES": "2", "APTP_EMULATOR_CUDA_AWARE": "0"}  # a real GPU does not mind


def keep(chain, phase, name, settings, **options):
    """The phase's file of a new run, moved aside."""
    chain.remove(f"{phase}.checkpoint.h5")
    chain.make(phase, settings={**SHORT[phase], **settings}, **options)
    shutil.move(chain.path(OUTPUT[phase]), chain.path(name))
    return chain.path(name)


def check_pretrain(checks, chain, emulated):
    """On the CPU, on one rank, on two through host memory (deterministic and not) and in the GPUs' memory."""
    cpu = keep(chain, "pretrain", "cpu.h5", settings={"run.backend": "cpu"})
    runs = {"one rank": (1, {}, {}), "two ranks": (2, {}, {}), "two ranks, in order": (2, {"comm.deterministic": "true"}, {})}
    if emulated:
        runs |= {"two ranks, MPI aware": (2, {}, {"APTP_EMULATOR_CUDA_AWARE": "1"}),
                 "two ranks, MPI claims it wrongly": (2, {}, {"APTP_EMULATOR_CUDA_AWARE": "wrong"}),
                 "two ranks, told not to": (2, {"comm.cuda_aware": "off"}, {"APTP_EMULATOR_CUDA_AWARE": "1"})}
    for i, (name, (ranks, settings, variables)) in enumerate(runs.items()):
        with patch.dict(os.environ, variables):
            path = keep(chain, "pretrain", f"gpu{i}.h5", ranks=ranks, settings={**GPU, **settings})
        distance = weights_apart(cpu, path)
        checks.that(distance < WEIGHT_LIMIT, f"pretrain on {name} is {distance} from the CPU's, limit {WEIGHT_LIMIT}")
    shutil.copy(cpu, chain.path("teacher.h5"))


def check_prune(checks, chain):
    """The router does not depend on the number of GPUs."""
    one, two = (keep(chain, "prune", f"router{ranks}.h5", ranks=ranks, settings=GPU) for ranks in (1, 2))
    found = differences(one, two)
    checks.that(not found, "prune on 1 and 2 GPUs differ:\n" + "\n".join(found))
    shutil.copy(one, chain.path("router.h5"))


def check_finetune(checks, chain):
    """Experts trained by groups of ranks, beside the CPU's."""
    files = {}
    for backend, ranks in ("cpu", 1), ("cuda", 2):
        chain.make("finetune", ranks=ranks, settings={**SHORT["finetune"], "run.backend": backend, "files.expert": backend})
        files[backend] = sorted(chain.folder.glob(f"{backend}_0*.h5"))
        chain.remove(*(path.name for path in chain.folder.glob("finetune_*")))
    checks.that(len(files["cpu"]) == len(files["cuda"]) > 0, f"experts: {files}")
    for a, b in zip(files["cpu"], files["cuda"]):
        distance = weights_apart(a, b)
        checks.that(distance < WEIGHT_LIMIT, f"{b.name} is {distance} from {a.name}, limit {WEIGHT_LIMIT}")


def check_sample(checks, chain):
    """The same pictures as the CPU's, to rounding."""
    pictures = {}
    for backend, ranks in ("cpu", 1), ("cuda", 2):
        chain.make("sample", ranks=ranks, settings={"run.backend": backend, "files.samples": f"{backend}_samples.h5", "sample.limit": 4})
        with h5py.File(chain.path(f"{backend}_samples.h5")) as file:
            pictures[backend] = file["pixels"][()].astype(float) / 127.5
    distance = numpy.abs(pictures["cpu"] - pictures["cuda"]).max()
    checks.that(distance <= 1 / 127.5 + PICTURE_LIMIT, f"sampled pixels differ by {distance}")


def check_bench(checks, chain):
    """What is counted is the CPU's; measured are a device's times, memory and roof, and the file says whose."""
    files = {}
    for backend in "cpu", "cuda":
        chain.make("bench", settings={"run.backend": backend, "bench.roof_seconds": 1e-9, "bench.prune_batch": 2, "files.bench": f"{backend}.h5"})
        with h5py.File(chain.path(f"{backend}.h5")) as file:
            names = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            files[backend] = {name: file[name][()] for name in names}
            checks.that(file.attrs["backend"] == f"{backend} fp32".encode(), f"bench on {backend} says {file.attrs['backend']}")
    cpu, gpu = files["cpu"], files["cuda"]
    checks.that(gpu.keys() - cpu.keys() <= {"device", "roof/matmul_bf16", "roof/convolution_bf16"}, f"bench writes {gpu.keys()} and {cpu.keys()}")
    checks.that("device" in gpu and b"compute capability" in gpu["device"][0], f"bench's device is {gpu.get('device')}")
    checks.that((cpu["macs"] == gpu["macs"]).all() and (cpu["parameters"] == gpu["parameters"]).all(), "bench counts differently on a GPU")
    for name in ("time", "peak_memory", "prune_step/time", "training/time", "finetune_step/peak_memory", "roof/copy", "roof/matmul_fp32",
                 "roof/convolution_fp32"):
        checks.that((gpu[name] > 0).all() and numpy.isfinite(gpu[name]).all(), f"bench on a GPU: {name} is {gpu[name]}")
    checks.that(not gpu["growths"].any() and not gpu["training/growths"].any(), "memory of a GPU grows after the first pass")


def refused(checks, chain, name, message, code, ranks, settings=None, **variables):
    chain.remove("prune.checkpoint.h5", "router.h5")
    with patch.dict(os.environ, variables):
        result = chain.run("prune", ranks=ranks, settings={**SHORT["prune"], **GPU, "run.ranks_per_gpu": 1, **(settings or {})})
    checks.that(result.returncode == code and message in result.stdout, f"{name}: exit code {result.returncode}\n{result.stdout}")
    checks.that(not chain.path("router.h5").exists(), f"{name}: wrote router.h5")


def check_refusals(checks, chain):
    chain.remove("pretrain.checkpoint.h5")
    with patch.dict(os.environ, APTP_EMULATOR_CUDA_AWARE="wrong"):
        result = chain.run("pretrain", ranks=2, settings={**SHORT["pretrain"], **GPU, "comm.cuda_aware": "on", "files.teacher": "no.h5"})
    checks.that(result.returncode == 2 and 'comm.cuda_aware is "on"' in result.stdout, f"a wrong MPI, forced: {result.stdout}")
    refused(checks, chain, "no GPU", "there is no GPU", 2, 1, APTP_EMULATOR_DEVICES="0")
    refused(checks, chain, "more ranks than GPUs", "2 ranks would share", 2, 2, APTP_EMULATOR_DEVICES="1")
    refused(checks, chain, "a full GPU", "asked for by op_", 5, 1, APTP_EMULATOR_MEMORY="100")
    with patch.dict(os.environ, APTP_EMULATOR_DEVICES="1"):
        result = chain.run("prune", ranks=2, settings={**SHORT["prune"], **GPU, "run.log": "normal"})
    checks.that(result.returncode == 0 and result.stdout.count("emulated GPU 0") == 2, f"a shared GPU: {result.stdout}")


def main():
    checks = Checks()
    os.environ.update(EMULATED)
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(sys.argv[1], folder)
        chain.make("prepare", settings={"run.backend": "cpu"})
        told = chain.run("assign", settings={**GPU, "run.log": "normal"}).stdout  # fails without its files, after telling the GPU
        checks.that("GPU 0" in told, f"no GPU is told of: {told}")
        emulated = "emulated GPU" in told
        check_pretrain(checks, chain, emulated)
        check_prune(checks, chain)
        chain.make("assign")
        check_finetune(checks, chain)
        check_sample(checks, chain)
        check_bench(checks, chain)
        if emulated:
            check_refusals(checks, chain)
    checks.end()


if __name__ == "__main__":
    main()
