#!/bin/sh
# Installs opensips-cli from PyPI for the tests of the OpenSIPS module. Prints what it does; does nothing the second time.
# Usage: scripts/opensips-cli.sh FOLDER
set -eu
folder=$1
[ ! -e "$folder/opensips-cli/done" ] || exit 0
echo 'installing opensips-cli'
mkdir -p "$folder"
python3 -m venv "$folder/opensips-cli"
# Without its dependencies on databases: the tests use only its module mi.
"$folder/opensips-cli/bin/pip" install -q --disable-pip-version-check --no-deps opensipscli==0.4.1 opensips==0.1.11
touch "$folder/opensips-cli/done"
