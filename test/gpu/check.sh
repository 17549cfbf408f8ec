#!/bin/sh
# The suites on a real GPU, and compute-sanitizer on the op suite. Usage: check.sh BUILD PROGRAM CUDA_HOME TEST...
build=$1; program=$2; cuda=$3; shift 3
"./$program" --version | grep -q '^backends:.*cuda' || { echo "check-gpu: $program has no CUDA backend" >&2; exit 2; }
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || { echo "check-gpu: this machine has no GPU" >&2; exit 2; }
"./$program" --version
status=0
APTP_PARITY=all sh test/run.sh "$build" "$program" "$@" || status=1
sanitizer=$(command -v compute-sanitizer || ls "$cuda/bin/compute-sanitizer" 2>/dev/null)
if [ -z "$sanitizer" ]; then
    echo "check-gpu: no compute-sanitizer: memcheck and racecheck were not run"
    exit $status
fi
for tool in memcheck racecheck; do
    if "$sanitizer" --tool $tool --error-exitcode 9 "$build/test/tensor/test_ops" > "$build/$tool.log" 2>&1; then
        echo "  ok      $tool of the op suite"
    else
        status=1; echo "  FAILED  $tool of the op suite:"; grep '^=========' "$build/$tool.log" | head -20
    fi
done
exit $status
