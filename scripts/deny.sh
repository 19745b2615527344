#!/bin/sh
# Licences, duplicates, sources and known faults of all dependencies, by deny.toml. The list of known faults is fetched
# from GitHub; if that fails, the rest is still checked.
set -u
cd "$(dirname "$0")/.."
PATH=$PWD/out/cargo-deny/bin:$PATH
export PATH
command -v cargo-deny >/dev/null || {
    echo 'installing cargo-deny into out/cargo-deny (some minutes)'
    cargo install -q --locked --root out/cargo-deny cargo-deny@^0.20 || exit 1
}
cargo deny --log-level error check --show-stats --hide-inclusion-graph licenses bans sources || exit 1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if cargo deny --log-level error fetch db >"$log" 2>&1; then
    cargo deny check advisories
else
    reason=$(grep -v '^ *$' "$log" | tail -n 1)
    echo "advisories NOT checked: their database cannot be fetched here: ${reason:-no reason was given}"
fi
