#!/bin/sh
# The last check of the build: all symbols that the module needs must be in the binary of the host or in a library of the
# target system, in the needed version. bindgen also declares functions that exist only in the headers, and a module that
# was linked on a newer system may need a newer C library.
# Usage: scripts/check-imports.sh MODULE BINARY [ROOT OF ITS SYSTEM]
set -eu
module=$1
binary=$2
root=${3:-}
have=$(mktemp)
want=$(mktemp)
trap 'rm -f "$have" "$want"' EXIT
# The last field of a line; "@@" marks the default version of a symbol.
names() { awk 'NF { sub(/@@/, "@", $NF); print $NF }' | sort -u; }
if [ -n "$root" ]; then
    libraries=$(objdump -p "$module" | awk '$1 == "NEEDED" { print $2 }' |
        while read -r name; do find "$root" -name "$name" | head -n 1; done)
else
    libraries=$(ldd "$module" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }')
fi
{
    nm -D --defined-only "$binary"
    for library in $libraries; do nm -D --defined-only "$library"; done
} | names >"$have"
nm -D --undefined-only "$module" | grep -v ' w ' | names >"$want"
missing=$(comm -23 "$want" "$have")
if [ -n "$missing" ]; then
    echo "$module needs symbols that are neither in $binary nor in a library of its system:" $missing >&2
    echo "it would not load: the sources do not match the binary, a header of include/host declares a macro, or the" >&2
    echo "C library of this machine is newer than that of the target system" >&2
    exit 1
fi
