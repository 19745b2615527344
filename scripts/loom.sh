#!/bin/sh
# The shared memory under loom (tests/loom.rs), and how many orders were tried. The flag reaches every crate of a build, so it
# has a separate folder.
#
#   scripts/loom.sh [PART OF A NAME]
set -eu
cd "$(dirname "$0")/.."
echo 'building the models (the first time takes some minutes)'
RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom
export RUSTFLAGS CARGO_TARGET_DIR
exec cargo test -q --test loom -- --nocapture "$@"
