#!/bin/sh
# Tests the Debian package of a module: installs it into a small Debian, runs, upgrades, removes and purges it there.
# Usage: scripts/test-package.sh MODULE RELEASE VERSION
#   RELEASE, VERSION: the Debian release with the module's Kamailio, and the version of its package: bookworm 5.6.3-2
# Status 3: the mirror lacks that release.
set -eu
cd "$(dirname "$0")/.."
module=$1
# Needs root to mount and chroot.
root=env
[ "$(id -u)" -eq 0 ] || root='sudo -E'
IMCHARGE_DEBIAN_ROOT=$PWD/out/roots/$2
$root scripts/debian-root.sh "$2" "$3" "$IMCHARGE_DEBIAN_ROOT" || exit $?
IMCHARGE_PACKAGE=$PWD/$(scripts/deb.sh "$module" "$3" out/deb)
IMCHARGE_PACKAGE_LATER=$PWD/$(REVISION=1 scripts/deb.sh "$module" "$3" out/deb/later)
export IMCHARGE_DEBIAN_ROOT IMCHARGE_PACKAGE IMCHARGE_PACKAGE_LATER
CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$root" cargo test -q --test package -- --test-threads=1
