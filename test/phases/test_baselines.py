"""prune.method: every method through prune and assign, at the same budget and in the same router file, whatever the number of ranks; what
cannot be met is refused. And the switches of the method: transport, contrastive loss, distillation, spread, warm-up.

Usage: test_baselines.py APTP
"""
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from chain import Chain, Checks, differences  # noqa: E402

BUDGET, EXPERTS = 0.7, 3  # those of the chain's deck
CHOSEN = ("uniform", "random", "magnitude", "block")  # without learning
# Codes that begin near the budget and learn for a few steps: draws fall on both sides of it, of many one lies next to it.
LEARNED = {"prune.learning_rate": 0.02, "router.offset": 0.3, "prune.w_resource": 20.0, "prune.final_draws": 2000}
WEIGHTS = {"ddpm": 1.0, "distill_out": 0.2, "distill_block": 0.2, "resource": 2.0, "contrastive": 100.0, "spread_max": 0.1,
           "spread_std": 0.1}  # the chain's


def clear(chain):
    chain.remove("router.h5", "prune.checkpoint.h5", "prune.csv", "assignment.h5")


def prune(chain, keep, ranks=0, settings=None):
    """Runs the phase anew, and keeps the router file under another name."""
    clear(chain)
    chain.make("prune", ranks=ranks, settings=settings)
    shutil.copy(chain.path("router.h5"), chain.path(keep))
    return chain.path(keep)


def read(path):
    """All datasets of a file."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def check_method(checks, chain, method):
    """One method's files; returns the router's datasets."""
    learned = method in ("aptp", "single")
    settings = {"prune.method": method, **(LEARNED if learned else {})}
    path = prune(chain, f"{method}.h5", settings=settings)
    chain.make("assign")
    router, assignment = read(path), read(chain.path("assignment.h5"))
    experts = EXPERTS if method == "aptp" else 1
    checks.that(router["gates"].shape[0] == experts and router["codes"].shape == router["gates"].shape, f"{method}: experts")
    for split in "train", "validation":
        ratio = assignment[f"{split}/mean_ratio"][0]
        if split == "train" or experts == 1:
            checks.that(abs(ratio / BUDGET - 1) <= 0.01, f"{method}: {split} prompts get {ratio} of the MACs, the budget is {BUDGET}")
        checks.that(numpy.isfinite(assignment[f"{split}/similarity"]).all() and (assignment[f"{split}/expert"] < experts).all(),
                    f"{method}: experts of the {split} prompts")
    if experts == 1:
        checks.that(abs(router["ratio/total"][0] / BUDGET - 1) <= 0.01, f"{method}: ratio {router['ratio/total']}")
    if not learned:
        checks.that((router["gates"] == router["masks"]).all(), f"{method}: gates are not 0 and 1")
        checks.that(len(router["history/step"]) == 0 and router["training/step"] == 0, f"{method}: has learned")
        checks.that(not chain.path("prune.checkpoint.h5").exists() and not chain.path("prune.csv").exists(), f"{method}: left a checkpoint")
        chain.make("prune", settings=settings)  # over its own file
        found = differences(path, chain.path("router.h5"))
        checks.that(not found, f"{method}, run again: not the same:\n" + "\n".join(found))
    if method != "aptp":  # test_ranks.py has it
        found = differences(path, prune(chain, "other.h5", ranks=2, settings=settings))
        checks.that(not found, f"{method} on 2 ranks: not the same:\n" + "\n".join(found))
    return router


def check_methods(checks, chain):
    routers = {method: check_method(checks, chain, method) for method in ("aptp", "single", *CHOSEN)}
    for method in "single", *CHOSEN:
        checks.that(routers[method].keys() == routers["aptp"].keys(), f"{method}: other datasets than aptp's")
    masks = {method: router["masks"].tobytes() for method, router in routers.items()}
    checks.that(len(set(masks.values())) == len(masks), "two methods have the same mask")
    depth = len(routers["block"]["depth/path"])
    checks.that(0 in routers["block"]["masks"][0, -depth:], "block removal drops nothing")
    checks.that(all((routers[method]["masks"][0, -depth:] == 1).all() for method in CHOSEN[:3]), "a width method drops a unit")
    other = read(prune(chain, "other.h5", settings={"prune.method": "random", "run.seed": 8}))
    checks.that(other["masks"].tobytes() != masks["random"], "another seed gives the same random mask")
    elsewhere = read(prune(chain, "other.h5", settings={"prune.method": "uniform", "prune.macs_resolution": 32}))
    checks.that(abs(elsewhere["ratio/total"][0] / BUDGET - 1) <= 0.01 and list(elsewhere["settings/latents"]) == [32, 32],
                f"uniform at 32 x 32 latents: {elsewhere['ratio/total']}")


def check_bench(checks, chain):
    """Phases after assign take a router with one mask, in which units are dropped."""
    shutil.copy(chain.path("block.h5"), chain.path("router.h5"))
    chain.make("bench")
    bench, router = read(chain.path("bench.h5")), read(chain.path("router.h5"))
    checks.that(bench["macs"].shape[0] == 2, "bench measures teacher and expert")
    ratio = bench["macs"][1, 0] / bench["macs"][0, 0]
    checks.that(abs(ratio - router["ratio/total"][0]) < 1e-12, f"bench counts {ratio} of the MACs, prune {router['ratio/total'][0]}")
    checks.that(bench["training/time"].shape == (2,) and bench["finetune_step/time"].shape == (1,), "training is not measured")
    checks.that((bench["training/time"] > 0).all() and (bench["finetune_step/time"] > 0).all(), "training takes no time")
    checks.that(not bench["training/growths"].any() and not bench["finetune_step/growths"].any(), "memory grows with training steps")
    memory = bench["training/peak_memory"]
    checks.that(memory[1] < memory[0] < bench["finetune_step/peak_memory"][0] + memory[0], f"training memory {memory}")
    chain.make("bench", settings={"bench.unet": "unet.json", "bench.budget": 0.6, "bench.experts": "false"})
    bench = read(chain.path("bench.h5"))
    ratio = bench["macs"][1, 0] / bench["macs"][0, 0]
    checks.that(abs(ratio / 0.6 - 1) < 0.01, f"an expert of bench.budget = 0.6 has {ratio} of the MACs")


def check_refused(checks, chain, settings, message):
    clear(chain)
    result = chain.run("prune", settings=settings, arguments=["--check"])
    checks.that(result.returncode == 2 and message in result.stdout,
                f"{settings}: exit code {result.returncode}, expected '{message}':\n{result.stdout}")


def check_restart(checks, chain):
    """A stopped run of one code goes on, and belongs to its method."""
    settings = {"prune.method": "single", **LEARNED}
    clear(chain)
    chain.path("stop").touch()
    result = chain.run("prune", settings=settings)
    checks.that(result.returncode == 75, f"single is not stopped:\n{result.stdout}")
    result = chain.run("prune", settings=LEARNED)
    checks.that(result.returncode == 2 and "prune.method" in result.stdout, f"another method goes on:\n{result.stdout}")
    chain.make("prune", settings=settings)
    found = differences(chain.path("router.h5"), chain.path("single.h5"))
    checks.that(not found, "single goes on to another end:\n" + "\n".join(found))


def check_switch(checks, chain, name, settings, weights):
    """A run with a switch off: the losses that are left add up. Returns router and checkpoint."""
    router = read(prune(chain, f"{name}.h5", settings=settings))
    total = sum(weight * router[f"history/{loss}"] for loss, weight in {**WEIGHTS, **weights}.items())
    checks.that(numpy.allclose(total, router["history/total"], rtol=1e-9, atol=0), f"{name}: {total} is not {router['history/total']}")
    checks.that(all(numpy.isfinite(values).all() for values in router.values() if values.dtype.kind == "f"), f"{name}: not finite")
    return router, read(chain.path("prune.checkpoint.h5"))


def check_switches(checks, chain):
    normal, _ = check_switch(checks, chain, "normal", {}, {})
    for name, losses in (("distillation", ["distill_out", "distill_block"]), ("spread", ["spread_max", "spread_std"])):
        router, _ = check_switch(checks, chain, name, {f"prune.w_{loss}": 0.0 for loss in losses}, dict.fromkeys(losses, 0))
        checks.that((router["codes"] != normal["codes"]).any(), f"{name} makes no difference")

    router, _ = check_switch(checks, chain, "transport", {"router.transport": "false"}, {})
    checks.that((router["history/expert_use"] != normal["history/expert_use"]).any(), "the transport makes no difference")
    checks.that(router["history/entropy"].mean() < normal["history/entropy"].mean(), "codes are used as evenly without transport")

    router, checkpoint = check_switch(checks, chain, "warm-up", {"prune.warmup_steps": 0}, {})
    checks.that(len(router["history/step"]) == 5 and list(checkpoint["optimizer/step"]) == [5, 5, 5], "the codes do not learn from step 1")

    # After the warm-up the predictor learns from the contrastive loss alone: without both it stays as it began.
    begun, off = [], {"prune.w_contrastive": 0.0, "prune.warmup_steps": 0}
    for steps in 1, 5:
        router, _ = check_switch(checks, chain, "contrastive", {**off, "prune.steps": steps}, {"contrastive": 0})
        begun.append(router)
    checks.that((begun[0]["predictor/weight"] == begun[1]["predictor/weight"]).all(), "the predictor learns without contrastive loss")
    checks.that((begun[0]["codes"] != begun[1]["codes"]).any(), "the codes learn nothing")


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(sys.argv[1], folder)
        chain.make("prepare", "pretrain")
        check_methods(checks, chain)
        check_bench(checks, chain)
        check_restart(checks, chain)
        check_refused(checks, chain, {"prune.method": "uniform", "prune.budget": 0.2}, "cannot meet prune.budget = 0.2 within 1 %")
        check_refused(checks, chain, {"prune.method": "block", "router.depth_gates": "false"}, "router.depth_gates is false")
        check_switches(checks, chain)
    checks.end()


if __name__ == "__main__":
    main()
