#!/bin/sh
# Prints compiler, libraries and versions. Usage: info.sh CC PKG_CONFIG PKG CFLAGS COMMIT NVCC
echo "commit     $5"
echo "compiler   $($1 --version | head -n 1)"
echo "flags      $4"
for name in $3; do
    echo "library    $name $($2 --modversion "$name" 2>/dev/null || echo MISSING)"
done
version=$(printf '#include <dnnl_version.h>\nDNNL_VERSION_MAJOR.DNNL_VERSION_MINOR.DNNL_VERSION_PATCH\n' |
    $1 -E -P - 2>/dev/null | tail -n 1 | tr -d ' ')
echo "library    oneDNN ${version:-MISSING}"
echo "MPI        $(mpirun --version 2>/dev/null | head -n 1 || echo MISSING)"
if [ -x "$6" ]; then echo "nvcc       $($6 --version | sed -n 's/.*release //p')"; else echo "nvcc       none"; fi
