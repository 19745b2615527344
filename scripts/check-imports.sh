#!/bin/sh
# The last gate of the build: whatever the module wants of its host must be in the binary or in a library of the
# system that it will run on, in the version that it wants. bindgen also declares what the host's headers only pretend
# to have, and a module that was linked on a newer system may want a newer C library.
# Usage: scripts/check-imports.sh MODULE BINARY [ROOT OF ITS SYSTEM]
set -eu
module=$1
binary=$2
root=${3:-}
have=$(mktemp)
want=$(mktemp)
trap 'rm -f "$have" "$want"' EXIT
# The last word of a line; "@@" marks the version of a symbol that its library prefers.
names() { awk 'NF { sub(/@@/, "@", $NF); print $NF }' | sort -u; }
if [ -n "$root" ]; then
    libraries=$(objdump -p "$module" | awk '$1 == "NEEDED" { print $2 }' | while read -r name; do find "$root" -name "$name" | head -n 1; done)
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
    echo "$module wants what is neither in $binary nor in a library of its system:" $missing >&2
    echo "it would not load; the sources are not those of this binary, a header of include/host names a macro, or the" >&2
    echo "C library of this machine is newer than that of the system it is for" >&2
    exit 1
fi
