#!/bin/sh
# Checks that the Rust compiler is new enough to build this crate; if not, says which one to install and how.
# Usage: scripts/rust.sh
set -eu
cd "$(dirname "$0")/.."
needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
    found='cargo and rustc are not in PATH'
# "rustc 1.95.0 (59807616e 2026-04-14)"
elif version=$(rustc --version 2>/dev/null | cut -d ' ' -f 2) && [ -n "$version" ]; then
    [ "$(printf '%s\n' "$needed" "$version" | sort -V | head -n 1)" != "$needed" ] || exit 0
    found="$(command -v rustc) is version $version"
else
    found="$(command -v rustc) does not work: run 'rustc --version'"
fi
cat >&2 <<END
Rust $needed or newer is needed; $found.
The packages of Debian 12 (1.63) and Debian 13 (1.85) are too old. Install a current one for this user, as
https://rustup.rs describes it:

    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y
    . "\$HOME/.cargo/env"

If it is installed already, run the second line or open a new shell. Do not run "sudo make": root has another PATH, and
make calls sudo itself to install packages.
END
exit 1
