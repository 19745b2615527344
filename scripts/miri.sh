#!/bin/sh
# The pure core and the shared memory under Miri, which finds undefined behaviour that no sanitizer sees. It comes with
# nightly compilers only; where there is none it is fetched, and where it cannot be, that is said.
#
#   scripts/miri.sh [PART OF THE NAMES OF SOME]
set -eu
cd "$(dirname "$0")/.."
for component in miri rust-src; do
    rustup -q component add --toolchain nightly "$component" || {
        echo 'NOT run under Miri: this machine has no nightly compiler with it (rustup toolchain install nightly)' >&2
        exit 1
    }
done
CARGO_TARGET_DIR=target/miri
# No clock and no file of the machine is asked for. Ring positions are numbers by design, pointers are not. The tests of
# shared memory do not free theirs, on purpose: a region lives as long as its process.
MIRIFLAGS='-Zmiri-disable-isolation -Zmiri-ignore-leaks'
# Of what is made up at random, a few.
PROPTEST_CASES=8
export CARGO_TARGET_DIR MIRIFLAGS PROPTEST_CASES
[ $# -gt 0 ] || set -- charge:: wire:: shm::ring shm::queue shm::gate shm::wakeup
# Thousands of turns of the same thing: minutes each here, and nothing that the others have not.
exec cargo +nightly miri test -q --lib -- "$@" \
    --skip open_messages_are_bounded_and_the_oldest_is_settled \
    --skip many_messages_hide_no_decision_and_what_is_dropped_is_counted \
    --skip settled_messages_are_remembered_up_to_a_bound
