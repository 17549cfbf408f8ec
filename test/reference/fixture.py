"""Writing of the HDF5 reference files that `verify` and the tests read.

A file has a root attribute `model` and groups inputs/, outputs/, gradients/, ... of plain datasets. Names with
slashes make subgroups: "loss/ddpm" under outputs/ is outputs/loss/ddpm.
"""

import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import torch

FOLDER = Path(os.environ.get("APTP_FIXTURES", Path(__file__).resolve().parent.parent / "fixtures"))


def generator(name):
    """A generator seeded by the fixture's own name: adding one fixture does not change the others."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def as_array(value):
    """Text as UTF-8 strings; tensors, numbers and arrays as they are."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
        return np.array(value, dtype=h5py.string_dtype("utf-8"))
    value = np.asarray(value)
    if value.dtype == bool:  # h5py would store an enumeration, which HDF5 does not convert to a number
        value = value.astype(np.int64)
    return value


def write(name, model, attributes=None, pack=False, **groups):
    """Writes FOLDER/<name>.h5. Each keyword names a group and holds {dataset name: value}. pack: values repeat."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.h5"
    # Readable by HDF5 1.10, and small: the oldest format spends kilobytes on every group.
    # Creation times are off: same seed, same bytes.
    with h5py.File(path, "w", libver=("v108", "v110")) as file:
        file.attrs["model"] = model
        for key, value in (attributes or {}).items():
            file.attrs[key] = value
        for group, datasets in groups.items():
            file.create_group(group)
            for key, value in datasets.items():
                value = as_array(value)
                # Random weights do not shrink, and every compressed dataset costs an index; long integer arrays do.
                packed = (pack or value.dtype.kind == "i") and value.nbytes > 65536
                options = dict(compression="gzip", compression_opts=9, shuffle=True) if packed else {}
                file.create_dataset(f"{group}/{key}", data=value, **options)
    print(f"{path.name:40s} {path.stat().st_size:9,d} bytes")
    return path


def single(datasets):
    """Floats of a float64 computation, as fp32, which is what files of whole networks hold."""
    arrays = {key: as_array(value) for key, value in datasets.items()}
    return {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in arrays.items()}
