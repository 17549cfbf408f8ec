#!/bin/sh
# Phase verify on a GPU, real or emulated: networks and a step of pruning against PyTorch's references, at the limits of each quantity.
# Usage: test_parity.sh APTP; an emulated GPU is slow, so these are the small ones of each kind. APTP_PARITY=all: all of them.
program=$(realpath "$1")
folder=$(mktemp -d) || exit 1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
trap 'rm -r "$folder"' EXIT
failed=0; cases=0

parity() { # parity PRECISION NAME...
    precision=$1; shift
    for name in "$@"; do
        cases=$((cases + 1))
        "$program" input/verify.cfg --set run.folder="$folder/run" --set run.backend=cuda --set verify.precision="$precision" \
            --set verify.reference="test/fixtures/$name.h5" > "$folder/out" 2>&1 && continue
        failed=$((failed + 1))
        echo "$name in $precision:"
        grep -v 'pass$' "$folder/out"
    done
}

if [ "$APTP_PARITY" = all ]; then
    names=$(cd test/fixtures && ls unet_*.h5 prune_step_*.h5 vae_*.h5 clip_text_*.h5 clip_vision_*.h5 inception_*.h5 *_small.h5 \
        text_to_image*.h5 | grep -v 'normal_form\|clip_bpe' | sed 's/[.]h5$//')
    parity fp32 $names
    parity bf16 $(echo "$names" | grep 'unet\|vae\|clip\|_small' | grep -v 'vae_old')
else
    parity fp32 unet_odd unet_odd_uneven unet_sd1_gated unet_sd2 vae_odd clip_text_quick clip_vision_gelu bert_small mpnet_small \
        inception_narrow prune_step_main
    parity bf16 unet_odd unet_sd1_gated clip_text_quick clip_vision_gelu bert_small mpnet_small
fi
echo "$cases references, $failed failed"
[ $failed -eq 0 ]
