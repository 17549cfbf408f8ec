"""Every network at its full size: its reference is made in build/reference, `verify` compares it in fp32 and in bf16, and it is deleted.

    python test/reference/full_all.py APTP [full_unet ...]

One after the other, each in processes of its own: 12 GB of memory and 8 GB of disk are enough. fp32 must be within 1e-4 of the largest
value; what bf16 reaches is said, where the machine computes in it.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[1] / "build" / "reference"
MODULES = ("full_unet", "full_clip_text", "full_vae", "full_clip_vision", "full_inception")
LIMIT, ANY = 1e-4, 1e9  # of the largest value
DISK = 8 << 30


def run(command):
    """Exit code, text, seconds and the largest memory in GB of a command."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    return os.waitstatus_to_exitcode(status), text, time.monotonic() - began, usage.ru_maxrss / 2**20


def make(module):
    """The reference's path; the figures go to the report."""
    code, text, seconds, memory = run([sys.executable, HERE / f"{module}.py"])
    if code:
        sys.exit(f"{module}: exit code {code}\n{text}")
    return Path(text.strip().splitlines()[-1]), f"made in {seconds:.0f} s, {memory:.1f} GB"


def compare(program, path, precision, tolerance):
    """Whether it passed, and what is said of it."""
    code, text, seconds, memory = run([program, HERE.parents[1] / "input/verify.cfg", "--set", f"run.folder={FOLDER}", "--set",
                                       f"verify.reference={path}", "--set", f"verify.precision={precision}", "--set",
                                       f"verify.tolerance={tolerance}"])
    if code == 2 and "does not compute natively" in text:
        return True, f"{precision}: not on this machine"
    errors = [float(error) for error in re.findall(r"relative +(\S+)", text)]
    if code not in (0, 1) or not errors:
        return False, f"{precision}: exit code {code}\n{text}"
    return code == 0, f"{precision}: {max(errors):.1e} ({len(errors)} arrays, {seconds:.0f} s, {memory:.1f} GB)"


def check(program, module):
    """A line of the report; whether it passed."""
    path, report = make(module)
    results = [compare(program, path, "fp32", LIMIT), compare(program, path, "bf16", ANY)]
    passed = all(good for good, _ in results)
    print(f"{path.stem:20s} {'pass' if passed else 'FAIL'}  {'; '.join(text for _, text in results)}; {report}", flush=True)
    return passed


def main(program, *modules):
    FOLDER.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(FOLDER).free < DISK:
        sys.exit(f"{FOLDER}: {DISK >> 30} GB of disk are needed")
    passed = True
    for module in modules or MODULES:
        before = set(FOLDER.iterdir())
        try:
            passed = check(program, module) and passed
        finally:
            for made in set(FOLDER.iterdir()) - before:
                shutil.rmtree(made) if made.is_dir() else made.unlink()
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
