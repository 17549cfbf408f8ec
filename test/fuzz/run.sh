#!/bin/sh
# Runs the harnesses of hostile input under libFuzzer, each for a time. Usage: run.sh BUILD MINUTES [NAME...]
# What is found is kept in BUILD/corpus/NAME and gone on from; an input that fails, in BUILD/crashes/NAME-*.
# coverage: edges of the program's control flow that the whole corpus reaches.
# With KEEP=1, of the corpus as few inputs as reach all its edges are added to test/fuzz/corpus/NAME.
build=$1; seconds=$(awk "BEGIN { print int(60 * $2 + 1) }"); shift 2
root=$PWD; crashes=$root/$build/crashes
[ $# -gt 0 ] || set -- $(ls test/fuzz/fuzz_*.c | sed 's,.*/fuzz_\(.*\)\.c,\1,')
export OMP_NUM_THREADS=1 TMPDIR=$(mktemp -d /dev/shm/aptp-fuzz-XXXXXX)
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 1' HUP INT TERM
export LSAN_OPTIONS="suppressions=$root/test/support/lsan.supp:print_suppressions=0" UBSAN_OPTIONS=print_stacktrace=1
status=0
mkdir -p "$crashes"
for name in "$@"; do
    source=test/fuzz/fuzz_$name.c; seeds=$root/test/fuzz/corpus/$name; corpus=$root/$build/corpus/$name; log=$build/$name.log
    [ -f "$source" ] || { echo "fuzz: no $source" >&2; exit 2; }
    mkdir -p "$corpus" "$seeds"
    words=$(sed -n 's,^// words: ,,p' "$source")
    [ -z "$words" ] || grep -ohE '"[][A-Za-z0-9_.@#/-]{2,40}"' $words | sort -u > "$TMPDIR/words"
    options="-max_len=4096 -rss_limit_mb=2048 -malloc_limit_mb=1024 -timeout=30 $(sed -n 's,^// libFuzzer: ,,p' "$source")"
    "$build/test/fuzz/fuzz_$name" $options ${words:+-dict=$TMPDIR/words} -max_total_time=$seconds -print_final_stats=1 \
        -artifact_prefix="$crashes/$name-" "$corpus" "$seeds" > "$log" 2>&1
    code=$?
    executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    found=$(ls "$crashes" | grep -c "^$name-")
    echo "  fuzz    $name: ${executed:-?} executions, coverage $(grep -aoE 'cov: [0-9]+' "$log" | tail -1 | tr -dc 0-9) edges," \
        "peak memory $(sed -n 's/^stat::peak_rss_mb: *//p' "$log") MiB, $found crashes"
    [ $code -eq 0 ] && [ "$found" -eq 0 ] || { status=1; echo "fuzz: $name failed, see $log and $crashes" >&2; tail -40 "$log" >&2; }
    [ -z "$KEEP" ] || { "$build/test/fuzz/fuzz_$name" -set_cover_merge=1 -use_counters=0 $options "$seeds" "$corpus" >> "$log" 2>&1 || status=1; }
done
exit $status
