#!/bin/sh
# Unpacks the sources of the installed Kamailio, because no -dev package has its headers. apt fetches and verifies them from
# the mirror of the binary.
# Usage: scripts/kamailio-source.sh FOLDER   (sources: FOLDER/src)
set -eu
. "$(dirname "$0")/mirror.sh"
folder=$1
version=$(dpkg-query -W -f '${Version}' kamailio)
stamp="$folder/.version"
[ "$(cat "$stamp" 2>/dev/null || true)" = "$version" ] && exit 0
echo "fetching the sources of kamailio $version"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# "500 http://mirror/debian bookworm/main amd64 Packages" -> "deb-src http://mirror/debian bookworm main"
apt-cache policy kamailio |
    awk '$1 ~ /^[0-9]+$/ && $5 == "Packages" { split($3, part, "/"); print "deb-src", $2, part[1], part[2] }' |
    sort -u | private_state "$work"
[ -s "$work/sources.list" ] || { echo "apt knows no mirror for kamailio; run apt-get update" >&2; exit 1; }
if ! { private_apt "$work" apt-get update && unpack_source "$work" "$version" "$work/unpacked"; } >"$work/log" 2>&1; then
    cat "$work/log" "$work/source.log" >&2
    echo "the sources of kamailio $version could not be fetched and unpacked; the lines above say why. If the mirror no" >&2
    echo "longer has them: upgrade kamailio, or set KAMAILIO_SRC" >&2
    exit 1
fi
rm -rf "$folder"
mkdir -p "$(dirname "$folder")"
mv "$work/unpacked" "$folder"
echo "$version" >"$stamp"
