#!/bin/sh
# The published all-mpnet-base-v2 beside transformers: ids of 560 texts equal, embeddings of 200 within 1e-5 (they are of
# length 1, so that no number is above 1). Usage: check_mpnet.sh APTP FOLDER
program=$(realpath "$1"); encoder=$(realpath "$2")
folder=$(mktemp -d) || exit 1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
trap 'rm -r "$folder"' EXIT
ln -s "$encoder" "$folder/all-mpnet-base-v2"
failed=0
for name in wordpiece_mpnet sentence_encoder_mpnet; do
    ln -s "$PWD/test/fixtures/$name.h5" "$folder/$name.h5"
    "$program" input/verify.cfg --set run.folder="$folder/run" --set verify.reference="$folder/$name.h5" \
        --set verify.tolerance=1e-5 || failed=1
done
exit $failed
