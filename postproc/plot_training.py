"""Draws the loss curve of a training run: plot_training.py pretrain.csv OUTPUT.png

Every step as a faint point, a moving mean as a line; the norm of the gradient below.
"""

import argparse
import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from report_sheet import EXPERT_COLOURS, FAINT, RULE, smooth, tidy


def read_columns(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in (rows[0] if rows else [])}


def draw(columns: dict[str, np.ndarray], path: Path) -> None:
    steps = columns["step"]
    width = max(len(steps) // 100, 1)
    panels = [("loss", "Training loss", EXPERT_COLOURS[0]), ("gradient_norm", "Norm of the gradient", EXPERT_COLOURS[1])]
    panels = [panel for panel in panels if panel[0] in columns]
    figure, all_axes = plt.subplots(len(panels), 1, figsize=(9, 2.1 + 2.1 * len(panels)), dpi=100, sharex=True, squeeze=False,
                                    height_ratios=[2, 1][:len(panels)])
    for axes, (name, title, colour) in zip(all_axes[:, 0], panels):
        values = columns[name]
        finite = values[np.isfinite(values)]
        axes.plot(steps, values, ".", color=colour, markersize=2, alpha=0.15, markeredgewidth=0, rasterized=True)
        axes.plot(steps, smooth(values, width), color=colour, linewidth=1.6)
        axes.set_ylim(0.95 * np.quantile(finite, 0.002), 1.05 * np.quantile(finite, 0.995))
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        tidy(axes, title, f"moving mean over {width} steps" if name == "loss" else "")
    axes.set_xlim(0, steps[-1])
    axes.set_xlabel("step", fontsize=9, color=FAINT)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, metavar="pretrain.csv")
    parser.add_argument("output", type=Path, metavar="OUTPUT.png")
    arguments = parser.parse_args()
    try:
        columns = read_columns(arguments.csv)
        if len(columns.get("step", ())) < 2:
            raise ValueError(f"{arguments.csv} has fewer than two steps")
        draw(columns, arguments.output)
    except (OSError, ValueError, KeyError) as fault:
        print(f"plot_training: {fault}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
