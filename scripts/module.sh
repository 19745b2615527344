#!/bin/sh
# Builds the module for the Kamailio that KAMAILIO_BIN, KAMAILIO_MODULES and KAMAILIO_SRC name, and prints its path.
# Called by "make module".
#
#   scripts/module.sh [ROOT]      ROOT: where the libraries of that Kamailio are, if not in this system
#
# The module for this machine's Kamailio becomes out/imcharge.so, any other out/VERSION/imcharge.so.
set -eu
cd "$(dirname "$0")/.."
echo 'building the module (the first time takes some minutes)'
# A separate build folder, because builds with different features would evict each other.
CARGO_TARGET_DIR=target/kamailio cargo build -q --release --lib --features kamailio
built=target/kamailio/release/libimcharge.so
scripts/check-imports.sh "$built" "$KAMAILIO_BIN" "$@"
module=out/imcharge.so
if [ "$KAMAILIO_BIN" != /usr/sbin/kamailio ]; then
    # The string that the loader compares: "kamailio 6.0.1 (x86_64/linux)".
    version=$(grep -ao 'kamailio [0-9][^ ]* ([^ ]*)' "$built" | head -n 1)
    module=out/$(echo "$version" | cut -d ' ' -f 2)/imcharge.so
    mkdir -p "$(dirname "$module")"
    echo "$module is for $version"
fi
# By renaming: writing into the file would crash a proxy that has loaded it.
cmp -s "$built" "$module" || { cp "$built" "$module.new" && mv "$module.new" "$module"; }
