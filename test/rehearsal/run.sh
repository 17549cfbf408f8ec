#!/bin/sh
# Rehearses the paper's studies on this machine, each with its own decks and networks of full size: three steps of prune with a batch of
# 4, assign, two steps of finetune of an expert, one picture of 512 x 512 pixels by it, evaluate. Weights are random, pictures are 20 of
# the demo's, in the files of COCO and CC3M. Usage: run.sh PROGRAM VENV PYTORCH PICTURES FOLDER [STUDY...]
# Takes a quarter of an hour a study on 2 cores, 20 GiB of memory and 20 GiB of disk.
set -e
[ $# -ge 5 ] || { echo "usage: run.sh PROGRAM VENV PYTORCH PICTURES FOLDER [STUDY...]" >&2; exit 2; }
root=$PWD; program=$root/$1; venv=$root/$2; pytorch=$3; pictures=$root/$4; folder=$5
shift 5
[ $# -gt 0 ] || set -- coco-078 coco-064 cc3m-085 cc3m-066
mkdir -p "$folder/models"
cd "$folder"
ln -sfn "$root/input" input # so that the decks run as they are
ln -sfn "$venv/sentence_encoder" models/all-mpnet-base-v2 # a smaller one in its place
model=models/stable-diffusion-2-1
[ -f $model/model_index.json ] || "$pytorch" "$root/test/reference/full_pipeline.py" $model "$venv/clip_tokenizer/sd2"
"$venv/bin/python" "$root/test/rehearsal/make_sources.py" "$pictures" .

say() { echo "rehearsal: $*"; }
run() { # run NAME ARGUMENT...: output in a file, of which the last lines are shown if it fails
    name=$1; shift
    began=$(date +%s)
    "$program" "$@" > "$name.log" 2>&1 || { tail -n 20 "$name.log"; say "$name failed: $folder/$name.log"; exit 1; }
    say "$name: $(($(date +%s) - began)) s"
    grep -E 'planned memory|time: about|disk needed' "$name.log" | sed 's/^aptp:/   /' || true
}
check_and_run() {
    step=$1; shift
    run "$step-check" "$@" --check
    run "$step" "$@"
}

[ -f build/bench/bench.h5 ] || run bench input/sd21/bench.cfg --set bench.repeats=1 # by which --check tells times
[ -f build/sd21/teacher.h5 ] || check_and_run import input/sd21/import.cfg
for data in coco cc3m; do
    case " $* " in *" $data-"*) ;; *) continue ;; esac
    images=; [ $data = cc3m ] || images="--set data.validation_images=4"
    [ -f build/$data/data.h5 ] || check_and_run "prepare-$data" "input/sd21/prepare-$data.cfg" --set data.text_batch=4 $images
done
for study; do
    decks=input/sd21/$study
    rm -rf "build/$study"
    check_and_run "$study-prune" "$decks/prune.cfg" --set prune.warmup_steps=1 --set prune.steps=2 --set prune.batch=4 --set prune.micro_batch=4 \
        --set router.experts=4
    run "$study-assign" "$decks/assign.cfg"
    # Three steps prune nothing: the expert that is trained and paints is one of uniform width at the study's budget.
    rm "build/$study/router.h5" "build/$study/assignment.h5"
    run "$study-prune-uniform" "$decks/prune.cfg" --set prune.method=uniform
    run "$study-assign-uniform" "$decks/assign.cfg"
    check_and_run "$study-finetune" "$decks/finetune.cfg" --set finetune.steps=2 --set finetune.batch=2 --set finetune.micro_batch=1 \
        --set finetune.recompute=true
    check_and_run "$study-sample" "$decks/sample.cfg" --set sample.limit=1 --set sample.steps=4 --set sample.height=64 --set sample.width=64
    run "$study-evaluate" "$decks/evaluate.cfg" --set evaluate.pictures=false --set evaluate.timing_batch=0 \
        --set 'evaluate.timesteps=[500]' --set evaluate.batch=2
    rm -f "build/$study"/expert_*.h5 "build/$study"/*.checkpoint.h5
done
say "done"
