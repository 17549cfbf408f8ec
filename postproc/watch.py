"""Curves of a running job, from the log (CSV) that it writes step by step: in the terminal, or as a picture. Ends with Ctrl-C."""

import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import plotext

from command_line import parser_of, run_tool
from figures import PALETTE, Curve, curves_of, is_wide, smooth, smoothing, training_curves, unit_of
from page import write_whole
from run_folder import RunError, logs_of, read_columns

EXAMPLES = """\
  python postproc/watch.py build/demo                                the job that wrote last, redrawn every 5 seconds
  python postproc/watch.py run --log finetune --show loss,ddpm       all experts that are being fine-tuned
  python postproc/watch.py build/demo --once | less                  printed once
  python postproc/watch.py run/prune.csv --png /tmp/prune.png        a picture, written again every 5 seconds
"""
# What is shown first where the terminal has no room for everything.
FIRST = ("loss", "total", "ratio", "ddpm", "expert_ratio", "expert_use", "distill_out", "distill_block", "resource", "contrastive", "gradient_norm")
PANEL_ROWS, PANEL_COLUMNS = 13, 60  # characters of a panel, at least
MARKERS = "0123456789abcdefghijklmnopqrstuvwxyz"  # of curves that share a panel: told apart without colours


def group_of(path: Path) -> str:
    """finetune_03.csv -> finetune"""
    return re.sub(r"_\d+$", "", path.stem)


def chosen_logs(run: Path, name: str | None) -> list[Path]:
    """The logs of one job: those named, else those of the job that wrote last. Empty where there is none."""
    if run.is_file():
        return [run]
    if not run.is_dir():
        raise RunError(f"{run} is neither a folder nor a log")
    logs = logs_of(run)
    if name is None and logs:
        name = group_of(max(logs, key=lambda path: path.stat().st_mtime))
    return [path for path in logs if name in (group_of(path), path.stem)]


def read_histories(paths: list[Path]) -> dict[str, dict[str, np.ndarray]]:
    """Of the logs that have a step."""
    columns = {path.stem: read_columns(path) for path in paths}
    return {name: history for name, history in columns.items() if len(history["step"])}


def heading(paths: list[Path], histories: dict[str, dict[str, np.ndarray]]) -> str:
    """A line for each log: how far it is, how fast, and when it wrote last."""
    lines = []
    for path in paths:
        if path.stem not in histories:
            lines.append(f"{path}: no step yet")
            continue
        history = histories[path.stem]
        parts = [f"{path}: step {int(history['step'][-1])}"]
        parts += [f"{name} {history[name][-1]:.4g}" for name in ("loss", "total") if name in history]
        if "samples_per_second" in history:
            parts.append(f"{np.mean(history['samples_per_second'][-10:]):.3g} samples/s")
        lines.append(", ".join(parts) + f"; written {max(0, time.time() - path.stat().st_mtime):.0f} s ago")
    return "\n".join(lines)


def draw_panel(axes, name: str, curves: list[Curve]) -> None:
    lines = [(curve.label, curve.steps[finite], smooth(curve.values[finite], smoothing(curve.steps)))
             for curve in curves if (finite := np.isfinite(curve.values)).any()]
    for i, (label, steps, values) in enumerate(lines):
        marker, colour = MARKERS[i % len(MARKERS)] if len(lines) > 1 else "braille", PALETTE[i % len(PALETTE)]
        axes.plot(steps.tolist(), values.tolist(), marker=marker, label=label if len(lines) > 1 else None,
                  color=tuple(int(colour[at:at + 2], 16) for at in (1, 3, 5)))
    drawn = np.concatenate([values for _, _, values in lines] or [np.ones(1)])
    if is_wide(drawn):
        axes.yscale("log")
    axes.title(f"{name.replace('_', ' ')} ({unit_of(name)})")
    axes.xlabel("step")


def text_plot(histories: dict[str, dict[str, np.ndarray]], names: list[str], rows_left: int | None, colours: bool) -> str:
    """Panels beside and below each other; with rows_left, as many as have room in so many rows."""
    panels = curves_of(histories, names)
    width = shutil.get_terminal_size((120, 40)).columns
    columns = min(max(width // PANEL_COLUMNS, 1), len(panels))
    rows = -(-len(panels) // columns)
    if rows_left is not None:
        rows = max(1, min(rows, rows_left // PANEL_ROWS))
    plotext.main()  # else the panel drawn last is what is cleared
    plotext.clear_figure()
    plotext.limit_size(False, False)  # not to what plotext takes for the terminal: it may be a pipe
    plotext.theme("clear")
    plotext.subplots(rows, columns)
    plotext.plotsize(width, rows * PANEL_ROWS)
    for i, (name, curves) in enumerate(list(panels.items())[:rows * columns]):
        draw_panel(plotext.subplot(i // columns + 1, i % columns + 1), name, curves)
    text = plotext.build()
    return text if colours else plotext.uncolorize(text)


def order_of(histories: dict[str, dict[str, np.ndarray]], show: list[str]) -> list[str]:
    there = list(curves_of(histories))
    unknown = [name for name in show if name not in there]
    if unknown:
        raise RunError(f"no quantity '{unknown[0]}' in the log; there are {', '.join(there)}")
    return show or [name for name in FIRST if name in there] + [name for name in there if name not in FIRST]


def draw(run: Path, log: str | None, show: list[str], png: Path | None, once: bool) -> None:
    paths = chosen_logs(run, log)
    histories = read_histories(paths)
    on_screen = sys.stdout.isatty() and not once
    clear = "\033[H\033[2J" if on_screen else ""
    if not histories:
        if once:
            raise RunError(f"{run} holds no log{f' named {log}' if log else ''} with a step in it")
        print(f"{clear}{run}: waiting for the first step", flush=True)
        return
    names, head = order_of(histories, show), heading(paths, histories)
    if png is not None:
        write_whole(png, training_curves(histories, names))
        print(f"{clear}{head}; drawn in {png}", flush=True)
        return
    rows = shutil.get_terminal_size((120, 40)).lines - len(head.splitlines()) - 2 if on_screen else None
    print(f"{clear}{head}\n{text_plot(histories, names, rows, sys.stdout.isatty())}", flush=True)


def main() -> int:
    parser = parser_of(__doc__, EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run, or one log in it")
    parser.add_argument("--log", metavar="NAME", help="prune, finetune, finetune_03, ... (default: of the job that wrote last)")
    parser.add_argument("--show", metavar="A,B", default="", help="these quantities alone (default: all that have room)")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw into a picture, not into the terminal")
    parser.add_argument("--once", action="store_true", help="draw once and end")
    parser.add_argument("--every", type=float, metavar="S", default=5.0, help="seconds between drawings (default 5)")
    arguments = parser.parse_args()
    if arguments.every <= 0:
        parser.error(f"--every is {arguments.every}; a time above 0 is allowed")

    def work() -> None:
        show = [name for name in arguments.show.split(",") if name]
        while True:
            draw(arguments.run, arguments.log, show, arguments.png, arguments.once)
            if arguments.once:
                return
            time.sleep(arguments.every)
    status = run_tool("watch", work)
    return 0 if status == 130 else status  # Ctrl-C is how it ends


if __name__ == "__main__":
    sys.exit(main())
