"""finetune in groups of ranks: one that fails or is stopped, what --check plans for them; finished experts and checkpoints of other
prompts are refused.

Usage: test_finetune_groups.py APTP
"""
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from chain import Chain, Checks, differences  # noqa: E402
from test_finetune import K, clear, keep, share_prompts  # noqa: E402  (beside this file)


def deal_to_two(chain):
    """Experts in the order that two ranks train them: the largest is one rank's, the others are the other's."""
    with h5py.File(chain.path("router.h5")) as router:
        alone = int(router["ratio/total"][()].argmax())
    return [alone, *(k for k in range(K) if k != alone)]


def one_group_fails(checks, chain):
    """A group that cannot begin ends the job with one message, after the other group has trained its expert."""
    share_prompts(chain, [0, 1, 2, 2])
    alone, first, _ = deal_to_two(chain)
    chain.path(f"finetune_{first:02d}.checkpoint.h5").write_bytes(b"this is no checkpoint")
    result = chain.run("finetune", ranks=2, settings={"finetune.steps": 3})
    checks.that(result.returncode == 3 and result.stdout.count("error:") == 1 and f"finetune_{first:02d}.checkpoint.h5" in result.stdout,
                f"a broken checkpoint: exit code {result.returncode}\n{result.stdout}")
    found = [path.name for path in chain.folder.glob("expert_*.h5")]
    checks.that(found == [f"expert_{alone:02d}.h5"], f"the other group has written {found}, not expert {alone}")
    clear(chain)


def groups_are_stopped(checks, chain):
    """Asked to stop, every group ends with a checkpoint, and those of its experts that it has not begun stay so."""
    share_prompts(chain, [0, 1, 2, 2])
    chain.make("finetune", ranks=2)
    whole = keep(chain, "unstopped")
    result = chain.run("finetune", ranks=2, settings={"run.wall_clock_limit": 0.001})
    checks.that(result.returncode == 75 and result.stdout.count("stopped by") == 1, f"stopped: {result.returncode}\n{result.stdout}")
    found = sorted(path.name for path in chain.folder.glob("*.checkpoint.h5") if path.name.startswith("finetune"))
    expected = sorted(f"finetune_{k:02d}.checkpoint.h5" for k in deal_to_two(chain)[:2])
    checks.that(found == expected, f"stopped with {found}, not {expected}")
    checks.that(not list(chain.folder.glob("expert_*.h5")), "a stopped run has written experts")
    chain.make("finetune", ranks=2)
    for k in range(K):
        found = differences(whole / f"expert_{k:02d}.h5", chain.path(f"expert_{k:02d}.h5"))
        checks.that(not found, f"stopped and gone on, expert {k}:\n" + "\n".join(found))
    clear(chain)


def check_plans(checks, chain):
    """--check on any ranks, also more than a batch has samples: it says what each expert takes, trains nothing and writes nothing."""
    before = sorted(path.name for path in chain.folder.iterdir())
    for ranks in 2, 8:
        result = chain.run("finetune", ranks=ranks, settings={"run.log": "normal"}, arguments=["--check"])
        plans = [line for line in result.stdout.splitlines() if "planned memory" in line]
        checks.that(result.returncode == 0 and len(plans) == K, f"--check, {ranks} ranks: exit code {result.returncode}\n{result.stdout}")
        checks.that(all(float(line.split(" MiB for a step")[0].split()[-1]) > 0.5 for line in plans), f"no memory for a step: {plans}")
    checks.that(sorted(path.name for path in chain.folder.iterdir()) == before, "--check has written")


def other_prompts(checks, chain):
    """A finished expert, and a checkpoint, of another assignment or other data are refused, not taken for this one's."""
    chain.make("finetune", settings={"finetune.expert": 1})
    for file, parent in (("assignment.h5", "assignment.h5"), ("data.h5", "data.h5")):
        kept = {name: chain.path(name).read_bytes() for name in ("data.h5", "assignment.h5")}
        if file == "data.h5":
            index = chain.path("pictures/index.csv")
            index.write_text(index.read_text().replace(",bar", ",line"))  # the label alone
            chain.make("prepare", "assign")
        else:
            with h5py.File(chain.path(file), "r+") as opened:
                opened.attrs["content_id"] = numpy.bytes_(b"0" * 64)
        for what in "expert_01.h5", "finetune_01.checkpoint.h5":
            result = chain.run("finetune", settings={"finetune.expert": 1})
            checks.that(result.returncode == 3 and f"{what} " in result.stdout and ("another" in result.stdout or "other data" in result.stdout),
                        f"another {parent} than {what}'s: exit code {result.returncode}\n{result.stdout}")
            chain.path("expert_01.h5").rename(chain.path("hidden")) if what == "expert_01.h5" else None
        chain.path("hidden").rename(chain.path("expert_01.h5"))
        for name, content in kept.items():
            chain.path(name).write_bytes(content)
    chain.make("finetune", settings={"finetune.expert": 1})
    clear(chain)


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(sys.argv[1], folder)
        chain.make("prepare", "pretrain", "prune", "assign")
        one_group_fails(checks, chain)
        groups_are_stopped(checks, chain)
        check_plans(checks, chain)
        other_prompts(checks, chain)
    checks.end()


if __name__ == "__main__":
    main()
