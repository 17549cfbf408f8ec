"""Opens a page in headless Chromium and keeps what it shows: screenshot.py PAGE.html PICTURE.png

The window is as high as Chromium draws; what is empty below the page is cut off. Exit code 1 if nothing was drawn.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 1280, 16000  # pixels; Chromium's pictures end at 16384


def screenshot(page: pathlib.Path, picture: pathlib.Path) -> None:
    # A profile of its own, so that no running browser answers; root cannot have Chromium's sandbox.
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(["chromium", "--headless=new", "--disable-gpu", "--hide-scrollbars", *(["--no-sandbox"] if os.getuid() == 0 else []),
                        f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture.resolve()}", page.resolve().as_uri()],
                       check=True, capture_output=True, timeout=120)


def cut_below(picture: pathlib.Path) -> tuple[int, int]:
    """Cuts off the rows at the end that are all alike; the size that is left."""
    image = Image.open(picture).convert("RGB")
    pixels = np.asarray(image)
    drawn = np.flatnonzero((pixels != pixels[-1:, :1]).any(axis=(1, 2)))
    if len(drawn) == 0:
        return image.width, 0
    image = image.crop((0, 0, image.width, min(drawn[-1] + 20, image.height)))
    image.save(picture)
    return image.size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("picture", type=pathlib.Path)
    arguments = parser.parse_args()
    if not arguments.page.is_file():
        print(f"screenshot: {arguments.page} is missing; `make demo` makes it", file=sys.stderr)
        return 2
    try:
        screenshot(arguments.page, arguments.picture)
    except (OSError, subprocess.SubprocessError) as fault:
        print(f"screenshot: {fault}\n{getattr(fault, 'stderr', b'')!r}", file=sys.stderr)
        return 2
    width, height = cut_below(arguments.picture)
    print(f"screenshot: {arguments.picture}, {width} x {height} pixels")
    return 0 if height > 500 else 1


if __name__ == "__main__":
    sys.exit(main())
