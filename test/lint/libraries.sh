#!/bin/sh
# Stops with the names of the libraries that are missing. Usage: libraries.sh PKG_CONFIG_NAME...
missing=
for name in "$@"; do
    "${PKG_CONFIG:-pkg-config}" --exists "$name" 2>/dev/null || missing="$missing $name"
done
probe() { # probe NAME HEADER LINK_FLAGS
    printf '#include <%s>\nint main(void) { return 0; }\n' "$2" |
        $CC -x c -o /dev/null - $3 2>/dev/null || missing="$missing $1"
}
probe oneDNN dnnl.h "$LIB_DNNL"
probe libcsv csv.h "$LIB_CSV"
probe Random123 Random123/philox.h ""
if [ -n "$missing" ]; then
    echo "aptp: libraries not found:$missing" >&2
    echo "aptp: 'make deps' installs them on Debian; elsewhere set their places in Makefile.inc" >&2
    exit 1
fi
