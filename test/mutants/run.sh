#!/bin/sh
# Breaks the code on purpose: each patch here goes into a copy of the tree, where the test that it names must then fail.
# Usage: run.sh BUILD PROGRAM [NAME...]; without names, every patch. Environment: MPIRUN.
#
# The first lines of a patch say which property it breaks and who must notice, "# property: TEXT" and "# test: NAME", with NAME as
# test/run.sh knows it. That test must pass before anything is broken, else its failing would prove nothing.
build=$1; program=$2; shift 2
root=$PWD; patches=$root/test/mutants; copy=build/mutants
[ $# -gt 0 ] || set -- $(cd "$patches" && ls *.patch)

# The copy is built once and then piece by piece, so only files that differ are copied: the others keep their time. This also
# heals a copy that was left with a patch in it.
files=$(git ls-files --cached --others --exclude-standard) || exit 1
mkdir -p "$copy/$build"
ln -sfn ../../venv $copy/build/venv
for file in $files; do
    [ ! -f "$file" ] || cmp -s "$file" "$copy/$file" && continue
    mkdir -p "$(dirname "$copy/$file")" && cp "$file" "$copy/$file" || exit 1
done
for file in $(cd $copy && find src test -name '*.[ch]'); do [ -f "$file" ] || rm "$copy/$file"; done
cd $copy || exit 1

# run_test NAME LOG: the one test, of the program as it stands now; status 2 if that does not compile
run_test() {
    case "$1" in *.sh | *.py) target= ;; *) target=$build/test/$1 ;; esac
    make -s -j"$(nproc)" "$program" $target > "$2" 2>&1 || return 2
    timeout 600 sh test/run.sh "$build" "$program" "$1" >> "$2" 2>&1 || return 1
}

# apply PATCH [-R]: all of it or nothing
apply() { git -C "$root" apply --directory="$copy" $2 "$1"; }
applied=
reverse() {
    [ -z "$applied" ] || apply "$applied" -R
    applied=
}
trap reverse EXIT
trap 'exit 1' HUP INT TERM

sound=' ' # tests that pass on the code as it is
caught=0
# try NAME: applies, tests and reverses one patch; true if it was caught. Sets verdict.
try() {
    patch=$patches/$1.patch; log=$build/$1.log
    property=$(sed -n 's/^# property: //p' "$patch"); test=$(sed -n 's/^# test: //p' "$patch")
    [ -n "$property" ] && [ -n "$test" ] || { verdict="ERROR: has no lines '# property:' and '# test:'"; return 1; }
    case "$sound" in *" $test "*) ;; *)
        run_test "$test" "$log" || { verdict="ERROR: $test fails on the code as it is, see $copy/$log"; return 1; }
        sound="$sound$test " ;;
    esac
    apply "$patch" > "$log" 2>&1 || { verdict="ERROR: does not apply, see $copy/$log"; return 1; }
    applied=$patch
    run_test "$test" "$log"; status=$?
    reverse
    case $status in
    0) verdict="$property: NOT caught, $test passes"; return 1 ;;
    1) verdict="$property: caught by $test" ;;
    2) verdict="ERROR: does not compile, see $copy/$log"; return 1 ;;
    esac
}
for name in "$@"; do
    name=${name%.patch}
    if try "$name"; then caught=$((caught + 1)); mark=ok; else mark=FAILED; fi
    printf '  %-8s%s: %s\n' $mark "$name" "$verdict"
done
echo "$caught of $# mutants caught"
[ $caught -eq $# ]
