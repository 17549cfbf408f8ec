"""The pictures of the tools, each a PNG or a panel in one: axes with units, and colours that colour-blind readers can tell apart
(Okabe and Ito, "Color Universal Design", 2008). What a colour says is also written or drawn as a line style."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation

from run_folder import QUANTITIES, Bench, Metrics, Router

INK, FAINT, RULE = "#1f2430", "#5f6675", "#d9dce3"
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, "#000000", "#8C8C8C")  # Okabe and Ito's yellow is too pale for a line: grey
LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))  # the second eight have the second style, and so on
KEPT = LinearSegmentedColormap.from_list("kept", ["#f3f0ea", "#7fb3d5", "#08406b"])
MOST_NUMBERED = 60  # units that a keep map has room to write numbers for
DPI, WIDTH = 150, 11  # inches: 1650 pixels, sharp at the page's width on a fine screen
KINDS = {"resnet": "ResNet", "self_attention": "self-att.", "cross_attention": "cross-att.", "feed_forward": "feed-fwd."}
# name in the history -> what it is; the losses have no unit
LOSSES = {"ddpm": "diffusion", "distill_out": "to the teacher's output", "distill_block": "to the teacher's blocks", "resource": "budget",
          "contrastive": "contrastive"}
QUANTITY_NAMES = {"frechet": "Fréchet distance", "cmmd": "CMMD", "clip_score": "CLIP score", "denoising_loss": "denoising loss"}
BETTER = {"frechet": "lower", "cmmd": "lower", "clip_score": "higher", "denoising_loss": "lower"}
RC = {"font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": FAINT, "font.size": 9}


def colour_of(k: int) -> str:
    """Of expert k (or of the k-th of any list)."""
    return PALETTE[k % len(PALETTE)]


def line_of(k: int) -> dict:
    return {"color": colour_of(k), "linestyle": LINES[k // len(PALETTE) % len(LINES)]}


def png_of(figure: Figure) -> bytes:
    stream = io.BytesIO()
    # No time in the file: the same run gives the same report.
    figure.savefig(stream, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    plt.close(figure)
    return stream.getvalue()


def grid(panels: int, columns: int, height: float, **options) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels beside and below each other, each `height` inches high."""
    plt.rcParams.update(RC)
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, rows * height), squeeze=False, layout="constrained", **options)
    for unused in axes.ravel()[panels:]:
        unused.set_visible(False)
    return figure, list(axes.ravel()[:panels])


def tidy(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """The house style of a panel: bold title, axes named with their units, no box."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.set_xlabel(x, fontsize=8.5)
    axes.set_ylabel(y, fontsize=8.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(which="both", colors=FAINT, labelsize=8, length=0)


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving mean; at the ends over what is there."""
    kernel = np.ones(max(min(width, len(values)), 1))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def smoothing(steps: np.ndarray) -> int:
    """Width of the moving mean of so many steps."""
    return max(len(steps) // 40, 1)


def draw_curve(axes: Axes, steps: np.ndarray, values: np.ndarray, label: str, style: dict) -> None:
    """Every step faintly, the moving mean clearly. Values that are not finite (a skipped step) are left out."""
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if len(steps) == 0:
        return
    if smoothing(steps) > 1:
        axes.plot(steps, values, color=style["color"], linewidth=0.5, alpha=0.25)
    marker = {"marker": "o", "markersize": 3} if len(steps) < 3 else {}
    axes.plot(steps, smooth(values, smoothing(steps)), linewidth=1.6, label=label, **style, **marker)


def is_wide(values: np.ndarray) -> bool:
    """Whether values are drawn better on a logarithmic axis: all positive, over more than a decade."""
    return len(values) > 0 and values.min() > 0 and values.max() > 10 * values.min()


def logarithmic(axes: Axes) -> None:
    """A logarithmic axis where what is drawn is wide."""
    if is_wide(np.concatenate([line.get_ydata() for line in axes.get_lines()] or [np.array([])])):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(1, 0.5)))


def legend(axes: Axes, **options) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, handlelength=1.8, **options)


def mark_warmup(axes: Axes, warmup_steps: int, steps: np.ndarray, name: bool) -> None:
    if not 0 < warmup_steps < steps[-1]:
        return
    axes.axvspan(steps[0], warmup_steps, color="#efece4", zorder=0)
    if name:
        axes.annotate("warm-up", (steps[0], 0), xycoords=("data", "axes fraction"), xytext=(3, 3), textcoords="offset points", fontsize=7.5, color=INK)


# ---- prune


def draw_losses(axes: Axes, history: dict[str, np.ndarray]) -> None:
    """Positive values alone, for the scale is logarithmic."""
    for i, (key, name) in enumerate(LOSSES.items()):
        if key in history:
            draw_curve(axes, history["step"], np.where(history[key] > 0, history[key], np.nan), name, line_of(i))
    logarithmic(axes)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    tidy(axes, "Losses, unweighted", "step", "loss (no unit)")
    legend(axes, loc="best")


def draw_ratios(axes: Axes, history: dict[str, np.ndarray], target: float | None) -> None:
    """The share of MACs of each code's draw at every step, and the target."""
    for k, ratios in enumerate(history["expert_ratio"].T):
        draw_curve(axes, history["step"], 100 * ratios, f"expert {k}", line_of(k))
    if target is not None:
        axes.axhline(100 * target, color=INK, linewidth=1, linestyle=(0, (2, 2)), label="budget")
    axes.set_ylim(0, 105)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    tidy(axes, "Size of each code's draw", "step", "MACs (% of the teacher's)")
    legend(axes, ncols=2, loc="lower right")


def draw_use(axes: Axes, history: dict[str, np.ndarray]) -> None:
    steps, use = history["step"], history["expert_use"]
    shares = [100 * smooth(use[:, k], smoothing(steps)) for k in range(use.shape[1])]
    axes.stackplot(steps, shares, colors=[colour_of(k) for k in range(use.shape[1])], linewidth=0.8, edgecolor="white", alpha=0.9)
    bottom = 0.0
    for k, share in enumerate(shares):
        if share[-1] > 6:
            axes.annotate(str(k), (1, bottom + share[-1] / 2), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", va="center",
                          fontsize=8.5, fontweight="bold")
        bottom += share[-1]
    axes.set_ylim(0, 100)
    tidy(axes, "Use of the experts", "step", "prompts of the batch (%)")


def prune_curves(history: dict[str, np.ndarray], target: float | None, warmup_steps: int) -> bytes:
    draws: list[Callable[[Axes], None]] = [lambda axes: draw_losses(axes, history)]
    if "expert_ratio" in history:
        draws.append(lambda axes: draw_ratios(axes, history, target))
    if "expert_use" in history:
        draws.append(lambda axes: draw_use(axes, history))
    figure, panels = grid(len(draws), 3, 3.2)
    for axes, draw in zip(panels, draws):
        draw(axes)
        axes.set_xlim(history["step"][0], max(history["step"][-1], history["step"][0] + 1))
        mark_warmup(axes, warmup_steps, history["step"], axes is panels[0])
    return png_of(figure)


def budget_picture(ratio: np.ndarray, prompts: np.ndarray, target: float) -> bytes:
    """Each expert a bar as wide as its share of the prompts and as high as its share of the MACs: the area is the mean."""
    figure, (axes,) = grid(1, 1, 3.0)
    share, left = 100 * prompts / max(prompts.sum(), 1), 0.0
    for k in np.argsort(ratio, kind="stable"):
        if prompts[k] == 0:
            continue
        axes.bar(left, 100 * ratio[k], width=share[k], align="edge", color=colour_of(k), edgecolor="white", linewidth=1.5, alpha=0.9)
        label = f"expert {k}\n{100 * ratio[k]:.0f} % of the MACs\n{prompts[k]} prompts" if share[k] > 10 else str(k)
        axes.annotate(label, (left + share[k] / 2, 100 * ratio[k]), xytext=(0, -6) if share[k] > 10 else (0, 3), textcoords="offset points",
                      ha="center", va="top" if share[k] > 10 else "bottom", fontsize=8,
                      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5})
        left += share[k]
    axes.axhline(100 * target, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.annotate("budget", (1, 100 * target), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.axhline(100, color=RULE, linewidth=1)
    axes.annotate("teacher", (1, 100), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5, color=FAINT)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, max(112, 105 * ratio.max()))
    axes.set_yticks(range(0, 101, 20))
    tidy(axes, "Size against use: the coloured area is the mean size", "training prompts (%)", "MACs (% of the teacher's)")
    return png_of(figure)


def blocks_of(router: Router) -> list[tuple[str, int, int]]:
    """(block, first unit, behind its last unit), in the order of the network"""
    runs: list[tuple[str, int, int]] = []
    for i, unit in enumerate(router.units):
        if runs and runs[-1][0] == unit.block:
            runs[-1] = (unit.block, runs[-1][1], i + 1)
        else:
            runs.append((unit.block, i, i + 1))
    return runs


def keep_map(router: Router) -> bytes:
    """Columns: units from the input to the output; rows: experts."""
    plt.rcParams.update(RC)
    experts, units = len(router.masks), len(router.units)
    kept = np.array([unit.kept for unit in router.units]).T
    figure, axes = plt.subplots(figsize=(WIDTH, 1.75 + 0.34 * experts), layout="constrained")
    axes.imshow(kept, cmap=KEPT, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for (k, column), share in np.ndenumerate(kept):
        if router.units[column].dropped[k]:
            axes.text(column, k, "✕", ha="center", va="center", fontsize=9, color=VERMILION, fontweight="bold")
        elif units <= MOST_NUMBERED and share < 1:
            axes.text(column, k, f"{100 * share:.0f}", ha="center", va="center", fontsize=6.5, color="white" if share > 0.6 else INK)
    axes.set_yticks(range(experts), [f"expert {k} ({100 * router.ratio[k]:.0f} %)" for k in range(experts)])
    axes.set_xticks(range(units), [KINDS.get(unit.kind, unit.kind) for unit in router.units], rotation=90)
    axes.set_xticks(np.arange(-0.5, units), minor=True)
    axes.set_yticks(np.arange(-0.5, experts), minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    tidy(axes, "Kept of each unit's width (%)" + ("; no number: all of it" if units <= MOST_NUMBERED else "") + "; ✕: the whole block is dropped")
    axes.title.set_position((0, 1))
    axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=10, fontweight="bold", color=INK, pad=20)
    axes.tick_params(which="both", length=0)
    axes.tick_params(axis="x", labelsize=7 if units <= MOST_NUMBERED else 5.5)
    axes.tick_params(axis="y", labelsize=9, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for block, first, behind in blocks_of(router):
        axes.annotate(block, ((first + behind - 1) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, 5), textcoords="offset points", ha="center",
                      fontsize=8.5, color=INK)
        if behind < units:
            axes.axvline(behind - 0.5, color="white", linewidth=5)
    return png_of(figure)


def block_bars(router: Router) -> bytes:
    """What each expert keeps of the prunable MACs of each block, weighted by the units' MACs where the file has them."""
    blocks = blocks_of(router)
    figure, (axes,) = grid(1, 1, 3.2)
    experts, width = len(router.masks), 0.84 / len(router.masks)
    kept = block_shares(router)
    for k in range(experts):
        place = np.arange(len(blocks)) + (k - (experts - 1) / 2) * width
        axes.bar(place, 100 * kept[k], width=0.92 * width, color=colour_of(k), label=f"expert {k}", hatch=("", "//", "..")[k // len(PALETTE) % 3],
                 edgecolor="white", linewidth=0)
    axes.set_xticks(range(len(blocks)), [block for block, _, _ in blocks])
    axes.set_ylim(0, 105)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    tidy(axes, "Kept of each block, units weighted by their MACs", "block of the UNet, input to output", "kept width (%)")
    legend(axes, ncols=min(experts, 8), loc="lower left", bbox_to_anchor=(0, -0.36))
    return png_of(figure)


def block_shares(router: Router) -> np.ndarray:
    """[K, blocks]"""
    shares = []
    for _, first, behind in blocks_of(router):
        units = router.units[first:behind]
        macs = np.array([unit.macs for unit in units])
        weights = macs if np.all(np.isfinite(macs)) and macs.sum() > 0 else np.ones(len(units))
        shares.append(np.average([unit.kept for unit in units], axis=0, weights=weights))
    return np.array(shares).T


# ---- bench, finetune, evaluate


def cost_bars(bench: Bench) -> bytes:
    """Each expert's share of the teacher's MACs, parameters, time and memory, at the first resolution and the largest batch."""
    batch, experts = len(bench.batch) - 1, len(bench.parameters) - 1
    costs = {"MACs": bench.macs[:, 0], "parameters": bench.parameters, "time": bench.time[:, 0, batch], "memory": bench.peak_memory[:, 0, batch]}
    figure, (axes,) = grid(1, 1, 1.2 + 0.5 * max(experts, 2))
    height = 0.84 / max(experts, 1)
    for k in range(experts):
        shares = np.array([100 * values[1 + k] / values[0] for values in costs.values()])
        place = np.arange(len(costs)) + (k - (experts - 1) / 2) * height
        axes.barh(place, shares, height=0.9 * height, color=colour_of(k), label=f"expert {k}")
        for y, share in zip(place, shares):
            axes.annotate(f"{share:.0f}", (share, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7.5, color=FAINT)
    axes.axvline(100, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.set_yticks(range(len(costs)), costs)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    side = bench.resolution[0]
    tidy(axes, f"Cost of a forward pass, batch {bench.batch[batch]}, {side} × {side} latents", "% of the teacher's (dashed)")
    legend(axes, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return png_of(figure)


@dataclass
class Curve:
    label: str
    steps: np.ndarray  # [L]
    values: np.ndarray  # [L]


def curves_of(histories: dict[str, dict[str, np.ndarray]], chosen: Sequence[str] = ()) -> dict[str, list[Curve]]:
    """Of each quantity a curve for each history, or for each expert where it is [L, K]. `chosen`: these alone, in their order."""
    named = {name: None for history in histories.values() for name in history if name != "step"}
    panels: dict[str, list[Curve]] = {}
    for name in chosen or named:
        for label, history in histories.items():
            if name not in history:
                continue
            if history[name].ndim == 1:
                panels.setdefault(name, []).append(Curve(label, history["step"], history[name]))
            else:
                before = f"{label}, " if len(histories) > 1 else ""
                panels.setdefault(name, []).extend(Curve(f"{before}expert {k}", history["step"], values) for k, values in enumerate(history[name].T))
    return panels


def training_curves(histories: dict[str, dict[str, np.ndarray]], chosen: Sequence[str] = ()) -> bytes:
    """A panel for each quantity of `curves_of`."""
    curves = curves_of(histories, chosen)
    figure, panels = grid(len(curves), 3, 2.7)
    named: tuple[str, ...] = ()  # curves whose names have been told; one legend for all panels with the same ones
    for axes, (name, lines) in zip(panels, curves.items()):
        for i, curve in enumerate(lines):
            draw_curve(axes, curve.steps, curve.values, curve.label, line_of(i))
        logarithmic(axes)
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        tidy(axes, name.replace("_", " "), "step", unit_of(name))
        labels = tuple(curve.label for curve in lines)
        if len(lines) > 1 and labels != named:
            legend(axes, loc="best")
            named = labels
    return png_of(figure)


def unit_of(name: str) -> str:
    return {"samples_per_second": "pictures / s", "entropy": "nats"}.get(name, "no unit")


def quality_picture(runs: dict[str, Metrics]) -> bytes:
    """Each quantity against the MACs of a picture, with its interval: of a single run its experts too, of several their means."""
    names = [name for name in QUANTITIES if any(name in metrics.value for metrics in runs.values())]
    figure, panels = grid(len(names), 2, 3.1)
    for axes, name in zip(panels, names):
        for i, (run, metrics) in enumerate(runs.items()):
            rows = range(len(metrics.model)) if len(runs) == 1 else range(1)
            for row in rows:
                if name not in metrics.value or not np.isfinite(metrics.value[name][row]):
                    continue
                macs = metrics.value["macs"][row] if "macs" in metrics.value else np.nan
                colour = INK if len(runs) == 1 and row == 0 else colour_of(row - 1 if len(runs) == 1 else i)
                value = metrics.value[name][row]
                if name in metrics.interval:
                    low, high = metrics.interval[name][row]
                    axes.plot([macs, macs], [low, high], color=colour, linewidth=1.5)
                axes.plot(macs, value, marker="D" if row == 0 else "o", color=colour, markersize=7)
                axes.annotate(metrics.model[row] if len(runs) == 1 else run, (macs, value), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8)
            if len(runs) == 1 and name in metrics.teacher:
                axes.axhline(metrics.teacher[name], color=INK, linewidth=1, linestyle=(0, (2, 2)))
                axes.annotate("teacher", (1, metrics.teacher[name]), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points", ha="right",
                              fontsize=8)
        axes.margins(x=0.18, y=0.12)
        axes.grid(color=RULE, linewidth=0.6)
        tidy(axes, f"{QUANTITY_NAMES[name]} ({BETTER[name]} is better)", "GMACs a picture", QUANTITY_NAMES[name])
    return png_of(figure)


def size_picture(runs: dict[str, tuple[np.ndarray, np.ndarray, float]]) -> bytes:
    """runs: name -> (ratio [K], prompts [K], target). A row for each run, a disc for each expert, its area the share of the prompts."""
    figure, (axes,) = grid(1, 1, 1.1 + 0.5 * len(runs))
    for row, (ratio, prompts, target) in enumerate(runs.values()):
        share = prompts / max(prompts.sum(), 1)
        axes.axhline(row, color=RULE, linewidth=0.8, zorder=0)
        axes.scatter(100 * ratio, np.full(len(ratio), row), s=40 + 900 * share, c=[colour_of(row)] * len(ratio), alpha=0.75, edgecolors="white")
        axes.plot([100 * target] * 2, [row - 0.4, row + 0.4], color=INK, linewidth=1.5, linestyle=(0, (2, 2)))
        axes.plot(100 * (share @ ratio), row, "|", color=INK, markersize=18, markeredgewidth=2)
    axes.set_yticks(range(len(runs)), runs)
    axes.set_ylim(len(runs) - 0.4, -0.6)
    axes.set_xlim(0, 105)
    tidy(axes, "Experts: the area is the share of the prompts; bar: mean, dashed: budget", "MACs (% of the teacher's)")
    return png_of(figure)
