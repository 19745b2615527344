#!/bin/sh
# Builds the module for the Kamailio that KAMAILIO_BIN, KAMAILIO_MODULES and KAMAILIO_SRC name, and says where it is.
# Called by "make module".
#
#   scripts/module.sh [ROOT]      ROOT: where the libraries of that Kamailio are, if not in this system
#
# The one of this machine goes to out/imcharge.so, any other to out/VERSION/imcharge.so.
set -eu
cd "$(dirname "$0")/.."
echo 'building the module (the first time takes some minutes)'
# The module has a build folder of its own: a feature more would build everything twice in turns.
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
cp -u "$built" "$module"
