#!/bin/sh
# Phase verify on a GPU, real or emulated: networks and a step of pruning against PyTorch's references, at the limits of each quantity.
# Usage: test_parity.sh APTP; an emulated GPU is slow, so these are the small ones of each kind. APTP_PARITY=all: all of them.
program=$(realpath "$1")
folder=$(mktemp -d) || exit 1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
trap 'rm -r "$folder"' EXIT
failed=0; cases=0

parity() { # parity NAMES OPTIONS...
    names=$1; shift
    for name in $names; do
        cases=$((cases + 1))
        "$program" input/verify.cfg --set run.folder="$folder/run" --set run.backend=cuda \
            --set verify.reference="test/fixtures/$name.h5" "$@" > "$folder/out" 2>&1 && continue
        failed=$((failed + 1))
        echo "$name $*:"
        grep -v 'pass$' "$folder/out"
    done
}

if [ "$APTP_PARITY" = all ]; then
    exact=$(cd test/fixtures && ls unet_*.h5 prune_step_*.h5 vae_*.h5 clip_text_*.h5 clip_vision_*.h5 inception_*.h5 \
        bert_small.h5 mpnet_small.h5 text_to_image*.h5 | sed 's/[.]h5$//')
    near="unet_odd unet_sd2_gated unet_sd2_sliced prune_step_main prune_step_warmup bert_small mpnet_small clip_vision_quick vae_odd
        clip_text_quick clip_text_projection clip_vision_whole"
    far="unet_sd1 unet_sd1_gated unet_sd2 unet_sd2_hard clip_vision_gelu inception_narrow"
else
    exact="unet_odd unet_odd_uneven unet_sd1_gated unet_sd2 vae_odd clip_text_quick clip_vision_gelu bert_small mpnet_small
        inception_narrow prune_step_main"
    near="unet_odd bert_small mpnet_small clip_vision_quick vae_odd clip_text_quick"
    far="unet_sd1_gated clip_vision_gelu"
fi
parity "$exact" --set verify.precision=fp32
parity "$near" --set verify.precision=bf16
# Tiny networks in which one rounding of the weights moves a gradient by 0.1 of the largest: as test/phases/test_verify.sh says.
parity "$far" --set verify.precision=bf16 --set verify.tolerance=0.3
echo "$cases references, $failed failed"
[ $failed -eq 0 ]
