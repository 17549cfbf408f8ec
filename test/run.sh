#!/bin/sh
# Runs every test program of a build and prints a closing line. Usage: run.sh BUILD PROGRAM [TEST...]
# With TESTs, those alone: router/test_gumbel, fuzz/fuzz_deck, test/phases/test_ranks.py, ...
# Programs named test_*_ranks run under mpirun on 1, 2 and 4 ranks; test/*/test_*.sh and .py get PROGRAM as argument.
build=$1; program=$2; shift 2
only=" $* "
cores=$(nproc)
passed=0; failed=0; names=
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# Of a sanitized build alone: whole stacks, so that what Open MPI leaves behind can be told from our own leaks.
export LSAN_OPTIONS="suppressions=$PWD/test/support/lsan.supp:print_suppressions=0" ASAN_OPTIONS=fast_unwind_on_malloc=0
export APTP_PROGRAM=$program APTP_MPIRUN="${MPIRUN:-mpirun} --bind-to none --oversubscribe"
log=$build/test.log; : > "$log"
run() { # run NAME COMMAND...
    title=$1; shift
    if "$@" > "$build/one.log" 2>&1; then
        passed=$((passed + 1)); echo "  ok      $title"
    else
        failed=$((failed + 1)); names="$names [$title]"; echo "  FAILED  $title"; cat "$build/one.log"
    fi
    { echo "== $title"; cat "$build/one.log"; } >> "$log"
}
wanted() { [ "$only" = "  " ] || case "$only" in *" $1 "*) ;; *) false ;; esac; }
# What looks at the emulator itself, or needs its GPUs, is run in its build alone.
case "$build" in *emulator*) emulator=test/emulator ;; *) emulator=test/none ;; esac
for source in $(find test -name 'test_*.c' -o -path "$emulator/test_*.cpp" | sort); do
    name=${source#test/}; name=${name%.c*}
    wanted "$name" || continue
    case "$name" in
    *_ranks)
        for ranks in 1 2 4; do
            threads=$((cores / ranks)); [ $threads -ge 1 ] || threads=1
            run "$name on $ranks ranks" env OMP_NUM_THREADS=$threads $APTP_MPIRUN -np $ranks "$build/test/$name"
        done ;;
    *) run "$name" "$build/test/$name" ;;
    esac
done
for source in test/fuzz/fuzz_*.c; do # of hostile input: what is kept of it is replayed
    name=${source#test/}; name=${name%.c}
    wanted "$name" && run "$name" "$build/test/$name" "$PWD/test/fuzz/corpus/${name#fuzz/fuzz_}"
done
for script in $(find test -name 'test_*.sh' -o -name 'test_*.py' | sort); do
    case "$script" in test/emulator/*) [ "$emulator" = test/emulator ] || continue ;; esac
    wanted "$script" || continue
    case "$script" in
    *.sh) run "$script" sh "$script" "$program" ;;
    *.py) run "$script" build/venv/bin/python "$script" "$program" ;;
    esac
done
[ -z "$names" ] || echo "failed:$names (all output: $log)"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
