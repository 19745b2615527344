#!/bin/sh
# Builds or installs the foreign peers of the tests: an extension for freeDiameter, a server and its dictionary for Erlang's
# diameter, python-diameter, and opensips-cli if OPENSIPS_BIN is set. Prints what it does; does nothing the second time.
# Usage: scripts/peers.sh FOLDER
set -eu
folder=$1
sources=$(dirname "$0")/../tests/peers
mkdir -p "$folder"
if [ ! "$folder/freediameter_ocs.fdx" -nt "$sources/freediameter_ocs.c" ]; then
    echo 'building the extension of freeDiameter'
    cc -std=gnu99 -O1 -fPIC -shared -Wall -o "$folder/freediameter_ocs.fdx" "$sources/freediameter_ocs.c"
fi
if [ ! "$folder/erlang_ocs.beam" -nt "$sources/erlang_ocs.erl" ] ||
    [ ! "$folder/erlang_ocs.beam" -nt "$sources/credit_control.dia" ]; then
    echo "building the server of Erlang's diameter"
    diameterc -o "$folder" "$sources/credit_control.dia"
    erlc -o "$folder" "$folder/credit_control.erl"
    erlc -Wall -Werror -o "$folder" "$sources/erlang_ocs.erl"
fi
if [ ! -e "$folder/venv/done" ]; then
    echo 'installing python-diameter'
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install -q --disable-pip-version-check python-diameter==0.9.0
    touch "$folder/venv/done"
fi
[ -z "${OPENSIPS_BIN:-}" ] || "$(dirname "$0")/opensips-cli.sh" "$folder"
