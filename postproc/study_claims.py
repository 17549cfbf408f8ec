"""The paper's claims and what the results of the study say of each: differences with intervals of 95 %, and a verdict by one rule.

A difference is oriented so that positive speaks for the claim. Of several seeds it is the mean over those that both sides have.
- denoising loss: paired, prompt by prompt (all runs have the same noise); bootstrap over prompts of the mean difference
- Frechet distance, CMMD, CLIP score: of two runs' intervals by the method of variance recovery (Zou and Donner, Statistics in Medicine
  27, 2008), which takes the runs as independent: they share prompts and initial noise, so it is on the safe side
- use and clusters: bootstrap over training prompts, both runs resampled together
- sizes: mean of the MACs of some prompts' experts less that of others, normal interval
A quantity speaks for the claim (1) or against it (-1) if its interval excludes 0 and, of several seeds, each difference has that sign;
else it is silent (0).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clusters import agreement_of, entropy
from figures import BETTER, QUANTITY_NAMES
from run_folder import QUANTITIES
from study_file import Result

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run yet"
REPLICATES = 2000
NORMAL = 1.959964  # 97.5 % quantile
MACS_TOLERANCE = 0.02  # who is better with more MACs than this beyond the other's has not won


@dataclass
class Difference:
    """Of one quantity."""

    quantity: str
    value: float
    low: float
    high: float
    each: list[float]  # of each seed

    @property
    def voice(self) -> int:
        for sign in (1, -1):
            if sign * self.value > 0 and min(sign * self.low, sign * self.high) > 0 and all(sign * value > 0 for value in self.each):
                return sign
        return 0


@dataclass
class Finding:
    """What one comparison says of a claim."""

    what: str  # "APTP and single architecture"
    verdict: str
    differences: list[Difference]
    note: str = ""


@dataclass
class Claim:
    """A claim at one budget, with the findings that decide it."""

    text: str
    budget: float
    findings: list[Finding]

    @property
    def verdict(self) -> str:
        return together([finding.verdict for finding in self.findings])


def verdict_of(voices: list[int]) -> str:
    """Of one comparison: at least one quantity speaks and none contradicts."""
    if any(voice > 0 for voice in voices) and not any(voice < 0 for voice in voices):
        return HOLDS
    if any(voice < 0 for voice in voices) and not any(voice > 0 for voice in voices):
        return FAILS
    return UNDECIDED


def together(verdicts: list[str]) -> str:
    """Of a claim with several comparisons: holds if all do; fails as soon as one does."""
    if not verdicts or all(verdict == NOT_RUN for verdict in verdicts):
        return NOT_RUN
    for verdict in (FAILS, NOT_RUN, UNDECIDED):
        if verdict in verdicts:
            return verdict
    return HOLDS


# ---- differences


def percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def bootstrap_of_mean(values: np.ndarray) -> tuple[float, float]:
    """Interval of 95 % of the mean of [N] values."""
    generator = np.random.default_rng(0)
    counts = generator.multinomial(len(values), np.full(len(values), 1 / len(values)), size=REPLICATES)
    return percentiles(counts @ values / len(values))


def recovered_interval(values: list[float], intervals: list[tuple[float, float]], signs: list[float]) -> tuple[float, float]:
    """Interval of sum_i sign_i value_i, of independent values and their own intervals."""
    down = [value - low if sign > 0 else high - value for value, (low, high), sign in zip(values, intervals, signs)]
    up = [high - value if sign > 0 else value - low for value, (low, high), sign in zip(values, intervals, signs)]
    total = float(np.dot(signs, values))
    return total - float(np.linalg.norm(np.multiply(signs, down))), total + float(np.linalg.norm(np.multiply(signs, up)))


def paired(ours: list[Result], theirs: list[Result]) -> Difference | None:
    """Of the denoising loss; None where the items or noises of two runs are not the same."""
    same = ("metrics/denoising/item", "metrics/denoising/timestep", "metrics/settings/seed")
    for a, b in zip(ours, theirs):
        if any(name not in a or name not in b or not np.array_equal(a[name], b[name]) for name in same):
            return None
    if any(not np.array_equal(a[same[0]], ours[0][same[0]]) for a in ours):
        return None
    each = [b["metrics/denoising/item_loss"] - a["metrics/denoising/item_loss"] for a, b in zip(ours, theirs)]
    values = np.mean(each, axis=0)
    return Difference("denoising_loss", float(values.mean()), *bootstrap_of_mean(values), [float(seed.mean()) for seed in each])


def unpaired(quantity: str, ours: list[Result], theirs: list[Result]) -> Difference | None:
    if any(not np.all(np.isfinite([result.metric(quantity), *result.interval(quantity)])) for result in (*ours, *theirs)):
        return None
    sign = 1.0 if BETTER[quantity] == "higher" else -1.0
    each = [sign * (a.metric(quantity) - b.metric(quantity)) for a, b in zip(ours, theirs)]
    runs = [*ours, *theirs]
    signs = [sign / len(ours)] * len(ours) + [-sign / len(ours)] * len(theirs)
    low, high = recovered_interval([run.metric(quantity) for run in runs], [run.interval(quantity) for run in runs], signs)
    return Difference(quantity, float(np.mean(each)), low, high, each)


def quality_differences(ours: list[Result], theirs: list[Result]) -> list[Difference]:
    """Better quality is positive; seed by seed."""
    found = [paired(ours, theirs) if quantity == "denoising_loss" else unpaired(quantity, ours, theirs) for quantity in QUANTITIES]
    return [difference for difference in found if difference is not None]


# ---- findings: from the results of two variants, seed by seed


def quality(ours: list[Result], theirs: list[Result]) -> tuple[list[Difference], str, str]:
    differences = quality_differences(ours, theirs)
    verdict = verdict_of([difference.voice for difference in differences])
    more = np.mean([a.metric("macs") for a in ours]) / np.mean([b.metric("macs") for b in theirs]) - 1
    winner_has_more = more > MACS_TOLERANCE if verdict == HOLDS else -more > MACS_TOLERANCE
    note = f"{100 * more:+.1f} % MACs" if np.isfinite(more) else ""
    if verdict != UNDECIDED and winner_has_more:
        return differences, UNDECIDED, note + ", not equal"
    return differences, verdict, note


def joint_counts(first: np.ndarray, second: np.ndarray, *more: np.ndarray) -> np.ndarray:
    """Table of how many items have each combination of small integers."""
    arrays = [first, second, *more]
    table = np.zeros([int(array.max()) + 1 for array in arrays])
    np.add.at(table, tuple(array.astype(int) for array in arrays), 1)
    return table


def resampled(quantity: str, value_of: Callable[[np.ndarray], float], tables: list[np.ndarray]) -> Difference:
    """Of a function of the table of counts of each seed's pair of runs; prompts resampled."""
    generator = np.random.default_rng(0)
    each, replicates = [value_of(table) for table in tables], np.zeros(REPLICATES // 4)
    for table in tables:
        total = int(table.sum())
        draws = generator.multinomial(total, table.ravel() / total, size=len(replicates))
        replicates += [value_of(draw.reshape(table.shape)) / len(tables) for draw in draws]
    return Difference(quantity, float(np.mean(each)), *percentiles(replicates), each)


def training_experts(result: Result) -> np.ndarray:
    return result["assignment/train/expert"]


def evenness(use: np.ndarray) -> float:
    """Entropy of the use of K experts over log K."""
    return entropy(use / use.sum()) / np.log(len(use)) if len(use) > 1 else 0.0


def padded(table: np.ndarray, experts: list[int]) -> np.ndarray:
    """Experts that have no prompt have rows of zeros."""
    return np.pad(table, [(0, max(count - size, 0)) for count, size in zip(experts, table.shape)] + [(0, 0)] * (table.ndim - len(experts)))


def balance(ours: list[Result], theirs: list[Result]) -> tuple[list[Difference], str, str]:
    tables = [padded(joint_counts(training_experts(a), training_experts(b)), [len(a["assignment/ratio"]), len(b["assignment/ratio"])])
              for a, b in zip(ours, theirs)]
    difference = resampled("evenness of use", lambda table: evenness(table.sum(axis=1)) - evenness(table.sum(axis=0)), tables)
    return [difference], verdict_of([difference.voice]), ""


def clustering(ours: list[Result], theirs: list[Result]) -> tuple[list[Difference], str, str]:
    differences = []
    for label in ("group", "subgroup"):
        place = f"assignment/train/{label}"
        if any(place not in result for result in (*ours, *theirs)):
            continue
        tables = [joint_counts(training_experts(a), training_experts(b), a[place]) for a, b in zip(ours, theirs)]
        differences.append(resampled(f"agreement with {label}s", lambda table: agreement_of(table.sum(axis=1)) - agreement_of(table.sum(axis=0)), tables))
    return differences, verdict_of([difference.voice for difference in differences]), ""


def mean_difference(quantity: str, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Difference:
    """Mean of the first less mean of the second, of each seed; normal interval of the mean over seeds."""
    each = [float(first.mean() - second.mean()) for first, second in pairs]
    variance = sum(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second) for first, second in pairs) / len(pairs) ** 2
    value, half = float(np.mean(each)), NORMAL * float(np.sqrt(variance))
    return Difference(quantity, value, value - half, value + half, each)


def text_sizes(ours: list[Result]) -> tuple[list[Difference], str, str]:
    pairs = []
    for result in ours:
        splits = [split for split in ("train", "validation") if f"assignment/{split}/expert" in result]
        text = np.concatenate([result[f"assignment/{split}/text"] for split in splits]).astype(bool)
        size = result["assignment/ratio"][np.concatenate([result[f"assignment/{split}/expert"] for split in splits])]
        if min(text.sum(), (~text).sum()) < 2:
            return [], UNDECIDED, "fewer than two prompts of a kind"
        pairs.append((size[text], size[~text]))
    difference = mean_difference("MACs of text prompts less others, of the teacher's", pairs)
    return [difference], verdict_of([difference.voice]), ""


def hard_sizes(ours: list[Result]) -> tuple[list[Difference], str, str]:
    pairs = []
    for result in ours:
        if "metrics/denoising/teacher_loss" not in result:
            return [], UNDECIDED, "the teacher was not evaluated"
        loss = result["metrics/denoising/teacher_loss"].mean(axis=1)
        size = result["assignment/ratio"][result["metrics/denoising/expert"]]
        hard = loss > np.median(loss)
        pairs.append((size[hard], size[~hard]))
    difference = mean_difference("MACs of the half with the larger loss less the other's, of the teacher's", pairs)
    return [difference], verdict_of([difference.voice]), ""


# ---- the claims


@dataclass
class Question:
    text: str
    ours: str  # variant
    rivals: tuple[str, ...]  # variants; none: the claim is of ours alone
    judge: Callable


QUESTIONS = [
    Question("Prompt-tailored experts are better than a single architecture of the same MACs", "aptp", ("single",), quality),
    Question("Prompt-tailored experts are better than a single architecture that has as few steps as each of them", "aptp", ("single_short",), quality),
    Question("Prompt-tailored experts that have as many steps each as the single architecture are better than it", "aptp_long", ("single",), quality),
    Question("The same of experts whose sizes nothing spreads", "no_spread_long", ("single",), quality),
    Question("The same of a router that learns with the scaled learning rate", "lr_scaled_long", ("single",), quality),
    Question("They are better than pruning by magnitude, at random, by uniform width or of whole blocks, at the same MACs", "aptp",
             ("magnitude", "random", "uniform", "block"), quality),
    Question("Text prompts (letters, keycaps, flags, clock faces, signs) get larger experts", "aptp", (), text_sizes),
    Question("Prompts on which the teacher's loss is larger get larger experts", "aptp", (), hard_sizes),
    Question("Optimal transport is needed for an even use of the experts", "aptp", ("no_transport",), balance),
    Question("The contrastive loss is needed for meaningful clusters", "aptp", ("no_contrastive",), clustering),
    Question("Distillation helps", "aptp", ("no_distillation",), quality),
]


def of_variant(results: list[Result], variant: str, budget: float) -> dict[int, Result]:
    """seed -> result"""
    return {result.seed: result for result in results if result.variant == variant and abs(result.budget - budget) < 1e-9 and result.evaluated}


def finding_of(question: Question, rival: str, results: list[Result], budget: float) -> Finding:
    ours = of_variant(results, question.ours, budget)
    theirs = of_variant(results, rival, budget) if rival else ours
    seeds = sorted(ours.keys() & theirs.keys())
    what = f"{question.ours} and {rival}" if rival else question.ours
    if not seeds:
        missing = [variant for variant, there in ((question.ours, ours), (rival, theirs)) if variant and not there]
        return Finding(what, NOT_RUN, [], "missing: " + (", ".join(missing) or "a seed that both have"))
    sides = [[side[seed] for seed in seeds] for side in ((ours, theirs) if rival else (ours,))]
    differences, verdict, note = question.judge(*sides)
    many = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    return Finding(what, verdict, differences, f"{many}, {note}" if note else many)


def claims_of(results: list[Result], budgets: list[float]) -> list[Claim]:
    """Each claim at the first budget, and at the others where one of its comparisons has been made."""
    claims = []
    for question in QUESTIONS:
        for place, budget in enumerate(budgets):
            claim = Claim(question.text, budget, [finding_of(question, rival, results, budget) for rival in question.rivals or ("",)])
            if place == 0 or claim.verdict != NOT_RUN:
                claims.append(claim)
    return claims


def name_of(quantity: str) -> str:
    return QUANTITY_NAMES.get(quantity, quantity)
