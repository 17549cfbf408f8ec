"""The sheet of the report: what each expert keeps, which prompts it got, what it costs, how training went."""

import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from clusters import typical_words
from run_folder import Run, Split

INK, FAINT, RULE = "#1f2430", "#7a8190", "#d9dce3"
ACCENT = "#c0392b"
EXPERT_COLOURS = ["#2a6f97", "#e08e45", "#5b8c5a", "#9b5d9e", "#c8553d", "#4f5d75", "#8a7a4b", "#3aa6a0"]
GROUP_COLOURS = ["#2a6f97", "#e9b44c", "#5b8c5a", "#c8553d", "#9b5d9e", "#61a5c2", "#a3b18a", "#d4a5a5", "#4f5d75", "#e08e45"]
KEPT = LinearSegmentedColormap.from_list("kept", ["#f6efe4", "#8fb8cc", "#14425f"])
KIND_LETTERS = {"resnet": "ResNet", "self_attention": "self-attention", "cross_attention": "cross-attention", "feed_forward": "feed-forward"}
COLUMNS = 4  # experts beside each other among the pictures
MOSAIC = (4, 7)  # pictures of an expert: rows, columns


def expert_colour(k: int) -> str:
    return EXPERT_COLOURS[k % len(EXPERT_COLOURS)]


def tidy(axes: Axes, title: str, note: str = "", lift: float = 0) -> None:
    """The house style of a panel: bold title, a faint note below it, no box; `lift`: points of tick labels above the panel."""
    for text, above, style in ((title, 21, {"fontsize": 11, "fontweight": "bold", "color": INK}), (note, 8, {"fontsize": 8.5, "color": FAINT})):
        axes.annotate(text, (0, 1), xycoords="axes fraction", xytext=(0, above + lift), textcoords="offset points", annotation_clip=False, **style)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(colors=FAINT, labelsize=8.5, length=0)


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving mean; at the ends over what is there."""
    kernel = np.ones(min(width, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def end_labels(axes: Axes, ends: list[tuple[float, str, str]], x: float, logarithmic: bool = False) -> None:
    """Names of lines at their right ends, (y, text, colour), moved apart where they would overlap."""
    low, high = axes.get_ylim()
    to_unit = (lambda y: np.log(y / low) / np.log(high / low)) if logarithmic else (lambda y: (y - low) / (high - low))
    place = -1.0
    for y, text, colour in sorted(ends):
        place = max(to_unit(y), place + 0.085)
        axes.annotate(text, (1, place), xycoords="axes fraction", xytext=(5, 0), textcoords="offset points", color=colour, fontsize=8.5,
                      va="center", annotation_clip=False)


def draw_losses(axes: Axes, run: Run) -> None:
    steps = run.history["step"]
    ends = []
    names = {"ddpm": "diffusion", "distill_out": "to the teacher's output", "distill_block": "to its blocks", "resource": "budget",
             "contrastive": "contrastive"}
    for colour, (key, name) in zip(EXPERT_COLOURS, names.items()):
        values = run.history.get(key)
        if values is None or not np.all(np.isfinite(values)):
            continue
        line = np.maximum(smooth(values, max(len(steps) // 40, 1)), 1e-4)
        axes.plot(steps, line, color=colour, linewidth=1.5)
        ends.append((line[-1], name, colour))
    axes.set_yscale("log")
    axes.set_xlim(steps[0], steps[-1])
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.minorticks_off()
    end_labels(axes, ends, steps[-1], logarithmic=True)
    tidy(axes, "Losses", "unweighted, smoothed")
    axes.set_xlabel("step", fontsize=8.5, color=FAINT)


def draw_budget(axes: Axes, run: Run) -> None:
    """The share of MACs of each code's draw at every step, and the target."""
    steps, ratios = run.history["step"], run.history["expert_ratio"]
    for k in range(run.experts):
        axes.plot(steps, ratios[:, k], color=expert_colour(k), linewidth=0.6, alpha=0.35)
        axes.plot(steps, smooth(ratios[:, k], max(len(steps) // 25, 1)), color=expert_colour(k), linewidth=1.6)
    axes.axhline(run.target, color=ACCENT, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_ylim(0, 1.05)
    axes.set_xlim(steps[0], steps[-1])
    ends = [(smooth(ratios[:, k], max(len(steps) // 25, 1))[-1], f"expert {k}", expert_colour(k)) for k in range(run.experts)]
    end_labels(axes, ends + [(run.target, "budget", ACCENT)], steps[-1])
    tidy(axes, "Share of the teacher's MACs", "each code's draw")
    axes.set_xlabel("step", fontsize=8.5, color=FAINT)


def draw_use(axes: Axes, run: Run) -> None:
    steps, use = run.history["step"], run.history["expert_use"]
    smoothed = [smooth(use[:, k], max(len(steps) // 25, 1)) for k in range(run.experts)]
    axes.stackplot(steps, smoothed, colors=[expert_colour(k) for k in range(run.experts)], linewidth=0.8, edgecolor="white")
    axes.set_xlim(steps[0], steps[-1])
    axes.set_ylim(0, 1)
    tidy(axes, "Share of the prompts", "in training, by transport")
    axes.set_xlabel("step", fontsize=8.5, color=FAINT)


def draw_keep_map(axes: Axes, run: Run) -> None:
    """Rows: units in the order of the network; columns: experts."""
    kept = np.array([unit.kept for unit in run.units])
    axes.imshow(kept, cmap=KEPT, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for row, unit in enumerate(run.units):
        for k in range(run.experts):
            if unit.dropped[k]:
                axes.text(k, row, "dropped", ha="center", va="center", fontsize=6.5, color=ACCENT)
            elif run.experts <= 8:
                axes.text(k, row, f"{100 * kept[row, k]:.0f}", ha="center", va="center", fontsize=6.5,
                          color="white" if kept[row, k] > 0.62 else INK)
    axes.set_xticks(np.arange(-0.5, run.experts), minor=True)
    axes.set_yticks(np.arange(-0.5, len(run.units)), minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.set_xticks(range(run.experts), [f"{k}\n{100 * run.ratio[0, k]:.0f} %" for k in range(run.experts)])
    axes.xaxis.tick_top()
    for k, tick in enumerate(axes.get_xticklabels()):
        tick.set_color(expert_colour(k))
        tick.set_fontweight("bold")
    axes.set_yticks(range(len(run.units)), [KIND_LETTERS.get(unit.kind, unit.kind) for unit in run.units])
    tidy(axes, "What each expert keeps", "% of each unit's width; below the expert: its share of the MACs", lift=26)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(axis="both", which="both", length=0)
    axes.tick_params(axis="y", labelsize=6.8)
    axes.tick_params(axis="x", labelsize=9)
    for k, tick in enumerate(axes.get_xticklabels()):
        tick.set_color(expert_colour(k))
    first = 0
    for row in range(1, len(run.units) + 1):
        if row == len(run.units) or run.units[row].block != run.units[first].block:
            axes.annotate(run.units[first].block, (0, (first + row - 1) / 2), xycoords=("axes fraction", "data"), xytext=(-88, 0),
                          textcoords="offset points", rotation=90, va="center", ha="center", fontsize=8.5, color=INK, fontweight="bold")
            if row < len(run.units):
                axes.axhline(row - 0.5, color="white", linewidth=5)
            first = row


def mosaic_of(pictures: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[rows (H+1), columns (W+1), 3], white between the pictures and where there is none."""
    height, width = pictures.shape[1:3]
    sheet = np.full((rows * (height + 2), columns * (width + 2), 3), 255, dtype=np.uint8)
    for i, picture in enumerate(pictures[:rows * columns]):
        top, left = i // columns * (height + 2) + 1, i % columns * (width + 2) + 1
        sheet[top:top + height, left:left + width] = picture
    return sheet


def draw_expert(axes: Axes, run: Run, split: Split, k: int, words: list[str]) -> None:
    """Pictures whose prompts the expert got, drawn by lot, and its typical words below."""
    own = np.flatnonzero(split.expert == k)
    axes.axis("off")
    axes.set_title(f"Expert {k}", loc="left", fontsize=11, fontweight="bold", color=expert_colour(k))
    axes.set_title(f"{100 * run.ratio[0, k]:.0f} % of the MACs, {len(own)} prompts", loc="right", fontsize=8.5, color=FAINT)
    if split.pictures is not None and len(own):
        rows, columns = MOSAIC
        chosen = np.random.default_rng(k).permutation(own)[:rows * columns]
        axes.imshow(mosaic_of(split.pictures[chosen], rows, columns), interpolation="lanczos")
        axes.set_anchor("N")
    text = ", ".join(words) if words else ("no typical word" if len(own) else "no prompt")
    axes.text(0, -0.04, textwrap.fill(text, 44, max_lines=2, placeholder=" ..."), transform=axes.transAxes, fontsize=8.5, color=INK, va="top")


def draw_groups(axes: Axes, run: Run, split: Split) -> None:
    """Of each expert the shares of the labels; small ones together."""
    labels = split.label["group"]
    names, counts = np.unique(labels.astype(str), return_counts=True)
    names = names[np.argsort(-counts, kind="stable")][:len(GROUP_COLOURS) - 1]
    rows = list(range(run.experts)) + [None]
    place = np.arange(len(rows)) + np.array([0.0] * run.experts + [0.35])
    left = np.zeros(len(rows))
    for colour, name in zip(GROUP_COLOURS, list(names) + [None]):
        chosen = ~np.isin(labels.astype(str), names) if name is None else labels == name
        share = np.array([np.mean(chosen[split.expert == k]) if k is not None and np.any(split.expert == k) else 0.0 for k in rows[:-1]]
                         + [np.mean(chosen)])
        colour = RULE if name is None else colour
        axes.barh(place, share, left=left, color=colour, height=0.74, edgecolor="white", linewidth=0.8, label=name or "others")
        left += share
    axes.set_yticks(place, [f"expert {k}" for k in rows[:-1]] + ["all"])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    tidy(axes, "Groups of the prompts", "labels that training does not see")
    axes.spines["bottom"].set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.02), ncol=5, frameon=False, fontsize=8, handlelength=0.9, handleheight=0.9,
                columnspacing=1.2, labelcolor=INK)


def draw_costs(axes: Axes, run: Run) -> None:
    """Each expert's share of the teacher's MACs, and of what was measured at the largest batch."""
    bench = run.bench
    costs = {"MACs": run.ratio[0]}
    note = "share of the teacher's"
    if bench is not None and len(bench.parameters) == run.experts + 1:
        resolution, batch = 0, len(bench.batch) - 1
        costs = {"MACs": bench.macs[1:, resolution] / bench.macs[0, resolution],
                 "parameters": bench.parameters[1:] / bench.parameters[0],
                 "time": bench.time[1:, resolution, batch] / bench.time[0, resolution, batch],
                 "memory": bench.peak_memory[1:, resolution, batch] / bench.peak_memory[0, resolution, batch]}
        note += f"; batch {bench.batch[batch]}, {bench.resolution[resolution]} x {bench.resolution[resolution]} latents"
    height = 0.8 / run.experts
    for k in range(run.experts):
        shares = np.array([values[k] for values in costs.values()])
        place = np.arange(len(costs)) + (k - (run.experts - 1) / 2) * height
        axes.barh(place, shares, height=0.9 * height, color=expert_colour(k))
        for y, share in zip(place, shares):
            axes.text(share + 0.01, y, f"{100 * share:.0f} %", va="center", fontsize=7.5, color=FAINT)
    axes.axvline(1, color=FAINT, linewidth=0.8)
    axes.set_yticks(range(len(costs)), costs)
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.05, 1.08 * max(values.max() for values in costs.values())))
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    tidy(axes, "Cost", note)


def draw_similarity(axes: Axes, run: Run) -> None:
    """Share of the gates in which two experts agree."""
    agree = (run.masks[:, None, :] == run.masks[None, :, :]).mean(axis=2)
    axes.imshow(agree, cmap=KEPT, vmin=0, vmax=1)
    for i in range(run.experts):
        for j in range(run.experts):
            if run.experts <= 8:
                axes.text(j, i, f"{100 * agree[i, j]:.0f}", ha="center", va="center", fontsize=8, color="white" if agree[i, j] > 0.62 else INK)
    axes.set_xticks(range(run.experts))
    axes.set_yticks(range(run.experts))
    tidy(axes, "Equal gates", "% of two experts' masks")
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_heading(figure: Figure, run: Run, split: Split) -> None:
    mean, height = split.mean_ratio[0], figure.get_figheight()
    figure.text(0.035, 1 - 0.42 / height, "One UNet, pruned into experts by prompt", fontsize=20, fontweight="bold", color=INK, va="center")
    figure.text(0.035, 1 - 0.80 / height,
                f"{run.experts} experts for {len(split.expert)} training prompts. Budget: {100 * run.target:.0f} % of the teacher's MACs on the average; "
                f"reached: {100 * mean:.2f} % ({100 * (mean / run.target - 1):+.2f} % of the budget).", fontsize=11, color=FAINT, va="center")


def draw_sheet(run: Run, path: Path) -> None:
    plt.rcParams.update({"font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": FAINT})
    split = next(iter(run.splits.values()))
    expert_rows = -(-run.experts // COLUMNS)
    heights = [2.3] + [2.6] * expert_rows + [1.0 + 0.3 * run.experts, 2.6]  # inches: training, experts, groups, cost
    gap, top, bottom = 0.9, 1.65, 0.6
    height = max(top + sum(heights) + gap * (len(heights) - 1) + bottom, top + 0.17 * len(run.units) + bottom)
    figure = plt.figure(figsize=(18, height), dpi=100, facecolor="white")
    draw_heading(figure, run, split)

    def panel(left: float, right: float, above: float, panel_height: float) -> Axes:
        """left, right: shares of the width; above, panel_height: inches from the top."""
        return figure.add_axes((left, 1 - (above + panel_height) / height, right - left, panel_height / height))

    draw_keep_map(panel(0.095, 0.275, top + 0.35, height - top - 0.35 - bottom), run)
    left, right, above = 0.325, 0.985, top
    thirds = [(left, left + 0.17), (left + 0.285, left + 0.435), (left + 0.515, right)]
    if len(run.history.get("step", ())) > 1:
        for (begin, end), draw in zip(thirds, (draw_losses, draw_budget, draw_use)):
            draw(panel(begin, end, above, heights[0]), run)
    above += heights[0] + gap
    words = typical_words(split.caption, split.expert, run.experts)
    step = (right - left + 0.012) / COLUMNS
    for k in range(run.experts):
        begin = left + step * (k % COLUMNS)
        draw_expert(panel(begin, begin + step - 0.012, above + (2.6 + gap) * (k // COLUMNS), 1.62), run, split, k, words[k])
    above += (2.6 + gap) * expert_rows - 0.55
    if "group" in split.label:
        draw_groups(panel(left + 0.035, right, above, heights[-2] - 0.3), run, split)
    above += heights[-2] + gap + 0.35
    draw_costs(panel(left + 0.035, left + 0.42, above, heights[-1] - 0.2), run)
    draw_similarity(panel(left + 0.48, right, above, heights[-1] - 0.2), run)
    figure.savefig(path)
    plt.close(figure)
