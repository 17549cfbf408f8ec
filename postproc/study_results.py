"""Writes RESULTS.md of the study and its pictures from the results files that are there, beside them; says what is missing."""

import sys
from pathlib import Path

import numpy as np

from command_line import parser_of, run_tool
from page import write_whole
from run_folder import QUANTITIES
from study_claims import Claim, Difference, claims_of, name_of, quality_differences
from study_file import Result, is_current, read_results
from study_pictures import agreement_picture, expert_picture, quality_against_macs, sample_sheet, text_picture
from study_runs import RUNS, Study, read_study

EXAMPLES = """\
  python postproc/study_results.py              input/emoji/study/RESULTS.md from what is there
"""
ARROWS = {"frechet": "↓", "cmmd": "↓", "clip_score": "↑", "denoising_loss": "↓"}
METHODS = ("aptp", "single", "uniform", "random", "magnitude", "block")
SHEET = ("aptp", "single", "uniform")  # side by side with the teacher
PARTS = {1: "every method", 2: "one thing changed", 3: "number of experts", 4: "two more seeds", 5: "another budget",
         6: "as many steps an expert"}
VOICES = {1: "for", -1: "against", 0: "silent"}
RULE = """\
*Rule.* A difference of APTP and its rival is oriented so that positive speaks for the claim. A quantity speaks if its interval of 95 %
excludes 0 and, of several seeds, each seed's difference has that sign. A comparison *holds* if a quantity speaks for it and none against it,
and *does not hold* if one speaks against it and none for it; else it is *undecided*, also where the winner has over 2 % more MACs. A
claim of several comparisons holds if all do, and does not hold if one does not. Intervals are of prompts and pictures: with one seed they
say nothing of another start of the training. How they are computed: [study_claims.py](../../../postproc/study_claims.py)."""


def number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "–"


def with_interval(value: float, low: float, high: float) -> str:
    return f"{number(value)} [{number(low)}, {number(high)}]" if np.isfinite(low) and np.isfinite(high) else number(value)


def table(head: list[str], rows: list[list[str]], left: int = 1) -> list[str]:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    return [line(head), "|" + "|".join("---" if i < left else "---:" for i in range(len(head))) + "|", *map(line, rows), ""]


def minutes(result: Result) -> str:
    return f"{result['seconds'].sum() / 60:.1f}"


# ---- sections


def same_inputs(results: dict[str, Result]) -> tuple[dict[str, Result], list[str]]:
    """The results that can be compared: of the inputs that the most runs have. And the names of the others."""
    def inputs(result: Result) -> tuple:
        return tuple(str(result.attribute.get(f"{name}_id")) for name in ("data", "teacher", "clip"))
    all_inputs = [inputs(result) for result in results.values()]
    chosen = max(all_inputs, key=all_inputs.count, default=None)
    return ({name: result for name, result in results.items() if inputs(result) == chosen},
            [name for name, result in results.items() if inputs(result) != chosen])


def state_section(study: Study, results: dict[str, Result], stale: list[str], foreign: list[str]) -> list[str]:
    rows = []
    for part in study.parts:
        runs = study.of_part(part)
        missing = [run.name for run in runs if run.name not in results]
        taken = sum(results[run.name]["seconds"].sum() for run in runs if run.name in results)
        rows.append([f"{part}: {PARTS.get(part, '')}".rstrip(": "), f"{len(runs) - len(missing)} of {len(runs)}", f"{taken / 60:.0f}",
                     ", ".join(f"`{name}`" for name in missing) or "nothing"])
    lines = ["## State", "", f"{len(results)} of {len(study.runs)} runs are done.", "", *table(["part", "done", "minutes", "missing"], rows, left=4)]
    if stale:
        lines += ["Made with settings that are no longer those of the list, to be made anew: " + ", ".join(f"`{name}`" for name in stale) + ".", ""]
    if foreign:
        lines += ["Left out, because made from other data, another teacher or another metric network than most: "
                  + ", ".join(f"`{name}`" for name in foreign) + ".", ""]
    return lines


def difference_text(difference: Difference) -> str:
    each = f"; seeds {', '.join(number(value) for value in difference.each)}" if len(difference.each) > 1 else ""
    return f"{name_of(difference.quantity)} {with_interval(difference.value, difference.low, difference.high)}{each} ({VOICES[difference.voice]})"


def claims_section(claims: list[Claim]) -> list[str]:
    rows = []
    for claim in claims:
        rows.append([f"**{claim.text}**", number(claim.budget), f"**{claim.verdict}**", ""])
        for finding in claim.findings:
            numbers = "; ".join(map(difference_text, finding.differences))
            rows.append([finding.what, "", finding.verdict if len(claim.findings) > 1 else "", f"{numbers} ({finding.note})" if numbers else finding.note])
    return ["## Claims", "", *table(["claim", "budget", "verdict", "differences"], rows, left=4), RULE, ""]


def reference_of(results: dict[str, Result], study: Study, name: str) -> Result | None:
    """The run that this one is compared with: of the variant `against`, of the same seed and budget; a part 2 run's has its own."""
    against = study.runs[name].against
    return next((other for other in results.values() if against and other.variant == against and other.seed == results[name].seed
                 and abs(other.budget - results[name].budget) < 1e-9 and other.evaluated), None)


def result_row(study: Study, results: dict[str, Result], name: str) -> list[str]:
    result = results[name]
    used = int(np.count_nonzero(result["experts/prompts"]))
    target, mean = float(result["assignment/target"]), float(result["assignment/train/mean_ratio"])
    cells = [f"`{name}`", study.runs[name].title, str(result.seed), f"{used} of {len(result['assignment/ratio'])}",
             f"{mean:.4f} ({100 * (mean / target - 1):+.1f} %)", f"{result.metric('macs') / 1e9:.3f}"]
    cells += [with_interval(result.metric(quantity), *result.interval(quantity)) for quantity in QUANTITIES]
    reference = reference_of(results, study, name)
    paired = [d for d in quality_differences([reference], [result]) if d.quantity == "denoising_loss"] if reference is not None else []
    cells.append(f"{with_interval(paired[0].value, paired[0].low, paired[0].high)} to `{reference.name}`" if paired else "–")
    return [*cells, minutes(result)]


def teacher_cells(results: dict[str, Result]) -> list[str] | None:
    """The teacher's row: any evaluated run has it."""
    for result in results.values():
        row = result.teacher_row
        if row is not None:
            return ["", "teacher", "", "", "1", f"{result.metric('macs', row) / 1e9:.3f}",
                    *(with_interval(result.metric(quantity, row), *result.interval(quantity, row)) for quantity in QUANTITIES), "–", ""]
    return None


def tables_section(study: Study, results: dict[str, Result]) -> list[str]:
    head = ["run", "what", "seed", "experts used", "MACs of the teacher's, training prompts (to budget)", "GMACs, held out",
            *(f"{name_of(quantity)} {ARROWS[quantity]}" for quantity in QUANTITIES), "denoising loss less that of", "min"]
    lines = ["## Runs", ""]
    for part in study.parts:
        there = [run.name for run in study.of_part(part) if run.name in results and results[run.name].evaluated]
        missing = [run.name for run in study.of_part(part) if run.name not in results]
        lines += [f"### Part {part}: {PARTS.get(part, '')}".rstrip(": "), ""]
        if there:
            teacher = teacher_cells({name: results[name] for name in there})
            lines += table(head, [*([teacher] if teacher else []), *(result_row(study, results, name) for name in there)], left=2)
        lines += [f"Not run yet: {', '.join(f'`{name}`' for name in missing)}.", ""] if missing else []
    return [*lines, "↓: lower is better, ↑: higher. In brackets: intervals of 95 %. The difference of denoising losses is paired, prompt by prompt: "
            "positive is worse than the run that is named.", ""]


def experts_section(results: dict[str, Result]) -> list[str]:
    there = [result for result in results.values() if "experts/words" in result and len(result["assignment/ratio"]) > 1]
    lines = ["## Experts", ""]
    if not there:
        return [*lines, "Not run yet: a run with several experts.", ""]
    for result in there:
        order = np.argsort(-result["assignment/ratio"])
        rows = [[str(k), f"{100 * result['assignment/ratio'][k]:.1f} %", str(result["experts/prompts"][k]),
                 f"{100 * result['experts/text_share'][k]:.1f} %", str(result["experts/words"][k])] for k in order]
        lines += [f"`{result.name}`", "", *table(["expert", "MACs of the teacher's", "training prompts", "text prompts among them", "typical words"], rows, left=5)]
    rows = [[f"`{result.name}`", *(number(float(result[f"agreement/{label}{end}"])) if f"agreement/{label}{end}" in result else "–"
                                    for label in ("group", "subgroup") for end in ("", "_chance"))] for result in there]
    return [*lines, "Agreement of experts and Unicode's labels (normalised mutual information, training prompts), beside what shuffled labels give:", "",
            *table(["run", "groups", "by chance", "subgroups", "by chance"], rows)]


def losses_section(results: dict[str, Result]) -> list[str]:
    rows = []
    for name, result in results.items():
        if "finetune/samples" not in result:
            continue
        prompts = result["experts/prompts"]
        weights = prompts / max(prompts.sum(), 1)
        def prune(loss: str) -> str:
            return number(float(result[f"prune/loss/{loss}"])) if f"prune/loss/{loss}" in result else "–"
        def finetune(loss: str) -> str:
            values = result[f"finetune/loss/{loss}"]
            return number(float(np.sum(np.where(weights > 0, weights * values, 0.0))))
        rows.append([f"`{name}`", *(prune(loss) for loss in ("total", "ddpm", "distill_out", "resource", "contrastive")), str(result["finetune/samples"].sum()),
                     *(finetune(loss) for loss in ("loss", "ddpm", "distill_out", "distill_block"))])
    head = ["run", *(f"prune: {loss}" for loss in ("total", "ddpm", "output", "budget", "contrastive")), "pictures in finetune",
            *(f"finetune: {loss}" for loss in ("total", "ddpm", "output", "blocks"))]
    return ["## Training", "", *(table(head, rows) if rows else ["Not run yet.", ""]),
            "Means over the last tenth of the steps; of several experts weighted by their prompts.", ""]


def prompts_section(results: dict[str, Result]) -> list[str]:
    """Where a run loses and where it wins: on the prompts of each of aptp's experts."""
    lines = ["## Prompts of the experts", ""]
    ours = results.get("aptp")
    if ours is None or not ours.evaluated:
        return [*lines, "Not run yet: `aptp`.", ""]
    expert, item = ours["metrics/denoising/expert"], ours["metrics/denoising/item"]
    order = [k for k in np.argsort(ours["assignment/ratio"]) if (expert == k).any()]

    def row(name: str, losses: np.ndarray) -> list[str]:
        return [name, *(number(float(losses[expert == k].mean())) for k in order), number(float(losses.mean()))]
    rows = [row("teacher", ours["metrics/denoising/teacher_loss"].mean(axis=1))]
    for name, result in results.items():
        if result.evaluated and np.array_equal(result["metrics/denoising/item"], item):
            rows.append(row(f"`{name}`", result["metrics/denoising/item_loss"]))
    head = ["run", *(f"{100 * ours['assignment/ratio'][k]:.0f} %: {(expert == k).sum()} prompts" for k in order), "all"]
    return [*lines, "Denoising loss on the held-out prompts that each of `aptp`'s experts gets, the smallest expert first (MACs of the teacher's):", "",
            *table(head, rows)]


def commands_section(results: dict[str, Result]) -> list[str]:
    lines = ["## How it was made", ""]
    for name, result in results.items():
        taken = ", ".join(f"{phase} {seconds / 60:.1f}" for phase, seconds in zip(result["phases"], result["seconds"]))
        lines += [f"<details><summary>{name}</summary>", "", f"{result.attribute['machine']}; commit {result.attribute['commit']}; minutes: {taken}", "", "```",
                  *result["commands"], "```", "", "</details>", ""]
    return lines if results else [*lines, "Nothing yet.", ""]


def pictures_of(study: Study, results: dict[str, Result]) -> list[tuple[str, str, bytes | None, str]]:
    """file, title, content where it can be made, and what is missing otherwise"""
    methods = [result for result in results.values() if result.variant in METHODS and result.evaluated]
    several = [result for result in results.values() if "experts/words" in result and len(result["assignment/ratio"]) > 1]
    ours = [result for result in several if result.variant == "aptp"]
    models = {"teacher": results.get(study.teacher), **{variant: results.get(variant) for variant in SHEET}}
    columns = [(title, result) for title, result in models.items()
               if result is not None and "shown/pixels" in result]
    agreeing = [result for result in several if "agreement/group" in result]
    return [("quality.png", "Quality against MACs, every method, budget and seed", quality_against_macs(methods, METHODS) if methods else None, "a method of part 1"),
            ("samples.png", "The same prompts by the teacher and the pruned models", sample_sheet(columns) if columns else None, "samples"),
            ("experts.png", "Sizes of the experts, with their typical words", expert_picture(ours[0]) if ours else None, "aptp"),
            ("text.png", "Share of text prompts against the size of the expert", text_picture(ours) if ours else None, "aptp"),
            ("clusters.png", "Agreement of experts and Unicode's labels", agreement_picture(agreeing) if agreeing else None, "a run with several experts")]


def write(study: Study) -> Path:
    """RESULTS.md and its pictures, each whole."""
    everything = read_results(study)
    stale = [name for name, result in everything.items() if not is_current(result, study.runs[name], None)]
    results, foreign = same_inputs({name: result for name, result in everything.items() if name not in stale})
    budgets = sorted({round(result.budget, 6) for result in results.values() if np.isfinite(result.budget)})
    lines = ["# Results of the study", "", "Made by `make study-results` from the files beside it; do not edit. "
             f"The runs: [{study.path.name}]({study.path.name}); `make study` goes on with what is missing.", "",
             *state_section(study, results, stale, foreign), *claims_section(claims_of(list(results.values()), budgets or [np.nan])), "## Pictures", ""]
    for file, title, content, missing in pictures_of(study, results):
        if content is None:
            lines += [f"{title}: not yet, {missing} is missing.", ""]
            (study.folder / file).unlink(missing_ok=True)
        else:
            write_whole(study.folder / file, content)
            lines += [f"![{title}]({file})", ""]
    for section in (tables_section(study, results), experts_section(results), prompts_section(results), losses_section(results),
                    commands_section(results)):
        lines += section
    path = study.folder / "RESULTS.md"
    write_whole(path, "\n".join(lines).encode())
    return path


def main() -> int:
    parser = parser_of(__doc__, EXAMPLES)
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="FILE", help=f"the list of runs (default {RUNS})")
    arguments = parser.parse_args()
    return run_tool("study_results", lambda: print(f"wrote {write(read_study(arguments.runs))}"))


if __name__ == "__main__":
    sys.exit(main())
