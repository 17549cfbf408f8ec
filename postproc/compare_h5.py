"""Compares two HDF5 files: the same file means all datasets bit for bit, attributes aside.

Usage: python postproc/compare_h5.py FILE FILE; prints each difference; exit 0 if there is none, 1 otherwise,
2 if a file cannot be read.
"""
import sys

import h5py
import numpy

ROWS_BYTES = 64 << 20  # compared at a time


def datasets(file):
    """Names of all datasets of a file, sorted."""
    names = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return sorted(names)


def bits(values):
    """Bytes of an array (of variable-length strings: the strings themselves)."""
    return values.tolist() if values.dtype.hasobject else values.tobytes()


def first_difference(a, b):
    """Index of the first element whose bits differ, of two arrays of one type and shape; None if equal."""
    if bits(a) == bits(b):
        return None
    for index in numpy.ndindex(a.shape):
        if bits(numpy.asarray(a[index])) != bits(numpy.asarray(b[index])):
            return index
    return None


def difference(a, b):
    """What is different between two datasets, as text; None if they are equal."""
    if a.dtype != b.dtype:
        return f"type {a.dtype} and {b.dtype}"
    if a.shape != b.shape:
        return f"shape {a.shape} and {b.shape}"
    if a.shape == ():
        return None if bits(numpy.asarray(a[()])) == bits(numpy.asarray(b[()])) else f"{a[()]} and {b[()]}"
    step = max(1, ROWS_BYTES // max(1, a.dtype.itemsize * int(numpy.prod(a.shape[1:]))))
    for first in range(0, a.shape[0], step):
        rows_a, rows_b = a[first:first + step], b[first:first + step]
        index = first_difference(rows_a, rows_b)
        if index is not None:
            place = (first + index[0],) + index[1:]
            return f"at {list(map(int, place))}: {rows_a[index]!r} and {rows_b[index]!r}"
    return None


def compare(path_a, path_b):
    """Differences of two files, each a line of text."""
    with h5py.File(path_a) as a, h5py.File(path_b) as b:
        names_a, names_b = set(datasets(a)), set(datasets(b))
        found = [f"{name}: only in {path_a}" for name in sorted(names_a - names_b)]
        found += [f"{name}: only in {path_b}" for name in sorted(names_b - names_a)]
        for name in sorted(names_a & names_b):
            text = difference(a[name], b[name])
            if text:
                found.append(f"{name}: {text}")
        return found


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        found = compare(sys.argv[1], sys.argv[2])
    except OSError as error:
        print(f"compare_h5: {error}", file=sys.stderr)
        return 2
    print("\n".join(found) if found else f"{sys.argv[1]} and {sys.argv[2]}: all datasets are equal")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
