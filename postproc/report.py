"""Makes the report of a run: RUN/report.html, one page with everything in it. What is not there yet is named with the command that makes
it."""

import io
import shlex
import sys
from collections import Counter
from pathlib import Path

import libconf
import numpy as np
from PIL import Image

from clusters import chance_agreement, normalised_mutual_information, typical_words
from command_line import parser_of, run_tool
from experts import expert_name, expert_table, percent, similarity_tables, unit_table
from figures import (BETTER, QUANTITY_NAMES, budget_picture, colour_of, cost_bars, keep_map, prune_curves, quality_picture, training_curves)
from page import Card, Cell, Details, Gallery, Missing, Picture, Section, Table, Text, html_of, write_whole
from run_folder import QUANTITIES, Assignment, Bench, Metrics, Run, Split, data_pictures, read_run

EXAMPLES = """\
  python postproc/report.py build/demo                       writes build/demo/report.html
  python postproc/report.py run --output /tmp/today.html     writes it elsewhere
"""
REPOSITORY = Path(__file__).resolve().parents[1]
PICTURES = 12  # of each expert in a gallery
PICTURE_SIDE = 160  # pixels at most
ARROW = {"lower": "↓", "higher": "↑"}
FINETUNE_CURVES = ("loss", "ddpm", "distill_out", "distill_block", "gradient_norm", "learning_rate")


def command_for(run: Run, phase: str) -> str:
    """With the deck of input/ that names this folder, else with the general one."""
    for path in sorted((REPOSITORY / "input").rglob("*.cfg")):
        try:
            deck = libconf.loads(path.read_text(encoding="utf-8"))
        except (libconf.ConfigParseError, UnicodeDecodeError, OSError):
            continue  # of no use here; the program itself says what is wrong with it
        if deck.get("phase") == phase and "folder" in deck.get("run", {}) and (REPOSITORY / deck["run"]["folder"]).resolve() == run.folder.resolve():
            return f"./aptp {path.relative_to(REPOSITORY)}"
    return f"./aptp input/{phase}.cfg --set {shlex.quote(f'run.folder={run.folder}')}"


def missing(run: Run, file: str, phase: str) -> Missing:
    return Missing(f"Missing from {run.folder}: {file}", command_for(run, phase))


def size_of(resolution: np.ndarray) -> str:
    return f"{resolution[0]} × {resolution[1]}"


def first_split(assignment: Assignment) -> Split:
    return next(iter(assignment.splits.values()))


def thumbnail(pixels: np.ndarray, title: str) -> Picture:
    """A PNG of [H, W, 3], made smaller if it is large."""
    image, stream = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    image.save(stream, format="PNG")
    return Picture(stream.getvalue(), title)


def by_lot(rows: np.ndarray, seed: int) -> np.ndarray:
    """A few of the rows, ascending; the same ones each time."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:PICTURES])


# ---- what is seen first


def weighted_speed(assignment: Assignment, bench: Bench) -> float:
    """Time of the teacher over the mean time of the experts that the training prompts get, at the first resolution and largest batch."""
    share = np.bincount(first_split(assignment).expert, minlength=assignment.experts) / len(first_split(assignment).expert)
    return float(bench.time[0, 0, -1] / (share @ bench.time[1:, 0, -1]))


def cards_of(run: Run) -> list[Card]:
    cards = []
    if run.assignment is not None:
        split, target = first_split(run.assignment), run.assignment.target
        mean, used = split.mean_ratio[0], len(set(split.expert))
        cards.append(Card("mean share of the teacher's MACs", f"{mean:.4f}", f"budget {target:.4f}, {100 * (mean / target - 1):+.2f} % off"))
        ratio = run.assignment.ratio[0]
        cards.append(Card("experts used", f"{used} of {run.experts}", f"from {percent(ratio.min())} to {percent(ratio.max())} of the MACs"))
        if run.bench is not None and len(run.bench.parameters) == run.experts + 1:
            cards.append(Card("speed, weighted by use", f"{weighted_speed(run.assignment, run.bench):.2f} ×",
                              f"the teacher's; batch {run.bench.batch[-1]}, {run.bench.settings}"))
        if "group" in split.label:
            agreement = normalised_mutual_information(split.expert, split.label["group"])
            cards.append(Card("experts against label groups", f"{agreement:.3f}", "normalised mutual information"))
    if run.metrics is not None:
        for name in ("frechet", "clip_score"):
            if name in run.metrics.value:
                cards.append(Card(QUANTITY_NAMES[name], f"{run.metrics.value[name][0]:.4g}", f"{BETTER[name]} is better"))
    return cards


def warnings_of(run: Run) -> list[str]:
    """Files that were made from others than those that lie here now."""
    here = {file.file: file.attribute.get("content_id") for file in run.files}
    return [f"{file.file} was made from another {parent} than the one in this folder: make it again."
            for file in run.files for parent, identity in file.parents.items() if here.get(parent) not in (None, identity)]


# ---- sections


def budget_section(run: Run) -> Section:
    section = Section("budget", "Budget", [])
    if run.assignment is None:
        section.parts = [missing(run, "assignment.h5", "assign")]
        return section
    target, resolution = run.assignment.target, run.assignment.resolution
    section.note = (f"The target is p = {target:.4f}: the mean over prompts of the expert's MACs, as a share of the teacher's, counted on the sliced "
                    f"experts at {size_of(resolution[0])} latents.")
    rows = []
    for name, split in run.assignment.splits.items():
        for r, latents in enumerate(resolution):
            mean = split.mean_ratio[r]
            rows.append([name, size_of(latents), str(len(split.expert)), f"{mean:.4f}", f"{100 * (mean / target - 1):+.2f} %" if r == 0 else ""])
    name, split = next(iter(run.assignment.splits.items()))
    section.parts = [Table(["split", "latents", "prompts", "mean m", "m / p − 1"], rows, left=2),
                     Picture(budget_picture(run.assignment.ratio[0], run.assignment.prompts(name), target), "Size of the experts against their use")]
    return section


def experts_section(run: Run) -> Section:
    section = Section("experts", "Experts", [], "Kept: the mean share of the width that units of a kind keep; a dropped block is a ResNet or "
                                                "transformer that the expert lacks.")
    if run.router is None:
        section.parts = [missing(run, "router.h5", "prune")]
        return section
    section.parts = [expert_table(run.router), Picture(keep_map(run.router), "Kept width of every unit, by expert")]
    if run.assignment is not None:
        splits = run.assignment.splits
        head = ["expert", *(f"{name} prompts" for name in splits), *(f"MACs at {size_of(latents)}" for latents in run.assignment.resolution)]
        rows = [[expert_name(k), *(str(run.assignment.prompts(name)[k]) for name in splits), *(percent(ratio) for ratio in run.assignment.ratio[:, k])]
                for k in range(run.experts)]
        section.parts.insert(1, Table(head, rows, "Prompts, and the sliced expert's MACs as a share of the teacher's"))
    section.parts += [*similarity_tables(run.router), Details(f"All {len(run.router.units)} units", [unit_table(run.router)])]
    return section


def cost_section(run: Run) -> Section:
    bench = run.bench
    if bench is None:
        return Section("cost", "Measured cost", [missing(run, "bench.h5", "bench")])
    setting = f" ({bench.settings})" if bench.settings else ""
    pictures = [Picture(cost_bars(bench), "Cost of each expert as a share of the teacher's")] if len(bench.parameters) > 1 else []
    tables = [bench_table(bench, r, b) for r in range(len(bench.resolution)) for b in range(len(bench.batch))]
    shown = tables.pop(len(bench.batch) - 1)  # that of the picture
    others = [Details("Other sizes and batches", tables)] if tables else []
    return Section("cost", "Measured cost", [*pictures, shown, *others], f"One forward pass of the UNet, the median of several{setting}.")


def bench_table(bench: Bench, r: int, b: int) -> Table:
    time = bench.time[:, r, b]
    rows = [[expert_name(model - 1), f"{bench.parameters[model] / 1e6:.2f} M", f"{bench.macs[model, r] / 1e9:.3f} G", f"{1e3 * time[model]:.2f} ms",
             f"{time[0] / time[model]:.2f} ×", f"{bench.peak_memory[model, r, b] / 2**20:.1f} MiB"] for model in range(len(time))]
    side = bench.resolution[r]
    return Table(["model", "parameters", "MACs a picture", "time of a batch", "as fast as the teacher", "memory"], rows,
                 f"{side} × {side} latents, batch {bench.batch[b]}")


def agreement_table(split: Split) -> list[Table]:
    rows = []
    emoji = split.label.get("source", np.array([], dtype=object)) == "emoji"
    everything = np.ones(len(split.expert), dtype=bool)
    for what, chosen in (("emoji", emoji), ("all prompts", everything)):
        for label in ("group", "subgroup"):
            if label not in split.label or not np.any(chosen):
                continue
            labels, expert = split.label[label][chosen], split.expert[chosen]
            rows.append([what, label, str(len(labels)), str(len(set(labels))), f"{normalised_mutual_information(expert, labels):.3f}",
                         f"{chance_agreement(expert, labels):.3f}"])
    caption = ("Agreement with labels that nothing in training has seen (for emoji Unicode's groups): normalised mutual information, 1 for the same "
               "partition, 0 for independent ones; beside it what shuffled labels give")
    return [Table(["prompts", "label", "number", "classes", "NMI", "shuffled"], rows, caption, left=2)] if rows else []


def group_table(split: Split, experts: int) -> list[Table]:
    if "group" not in split.label:
        return []
    rows = []
    for group, total in Counter(split.label["group"]).most_common():
        counts = np.bincount(split.expert[split.label["group"] == group], minlength=experts)
        rows.append([group or "(none)", str(total), *(Cell(str(count), shade=count / total, title=percent(count / total)) for count in counts)])
    return [Table(["group", "prompts", *(f"expert {k}" for k in range(experts))], rows, "Prompts of each group by expert; darker: a larger share of the group")]


def prompts_section(run: Run) -> Section:
    section = Section("prompts", "Prompts", [])
    if run.assignment is None:
        section.parts = [missing(run, "assignment.h5", "assign")]
        return section
    name, split = next(iter(run.assignment.splits.items()))
    section.note = f"Of the {name} split. Typical words are frequent in the expert's prompts and rarer in the others'."
    words = typical_words(split.caption, split.expert, run.experts, 15)
    counts = run.assignment.prompts(name)
    table = Table(["expert", "prompts", "typical words"],
                  [[expert_name(k), str(counts[k]), ", ".join(words[k]) or "–"] for k in range(run.experts)], "Most typical words", left=3)
    section.parts = [table, *group_table(split, run.experts), *agreement_table(split)]
    for k in range(run.experts):
        own = by_lot(np.flatnonzero(split.expert == k), k)
        title = f"Expert {k}: {len(own)} of its {counts[k]} prompts, drawn by lot"
        pictures = data_pictures(run.folder, name, own) if len(own) else None
        if pictures is not None:
            section.parts.append(Gallery(title, colour_of(k), [thumbnail(*pair) for pair in zip(pictures, split.caption[own])]))
        else:
            section.parts.append(Text(f"{title}: " + ("; ".join(split.caption[own]) or "none") + "."))
    return section


def training_section(run: Run) -> Section:
    section = Section("training", "Training of the router", [])
    history = run.prune_history
    steps = history.get("step", np.array([]))
    if len(steps):
        names = [name for name in ("total", "ddpm", "distill_out", "distill_block", "resource", "contrastive", "spread_max", "spread_std", "ratio", "entropy")
                 if name in history]
        tenth = max(len(steps) // 10, 1)
        rows = [[name.replace("_", " "), f"{history[name][:tenth].mean():.4g}", f"{history[name][-tenth:].mean():.4g}"] for name in names]
        warmup, target = (run.router.warmup_steps, run.router.target) if run.router is not None else (0, None)
        section.parts = [Picture(prune_curves(history, target, warmup), "Losses, sizes and use of the experts over the steps of prune"),
                         Table(["quantity", "first tenth", "last tenth"], rows, f"Means over the first and the last tenth of the {int(steps[-1])} steps")]
    if run.router is None:
        section.parts.append(missing(run, "router.h5", "prune"))
    if "pretrain" in run.logs and len(run.logs["pretrain"]["step"]):
        section.parts.append(Details("Training of the teacher", [Picture(training_curves({"pretrain": run.logs["pretrain"]}), "Curves of pretrain")]))
    return section


def finetune_section(run: Run) -> Section:
    section = Section("finetuning", "Fine-tuning", [])
    rows: list[list[str | Cell]] = []
    for expert in run.finetuned:
        loss = expert.history.get("loss", np.array([]))
        tenth = max(len(loss) // 10, 1)
        ends = [f"{loss[:tenth].mean():.4g}", f"{loss[-tenth:].mean():.4g}"] if len(loss) else ["", ""]
        rows.append([expert_name(expert.expert), percent(expert.ratio), str(expert.steps), str(expert.samples), str(expert.skipped), *ends])
    if rows:
        section.parts.append(Table(["expert", "MACs, of the teacher's", "steps", "pictures seen", "steps skipped", "loss, first tenth", "loss, last tenth"], rows))
    histories = {f"expert {k}": history for k, history in run.finetune_history.items() if len(history["step"])}
    if histories:
        section.parts.insert(0, Picture(training_curves(histories, FINETUNE_CURVES), "Curves of fine-tuning, by expert"))
    absent = sorted(set(range(run.experts)) - {expert.expert for expert in run.finetuned})
    if absent or not run.experts:
        names = ", ".join(f"expert_{k:02d}.h5" for k in absent) or "expert_00.h5, ..."
        section.parts.append(missing(run, names, "finetune"))
    return section


def samples_section(run: Run) -> Section:
    section = Section("samples", "Samples", [])
    if run.samples is None:
        section.parts = [missing(run, "samples.h5", "sample")]
        return section
    section.note = f"{len(run.samples.prompt)} pictures in samples.h5; a few of each model, drawn by lot."
    for k in sorted(set(run.samples.expert)):
        own = np.flatnonzero(run.samples.expert == k)
        rows = by_lot(own, int(k) + 1)
        pictures = [thumbnail(*pair) for pair in zip(run.samples.pixels(rows), run.samples.prompt[rows])]
        section.parts.append(Gallery(f"{expert_name(int(k)).text.capitalize()}: {len(rows)} of {len(own)}", expert_name(int(k)).chip, pictures))
    return section


def with_interval(metrics: Metrics, name: str, row: int) -> str:
    if not np.isfinite(metrics.value[name][row]):
        return "–"
    text = f"{metrics.value[name][row]:.4g}"
    if name in metrics.interval:
        low, high = metrics.interval[name][row]
        text += f" [{low:.4g}, {high:.4g}]"
    return text


def model_name(metrics: Metrics, row: int) -> str | Cell:
    return metrics.model[row] if row == 0 else Cell(metrics.model[row], chip=colour_of(row - 1))


def quality_table(metrics: Metrics) -> Table:
    names = [name for name in QUANTITIES if name in metrics.value]
    rows: list[list[str | Cell]] = [[model_name(metrics, row), str(metrics.count[row]), *(with_interval(metrics, name, row) for name in names)]
                                    for row in range(len(metrics.model))]
    if metrics.teacher:
        rows.append([expert_name(-1), "", *(f"{metrics.teacher[name]:.4g}" if name in metrics.teacher else "" for name in names)])
    return Table(["model", "pictures", *(f"{QUANTITY_NAMES[name]} {ARROW[BETTER[name]]}" for name in names)], rows,
                 "↓: lower is better, ↑: higher; in brackets bootstrap intervals of 95 %; –: too few pictures")


def metrics_cost_table(metrics: Metrics) -> list[Table]:
    forms = {"macs": ("GMACs a picture", lambda value: f"{value:.3f}"), "parameters": ("parameters", lambda value: f"{value / 1e6:.2f} M"),
             "seconds_per_image": ("time a picture", lambda value: f"{value:.3f} s")}
    there = {name: form for name, form in forms.items() if name in metrics.value}
    rows = [[model_name(metrics, row), *(form(metrics.value[name][row]) for name, (_, form) in there.items())] for row in range(len(metrics.model))]
    return [Table(["model", *(title for title, _ in there.values())], rows, "What a picture costs; of all: weighted by use")] if there else []


def metrics_section(run: Run) -> Section:
    if run.metrics is None:
        return Section("metrics", "Metrics", [missing(run, "metrics.h5", "evaluate")])
    parts: list = [quality_table(run.metrics)]
    if "macs" in run.metrics.value and any(name in run.metrics.value for name in QUANTITIES):
        parts.append(Picture(quality_picture({run.folder.name: run.metrics}), "Quality against MACs"))
    return Section("metrics", "Metrics", parts + metrics_cost_table(run.metrics))


def settings_section(run: Run) -> Section:
    """The decks that the files carry: each setting once, with the files whose deck has that value."""
    files: dict[tuple[str, str], dict[str, None]] = {}  # the names, each once
    for file in run.files:
        name = "expert_*.h5" if file.file.startswith("expert_") else file.file
        for setting in file.settings.items():
            files.setdefault(setting, {})[name] = None
    groups: dict[str, list[list[str | Cell]]] = {}
    for (key, value), names in sorted(files.items(), key=lambda item: item[0][0]):
        groups.setdefault(key.partition(".")[0], []).append([key, value, ", ".join(names)])
    head = ["setting", "value", "in the deck of"]
    parts: list = [Table(head, rows, left=3) for name in ("prune", "router", "finetune") if (rows := groups.pop(name, None))]
    rest = [row for rows in groups.values() for row in rows]
    if rest:
        parts.append(Details(f"All other settings ({len(rest)})", [Table(head, rest, left=3)]))
    return Section("settings", "Settings", parts, "The effective deck of every file, defaults included.")


def provenance_section(run: Run) -> Section:
    rows: list[list[str | Cell]] = []
    for file in run.files:
        own = file.attribute
        parents = "; ".join(f"{name} {identity[:12]}" for name, identity in file.parents.items())
        rows.append([file.file, own.get("time", ""), f"{own.get('program', '')} {own.get('commit', '')}".strip(), own.get("backend", ""), own.get("hosts", ""),
                     own.get("ranks", ""), own.get("seed", ""), Cell(own.get("content_id", "")[:12], title=own.get("content_id", "")), parents])
    head = ["file", "written", "program, commit", "backend", "hosts", "ranks", "seed", "content id", "made from"]
    return Section("provenance", "Provenance", [Table(head, rows, left=len(head))], "The first 12 digits of content ids.")


def subtitle_of(run: Run) -> str:
    parts = [str(run.folder)]
    if run.assignment is not None:
        parts.append(f"{run.experts} experts for {len(first_split(run.assignment).expert)} training prompts")
    times = [file.attribute["time"] for file in run.files if "time" in file.attribute]
    return ", ".join(parts + ([f"newest file of {max(times)}"] if times else []))


def report_of(run: Run) -> str:
    sections = [section(run) for section in (budget_section, experts_section, cost_section, prompts_section, training_section, finetune_section,
                                             samples_section, metrics_section, settings_section, provenance_section)]
    return html_of("One UNet, pruned into experts by prompt", subtitle_of(run), sections, cards_of(run), warnings_of(run))


def main() -> int:
    parser = parser_of(__doc__, EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run; every file in it is optional")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write (default: RUN/report.html)")
    arguments = parser.parse_args()

    def work() -> None:
        output = arguments.output or arguments.run / "report.html"
        write_whole(output, report_of(read_run(arguments.run)).encode())
        print(f"report: {output}")
    return run_tool("report", work)


if __name__ == "__main__":
    sys.exit(main())
