#!/bin/sh
# Installs missing packages of Debian, as root or with sudo. Prints what it does, or nothing if none is missing.
# Usage: scripts/dependencies.sh PACKAGE...
set -eu
missing=
for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
root=
[ "$(id -u)" -eq 0 ] || root=sudo
echo "installing from Debian:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install="env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends"
if ! { $root apt-get update -qq && $root $install $missing; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "the packages could not be installed; the lines above are apt's own" >&2
    exit 1
fi
