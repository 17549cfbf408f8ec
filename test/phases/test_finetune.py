"""finetune: experts are what the router's masks keep of the teacher; the number of ranks and how experts are dealt to them change
nothing but rounding; experts with one prompt, with none, finished ones; what does not belong together is refused.

Usage: test_finetune.py APTP
"""
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from chain import Chain, Checks  # noqa: E402

K = 3
# As in test_ranks.py: far above the rounding of sums in another order, far below a step.
WEIGHT_LIMIT = 1e-5
# Losses are means over the same samples, each computed in fp32 by passes of other sizes.
LOSS_LIMIT = 1e-5


def share_prompts(chain, experts):
    """assignment.h5 with these experts for the training prompts, in turns."""
    with h5py.File(chain.path("assignment.h5"), "r+") as file:
        expert = file["train/expert"]
        expert[...] = numpy.resize(numpy.array(experts, dtype=expert.dtype), expert.shape)


def clear(chain):
    for path in [*chain.folder.glob("expert_*"), *chain.folder.glob("finetune_*")]:
        path.unlink()


def keep(chain, name):
    """The experts' files, moved into a folder of that name."""
    folder = chain.path(name)
    folder.mkdir()
    for path in chain.folder.glob("expert_*.h5"):
        shutil.move(path, folder / path.name)
    clear(chain)
    return folder


def largest_difference(a, b, group):
    with h5py.File(a) as first, h5py.File(b) as second:
        assert first[group].keys() == second[group].keys()
        return max(float(numpy.abs(first[group][name][()] - second[group][name][()]).max()) for name in first[group])


def compare(checks, whole, folder):
    """All experts of two folders, to rounding."""
    for k in range(K):
        a, b = whole / f"expert_{k:02d}.h5", folder / f"expert_{k:02d}.h5"
        if not checks.that(b.exists(), f"{b} is missing"):
            continue
        weights, losses = largest_difference(a, b, "weights"), largest_difference(a, b, "history")
        checks.that(weights < WEIGHT_LIMIT, f"{b}: weights differ by {weights}, limit {WEIGHT_LIMIT}")
        checks.that(losses < LOSS_LIMIT, f"{b}: the history differs by {losses}, limit {LOSS_LIMIT}")


def any_ranks(checks, chain):
    """1, 2 ranks (each trains experts in turns), 4 (one expert has two), an expert for itself, micro-batches that do not fit."""
    share_prompts(chain, [0, 1, 2, 2])
    chain.make("finetune")
    whole = keep(chain, "whole")
    for name, ranks, settings in (("2", 2, {}), ("4", 4, {"comm.deterministic": "true"}),
                                  ("other_passes", 0, {"finetune.micro_batch": 4, "finetune.recompute": "true"})):
        chain.make("finetune", ranks=ranks, settings=settings)
        compare(checks, whole, keep(chain, name))
    for k in range(K):
        chain.make("finetune", ranks=2 * (k == 2), settings={"finetune.expert": k})
    compare(checks, whole, keep(chain, "alone"))


def sliced_weights(checks, chain):
    """With a step so small that nothing moves an expert is what its mask keeps of the teacher: its sizes are those that the mask says,
    values are the teacher's, and names are the teacher's without the dropped units'."""
    still = {"finetune.steps": 1, "finetune.learning_rate": 1e-12, "finetune.ema_decay": 0.0}
    chain.make("finetune", settings=still)
    folder = keep(chain, "still")
    with h5py.File(chain.path("teacher.h5")) as teacher, h5py.File(chain.path("router.h5")) as router:
        depth = [text.decode() for text in router["depth/path"][()]]
        units = [text.decode() for text in router["units/path"][()]]
        first, width = router["units/first"][()], router["units/width"][()]
        for k in range(K):
            mask = router["masks"][k]
            dropped = [path for path, kept in zip(depth, mask[len(mask) - len(depth):]) if not kept]
            with h5py.File(folder / f"expert_{k:02d}.h5") as expert:
                names = {name for name in teacher["weights"] if not any(name.startswith(path + ".") for path in dropped)}
                checks.that(set(expert["weights"]) == names, f"expert {k}: other weights than the mask keeps")
                checks.that((expert["mask"][()] == mask).all(), f"expert {k}: another mask than the router's")
                smaller = 0
                for unit, begin, entries in zip(units, first, width):
                    name = f"{unit}.conv1.weight"  # a ResNet: groups of output channels
                    if name not in names:
                        continue
                    kept = numpy.repeat(mask[begin:begin + entries] != 0, len(teacher["weights"][name]) // entries)
                    expected = teacher["weights"][name][()][kept]
                    found = expert["weights"][name][()]
                    smaller += expected.shape != teacher["weights"][name].shape
                    same = found.shape == expected.shape and numpy.abs(found - expected).max() < 1e-9
                    checks.that(same, f"expert {k}: {name} is not the kept part of the teacher's")
                checks.that(abs(float(expert["ratio"][0]) - router["ratio/total"][k]) < 1e-12, f"expert {k}: another ratio")
                checks.that(smaller > 0 or mask.all(), f"expert {k}: nothing is smaller")


def learns(checks, chain):
    """Sixty steps: the weighted loss falls, and every part of it is logged."""
    chain.make("finetune", settings={"finetune.expert": 2, "finetune.steps": 60, "finetune.learning_rate": 3e-3})
    with h5py.File(chain.path("expert_02.h5")) as file:
        history = {name: file["history"][name][()] for name in file["history"]}
    total = 1e-4 * history["ddpm"] + history["distill_out"] + history["distill_block"]
    checks.that(numpy.abs(total - history["loss"]).max() < 1e-9, "loss is not the weighted sum of its parts")
    began, ended = history["loss"][:10].mean(), history["loss"][-10:].mean()
    checks.that(ended < 0.7 * began, f"the loss went from {began} to {ended}")
    clear(chain)


def few_prompts(checks, chain):
    """One prompt for expert 1, none for expert 0: the one is trained, the other left as sliced and said to be."""
    share_prompts(chain, [2])
    with h5py.File(chain.path("assignment.h5"), "r+") as file:
        file["train/expert"][0] = 1
    result = chain.run("finetune", ranks=2, settings={"run.log": "normal"})
    checks.that(result.returncode == 0 and "expert 0 has no training prompt" in result.stdout, f"few prompts:\n{result.stdout}")
    with h5py.File(chain.path("expert_00.h5")) as none, h5py.File(chain.path("expert_01.h5")) as one:
        checks.that(int(none["training/step"][0]) == 0 and int(none["training/prompts"][0]) == 0, "expert 0 was trained")
        checks.that(int(one["training/step"][0]) == 6 and int(one["training/prompts"][0]) == 1, "expert 1 was not trained")
    name = "conv_in.weight"
    with h5py.File(chain.path("expert_00.h5")) as none, h5py.File(chain.path("teacher.h5")) as teacher:
        checks.that((none["weights"][name][()] == teacher["weights"][name][()]).all(), "expert 0 is not as sliced")
    clear(chain)
    chain.make("finetune", settings={"finetune.epochs": 1.0})
    for k, steps in (0, 0), (1, 1), (2, 6):  # 35 prompts in batches of 6
        with h5py.File(chain.path(f"expert_{k:02d}.h5")) as file:
            found, prompts = int(file["training/step"][0]), int(file["training/prompts"][0])
            checks.that(found == -(-prompts // 6) and found >= steps, f"an epoch of expert {k}: {found} steps for {prompts} prompts")
    clear(chain)


def own_prompts(checks, chain):
    """Expert 1 learns from the prompts that are assigned to it: others for the other experts change nothing, another one for it does."""
    kept = []
    for name, experts in (("own", [1, 2, 2, 2]), ("others", [1, 0, 2, 0]), ("another", [2, 1, 2, 2])):
        share_prompts(chain, experts)
        chain.make("finetune", settings={"finetune.expert": 1, "finetune.steps": 3})
        kept.append(keep(chain, name) / "expert_01.h5")
    same, other = (largest_difference(kept[0], path, "weights") for path in kept[1:])
    checks.that(same == 0, f"prompts of other experts change expert 1 by {same}")
    checks.that(other > 1e-4, f"with other prompts expert 1 is the same to {other}")


def finished_and_unfinished(checks, chain):
    """A finished expert is left alone; more steps go on from the checkpoint, also on other ranks."""
    share_prompts(chain, [0, 1, 2, 2])
    chain.make("finetune", settings={"finetune.expert": 1})
    before = chain.path("expert_01.h5").read_bytes()
    result = chain.run("finetune", ranks=2, settings={"run.log": "normal"})
    checks.that(result.returncode == 0 and "expert 1 is finished" in result.stdout, f"with a finished expert:\n{result.stdout}")
    checks.that(before == chain.path("expert_01.h5").read_bytes(), "a finished expert was changed")
    result = chain.run("finetune", ranks=2, settings={"run.log": "normal", "finetune.expert": 1, "finetune.steps": 9})
    checks.that(result.returncode == 0 and "going on from expert 1, step 6" in result.stdout, f"with more steps:\n{result.stdout}")
    with h5py.File(chain.path("expert_01.h5")) as file:
        checks.that(int(file["training/step"][0]) == 9 and list(file["history/step"][()]) == list(range(1, 10)), "steps were lost")
    more = keep(chain, "more")
    chain.make("finetune", settings={"finetune.expert": 1, "finetune.steps": 9})
    distance = largest_difference(more / "expert_01.h5", chain.path("expert_01.h5"), "weights")
    checks.that(distance < WEIGHT_LIMIT, f"6 steps on one rank and 3 on two differ from 9 on one by {distance}")
    clear(chain)


def refused(checks, chain):
    def refuse(code, expected, settings=None):
        result = chain.run("finetune", settings=settings or {})
        checks.that(result.returncode == code and expected in result.stdout,
                    f"expected exit code {code} and '{expected}', got {result.returncode}:\n{result.stdout}")

    refuse(2, "finetune.expert is 3", {"finetune.expert": K})
    refuse(2, "finetune.epochs is 1e+300", {"finetune.epochs": "1e300"})
    refuse(2, "are all 0", {"finetune.w_ddpm": 0, "finetune.w_distill_out": 0, "finetune.w_distill_block": 0})
    chain.make("finetune", settings={"finetune.expert": 1})
    refuse(2, "finetune.learning_rate = 0.001", {"finetune.learning_rate": 2e-3})
    shutil.copy(chain.path("finetune_01.checkpoint.h5"), chain.path("expert_01.h5"))
    refuse(3, "is the checkpoint of a run")
    shutil.copy(chain.path("expert_01.h5"), chain.path("expert_00.h5"))
    chain.remove("expert_01.h5")
    chain.make("finetune", settings={"finetune.expert": 1})
    shutil.copy(chain.path("expert_01.h5"), chain.path("expert_00.h5"))
    refuse(3, "holds expert 1, expert 0 is wanted")
    clear(chain)
    with h5py.File(chain.path("assignment.h5"), "r+") as file:
        kept = int(file["train/expert"][3])
        file["train/expert"][3] = K
    refuse(3, "train/expert[3] is 3, 0..2 allowed")
    with h5py.File(chain.path("assignment.h5"), "r+") as file:
        file["train/expert"][3] = kept
    chain.remove("prune.checkpoint.h5")
    chain.make("prune", settings={"run.seed": 8})
    refuse(3, "was made with another router.h5")


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(sys.argv[1], folder)
        chain.make("prepare", "pretrain", "prune", "assign")
        any_ranks(checks, chain)
        sliced_weights(checks, chain)
        learns(checks, chain)
        few_prompts(checks, chain)
        own_prompts(checks, chain)
        finished_and_unfinished(checks, chain)
        refused(checks, chain)
    checks.end()


if __name__ == "__main__":
    main()
