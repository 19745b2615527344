#!/bin/sh
# All tests, with one line at the end: N passed, N failed. Called by "make test", which has built the module.
set -u
cd "$(dirname "$0")/.."
IMCHARGE_MODULE=$PWD/out
export IMCHARGE_MODULE
log=$(mktemp)
trap 'rm -f "$log"' EXIT
broken=0
run() {
    echo "== $*"
    "$@" 2>&1 | tee -a "$log"
    # The status of the tests, not of tee: every runner says it in its own line, and a build that fails says none.
    grep -q "^error" "$log" && broken=1
    return 0
}
run cargo fmt --check
run cargo clippy -q --all-targets -- -D warnings
# Rules, codecs, engine, layers, manual, header; the C ABI under its C harness, plain, killed and under valgrind.
run cargo test -q --no-fail-fast --lib --test header --test layers --test manual --test rings --test corpus --test kills --test harness
# The shared memory of the processes, in every order of threads.
run scripts/loom.sh
# Every input of the corpus once more, then new ones, ten seconds a target, under the address sanitizer.
run cargo fmt --check --manifest-path fuzz/Cargo.toml
run scripts/fuzz.sh --test 10
# What only the module has.
echo "== the module's own tests"
CARGO_TARGET_DIR=target/kamailio cargo test -q --release --lib --features kamailio host:: 2>&1 | tee -a "$log"
# The whole on a simulated machine, for as long as there is time for it.
echo "== the simulation"
CARGO_TARGET_DIR=target/simulate SECONDS_MAX=100 cargo test -q --release --features simulate --test simulation 2>&1 | tee -a "$log"
# The stock Kamailio, on real sockets, and the charging system to rehearse with.
echo "== the charging system to rehearse with"
cargo build -q --release --example ocs 2>&1 | tee -a "$log"
IMCHARGE_OCS=$PWD/target/release/examples/ocs
IMCHARGE_PEERS=$PWD/out/peers
IMCHARGE_PROMETHEUS=$PWD/out/prometheus
export IMCHARGE_OCS IMCHARGE_PEERS IMCHARGE_PROMETHEUS
run cargo test -q --test e2e -- --test-threads=2
passed=$(awk '/^test result:/ { sum += $4 } END { print sum + 0 }' "$log")
failed=$(awk '/^test result:/ { sum += $6 } END { print sum + 0 }' "$log")
[ "$broken" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
