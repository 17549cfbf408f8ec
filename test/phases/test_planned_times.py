"""--check tells how long a step or a picture takes by what bench has measured: work over speed, counted here anew from bench's MACs.

Usage: test_planned_times.py APTP
"""
import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
from chain import Chain, Checks  # noqa: E402

SPEEDS = {"prune_step/speed": 1e-3, "finetune_step/speed": 2e-3, "speed": 5e-4}  # GFLOP/s: times of minutes, in whole numbers
NORMAL = {"run.log": "normal"}


def told(result):
    """Minutes of one and of all, and their number, of each time that is told."""
    pattern = r"time: about (\S+) (min|s|h) for (a step|a picture), (\S+) (min|s|h) for all (\d+), at the"
    unit = {"s": 1 / 60, "min": 1, "h": 60}
    return [(float(one) * unit[u], float(total) * unit[v], int(count)) for one, u, _, total, v, count in re.findall(pattern, result.stdout)]


def close(found, expected):
    """What is printed has two digits at least."""
    return abs(found / expected - 1) < 0.06


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="aptp_times_") as folder:
        chain = Chain(sys.argv[1], folder)
        chain.make("prepare", "pretrain", "prune", "assign")
        without = chain.run("prune", settings={**NORMAL, "files.router": "none.h5"}, arguments=["--check"])
        checks.that("there is no ./bench.h5 (files.bench)" in without.stdout and without.returncode == 0, f"no bench.h5: {without.stdout}")
        chain.make("bench", settings={"bench.prune_batch": 2, "bench.resolutions": "[8]"})
        with h5py.File(chain.path("bench.h5"), "r+") as file:
            macs = file["macs"][:, 0]  # of teacher and experts at 8 x 8 latents and 12 tokens, which are the data's
            for name, speed in SPEEDS.items():
                file[name][...] = speed
                if file[name].size > 1:
                    file[name][(0,) * file[name].ndim] = 100 * speed  # the least counts
        result = chain.run("prune", settings={**NORMAL, "files.router": "none.h5"}, arguments=["--check"])
        step = 6 * 8 * macs[0] / 1e6 / 60  # batch 8; 2 a MAC, teacher, student and its gradient
        for ranks, share in ((0, 1), (2, 2)):
            result = chain.run("prune", ranks=ranks, settings={**NORMAL, "files.router": "none.h5"}, arguments=["--check"])
            found = told(result)
            checks.that(len(found) == 1 and found[0][2] == 7 and close(found[0][0], step / share) and close(found[0][1], 7 * step / share),
                        f"prune on {ranks} ranks: {found}, expected {step / share}:\n{result.stdout}")
        result = chain.run("finetune", settings={**NORMAL, "finetune.expert": 1}, arguments=["--check"])
        step, found = 6 * (2 * macs[0] + 6 * macs[2]) / 2e6 / 60, told(result)
        checks.that(len(found) == 1 and found[0][2] == 6 and close(found[0][0], step), f"finetune: {found}, expected {step}:\n{result.stdout}")
        result = chain.run("sample", settings={**NORMAL, "sample.model": "teacher", "sample.limit": 3}, arguments=["--check"])
        calls, found = 3 * 4, told(result)  # 3 steps of PNDM are 4 calls; 6 pictures in batches of 4 and 2, two a call
        picture = calls * 4 * 2 * macs[0] / 5e5 / 60 / 6
        checks.that(len(found) == 1 and found[0][2] == 6 and close(found[0][0], picture), f"sample: {found}, expected {picture}:\n{result.stdout}")
        chain.path("bench.h5").write_bytes(b"no HDF5 file")
        broken = chain.run("prune", settings={**NORMAL, "files.router": "none.h5"}, arguments=["--check"])
        checks.that(broken.returncode == 0 and re.search("warning: time: .*bench.h5", broken.stdout), f"broken bench.h5: {broken.stdout}")
    checks.end()


if __name__ == "__main__":
    main()
