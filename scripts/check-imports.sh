#!/bin/sh
# The last gate of the build: whatever the module wants of its host must be in the binary or in a library of the
# system. bindgen also declares what the host's headers only pretend to have.
# Usage: scripts/check-imports.sh MODULE BINARY
set -eu
module=$1
binary=$2
have=$(mktemp)
want=$(mktemp)
trap 'rm -f "$have" "$want"' EXIT
names() { awk 'NF { sub(/@.*/, "", $NF); print $NF }' | sort -u; }
libraries=$(ldd "$module" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }')
{
    nm -D --defined-only "$binary"
    for library in $libraries; do nm -D --defined-only "$library"; done
} | names >"$have"
nm -D --undefined-only "$module" | grep -v ' w ' | names >"$want"
missing=$(comm -23 "$want" "$have")
if [ -n "$missing" ]; then
    echo "$module wants what is neither in $binary nor in a library:" $missing >&2
    echo "it would not load; the sources are not those of this binary, or a header of include/host names a macro" >&2
    exit 1
fi
