"""compare_h5.py: equal files, and every kind of difference it must see."""
import pathlib
import subprocess
import sys
import tempfile

import h5py
import numpy

TOOL = pathlib.Path(__file__).parents[2] / "postproc" / "compare_h5.py"


def write(path, change=None):
    data = {
        "a/x": numpy.arange(6, dtype="f4").reshape(2, 3),
        "a/zero": numpy.zeros(3),
        "a/nan": numpy.full(2, numpy.nan),
        "half": numpy.ones(4, "f2"),
        "text": numpy.array([b"one", b"two"]),
        "scalar": numpy.int64(7),
        "empty": numpy.zeros((0, 3), "i4"),
    }
    if change:
        change(data)
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            file[name] = values
        file["objects"] = ["variable", "length"]
        file.attrs["time"] = str(path)


def put(name, index, value):
    def change(data):
        data[name][index] = value
    return change


CASES = [
    (lambda data: data["a/x"].__setitem__((1, 2), 5.0000005), "a/x: at [1, 2]"),
    (put("a/zero", 1, -0.0), "a/zero: at [1]"),
    (put("text", 1, b"twp"), "text: at [1]"),
    (lambda data: data.update(scalar=numpy.int64(8)), "scalar: 7 and 8"),
    (lambda data: data.update(half=numpy.ones(4, "f4")), "half: type float16 and float32"),
    (lambda data: data.update(empty=numpy.zeros((0, 4), "i4")), "empty: shape (0, 3) and (0, 4)"),
    (lambda data: data.pop("half"), "half: only in"),
    (lambda data: data.update(more=numpy.ones(1)), "more: only in"),
]

with tempfile.TemporaryDirectory() as folder:
    a, b = pathlib.Path(folder) / "a.h5", pathlib.Path(folder) / "b.h5"

    def run(*arguments):
        return subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True)

    write(a)
    write(b)
    done = run(a, b)
    assert done.returncode == 0, done
    for change, text in CASES:
        write(b, change)
        done = run(a, b)
        assert done.returncode == 1 and text in done.stdout and done.stdout.count("\n") == 1, (text, done)
    assert run(a, pathlib.Path(folder) / "none.h5").returncode == 2
    b.write_text("not HDF5")
    assert run(a, b).returncode == 2
    assert run(a).returncode == 2
print("ok")
