"""What prune logs, computed again from the deck and from other logged values: the learning rate, the weighted sum of the losses, the
loss of the budget, the entropy of the assignment; and the CSV says the same as router.h5. Also when --check warns of a learning rate.

Usage: test_history.py APTP
"""
import csv
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from chain import Chain, Checks  # noqa: E402

BATCH, WARMUP_STEPS, LR_WARMUP, BUDGET = 8, 3, 4, 0.7
WEIGHTS = {"ddpm": 0.5, "distill_out": 0.3, "distill_block": 0.25, "resource": 2.5, "contrastive": 30.0, "spread_max": 0.2, "spread_std": 0.15}
ROUNDING = 1e-9  # values are fp64, sums of a few terms; the UNet's losses are the logged ones themselves


def settings(scale):
    chosen = {f"prune.w_{name}": weight for name, weight in WEIGHTS.items()}
    return {**chosen, "prune.warmup_steps": WARMUP_STEPS, "prune.steps": 6, "prune.batch": BATCH, "prune.learning_rate": 0.01,
            "prune.lr_warmup": LR_WARMUP, "prune.lr_scale": scale, "prune.budget": BUDGET}


def check_history(checks, chain, scale):
    chain.remove("router.h5", "prune.checkpoint.h5", "prune.csv")
    chain.make("prune", settings=settings(scale))
    with h5py.File(chain.path("router.h5")) as file:
        history = {name: values[()] for name, values in file["history"].items()}
        total, prunable = float(file["macs/total"][0]), float(file["macs/prunable"][0])
    steps = history["step"]
    checks.that(list(steps) == list(range(1, WARMUP_STEPS + 7)), f"steps {steps}")

    def equal(name, expected):
        error = numpy.abs(history[name] - expected).max()
        checks.that(error < ROUNDING, f"{scale}: {name} is off by {error}:\n{history[name]}\n{expected}")

    factor = numpy.sqrt(BATCH) if scale == "sqrt_batch" else 1
    equal("learning_rate", 0.01 * factor * numpy.minimum(steps / LR_WARMUP, 1))
    equal("total", sum(weight * history[name] for name, weight in WEIGHTS.items()))
    target = 1 - (1 - BUDGET) * total / prunable
    equal("resource", numpy.abs(numpy.log(history["ratio"] / target)))
    use = history["expert_use"]
    checks.that(numpy.abs(use.sum(axis=1) - 1).max() < ROUNDING and len(numpy.unique(use)) > 2, f"use of the experts:\n{use}")
    equal("entropy", -(use * numpy.log(numpy.where(use > 0, use, 1))).sum(axis=1))
    ratio = history["expert_ratio"]
    checks.that(bool((ratio > 1 - prunable / total - ROUNDING).all() and (ratio <= 1 + ROUNDING).all()), f"ratios of the experts:\n{ratio}")

    with open(chain.path("prune.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    for name in (*WEIGHTS, "total", "ratio", "entropy", "learning_rate"):
        checks.that([float(row[name]) for row in rows] == list(history[name]), f"prune.csv and router.h5 differ in {name}")
    checks.that(all(float(row["samples_per_second"]) > 0 for row in rows), "samples_per_second is not positive")


def check_warning(checks, chain):
    """METHOD section 4: codes come down from the offset by about a learning rate a step. Centres of the predicted vectors do not have to."""
    low, high = {"prune.learning_rate": 0.001}, {"prune.learning_rate": 0.8}
    for chosen, init, expected in ((low, "orthogonal", 1), (high, "orthogonal", 0), (low, "kmeans", 0)):
        result = chain.run("prune", settings={**settings("none"), **chosen, "router.codes_init": init}, arguments=["--check"])
        checks.that(result.returncode == 0 and result.stdout.count("below 3") == expected,
                    f"--check with {chosen} and {init}: exit code {result.returncode}\n{result.stdout}")


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(sys.argv[1], folder)
        chain.make("prepare", "pretrain")
        for scale in "sqrt_batch", "none":
            check_history(checks, chain, scale)
        check_warning(checks, chain)
    checks.end()


if __name__ == "__main__":
    main()
