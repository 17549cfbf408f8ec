"""Small stand-ins of the paper's data sets, in their file formats and places: make_sources.py PICTURES OUT.

PICTURES: the demo's pictures with index.tsv. OUT/coco gets annotations/captions_train2014.json, train2014 and the same of val2014, two
captions a picture; OUT/cc3m the folders train and val of webdataset tars.
"""

import csv
import io
import json
import sys
import tarfile
from pathlib import Path

PICTURES = {"train": 16, "val": 4}
TARS = 2


def read_index(folder: Path) -> list[tuple[Path, str]]:
    with (folder / "index.tsv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    step = len(rows) // sum(PICTURES.values())
    return [(folder / row["file"], row["caption"]) for row in rows[::step]]


def write_coco(out: Path, split: str, items: list[tuple[Path, str]]) -> None:
    images, annotations = [], []
    folder = out / f"{split}2014"
    for path in (folder, out / "annotations"):
        path.mkdir(parents=True, exist_ok=True)
    for number, (path, caption) in enumerate(items, 1):
        name = f"COCO_{split}2014_{number:012}.png"
        (folder / name).write_bytes(path.read_bytes())
        images.append({"id": number, "file_name": name, "height": 32, "width": 32, "license": 1})
        for text in (caption, f"a picture of {caption}"):
            annotations.append({"image_id": number, "id": len(annotations) + 1, "caption": text})
    values = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    (out / "annotations" / f"captions_{split}2014.json").write_text(json.dumps(values))


def write_tars(out: Path, items: list[tuple[Path, str]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for number in range(TARS):
        with tarfile.open(out / f"{number:05}.tar", "w") as tar:
            for key, (path, caption) in enumerate(items[number::TARS]):
                for suffix, data in (("png", path.read_bytes()), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{number:05}{key:04}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: make_sources.py PICTURES OUT", file=sys.stderr)
        return 2
    items, out, first = read_index(Path(sys.argv[1])), Path(sys.argv[2]), 0
    for split, count in PICTURES.items():
        write_coco(out / "coco", split, items[first:first + count])
        write_tars(out / "cc3m" / split, items[first:first + count])
        first += count
    return 0


if __name__ == "__main__":
    sys.exit(main())
