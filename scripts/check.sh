#!/bin/sh
# Checks format and lints of all code, including what the usual build leaves out: the simulation, the loom models and the
# fuzz targets; and the adapters of the hosts whose sources KAMAILIO_SRC, or OPENSIPS_SRC and OPENSIPS_BIN, name.
# Called by "make check" and scripts/test.sh.
set -eu
cd "$(dirname "$0")/.."
lint() {
    echo "== clippy $*"
    cargo clippy -q "$@" -- -D warnings
}
cargo fmt --all --check
cargo fmt --check --manifest-path fuzz/Cargo.toml
lint --workspace --all-targets
lint --features simulate --test simulation
(
    RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=target/loom
    export RUSTFLAGS CARGO_TARGET_DIR
    lint --test loom
)
lint --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --all-targets
# Each feature set on its own: the two hosts exclude each other.
if [ -d "${KAMAILIO_SRC:-/nonexistent}" ]; then
    lint --lib --features kamailio
else
    echo '== clippy for Kamailio: NOT run, KAMAILIO_SRC names no folder'
fi
if [ -n "${OPENSIPS_SRC:-}" ] && [ -n "${OPENSIPS_BIN:-}" ]; then
    lint --lib --features opensips
else
    echo '== clippy for OpenSIPS: NOT run, OPENSIPS_SRC and OPENSIPS_BIN are not set'
fi
