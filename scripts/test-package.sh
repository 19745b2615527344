#!/bin/sh
# Tests the Debian package of a module: installs it into a small Debian, runs, upgrades, removes and purges it there.
# Usage: scripts/test-package.sh MODULE RELEASE   (RELEASE: the Debian that has the Kamailio of the module, like bookworm)
set -eu
module=$1
release=$2
cd "$(dirname "$0")/.."
# It mounts and changes root.
root=env
[ "$(id -u)" -eq 0 ] || root='sudo -E'
IMCHARGE_DEBIAN_ROOT=$PWD/out/roots/$release
$root scripts/debian-root.sh "$release" "$IMCHARGE_DEBIAN_ROOT"
kamailio=$($root chroot "$IMCHARGE_DEBIAN_ROOT" dpkg-query -W -f '${Version}' kamailio)
IMCHARGE_PACKAGE=$PWD/$(scripts/deb.sh "$module" "$kamailio" out/deb)
IMCHARGE_PACKAGE_LATER=$PWD/$(REVISION=1 scripts/deb.sh "$module" "$kamailio" out/deb/later)
export IMCHARGE_DEBIAN_ROOT IMCHARGE_PACKAGE IMCHARGE_PACKAGE_LATER
CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$root" cargo test -q --test package -- --test-threads=1
