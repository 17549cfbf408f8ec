"""report, experts, compare and watch on what the program itself writes: a small chain, made once. What they say is compared with the
HDF5 files and the logs.

Usage: test_tools.py APTP
"""
import csv
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "test/support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from chain import Chain, Checks  # noqa: E402
from page_parser import Page  # noqa: E402
from PIL import Image  # noqa: E402
from tools import call  # noqa: E402

EXPERTS = 3  # of the chain's deck
PATIENCE = 60  # seconds until a program that draws again and again has drawn twice


def says(checks, name, *arguments):
    """The output of a tool that must succeed."""
    status, out, err = call(name, *arguments)
    checks.that(status == 0 and err == "", f"{name} {arguments}: exit code {status}\n{err}")
    return out


def rows_of(text, first):
    """The rows of a table printed as text whose head begins with that word, split where two blanks are."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.split("  ")[0].strip() == first)
    rows = lines[at + 2:]
    rows = rows[:rows.index("")] if "" in rows else rows
    return [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in rows]


def check_report(checks, chain):
    says(checks, "report", chain.folder)
    page = Page(chain.path("report.html").read_text(encoding="utf-8"))
    with h5py.File(chain.path("assignment.h5")) as file:
        target, mean = float(file["ratio/target"][0]), float(file["train/mean_ratio"][0])
        ratio, prompts = file["ratio/total"][0], numpy.bincount(file["train/expert"][()], minlength=EXPERTS)
        groups, of_group = numpy.unique(file["train/group"][()], return_counts=True)
    part = page.section
    checks.that(f"{mean:.4f}budget {target:.4f}" in page.head.text, f"the head says {page.head.text}")
    train = part["budget"].table("split")[1]
    checks.that(train[3] == f"{mean:.4f}" and train[4] == f"{100 * (mean / target - 1):+.2f} %", f"budget {train}, expected {mean} for {target}")
    rows = part["experts"].table("expert", "train prompts")[1:]
    checks.that([row[1] for row in rows] == [str(count) for count in prompts], f"prompts {rows}, expected {prompts}")
    checks.that([row[3] for row in rows] == [f"{100 * value:.1f} %" for value in ratio], f"MACs {rows}, expected {ratio}")
    rows = {row[0]: row[1] for row in part["prompts"].table("group")[1:]}
    checks.that(rows == {name.decode(): str(count) for name, count in zip(groups, of_group)}, f"groups {rows}")
    with h5py.File(chain.path("bench.h5")) as file:
        batch = int(file["batch"][-1])
        times = [f"{1e3 * value:.2f} ms" for value in file["time"][:, 0, -1]]
    shown = [table for table in part["cost"].tables if [row[3] for row in table[1:]] == times]
    checks.that(len(shown) == 1, f"no table of batch {batch} has the times {times}")
    settings = {row[0]: row[1:] for table in part["settings"].tables for row in table[1:]}
    checks.that(settings["prune.budget"] == ["0.7", "router.h5"] and settings["router.experts"][0] == str(EXPERTS), "settings differ from the deck")
    with h5py.File(chain.path("router.h5")) as file:
        identity, total = file.attrs["content_id"].decode(), file["history/total"][()]
    checks.that(any(row[0] == "router.h5" and row[7] == identity[:12] for row in part["provenance"].tables[0]), "no content id of router.h5")
    checks.that(part["training"].table("quantity")[1][2] == f"{total[-1]:.4g}", "the last total loss differs")
    checks.that("was made from another" not in page.head.text, "the chain's files do not belong together")
    pictures = part["prompts"].pictures()
    checks.that(len(pictures) == sum(min(count, 12) for count in prompts) and all(picture.size == (16, 16) for _, picture in pictures), "pictures of prompts")
    missing = {name for name, section in part.items() if section.commands}
    checks.that(missing == {"finetuning", "samples", "metrics"}, f"missing are said to be {missing}")


def check_experts(checks, chain):
    text = says(checks, "experts", chain.folder)
    with h5py.File(chain.path("router.h5")) as file:
        masks, gates, depths = file["masks"][()].astype(bool), file["gates"][()], len(file["depth/path"])
        units = list(zip(file["units/path"].asstr()[()], file["units/first"][()], file["units/width"][()], file["units/depth"][()]))
        ratio = file["ratio/total"][()]
    expected = []
    for path, first, width, depth in units:
        cells = ["dropped" if depth >= 0 and not mask[len(mask) - depths + depth] else f"{100 * mask[first:first + width].mean():.0f} %" for mask in masks]
        expected.append([path, *cells])
    rows = [[row[0], *row[-EXPERTS:]] for row in rows_of(text, "unit")]
    checks.that(rows == expected, f"units {rows}\nexpected {expected}")
    rows = rows_of(text, "expert")
    checks.that([row[1] for row in rows] == [f"{100 * value:.1f} %" for value in ratio], f"experts {rows}, expected {ratio}")
    cosine = [f"{gates[0] @ gate / numpy.linalg.norm(gates[0]) / numpy.linalg.norm(gate):.3f}" for gate in gates]
    overlap = [f"{numpy.sum(masks[0] & mask) / numpy.sum(masks[0] | mask):.3f}" for mask in masks]
    lines = [line.split() for line in text.splitlines() if line.startswith("expert 0 ")]
    for what, values in (("cosine", cosine), ("overlap", overlap)):
        checks.that(["expert", "0", *values] in lines, f"{what}: no row {values} in {lines}")
    says(checks, "experts", chain.folder, "--html", chain.path("experts.html"))
    page = Page(chain.path("experts.html").read_text(encoding="utf-8"))
    checks.that(list(page.section) == ["experts", "blocks", "similarity", "units"], f"sections {list(page.section)}")
    checks.that([len(part.pictures()) for part in page.section.values()] == [1, 1, 0, 0], "pictures of experts.html")


def check_compare(checks, chain, other):
    """The other run has another budget and learning rate, and metrics."""
    with h5py.File(other / "router.h5", "a") as file:
        deck = file.attrs["deck"].decode()
        file.attrs["deck"] = numpy.bytes_(deck.replace("budget = 0.7", "budget = 0.5"))
    with h5py.File(other / "metrics.h5", "w") as file:
        file.attrs["schema"] = numpy.bytes_("metrics")
        file["model"], file["count"] = numpy.array([b"all"]), [12]
        file["cmmd"], file["cmmd_interval"], file["macs"] = [1.5], [[1.25, 1.75]], [0.5]
    text = says(checks, "compare", chain.folder, other)
    names = [chain.folder.name, other.name]
    with h5py.File(chain.path("assignment.h5")) as file:
        target, mean = float(file["ratio/target"][0]), float(file["train/mean_ratio"][0])
    budget, losses, metrics = (None,) * 3
    tables = text.split("\n\n")
    for table in tables:
        head = table.splitlines()[0].split()[:2] if table else []
        budget = rows_of(table + "\n", "run") if head == ["run", "budget"] else budget
        metrics = rows_of(table + "\n", "run") if "CMMD" in table else metrics
        losses = rows_of(table + "\n", "run") if table.startswith("prune\n") else losses
    checks.that([row[:3] for row in budget] == [[name, f"{target:.4f}", f"{mean:.4f}"] for name in names], f"budgets {budget}")
    checks.that(metrics == [[other.name, "12", "1.5 [1.25, 1.75]", "0.500"]], f"metrics {metrics}")
    with h5py.File(chain.path("router.h5")) as file:
        last = f"{file['history/total'][-1]:.4g}"
    checks.that([row[:3] for row in losses] == [[name, "7", last] for name in names], f"losses {losses}")
    checks.that(rows_of(text, "setting") == [["prune.budget", "0.7", "0.5"]], f"settings {rows_of(text, 'setting')}")
    checks.that(f"Missing from {chain.folder}: metrics.h5" in text, "no word of the missing metrics.h5")
    page_file = chain.path("compare.html")
    says(checks, "compare", chain.folder, other, "--html", page_file)
    page = Page(page_file.read_text(encoding="utf-8"))
    checks.that([len(page.section[name].pictures()) for name in ("budget", "metrics", "losses", "settings")] == [1, 1, 1, 0], "pictures of compare.html")


def check_watch(checks, chain):
    with open(chain.path("prune.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    text = says(checks, "watch", chain.folder, "--log", "prune", "--once")
    checks.that(f"prune.csv: step {rows[-1]['step']}, total {float(rows[-1]['total']):.4g}" in text, f"watch says {text[:200]}")
    for name in ("total", "expert ratio", "distill block", "learning rate"):
        checks.that(f"{name} (" in text, f"watch shows no {name}")
    checks.that("\033" not in text, "colours in a pipe")
    os.utime(chain.path("pretrain.csv"))
    text = says(checks, "watch", chain.folder, "--once", "--show", "loss")
    checks.that("pretrain.csv: step 6" in text and "loss (" in text and "gradient norm (" not in text, f"watch of the newest log: {text}")
    says(checks, "watch", chain.path("prune.csv"), "--once", "--png", chain.path("watch.png"))
    picture = Image.open(chain.path("watch.png"))
    checks.that(picture.width > 1500 and picture.height > 1000, f"watch.png has {picture.size}")
    # Two experts of a job, the second not yet at its first step.
    jobs = chain.path("jobs")
    jobs.mkdir()
    (jobs / "finetune_00.csv").write_text("step,loss\n1,0.5\n2,0.25\n")
    (jobs / "finetune_01.csv").write_text("step,loss\n")
    text = says(checks, "watch", jobs, "--once")
    checks.that("finetune_00.csv: step 2, loss 0.25" in text and "finetune_01.csv: no step yet" in text, f"watch of two experts: {text}")
    check_watch_goes_on(checks, jobs)


def check_watch_goes_on(checks, jobs):
    """It draws again when the log has grown, and Ctrl-C ends it with exit code 0."""
    out = jobs / "out"

    def hear_interrupts():  # what a shell starts in the background has SIGINT ignored, and so would all that this test starts
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with out.open("w") as stream:
        process = subprocess.Popen([sys.executable, REPOSITORY / "postproc/watch.py", jobs, "--every", "0.1"], stdout=stream,
                                   stderr=subprocess.STDOUT, preexec_fn=hear_interrupts)

    def wait_for(text):
        end = time.monotonic() + PATIENCE
        while text not in out.read_text() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        return text in out.read_text()
    try:
        checks.that(wait_for("step 2"), f"watch has not begun: {out.read_text()[:300]}")
        with (jobs / "finetune_00.csv").open("a") as file:
            file.write("3,0.125\n")
        checks.that(wait_for("finetune_00.csv: step 3, loss 0.125"), "watch does not see a new step")
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(PATIENCE)
    checks.that(status == 0 and "Traceback" not in out.read_text(), f"Ctrl-C: exit code {status}: {out.read_text()[-300:]}")


def check_refusals(checks, chain):
    """Exit code 2 and one line that names the file."""
    empty, foreign = chain.path("empty"), chain.path("foreign")
    empty.mkdir()
    foreign.mkdir()
    with h5py.File(foreign / "router.h5", "w") as file:
        file["masks"] = numpy.ones((2, 3))
    (foreign / "table.csv").write_text("name,value\na,1\n")
    cases = [("report", [empty], "no file of a run"), ("report", [foreign], "router.h5 is no router file"),
             ("experts", [empty], "router.h5 is missing; the phase prune writes it"), ("experts", [foreign], "router.h5 is no router file"),
             ("compare", [chain.folder, chain.path("none")], "none is no folder"), ("compare", [chain.folder, chain.folder], "named twice"),
             ("watch", [empty, "--once"], "holds no log"), ("watch", [chain.path("none"), "--once"], "neither a folder nor a log"),
             ("watch", [foreign / "table.csv", "--once"], "its first column is not 'step'"), ("watch", [chain.path("jobs"), "--once", "--show", "cost"], "there are loss")]
    for name, arguments, words in cases:
        status, out, err = call(name, *arguments)
        checks.that(status == 2 and out == "" and words in err and err.count("\n") == 1, f"{name} {arguments}: exit code {status}\n{out}{err}")
    for name in ("report", "experts", "compare", "watch"):
        text = says(checks, name, "--help")
        checks.that(f"examples:\n  python postproc/{name}.py " in text, f"{name} --help has no examples")


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        run.mkdir()
        chain = Chain(sys.argv[1], run)
        chain.make("prepare", "pretrain", "prune", "assign", "bench")
        other = pathlib.Path(folder) / "other"
        other.mkdir()
        for name in ("router.h5", "assignment.h5", "prune.csv"):
            shutil.copy(chain.path(name), other / name)
        check_report(checks, chain)
        check_experts(checks, chain)
        check_compare(checks, chain, other)
        check_watch(checks, chain)
        check_refusals(checks, chain)
    checks.end()


if __name__ == "__main__":
    main()
