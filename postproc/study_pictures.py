"""The pictures of the study's results. Colours and styles are those of figures.py; what a colour says is also a marker or a text."""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from figures import BETTER, FAINT, INK, QUANTITY_NAMES, RULE, colour_of, grid, legend, png_of, tidy
from run_folder import QUANTITIES
from study_file import Result

MARKERS = "Dosv^PX*"
ZOOM, MARGIN, LABELS = 3, 6, 190  # of the sheet: pixels of one, around a picture, of the prompts' column
WIDEST = 24  # characters of a line of the prompts' column


def draw_point(axes, x: float, value: float, interval: tuple[float, float], **style) -> None:
    errors = np.abs(np.array(interval) - value)[:, None] if np.all(np.isfinite(interval)) else None
    axes.errorbar([x], [value], yerr=errors, linestyle="none", capsize=3, elinewidth=1.2, markersize=6.5, **style)


def quality_against_macs(results: Sequence[Result], variants: Sequence[str]) -> bytes:
    """A panel for each quantity, a point with its interval for each run; the teacher dashed."""
    names = [name for name in QUANTITIES if any(np.isfinite(result.metric(name)) for result in results)]
    if not names:
        names = ["denoising_loss"]
    figure, panels = grid(len(names), 2, 3.4)
    for axes, name in zip(panels, names):
        told = set()
        for result in results:
            if not np.isfinite(result.metric(name)):
                continue
            i = variants.index(result.variant)
            draw_point(axes, result.metric("macs") / 1e9, result.metric(name), result.interval(name), color=colour_of(i), marker=MARKERS[i % len(MARKERS)],
                       label=None if result.variant in told else result.variant)
            told.add(result.variant)
        teachers = [result.metric(name, result.teacher_row) for result in results if result.teacher_row is not None]
        if teachers and np.isfinite(teachers[0]):
            axes.axhline(teachers[0], color=INK, linewidth=1, linestyle=(0, (2, 2)))
            axes.annotate("teacher", (1, teachers[0]), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points", ha="right", fontsize=8)
        axes.margins(x=0.15, y=0.12)
        axes.grid(color=RULE, linewidth=0.6)
        tidy(axes, f"{QUANTITY_NAMES[name]} ({BETTER[name]} is better)", "GMACs of a forward pass, mean over held-out prompts", QUANTITY_NAMES[name])
    legend(panels[0], loc="best")
    return png_of(figure)


def expert_picture(result: Result) -> bytes:
    """A bar for each expert, the largest on top, with its prompts and words."""
    ratio, prompts = result["assignment/ratio"], result["experts/prompts"]
    order = np.argsort(-ratio)
    figure, (axes,) = grid(1, 1, 1.2 + 0.5 * len(ratio))
    axes.barh(range(len(ratio)), 100 * ratio[order], color=[colour_of(k) for k in order], height=0.7)
    for row, k in enumerate(order):
        axes.annotate(f"{prompts[k]} prompts, {100 * result['experts/text_share'][k]:.0f} % text: {result['experts/words'][k]}", (100 * ratio[k], row),
                      xytext=(5, 0), textcoords="offset points", va="center", fontsize=8, color=INK)
    axes.axvline(100 * float(result["assignment/target"]), color=INK, linewidth=1.2, linestyle=(0, (2, 2)))
    axes.set_yticks(range(len(ratio)), [f"expert {k}" for k in order])
    axes.invert_yaxis()
    axes.set_xlim(0, 200)
    axes.set_xticks(range(0, 101, 20))
    tidy(axes, f"{result.name}: size of the experts (budget dashed) and their typical words", "MACs (% of the teacher's)")
    return png_of(figure)


def text_picture(results: Sequence[Result]) -> bytes:
    """A disc for each expert, its area the share of the prompts; a colour and a marker for each run."""
    figure, (axes,) = grid(1, 1, 3.6)
    for i, result in enumerate(results):
        share = result["experts/prompts"] / max(result["experts/prompts"].sum(), 1)
        used = share > 0
        axes.scatter(100 * result["assignment/ratio"][used], 100 * result["experts/text_share"][used], s=30 + 500 * share[used], color=colour_of(i),
                     marker=MARKERS[1:][i % 6], alpha=0.75, edgecolors="white", label=result.name)
    axes.margins(x=0.1, y=0.15)
    axes.grid(color=RULE, linewidth=0.6)
    tidy(axes, "Text prompts (letters, keycaps, flags, clock faces, signs) by size of their expert; the area is the share of all prompts",
         "MACs of the expert (% of the teacher's)", "text prompts among its own (%)")
    legend(axes, loc="center left", bbox_to_anchor=(1.01, 0.5), markerscale=0.6)
    return png_of(figure)


def agreement_picture(results: Sequence[Result]) -> bytes:
    """Two bars for each run, and a line where chance is."""
    labels = [label for label in ("group", "subgroup") if any(f"agreement/{label}" in result for result in results)]
    figure, (axes,) = grid(1, 1, 1.3 + 0.36 * len(results))
    for j, label in enumerate(labels):
        place = np.arange(len(results)) + (j - (len(labels) - 1) / 2) * 0.4
        values, chance = ([float(result.array.get(f"agreement/{label}{end}", np.nan)) for result in results] for end in ("", "_chance"))
        axes.barh(place, values, height=0.36, color=colour_of(j), hatch=("", "///")[j], edgecolor="white", label=f"Unicode {label}s")
        axes.plot(chance, place, "|", color=INK, markersize=10, markeredgewidth=2, label=None if j else "by chance")
    axes.set_yticks(range(len(results)), [result.name for result in results])
    axes.invert_yaxis()
    axes.set_xlim(0, max(axes.get_xlim()[1], 0.1))
    tidy(axes, "Agreement of the experts with labels that the training does not see", "normalised mutual information (1: the same partition)")
    legend(axes, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return png_of(figure)


def sample_sheet(columns: Sequence[tuple[str, Result]]) -> bytes:
    """A row for each prompt, a column for each model, the real pictures first where they are there."""
    prompts = [prompt for prompt in columns[0][1]["shown/prompt"] if all(prompt in result["shown/prompt"] for _, result in columns)]
    pictures = {title: {prompt: pixels for prompt, pixels in zip(result["shown/prompt"], result["shown/pixels"])} for title, result in columns}
    real = next((result for _, result in columns if "shown/real" in result), None)
    if real is not None:
        pictures = {"real": dict(zip(real["shown/prompt"], real["shown/real"])), **pictures}
    height, width = (ZOOM * side + MARGIN for side in columns[0][1]["shown/pixels"].shape[1:3])
    font = ImageFont.load_default(size=13)
    sheet = Image.new("RGB", (LABELS + width * len(pictures) + MARGIN, 24 + height * len(prompts) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (title, of_prompt) in enumerate(pictures.items()):
        draw.text((LABELS + width * column, 4), title, fill=INK, font=font)
        for row, prompt in enumerate(prompts):
            picture = Image.fromarray(of_prompt[prompt])
            sheet.paste(picture.resize((width - MARGIN, height - MARGIN), Image.Resampling.NEAREST), (LABELS + width * column, 24 + height * row))
    for row, prompt in enumerate(prompts):
        words = textwrap.wrap(prompt, WIDEST)[:3]
        draw.multiline_text((6, 24 + height * row + height // 2 - 8 * len(words)), "\n".join(words), fill=FAINT, font=font)
    stream = io.BytesIO()
    sheet.save(stream, format="png", optimize=True)
    return stream.getvalue()
