"""What must not depend on the number of ranks (DESIGN section 5): router.h5 and assignment.h5 bit for bit, data.h5 too; teacher.h5 and
clip.h5 to rounding.

Usage: test_ranks.py APTP
"""
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from chain import OUTPUT, WEIGHT_LIMIT, Chain, Checks, differences, weights_apart  # noqa: E402


def keep(chain, phase, ranks):
    """The phase's file, moved aside under a name with the number of ranks."""
    kept = chain.path(f"{ranks}_{OUTPUT[phase]}")
    shutil.move(chain.path(OUTPUT[phase]), kept)
    return kept


def compare(checks, chain, phase, ranks, settings=None):
    """The phase on each number of ranks: the same file. Leaves that of the first in its place."""
    kept = []
    for count in ranks:
        chain.remove(f"{phase}.checkpoint.h5")
        chain.make(phase, ranks=count, settings=settings)
        kept.append(keep(chain, phase, count))
    for count, path in zip(ranks[1:], kept[1:]):
        found = differences(kept[0], path)
        checks.that(not found, f"{phase} on {ranks[0]} and {count} ranks differ:\n" + "\n".join(found))
    shutil.copy(kept[0], chain.path(OUTPUT[phase]))


def compare_trained(checks, chain, deck):
    """pretrain on 1 and 2 ranks agrees to rounding; other samples or another order of them would not. Leaves that of 1 rank."""
    files = []
    for count, settings in (1, {}), (2, {}), (2, {"comm.deterministic": "true"}):
        chain.remove(f"{deck}.checkpoint.h5")
        chain.make(deck, ranks=count, settings=settings)
        files.append(chain.path(f"{len(files)}_{OUTPUT[deck]}"))
        shutil.move(chain.path(OUTPUT[deck]), files[-1])
    for path in files[1:]:
        distance = weights_apart(files[0], path)
        checks.that(distance < WEIGHT_LIMIT, f"{files[0]} and {path} differ by {distance}, limit {WEIGHT_LIMIT}")
    shutil.copy(files[0], chain.path(OUTPUT[deck]))


def same_in_micro_batches(checks, chain):
    """The loss of the metric network is over the whole batch, however it goes through the networks."""
    for name, size in ("parts", 2), ("whole", 8):
        chain.remove("clip.checkpoint.h5")
        chain.make("clip", settings={"pretrain.micro_batch": size, "files.clip": name + ".h5"})
    distance = weights_apart(chain.path("parts.h5"), chain.path("whole.h5"))
    checks.that(distance < WEIGHT_LIMIT, f"micro-batches of 2 and 8 differ by {distance}, limit {WEIGHT_LIMIT}")


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(sys.argv[1], folder)
        compare(checks, chain, "prepare", [1, 2])
        compare_trained(checks, chain, "pretrain")
        compare_trained(checks, chain, "clip")
        same_in_micro_batches(checks, chain)
        compare(checks, chain, "prune", [1, 2], {"router.codes_init": "kmeans", "router.normal_form": "hard"})
        compare(checks, chain, "prune", [1, 2, 4])
        compare(checks, chain, "assign", [1, 2, 4])
    checks.end()


if __name__ == "__main__":
    main()
