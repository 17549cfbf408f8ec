#!/bin/sh
# Decks and command lines that are refused: message, exit code 2, and nothing written. Usage: test_bad_decks.sh APTP
program=$(realpath "$1"); input=$(realpath input)
folder=$(mktemp -d) || exit 1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
trap 'rm -r "$folder"' EXIT
cd "$folder" || exit 1
cases=0; failed=0

# expect NAME MESSAGE ARGUMENTS...: aptp ARGUMENTS must end with 2 and say MESSAGE, once, and write nothing
expect() {
    name=$1; message=$2; shift 2
    cases=$((cases + 1))
    before=$(find . | sort)
    "$@" > "$folder.out" 2>&1; code=$?
    after=$(find . | sort)
    count=$(grep -cF -- "$message" "$folder.out")
    if [ $code -ne 2 ] || [ "$count" -ne 1 ] || [ "$before" != "$after" ]; then
        failed=$((failed + 1))
        echo "$name: exit code $code (expected 2), message found $count times (expected once): $message"
        [ "$before" = "$after" ] || echo "written: $after"
        cat "$folder.out"
    fi
    rm -f "$folder.out"
}
# deck NAME MESSAGE: a deck from standard input
deck() {
    cat > "$1.cfg"
    expect "$1" "$2" "$program" "$1.cfg"
}

deck unknown_key "unknown_key.cfg:2: unknown key prune.step; did you mean prune.steps?" <<EOF
phase = "prune";
prune: { step = 5; };
EOF
deck other_phase "other_phase.cfg:2: key bench.repeats is not one of phase prune; it belongs to bench" <<EOF
phase = "prune";
bench: { repeats = 5; };
EOF
deck unknown_phase 'unknown_phase.cfg:1: phase is "prone", allowed: prepare, import, pretrain, prune' <<EOF
phase = "prone";
EOF
deck no_phase "no_phase.cfg:1: the key phase is missing, one of: prepare, import, pretrain" <<EOF
run: { seed = 5; };
EOF
deck empty "the deck is empty: the key phase is missing" <<EOF
# nothing
EOF
deck string_for_integer 'string_for_integer.cfg:1: prune.steps is "5", must be an integer' <<EOF
phase = "prune"; prune: { steps = "5"; };
EOF
deck real_for_integer "real_for_integer.cfg:1: prune.steps is 5.0, must be an integer" <<EOF
phase = "prune"; prune: { steps = 5.0; };
EOF
deck out_of_range "out_of_range.cfg:1: prune.budget is 1.2, allowed: (0, 1]" <<EOF
phase = "prune"; prune: { budget = 1.2; };
EOF
deck choice 'choice.cfg:1: run.precision is "fp16", allowed: fp32, bf16, auto' <<EOF
phase = "prune"; run: { precision = "fp16"; };
EOF
deck no_gpu 'run.backend is "cuda", ' <<EOF
phase = "prune"; run: { backend = "cuda"; };
EOF
deck tf32_of_a_cpu 'run.tf32 is true, which GPUs alone have (run.backend)' <<EOF
phase = "prune"; run: { backend = "cpu"; tf32 = true; };
EOF
deck latent_vae 'latent_vae.cfg:1: data.latent = "vae" needs a published model' <<EOF
phase = "prepare"; data: { source = "a.csv"; sentence_encoder = "b"; latent = "vae"; };
EOF
deck missing_key "missing_key.cfg:1: the key verify.reference is missing" <<EOF
phase = "verify";
EOF
deck syntax "syntax.cfg:2: syntax error" <<EOF
phase = "prune";
prune: { steps = ; };
EOF
deck duplicate "duplicate.cfg:2: duplicate setting name" <<EOF
phase = "prune"; run: { seed = 1;
seed = 2; };
EOF
deck dotted "dotted.cfg:2: 'prune.': a deck writes a key of a section as prune: { key = value; };" <<EOF
phase = "prune";
prune.steps = 5;
EOF
deck too_large_32 "too_large_32.cfg:1: integer 4294967297 does not fit in 32 bits" <<EOF
phase = "prune"; prune: { steps = 4294967297; };
EOF
deck too_large_64 "too_large_64.cfg:1: integer 18446744073709551617 does not fit in 64 bits" <<EOF
phase = "prune"; prune: { steps = 18446744073709551617L; };
EOF
deck too_large_hex "too_large_hex.cfg:1: integer 0x100000001 does not fit in 32 bits" <<EOF
phase = "prune"; prune: { steps = 0x100000001; };
EOF
deck infinite "infinite.cfg:1: '1e999' is not a finite number" <<EOF
phase = "prune"; prune: { learning_rate = 1e999; };
EOF
echo 'phase = "prune";' > good.cfg
deck include "include.cfg:1: '@include': @include is not allowed" <<EOF
@include "good.cfg"
EOF
deck open_comment "open_comment.cfg:2: comment without an end" <<EOF
phase = "prune";
/* prune: { steps = 5; };
EOF
deck base_missing 'base_missing.cfg:1: base "none.cfg": No such file or directory' <<EOF
base = "none.cfg";
EOF
deck base_absolute 'base_absolute.cfg:1: base "/etc/passwd" must be relative to the deck' <<EOF
base = "/etc/passwd";
EOF
mkdir inner; echo 'base = "../good.cfg";' > inner/outside.cfg
expect base_outside 'inner/outside.cfg:1: base "../good.cfg" lies outside of the deck tree' "$program" inner/outside.cfg
deck base_cycle 'base_cycle.cfg:1: base "base_cycle.cfg" builds on this deck itself' <<EOF
base = "base_cycle.cfg";
EOF
printf 'base = "base_fault.cfg";\n' > base_user.cfg
printf 'phase = "prune";\nrun: { sead = 1; };\n' > base_fault.cfg
expect base_fault "base_fault.cfg:2: unknown key run.sead; did you mean run.seed?" "$program" base_user.cfg
deck rule "rule.cfg:2: prune.micro_batch is 48, must divide the batch of 1024" <<EOF
phase = "prune"; prune: {
micro_batch = 48; };
EOF
deck empty_list "empty_list.cfg:1: bench.resolutions is empty, must have at least one item" <<EOF
phase = "bench"; bench: { resolutions = []; };
EOF
printf 'phase = "prune"; run: { folder = "a\377"; };' > not_utf8.cfg
expect not_utf8 "not_utf8.cfg:1: byte 0xff is not UTF-8" "$program" not_utf8.cfg
printf 'phase = "prune";\000' > zero.cfg
expect zero_byte "zero.cfg: holds a zero byte, text is expected" "$program" zero.cfg
head -c 131073 /dev/zero | tr '\0' ' ' > large.cfg
expect large "large.cfg: more than the 131072 bytes allowed" "$program" large.cfg

expect no_deck "no deck is given" "$program"
expect missing_deck "none.cfg: cannot be opened: No such file or directory" "$program" none.cfg
expect two_decks "one deck is expected, good.cfg is too much" "$program" good.cfg good.cfg
expect option "unknown option --chek" "$program" good.cfg --chek
expect set_without_value "option --set needs a value" "$program" good.cfg --set
expect set_form "--set prune.steps: must be KEY=VALUE" "$program" good.cfg --set prune.steps
expect set_unknown "--set prune.stps=5: unknown key prune.stps; did you mean prune.steps?" \
    "$program" good.cfg --set prune.stps=5
expect set_type "--set prune.steps=many: prune.steps is \"many\", must be an integer" \
    "$program" good.cfg --set prune.steps=many
expect set_range "--set prune.steps=0: prune.steps is 0, allowed: [1, inf)" "$program" good.cfg --set prune.steps=0
expect set_large "--set prune.steps=99999999999: integer 99999999999 does not fit in 32 bits" \
    "$program" good.cfg --set prune.steps=99999999999
expect check_only "--set prune.steps=0: prune.steps is 0, allowed: [1, inf)" "$program" good.cfg --check --set prune.steps=0
expect help_topic "no help on prone" "$program" --help prone
expect ranks "unknown_key.cfg:2: unknown key prune.step; did you mean prune.steps?" \
    ${APTP_MPIRUN:-mpirun --bind-to none --oversubscribe} -np 2 "$program" unknown_key.cfg

# The decks that come with the program pass: what they say is a fault of the last value, set wrong on purpose.
for phase in prepare import pretrain prune assign bench verify; do
    expect "input/$phase.cfg" "--set run.seed=-1: run.seed is -1, allowed: [0, 9223372036854775807]" \
        "$program" "$input/$phase.cfg" --set run.seed=-1
done

# What is not refused
for topic in "" prepare pretrain prune assign bench verify keys files files-markdown; do
    "$program" --help $topic > "$folder.out" 2>&1 && [ -s "$folder.out" ] || { failed=$((failed + 1)); echo "--help $topic"; }
done
"$program" --version > "$folder.out" 2>&1 || { failed=$((failed + 1)); echo "--version"; }
for word in aptp commit compiler options MPI HDF5 oneDNN OpenBLAS; do
    grep -q "$word" "$folder.out" || { failed=$((failed + 1)); echo "--version does not name $word"; }
done
rm -f "$folder.out"
echo "$cases refused, $failed wrong"
[ $failed -eq 0 ]
