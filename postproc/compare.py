"""Several runs beside each other: settings that differ, budget, experts, losses and metrics."""

import sys
from pathlib import Path

import numpy as np

from command_line import parser_of, run_tool
from experts import percent
from figures import BETTER, QUANTITY_NAMES, quality_picture, size_picture, training_curves
from page import Missing, Picture, Section, Table, Text, html_of, text_of, write_whole
from report import ARROW, first_split, missing, with_interval
from run_folder import QUANTITIES, Run, RunError, last_tenth, read_run

EXAMPLES = """\
  python postproc/compare.py run/aptp run/single run/uniform                      tables, as text
  python postproc/compare.py run/aptp run/single run/uniform --html compare.html  with plots, as one page
"""
# Settings that say where a run lies and how it is shown, not what is computed.
OF_NO_MATTER = ("phase", "run.folder", "run.log", "run.log_all_ranks", "run.threads", "run.wall_clock_limit")
LOSSES = ("total", "ddpm", "distill_out", "distill_block", "resource", "contrastive")
FINETUNE_LOSSES = ("loss", "ddpm", "distill_out", "distill_block")


def names_of(folders: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    paths = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    raise RunError("one folder is named twice")


def settings_section(runs: dict[str, Run]) -> Section:
    """Of each file that several runs have, what its decks differ in."""
    decks = {name: {file.file: file.settings for file in run.files} for name, run in runs.items()}
    rows: list[list[str]] = []
    for file in dict.fromkeys(file for of_run in decks.values() for file in of_run):
        there = [of_run[file] for of_run in decks.values() if file in of_run]
        for key in sorted({key for settings in there for key in settings if key not in OF_NO_MATTER and not key.startswith("files.")}):
            row = [key, *(of_run.get(file, {}).get(key, "–") for of_run in decks.values())]
            if len({settings.get(key) for settings in there}) > 1 and row not in rows:
                rows.append(row)
    parts = [Table(["setting", *runs], rows, left=1 + len(runs))] if rows else [Text("No setting differs.")]
    return Section("settings", "Settings that differ", parts, "Of the decks of the files that several runs have; –: not in its deck, or no such file.")


def only_with(runs: dict[str, Run], what: str, file: str, phase: str) -> tuple[dict[str, Run], list[Missing]]:
    """The runs whose attribute `what` is there, and what to say of the others."""
    return ({name: run for name, run in runs.items() if getattr(run, what) is not None},
            [missing(run, file, phase) for run in runs.values() if getattr(run, what) is None])


def budget_section(runs: dict[str, Run]) -> Section:
    there, parts = only_with(runs, "assignment", "assignment.h5", "assign")
    rows = []
    for name, run in there.items():
        split, target, ratio = first_split(run.assignment), run.assignment.target, run.assignment.ratio[0]
        mean, held_out = split.mean_ratio[0], run.assignment.splits.get("validation")
        rows.append([name, f"{target:.4f}", f"{mean:.4f}", f"{100 * (mean / target - 1):+.2f} %",
                     f"{held_out.mean_ratio[0]:.4f}" if held_out is not None else "", f"{len(set(split.expert))} of {run.experts}",
                     percent(ratio.min()), percent(ratio.max())])
    table = Table(["run", "budget", "mean m", "m / p − 1", "held out", "experts used", "smallest", "largest"], rows)
    pictures = {name: (run.assignment.ratio[0], run.assignment.prompts(next(iter(run.assignment.splits))), run.assignment.target)
                for name, run in there.items()}
    shown = [table, Picture(size_picture(pictures), "Size and use of the experts of each run")] if there else []
    return Section("budget", "Budget and experts", [*shown, *parts], "MACs are shares of the teacher's.")


def last_of(history: dict[str, np.ndarray], name: str) -> str:
    mean = last_tenth(history.get(name, np.array([])))
    return f"{mean:.4g}" if np.isfinite(mean) else ""


def losses_section(runs: dict[str, Run]) -> Section:
    histories = {name: run.prune_history for name, run in runs.items() if len(run.prune_history.get("step", ()))}
    parts: list = []
    if histories:
        rows = [[name, str(int(history["step"][-1])), *(last_of(history, loss) for loss in LOSSES)] for name, history in histories.items()]
        parts += [Table(["run", "steps", *(loss.replace("_", " ") for loss in LOSSES)], rows, "prune"),
                  Picture(training_curves(histories, LOSSES), "Losses of prune")]
    finetuned = [[name, str(k), str(int(history["step"][-1])), *(last_of(history, loss) for loss in FINETUNE_LOSSES)]
                 for name, run in runs.items() for k, history in run.finetune_history.items() if len(history["step"])]
    if finetuned:
        parts.append(Table(["run", "expert", "steps", *(loss.replace("_", " ") for loss in FINETUNE_LOSSES)], finetuned, "finetune"))
    return Section("losses", "Losses", parts or [Text("No run has a history or a log.")], "Means over the last tenth of the steps.")


def metrics_section(runs: dict[str, Run]) -> Section:
    there, parts = only_with(runs, "metrics", "metrics.h5", "evaluate")
    if not there:
        return Section("metrics", "Metrics", parts)
    quantities = [name for name in QUANTITIES if any(name in run.metrics.value for run in there.values())]
    rows = [[name, str(run.metrics.count[0]), *(with_interval(run.metrics, quantity, 0) if quantity in run.metrics.value else "" for quantity in quantities),
             f"{run.metrics.value['macs'][0]:.3f}" if "macs" in run.metrics.value else ""] for name, run in there.items()]
    table = Table(["run", "pictures", *(f"{QUANTITY_NAMES[name]} {ARROW[BETTER[name]]}" for name in quantities), "GMACs a picture"], rows,
                  "Over all pictures; ↓: lower is better, ↑: higher; in brackets bootstrap intervals of 95 %")
    pictures = [Picture(quality_picture({name: run.metrics for name, run in there.items()}), "Quality against MACs")] if quantities else []
    return Section("metrics", "Metrics", [table, *pictures, *parts])


def main() -> int:
    parser = parser_of(__doc__, EXAMPLES)
    parser.add_argument("run", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write tables and plots as one page, and print nothing")
    arguments = parser.parse_args()

    def work() -> None:
        runs = {name: read_run(folder) for name, folder in zip(names_of(arguments.run), arguments.run)}
        sections = [section(runs) for section in (budget_section, metrics_section, losses_section, settings_section)]
        if arguments.html is None:
            print(text_of(sections))
        else:
            write_whole(arguments.html, html_of(f"{len(runs)} runs beside each other", ", ".join(map(str, arguments.run)), sections).encode())
    return run_tool("compare", work)


if __name__ == "__main__":
    sys.exit(main())
