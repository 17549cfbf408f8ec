"""Writes CLIP's tokenizer as Stable Diffusion's published folders hold it: clip_tokenizer.py OUT makes OUT/sd1, OUT/sd2.

The vocabulary lies inside the wheel open_clip_torch as a list of merges, from which the published vocab.json and merges.txt
follow. The wheel's own dependencies (PyTorch among them) are not needed.
"""

import gzip
import json
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "open_clip"
LIST = "bpe_simple_vocab_16e6.txt.gz"
START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 49152 - 256 - 2  # of the list's 262,144; the vocabulary was made so
PADDING = {"sd1": END, "sd2": "!"}


def published_merges() -> list[str]:
    """ "i n", "t h", ..., in the order of their ranks."""
    spec = find_spec(PACKAGE)  # finds the package without running it
    if spec is None:
        raise FileNotFoundError("the Python package open_clip_torch is missing: "
                                "pip install --no-deps -r postproc/requirements.txt")
    text = gzip.decompress((Path(spec.origin).parent / LIST).read_bytes()).decode("utf-8")
    return text.split("\n")[1:MERGES + 1]


def vocabulary(merges: list[str]) -> dict[str, int]:
    """The bytes, the bytes that end a word, what the merges make, start and end."""
    seen = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    letters = [chr(byte) for byte in seen] + [chr(0x100 + i) for i in range(len(hidden))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in merges), START, END]
    return {token: i for i, token in enumerate(tokens)}


def write_folder(folder: Path, merges: list[str], padding: str, length: int = 77) -> None:
    """vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json."""
    def special(content: str) -> dict:
        return dict(content=content, lstrip=False, normalized=True, rstrip=False, single_word=False)

    folder.mkdir(parents=True, exist_ok=True)
    names = dict(bos_token=START, eos_token=END, unk_token=END)
    config = dict(add_prefix_space=False, do_lower_case=True, errors="replace", model_max_length=length, pad_token=END,
                  special_tokens_map_file="./special_tokens_map.json", tokenizer_class="CLIPTokenizer",
                  **{name: dict({"__type": "AddedToken"}, **special(content)) for name, content in names.items()})
    tokens = {name: special(content) for name, content in names.items()} | dict(pad_token=padding)
    files = {
        "vocab.json": json.dumps(vocabulary(merges), ensure_ascii=False),
        "merges.txt": "".join(f"{line}\n" for line in ["#version: 0.2", *merges]),
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(tokens, indent=2) + "\n",
    }
    for name, text in files.items():
        (folder / name).write_bytes(text.encode("utf-8"))


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: clip_tokenizer.py OUT", file=sys.stderr)
        return 2
    try:
        merges = published_merges()
    except OSError as error:
        print(f"clip_tokenizer: {error}", file=sys.stderr)
        return 2
    for name, padding in PADDING.items():
        write_folder(Path(sys.argv[1]) / name, merges, padding)
    return 0


if __name__ == "__main__":
    sys.exit(main())
