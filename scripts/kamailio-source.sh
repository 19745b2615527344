#!/bin/sh
# Unpacks the sources of exactly the Kamailio that is installed: no -dev package has its headers. apt fetches and
# verifies them from the mirror that the binary came from.
# Usage: scripts/kamailio-source.sh FOLDER   (sources: FOLDER/src)
set -eu
folder=$1
version=$(dpkg-query -W -f '${Version}' kamailio)
stamp="$folder/.version"
[ "$(cat "$stamp" 2>/dev/null || true)" = "$version" ] && exit 0
echo "fetching the sources of kamailio $version"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
# "500 http://mirror/debian bookworm/main amd64 Packages" -> "deb-src http://mirror/debian bookworm main"
apt-cache policy kamailio | awk '$4 == "Packages" || $5 == "Packages" { split($3, part, "/"); print "deb-src", $2, part[1], part[2] }' |
    sort -u >"$work/sources.list"
[ -s "$work/sources.list" ] || { echo "apt knows no mirror for kamailio; run apt-get update" >&2; exit 1; }
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
options="-o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache -o APT::Sandbox::User=$(id -un) -qq"
cd "$work"
if ! { apt-get $options update && apt-get $options source --download-only "kamailio=$version"; } >"$work/log" 2>&1; then
    cat "$work/log" >&2
    echo "the mirror no longer has the sources of kamailio $version; upgrade kamailio, or set KAMAILIO_SRC" >&2
    exit 1
fi
mkdir unpacked
tar -xf kamailio_*.orig.tar.* -C unpacked --strip-components=1
cd - >/dev/null
rm -rf "$folder"
mkdir -p "$(dirname "$folder")"
mv "$work/unpacked" "$folder"
echo "$version" >"$stamp"
