#!/bin/sh
# Unpacks the stock Kamailio of a release of Debian with every library it needs, down to the C library, and its sources.
# Nothing is installed: it runs beside the Kamailio of this machine. Prints nothing if the folder is complete.
#
#   scripts/kamailio-release.sh NAME FOLDER
#
# NAME: a release (trixie, sid), or the beginning of a version of Kamailio (6.0) that a release of today has.
# FOLDER/bin/kamailio, FOLDER/bin/kamcmd  run it
# FOLDER/root, FOLDER/modules             what Debian packed, the stock modules
# FOLDER/source/src                       the sources
# FOLDER/version, FOLDER/packed           6.0.1, and the version of Debian's package, 6.0.1-1
# Status 3: the mirror lacks it or parts of it; a line names them. 1: another error.
set -eu
. "$(dirname "$0")/mirror.sh"
name=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
packages='kamailio kamailio-lua-modules kamailio-ims-modules'
[ -e "$folder/complete" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    status=$1
    shift
    [ ! -s "$work/log" ] || grep '^E: ' "$work/log" | head -n 4 >&2 || true
    echo "$*"
    exit "$status"
}
from=$(mirror)
[ -n "$from" ] || fail 1 "apt knows no mirror for kamailio; run apt-get update"
case $name in
    [0-9]*) suites='oldstable stable testing unstable' of='' ;;
    *) suites=$name of=" of $name" ;;
esac
echo "looking on the mirror for Kamailio${of:- $name}"
for suite in $suites; do
    echo "deb ${from% *} $suite ${from#* }"
    echo "deb-src ${from% *} $suite ${from#* }"
done | private_state "$work"
private_apt "$work" apt-get update >"$work/log" 2>&1 || fail 3 "the mirror does not have the package lists of $name"
packed=$(private_apt "$work" apt-cache madison kamailio | awk -F ' *[|] *' -v name="$name" \
    '$3 ~ / Packages$/ && (name !~ /^[0-9]/ || index($2 ".", name ".") == 1 || index($2, name "-") == 1) { print $2; exit }')
[ -n "$packed" ] || fail 3 "no release on the mirror has Kamailio $name"
version=${packed%-*}
# Done once, even if the sources are fetched several times.
if [ "$(cat "$folder/packed" 2>/dev/null || true)" != "$packed" ]; then
    echo "unpacking Kamailio $version$of and its libraries"
    wanted=
    for package in $packages; do wanted="$wanted $package=$packed"; done
    private_apt "$work" apt-get install --download-only -y $wanted >"$work/log" 2>&1 ||
        fail 3 "the mirror no longer has the packages of Kamailio $version$of"
    rm -rf "$folder/root" "$folder/bin" "$folder/modules"
    mkdir -p "$folder/root" "$folder/bin"
    for archive in "$work"/cache/archives/*.deb; do dpkg-deb -x "$archive" "$folder/root"; done
    modules=$(ls -d "$folder"/root/usr/lib/*/kamailio/modules)
    ln -s "$modules" "$folder/modules"
    system=$(basename "$(dirname "$(dirname "$modules")")")
    loader=$(ls "$folder"/root/usr/lib64/ld-*.so.* "$folder"/root/lib64/ld-*.so.* 2>/dev/null | head -n 1)
    libraries="$folder/root/usr/lib/$system:$folder/root/lib/$system"
    for program in kamailio kamcmd; do
        {
            echo '#!/bin/sh'
            echo "exec '$loader' --library-path '$libraries' --argv0 $program '$folder/root/usr/sbin/$program' \"\$@\""
        } >"$folder/bin/$program"
        chmod 755 "$folder/bin/$program"
    done
    echo "$version" >"$folder/version"
    echo "$packed" >"$folder/packed"
fi
echo "fetching the sources of Kamailio $version"
unpack_source "$work" "$packed" "$folder/source" >>"$work/log" 2>&1 || {
    cat "$work/source.log" >>"$work/log"
    fail 3 "the mirror has Kamailio $version$of and no longer its sources: no module can be built for it"
}
touch "$folder/complete"
