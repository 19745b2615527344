#!/bin/sh
# Creates a small Debian with the stock Kamailio and its Lua modules in a folder, in which the package is tested. Needs root and
# uses the mirror of this machine. Prints nothing if the folder is complete.
# Usage: scripts/debian-root.sh RELEASE VERSION FOLDER   (VERSION: of Debian's package of Kamailio, like 5.6.3-2)
# Status 3: the mirror does not have it.
set -eu
. "$(dirname "$0")/mirror.sh"
release=$1
version=$2
folder=$3
packages=kamailio,kamailio-lua-modules
[ "$(cat "$folder/.kamailio" 2>/dev/null || true)" = "$version $packages" ] && exit 0
from=$(mirror)
[ -n "$from" ] || { echo "apt knows no mirror for kamailio; run apt-get update" >&2; exit 1; }
echo "making a Debian $release with kamailio $version in $folder"
rm -rf "$folder"
mkdir -p "$folder"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! debootstrap --variant=minbase --include="$packages" "$release" "$folder" "${from% *}" >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    echo "debootstrap could not make it; the lines above are its own"
    exit 3
fi
found=$(chroot "$folder" dpkg-query -W -f '${Version}' kamailio)
[ "$found" = "$version" ] || { echo "the mirror has kamailio $found of $release, the module is for $version"; exit 3; }
echo "$version $packages" >"$folder/.kamailio"
