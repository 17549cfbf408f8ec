#!/bin/sh
# Formatting, the one-way order of rooms, libraries that may appear in one room only, mutants that apply.
# Usage: lint.sh CLANG_FORMAT; exits 1 with every finding named.
status=0
say() { echo "lint: $1" >&2; status=1; }

"$1" --style=file:src/.clang-format --dry-run -Werror $(find src test cuda -name '*.[ch]' -o -name '*.cu' -o -name '*.cpp' 2>/dev/null) || status=1

# A room includes only from rooms to its left.
rooms="base comm io tensor nn models router diffusion train metrics phases"
allowed=
for room in $rooms; do
    allowed="$allowed $room"
    [ -d "src/$room" ] || continue
    for included in $(grep -rhoE '^#include "[a-z0-9_]+/' "src/$room" | cut -d'"' -f2 | tr -d / | sort -u); do
        case " $allowed " in *" $included "*) ;; *)
            say "src/$room includes from $included: $(grep -rlE "^#include \"$included/" "src/$room" | tr '\n' ' ')" ;;
        esac
    done
done

only() { # only HEADER PATHS...: HEADER may be included below these paths alone
    header=$1; shift
    for file in $(grep -rlE "^#include [<\"]$header" src); do
        for path in "$@"; do case "$file" in "$path"*) continue 2 ;; esac; done
        say "$file includes $header, which belongs to $*"
    done
}
only mpi.h src/comm/
only hdf5.h src/io/
only libconfig.h src/io/
only jansson.h src/io/
only png.h src/io/
only turbojpeg.h src/io/
only archive.h src/io/
only csv.h src/io/
only dnnl.h src/tensor/cpu/
only cblas.h src/tensor/cpu/ src/router/ src/metrics/
only lapacke.h src/router/ src/metrics/
only cuda_runtime.h cuda/
only cublasLt.h cuda/
only cudnn.h cuda/

for patch in test/mutants/*.patch; do
    git apply --check "$patch" 2>/dev/null || say "$patch does not apply any more (make mutants)"
done

bad=$(grep -rnE '#if.*(APTP_CUDA|__CUDA|APTP_GPU)' src | grep -v '^src/tensor/')
[ -z "$bad" ] || say "backend test outside src/tensor and cuda: $bad"
exit $status
