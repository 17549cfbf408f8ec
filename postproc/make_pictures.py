"""Makes the demo's data: Unicode's emoji and Tux Paint's stamps as small square pictures with captions.

    python postproc/make_pictures.py OUTPUT_DIR

writes OUTPUT_DIR/images/*.png, OUTPUT_DIR/index.tsv (file, caption, group, subgroup, source) and OUTPUT_DIR/left_out.tsv. Needs the Debian packages
unicode-data, fonts-noto-color-emoji, libfribidi0 and tuxpaint-stamps-default.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from emoji import emoji_pictures
from pictures import LeftOut, MissingPackage, Picture, PictureFolder
from stamps import stamp_pictures

SOURCES = {"emoji": emoji_pictures, "tuxpaint": stamp_pictures}


def add_source(out: PictureFolder, source: str, items: Iterable[Picture | LeftOut]) -> None:
    """Writes the pictures of one source and prints the counts."""
    groups = set()
    subgroups = set()
    drawn = 0
    left_out = Counter()  # by reason, without the details that follow a colon
    for item in items:
        if isinstance(item, LeftOut):
            left_out[item.reason.partition(":")[0]] += 1
            out.leave_out(item)
            continue
        out.add(item)
        drawn += 1
        groups.add(item.group)
        subgroups.add((item.group, item.subgroup))
    print(f"{source}: {drawn} pictures in {len(groups)} groups and {len(subgroups)} subgroups")
    reasons = "".join(f"; {count} {reason}" for reason, count in left_out.items())
    print(f"{source}: {left_out.total()} left out (named in left_out.tsv){reasons}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--side", type=int, default=32, help="width and height of the pictures in pixels (default 32)")
    parser.add_argument("--source", choices=SOURCES, action="append", help="only this source (default: all)")
    parser.add_argument("--webdataset", type=Path, metavar="FILE.tar", help="write the pictures as this tar file also")
    arguments = parser.parse_args()
    if not 1 <= arguments.side <= 1024:
        parser.error(f"--side is {arguments.side}; allowed: 1 to 1024")

    try:
        with PictureFolder(arguments.output_dir, arguments.webdataset) as out:
            for source in arguments.source or SOURCES:
                add_source(out, source, SOURCES[source](arguments.side))
    except (MissingPackage, OSError) as fault:
        print(f"make_pictures: {fault}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
