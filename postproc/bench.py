"""Runs `aptp input/sd21/bench.cfg`, and the same work in PyTorch where that can be imported, and prints one table.

    python postproc/bench.py APTP FOLDER [--pytorch PYTHON] [--rounds 3]
    python postproc/bench.py APTP FOLDER --gpu [--pytorch PYTHON] [--rounds 1] [--minutes 9]

The two run in turns, `rounds` times: on a machine that is busy with other things both meet the same. Times are medians over all
rounds, ratios medians of the rounds' own ratios, the roof the fastest product of any round. FOLDER gets bench.json. With --gpu the deck
is input/sd21/bench-gpu.cfg and PyTorch computes on the GPU too, by torch.compile; it is stopped when the minutes are over, and what it
has measured by then counts.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import h5py

MIB = 1 << 20
GUIDED_STEPS = 25  # of the sampler's row; a step is a forward pass of two, with the prompt and without


def find_pytorch(asked, gpu):
    """A Python that has what bench_diffusers.py needs, or None."""
    needed = "import torch, diffusers" + ("; assert torch.cuda.is_available()" if gpu else "")
    for python in [asked, sys.executable]:
        test = subprocess.run([python, "-c", needed], capture_output=True, check=False)
        if test.returncode == 0:
            return python
    return None


def run_aptp(program, deck, folder, number):
    path = folder / f"round_{number}.h5"
    command = [program, deck, "--set", f"run.folder={folder}", "--set", f"files.bench={path}"]
    subprocess.run(command, check=True)
    with h5py.File(path) as file:
        return {name: value for name, value in datasets(file)}


def datasets(file):
    names = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    for name in names:
        value = file[name].asstr()[()] if h5py.check_string_dtype(file[name].dtype) else file[name][()]
        yield name, value.tolist()


def run_pytorch(python, config, ours, folder, number, seconds):
    """The same cases as in a round of aptp, as far as PyTorch comes in that time (None: all of them), by name."""
    path = folder / f"round_{number}_pytorch.json"
    path.unlink(missing_ok=True)
    script = Path(__file__).with_name("bench_diffusers.py")
    command = [python, script, "--config", config, "--precision", ours["precision"][0], "--latents", *ours["resolution"]]
    command += ["--tokens", ours["tokens"][0], "--batches", *ours["batch"], "--threads", ours["threads"][0]]
    command += ["--prune-batch", ours["prune_step/batch"][0], "--repeats", ours["repeats"][0]]
    if "device" in ours:  # where it has the time for it, and its memory is what counts
        command += ["--device", "cuda", "--compile", "--train-batch", ours["training/batch"][0]]
    try:
        status = subprocess.run([str(word) for word in [*command, path]], check=False, timeout=seconds).returncode
        ended = f"failed with exit code {status}" if status else ""
    except subprocess.TimeoutExpired:
        ended = f"was stopped after {seconds:.0f} s"
    if ended:
        print(f"PyTorch {ended}: what it had measured by then counts")
    return json.loads(path.read_text())["cases"] if path.exists() else {}


def cases_of(ours):
    """(name, figures) of each case in a round of aptp: forward passes of the teacher, a pruning step, training of the teacher and of an
    expert, which PyTorch has not."""
    keys = ["time", "time_least", "speed", "peak_memory", "peak_resident", "growths"]
    sizes = [f"{resolution}x{resolution}" for resolution in ours["resolution"]]
    for r, size in enumerate(sizes):
        for b, batch in enumerate(ours["batch"]):
            yield f"forward, {size}, batch {batch}", {key: ours[key][0][r][b] for key in keys}
    yield f"pruning step, {sizes[0]}, batch {ours['prune_step/batch'][0]}", {key: ours[f"prune_step/{key}"][0] for key in keys}
    if "training/batch" not in ours:
        return
    batch = ours["training/batch"][0]
    names = ["teacher", *(f"expert of {macs[0] / ours['macs'][0][0]:.2f}" for macs in ours["macs"][1:])]
    for m, name in enumerate(names):
        yield f"training pass, {name}, {sizes[0]}, batch {batch}", {key: ours[f"training/{key}"][m] for key in keys}
    for k, name in enumerate(names[1:]):
        yield f"fine-tuning step, {name}, {sizes[0]}, batch {batch}", {key: ours[f"finetune_step/{key}"][k] for key in keys}


def with_sampling(cases):
    """The cases, and the steps of a picture at 96x96 latents, 768x768 pixels: what its forward passes take (the text encoder and the VAE
    are not in it)."""
    forward = cases.get("forward, 96x96, batch 2")
    if not forward:
        return cases
    times = {key: GUIDED_STEPS * forward[key] for key in ("time", "time_least")}
    return {**cases, f"{GUIDED_STEPS} guided steps = {GUIDED_STEPS} x forward, 96x96, batch 2": {**forward, **times}}


def training_ratios(ours):
    """Of each expert: MACs, parameters and the time of forward and backward pass, over the teacher's; medians of the rounds' own."""
    for m in range(1, len(ours[0]["macs"])) if "training/time" in ours[0] else []:
        yield dict(
            macs=ours[0]["macs"][m][0] / ours[0]["macs"][0][0],
            parameters=ours[0]["parameters"][m] / ours[0]["parameters"][0],
            time=statistics.median(round_["training/time"][m] / round_["training/time"][0] for round_ in ours),
        )


def summary(ours, theirs):
    """One row a case. ours, theirs: what each round gave; theirs may be empty. Compared is the memory of the GPU, else of the process."""
    memory = "peak_memory" if "device" in ours[0] else "peak_resident"
    theirs = [with_sampling(round_) for round_ in theirs]
    precision = ours[0]["precision"][0]
    roof = {name: max(round_[name][0] for round_ in ours) for name in ours[0] if name.startswith("roof/")}
    own_roof = max(speed for name, speed in roof.items() if name.endswith(precision))
    rows = []
    all_cases = [with_sampling(dict(cases_of(round_))) for round_ in ours]
    for name in all_cases[0]:
        figures = [cases[name] for cases in all_cases]
        row = dict(
            work=name,
            time=statistics.median(f["time"] for f in figures),
            speed=max(f["speed"] for f in figures),
            growths=max(f["growths"] for f in figures),
            memory=max(f["peak_memory"] for f in figures),
            resident=max(f["peak_resident"] for f in figures),
        )
        row["share_of_roof"] = row["speed"] / own_roof
        if theirs and all(name in cases for cases in theirs):
            other = [cases[name] for cases in theirs]
            row["pytorch_time"] = statistics.median(o["time"] for o in other)
            row["pytorch_memory"] = max(o[memory] for o in other)
            row["speed_up"] = statistics.median(o["time"] / f["time"] for o, f in zip(other, figures))
            row["memory_ratio"] = max(f[memory] for f in figures) / row["pytorch_memory"]
        rows.append(row)
    return dict(precision=precision, threads=ours[0]["threads"][0], roof=roof, rows=rows, experts=list(training_ratios(ours)))


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def print_table(result):
    roof = dict(result["roof"])
    copy = f"; copies {roof.pop('roof/copy'):.0f} GB/s" if "roof/copy" in roof else ""
    print(f"\n{result['processor']}, {result['threads']} threads, {result['precision']}; roof in GFLOP/s:", end=" ")
    print(", ".join(f"{name[5:].replace('_', ' ')} {speed:.0f}" for name, speed in roof.items()) + copy)
    head = f"{'SD 2.1 UNet':54}{'s':>9}{'GFLOP/s':>9}{'of roof':>9}{'MiB':>8}{'process':>9}{'grown':>7}"
    compared = any("speed_up" in row for row in result["rows"])
    print(head + (f"{'PyTorch s':>12}{'its MiB':>9}{'times as fast':>15}{'of its memory':>15}" if compared else ""))
    for row in result["rows"]:
        line = f"{row['work']:54}{row['time']:9.4f}{row['speed']:9.0f}{row['share_of_roof']:9.1%}{row['memory'] / MIB:8.0f}"
        line += f"{row['resident'] / MIB:9.0f}{row['growths']:7d}"
        if "speed_up" in row:
            line += f"{row['pytorch_time']:12.4f}{row['pytorch_memory'] / MIB:9.0f}{row['speed_up']:15.2f}"
            line += f"{row['memory_ratio']:15.2f}"
        print(line)
    for expert in result["experts"]:
        print(f"expert of {expert['macs']:.3f} of the MACs, {expert['parameters']:.3f} of the parameters:"
              f" forward and backward pass in {expert['time']:.3f} of the teacher's time (to reach: {expert['macs'] + 0.15:.3f})")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pytorch", default="python3", help="a Python with torch and diffusers")
    parser.add_argument("--gpu", action="store_true", help="the deck for a GPU, and PyTorch on it")
    parser.add_argument("--deck", help="another than these two")
    parser.add_argument("--config", default="input/sd21/unet.json", help="the UNet that the deck names, for PyTorch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, help="in all; PyTorch is stopped by then")
    args = parser.parse_args()

    start = time.monotonic()
    deck = args.deck or f"input/sd21/bench{'-gpu' if args.gpu else ''}.cfg"
    python = find_pytorch(args.pytorch, args.gpu)
    if not python:
        print(f"PyTorch is left out: neither {args.pytorch} nor {sys.executable} has torch{' with a GPU' if args.gpu else ''} and diffusers"
              " (PYTORCH=/path/to/python)")
    args.folder.mkdir(parents=True, exist_ok=True)
    ours, theirs = [], []
    for number in range(1, args.rounds + 1):
        ours.append(run_aptp(args.program, deck, args.folder, number))
        if python:
            seconds = args.minutes and max(0, 60 * args.minutes - (time.monotonic() - start))
            theirs.append(run_pytorch(python, args.config, ours[-1], args.folder, number, seconds))
    device = ours[0].get("device", [processor()])[0]
    result = dict(processor=device, **summary(ours, theirs), rounds=ours, pytorch_rounds=theirs)
    (args.folder / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    print_table(result)


if __name__ == "__main__":
    main()
