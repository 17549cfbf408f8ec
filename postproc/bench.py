"""Runs `aptp input/sd21/bench.cfg`, and the same work in PyTorch where that can be imported, and prints one table.

    python postproc/bench.py APTP FOLDER [--pytorch PYTHON] [--rounds 3]

The two run in turns, `rounds` times: on a machine that is busy with other things both meet the same. Times are medians over all
rounds, ratios medians of the rounds' own ratios, the roof the fastest product of any round. FOLDER gets bench.json.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import h5py

MIB = 1 << 20


def find_pytorch(asked):
    """A Python that has what bench_diffusers.py needs, or None."""
    for python in [asked, sys.executable]:
        test = subprocess.run([python, "-c", "import torch, diffusers, h5py"], capture_output=True, check=False)
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


def run_pytorch(python, config, ours, folder, number):
    """The same cases as in a round of aptp."""
    path = folder / f"round_{number}_pytorch.json"
    script = Path(__file__).with_name("bench_diffusers.py")
    command = [python, script, "--config", config, "--precision", ours["precision"][0], "--latents", ours["resolution"][0]]
    command += ["--tokens", ours["tokens"][0], "--batches", *ours["batch"], "--threads", ours["threads"][0]]
    command += ["--prune-batch", ours["prune_step/batch"][0], "--repeats", ours["repeats"][0], path]
    subprocess.run([str(word) for word in command], check=True)
    return json.loads(path.read_text())


def cases_of(ours):
    """(name, figures) of each case in a round of aptp: forward passes of the teacher at the first resolution, a pruning step; then what
    PyTorch is not asked for: training of the teacher and of an expert."""
    keys = ["time", "time_least", "speed", "peak_memory", "peak_resident", "growths"]
    for b, batch in enumerate(ours["batch"]):
        yield f"forward, batch {batch}", {key: ours[key][0][0][b] for key in keys}
    yield f"pruning step, batch {ours['prune_step/batch'][0]}", {key: ours[f"prune_step/{key}"][0] for key in keys}
    if "training/batch" not in ours:
        return
    batch = ours["training/batch"][0]
    names = ["teacher", *(f"expert of {macs[0] / ours['macs'][0][0]:.2f}" for macs in ours["macs"][1:])]
    for m, name in enumerate(names):
        yield f"training pass, {name}, batch {batch}", {key: ours[f"training/{key}"][m] for key in keys}
    for k, name in enumerate(names[1:]):
        yield f"fine-tuning step, {name}, batch {batch}", {key: ours[f"finetune_step/{key}"][k] for key in keys}


def training_ratios(ours):
    """Of each expert: MACs, parameters and the time of forward and backward pass, over the teacher's; medians of the rounds' own."""
    for m in range(1, len(ours[0]["macs"])) if "training/time" in ours[0] else []:
        yield dict(
            macs=ours[0]["macs"][m][0] / ours[0]["macs"][0][0],
            parameters=ours[0]["parameters"][m] / ours[0]["parameters"][0],
            time=statistics.median(round_["training/time"][m] / round_["training/time"][0] for round_ in ours),
        )


def summary(ours, theirs):
    """One row a case. ours, theirs: what each round gave; theirs may be empty."""
    precision = ours[0]["precision"][0]
    roof = {name: max(round_[name][0] for round_ in ours) for name in ours[0] if name.startswith("roof/")}
    own_roof = max(speed for name, speed in roof.items() if name.endswith(precision))
    rows = []
    for i, cases in enumerate(zip(*(list(cases_of(round_)) for round_ in ours))):
        figures = [case for _, case in cases]
        row = dict(
            work=cases[0][0],
            time=statistics.median(f["time"] for f in figures),
            speed=max(f["speed"] for f in figures),
            growths=max(f["growths"] for f in figures),
            memory=max(f["peak_memory"] for f in figures),
            resident=max(f["peak_resident"] for f in figures),
        )
        row["share_of_roof"] = row["speed"] / own_roof
        others = [[*round_["forward"], round_["prune_step"]] for round_ in theirs]
        if others and i < len(others[0]):
            other = [cases[i] for cases in others]
            row["pytorch_time"] = statistics.median(o["time"] for o in other)
            row["pytorch_resident"] = max(o["peak_resident"] for o in other)
            row["speed_up"] = statistics.median(o["time"] / f["time"] for o, f in zip(other, figures))
            row["memory_ratio"] = row["resident"] / row["pytorch_resident"]
        rows.append(row)
    return dict(precision=precision, threads=ours[0]["threads"][0], roof=roof, rows=rows, experts=list(training_ratios(ours)))


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def print_table(result):
    print(f"\n{result['processor']}, {result['threads']} threads, {result['precision']}; roof in GFLOP/s:", end=" ")
    print(", ".join(f"{name[5:].replace('_', ' ')} {speed:.0f}" for name, speed in result["roof"].items()))
    head = f"{'SD 2.1 UNet, 32x32 latents':42}{'s':>8}{'GFLOP/s':>9}{'of roof':>9}{'MiB':>8}{'process':>9}{'grown':>7}"
    compared = "speed_up" in result["rows"][0]
    print(head + (f"{'PyTorch s':>12}{'process':>9}{'times as fast':>15}{'of its memory':>15}" if compared else ""))
    for row in result["rows"]:
        line = f"{row['work']:42}{row['time']:8.2f}{row['speed']:9.0f}{row['share_of_roof']:9.1%}{row['memory'] / MIB:8.0f}"
        line += f"{row['resident'] / MIB:9.0f}{row['growths']:7d}"
        if "speed_up" in row:
            line += f"{row['pytorch_time']:12.2f}{row['pytorch_resident'] / MIB:9.0f}{row['speed_up']:15.2f}"
            line += f"{row['memory_ratio']:15.2f}"
        print(line)
    for expert in result["experts"]:
        print(f"expert of {expert['macs']:.3f} of the MACs, {expert['parameters']:.3f} of the parameters:"
              f" forward and backward pass in {expert['time']:.3f} of the teacher's time (to reach: {expert['macs'] + 0.15:.3f})")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pytorch", default="python3", help="a Python with torch, diffusers and h5py")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    python = find_pytorch(args.pytorch)
    if not python:
        print(f"PyTorch is left out: neither {args.pytorch} nor {sys.executable} has torch, diffusers and h5py"
              " (make bench PYTORCH=/path/to/python)")
    args.folder.mkdir(parents=True, exist_ok=True)
    ours, theirs = [], []
    for number in range(1, args.rounds + 1):
        ours.append(run_aptp(args.program, "input/sd21/bench.cfg", args.folder, number))
        if python:
            theirs.append(run_pytorch(python, "input/sd21/unet.json", ours[-1], args.folder, number))
    result = dict(processor=processor(), **summary(ours, theirs), rounds=ours, pytorch_rounds=theirs)
    (args.folder / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    print_table(result)


if __name__ == "__main__":
    main()
