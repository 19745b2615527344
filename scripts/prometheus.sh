#!/bin/sh
# Unpacks Debian's Prometheus into a folder, for the tests: it is not installed, because the package would start a
# server that stays. apt fetches and verifies it. Prints what it does; does nothing if it is done.
# Usage: scripts/prometheus.sh FOLDER   (programs: FOLDER/prometheus, FOLDER/promtool)
set -eu
folder=$1
[ -x "$folder/prometheus" ] && [ -x "$folder/promtool" ] && exit 0
echo 'fetching Prometheus from Debian'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fetch() { (cd "$work" && apt-get -o "APT::Sandbox::User=$(id -un)" -qq download prometheus) >"$work/log" 2>&1; }
root=
[ "$(id -u)" -eq 0 ] || root=sudo
if ! fetch && ! { $root apt-get update -qq >"$work/log" 2>&1 && fetch; }; then
    cat "$work/log" >&2
    echo "Prometheus could not be fetched; the lines above are apt's own" >&2
    exit 1
fi
dpkg-deb -x "$work"/prometheus_*.deb "$work/unpacked"
mkdir -p "$folder"
mv "$work/unpacked/usr/bin/prometheus" "$work/unpacked/usr/bin/promtool" "$folder/"
