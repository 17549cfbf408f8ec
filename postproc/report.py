"""Makes the report of a pruning run: report.png, one sheet of pictures, and report.md, the numbers.

    python postproc/report.py RUN_FOLDER

reads router.h5 and assignment.h5 there, and where they are data.h5 (labels and pictures) and bench.h5 (measurements).
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from clusters import chance_agreement, normalised_mutual_information, typical_words
from report_sheet import draw_sheet
from run_folder import MissingFile, Run, Split, read_run


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """The first column is left-aligned, the others right-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows] + [""]


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def size_of(resolution: np.ndarray) -> str:
    return f"{resolution[0]} x {resolution[1]}"


def prompts_of(split: Split, experts: int) -> np.ndarray:
    return np.bincount(split.expert, minlength=experts)


def budget_section(run: Run) -> list[str]:
    lines = ["## Budget", "",
             f"The target is p = {run.target:.4f}: the mean over prompts of the expert's MACs, as a share of the teacher's, counted on "
             f"the sliced experts at {size_of(run.resolution[0])} latents.", ""]
    rows = []
    for name, split in run.splits.items():
        for r, resolution in enumerate(run.resolution):
            mean = split.mean_ratio[r]
            rows.append([name, size_of(resolution), f"{mean:.4f}", f"{100 * (mean / run.target - 1):+.2f} %" if r == 0 else ""])
    lines += table(["split", "latents", "mean m", "m / p - 1"], rows)
    return lines


def expert_section(run: Run) -> list[str]:
    kinds = sorted({unit.kind for unit in run.units}, key=lambda kind: [unit.kind for unit in run.units].index(kind))
    rows = []
    for k in range(run.experts):
        cells = [str(k)] + [str(prompts_of(split, run.experts)[k]) for split in run.splits.values()]
        cells += [percent(run.ratio[r, k]) for r in range(len(run.resolution))]
        cells += [percent(np.mean([unit.kept[k] for unit in run.units if unit.kind == kind])) for kind in kinds]
        rows.append(cells + [f"{sum(unit.dropped[k] for unit in run.units if unit.kind != 'cross_attention' and unit.kind != 'feed_forward')}"])
    head = (["expert"] + [f"{name} prompts" for name in run.splits]
            + [f"MACs at {size_of(resolution)}" for resolution in run.resolution]
            + [f"{kind.replace('_', ' ')} kept" for kind in kinds] + ["blocks dropped"])
    return (["## Experts", "", "MACs are shares of the teacher's; *kept* is the mean share of the width that units of a kind keep; a dropped block "
             "is a ResNet or transformer that the expert lacks.", ""] + table(head, rows))


def bench_section(run: Run) -> list[str]:
    bench = run.bench
    if bench is None:
        return ["## Measured", "", "Not measured: there is no bench.h5.", ""]
    rows = []
    for model in range(len(bench.parameters)):
        for r, resolution in enumerate(bench.resolution):
            for b, batch in enumerate(bench.batch):
                time = bench.time[:, r, b]
                rows.append(["teacher" if model == 0 else f"expert {model - 1}", f"{bench.parameters[model] / 1e6:.2f} M", str(resolution),
                             str(batch), f"{bench.macs[model, r] / 1e9:.3f} G", f"{1e3 * time[model]:.2f} ms",
                             f"{time[0] / time[model]:.2f} x", f"{bench.peak_memory[model, r, b] / 2**20:.1f} MiB"])
    setting = f" ({bench.settings})" if bench.settings else ""
    return (["## Measured", "", f"One forward pass of the UNet, the median of several{setting}.", ""]
            + table(["model", "parameters", "latents", "batch", "MACs a picture", "time", "faster than the teacher", "memory"], rows))


def agreement_section(run: Run, split: Split) -> list[str]:
    rows = []
    emoji = split.label.get("source", np.array([])) == "emoji"
    for what, chosen in (("emoji", emoji), ("all prompts", np.ones(len(split.expert), dtype=bool))):
        for label in ("group", "subgroup"):
            if label not in split.label or len(chosen) == 0 or not chosen.any():
                continue
            labels, expert = split.label[label][chosen], split.expert[chosen]
            rows.append([f"{what}, {label}", str(len(labels)), str(len(set(labels))),
                         f"{normalised_mutual_information(expert, labels):.3f}", f"{chance_agreement(expert, labels):.3f}"])
    if not rows:
        return []
    return (["## Agreement with labels", "", "Normalised mutual information of the expert with the label of the picture, which nothing in training has seen: "
             "1 for the same partition, 0 for independent ones; beside it what shuffled labels give.", ""]
            + table(["labels", "prompts", "classes", "NMI", "shuffled"], rows))


def group_section(run: Run, split: Split) -> list[str]:
    lines = []
    if "group" in split.label:
        groups = [group for group, _ in Counter(split.label["group"]).most_common()]
        rows = []
        for group in groups:
            counts = np.bincount(split.expert[split.label["group"] == group], minlength=run.experts)
            rows.append([group or "(none)", str(counts.sum())] + [str(count) for count in counts])
        lines += ["## Prompts by group", ""] + table(["group", "prompts"] + [f"expert {k}" for k in range(run.experts)], rows)
    lines += ["## Typical words", "", "Words that are frequent in the expert's prompts and rarer in the others'.", ""]
    words = typical_words(split.caption, split.expert, run.experts, 15)
    lines += table(["expert", "words"], [[str(k), ", ".join(words[k]) or "-"] for k in range(run.experts)])
    lines += ["## Prompts", ""]
    generator = np.random.default_rng(0)
    for k in range(run.experts):
        own = np.flatnonzero(split.expert == k)
        chosen = np.sort(generator.choice(own, min(12, len(own)), replace=False)) if len(own) else own
        lines += [f"- **expert {k}**: " + ("; ".join(split.caption[chosen]) or "no prompt")]
    return lines + [""]


def difference_section(run: Run) -> list[str]:
    """Share of entries in which two experts' masks differ."""
    different = (run.masks[:, None, :] != run.masks[None, :, :]).mean(axis=2)
    rows = [[f"expert {k}"] + [percent(value) for value in row] for k, row in enumerate(different)]
    return (["## Differences between experts", "", "Share of the gates in which two experts differ.", ""]
            + table([""] + [f"expert {k}" for k in range(run.experts)], rows))


def training_section(run: Run) -> list[str]:
    steps = run.history.get("step", np.array([]))
    if len(steps) == 0:
        return []
    names = ("total", "ddpm", "distill_out", "distill_block", "resource", "contrastive", "entropy")
    tenth = max(len(steps) // 10, 1)
    rows = [[name.replace("_", " "), f"{run.history[name][:tenth].mean():.4g}", f"{run.history[name][-tenth:].mean():.4g}"]
            for name in names if name in run.history]
    return ["## Training of the router", "", f"{steps[-1]} steps. Means over the first and the last tenth of the steps.", ""] + table(
        ["quantity", "first", "last"], rows)


def markdown(run: Run) -> str:
    split = next(iter(run.splits.values()))
    used = np.count_nonzero(prompts_of(split, run.experts))
    mean = split.mean_ratio[0]
    lines = ["# Pruning report", "",
             f"{run.experts} experts, {used} of them used; mean share of the teacher's MACs {mean:.4f}, budget {run.target:.4f} "
             f"({100 * (mean / run.target - 1):+.2f} %).", "", "![The sheet](report.png)", ""]
    lines += budget_section(run) + expert_section(run) + bench_section(run) + agreement_section(run, split)
    lines += group_section(run, split) + difference_section(run) + training_section(run)
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path, metavar="RUN_FOLDER")
    folder = parser.parse_args().run_folder
    try:
        run = read_run(folder)
        if not run.splits:
            raise MissingFile(f"{folder}/assignment.h5 holds no prompts")
        draw_sheet(run, folder / "report.png")
        (folder / "report.md").write_text(markdown(run), encoding="utf-8")
    except (MissingFile, OSError, KeyError) as fault:
        print(f"report: {fault}", file=sys.stderr)
        return 2
    print(f"report: {folder}/report.md and {folder}/report.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
