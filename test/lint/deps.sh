#!/bin/sh
# Installs the Debian packages named as arguments that are missing, as root or with sudo.
missing=
for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if ! command -v apt-get >/dev/null; then
    echo "aptp: not a Debian system; install the equivalents of:$missing" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then run=; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then run=sudo; else
    echo "aptp: packages are missing and this is neither root nor sudo; run:" >&2
    echo "  apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
echo "  deps   $missing"
export DEBIAN_FRONTEND=noninteractive
$run apt-get update -qq && $run apt-get install -y -qq --no-install-recommends $missing >/dev/null
