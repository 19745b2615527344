#!/bin/sh
# Makes a small Debian with the stock Kamailio in a folder, to install the module's package into. As root; from the
# mirror that this machine's Kamailio came from.
# Usage: scripts/debian-root.sh RELEASE FOLDER
set -eu
release=$1
folder=$2
[ -e "$folder/.done" ] && exit 0
# "500 http://mirror/debian bookworm/main amd64 Packages"
mirror=$(apt-cache policy kamailio | awk '$5 == "Packages" { print $2; exit }')
[ -n "$mirror" ] || { echo "apt knows no mirror for kamailio; run apt-get update" >&2; exit 1; }
echo "making a Debian $release with kamailio in $folder"
rm -rf "$folder"
mkdir -p "$folder"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! debootstrap --variant=minbase --include=kamailio "$release" "$folder" "$mirror" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "debootstrap could not make it; the lines above are its own" >&2
    exit 1
fi
touch "$folder/.done"
