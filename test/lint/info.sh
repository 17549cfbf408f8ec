#!/bin/sh
# Prints compiler, libraries and versions. Usage: info.sh CC PKG_CONFIG PKG CFLAGS COMMIT NVCC
cc=$1
echo "commit     $5"
echo "compiler   $($1 --version | head -n 1)"
echo "flags      $4"
for name in $3; do
    echo "library    $name $($2 --modversion "$name" 2>/dev/null || echo MISSING)"
done
header() { printf '#include <%s>\n%s\n' "$1" "$2" | $cc -E -P - 2>/dev/null | tail -n 1 | tr -d ' '; }
dnnl=$(header dnnl_version.h DNNL_VERSION_MAJOR.DNNL_VERSION_MINOR.DNNL_VERSION_PATCH)
echo "library    oneDNN ${dnnl:-MISSING}"
csv=$(header csv.h CSV_MAJOR.CSV_MINOR.CSV_RELEASE)
echo "library    libcsv ${csv:-MISSING}"
for name in Random123/philox.h cmocka.h; do
    if printf '#include <stdarg.h>\n#include <stddef.h>\n#include <setjmp.h>\n#include <stdint.h>\n#include <%s>\n' $name | $cc -E - > /dev/null 2>&1
    then echo "header     $name"; else echo "header     $name MISSING"; fi
done
mpi=$(mpirun --version 2>/dev/null | head -n 1)
echo "MPI        ${mpi:-MISSING}"
if [ -x "$6" ]; then echo "nvcc       $($6 --version | sed -n 's/.*release //p')"; else echo "nvcc       none"; fi
