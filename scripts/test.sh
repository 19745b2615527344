#!/bin/sh
# Runs the tests; the last line is "N passed, N failed". Called by "make test" and "make test-all", which have built the module.
#
#   scripts/test.sh [all]     all: also other releases, foreign stacks, simulation, fuzzing, loom, packages and soak
set -u
cd "$(dirname "$0")/.."
IMCHARGE_MODULE=$PWD/out
export IMCHARGE_MODULE
log=$(mktemp)
trap 'rm -f "$log" "$log.status"' EXIT
broken=0
# Runs a part and remembers a failure: a part that is not a cargo test prints no line that could be counted.
run() {
    echo "== $*"
    { "$@"; echo $? >"$log.status"; } 2>&1 | tee -a "$log"
    status=$(cat "$log.status")
    [ "$status" -eq 0 ] || broken=1
}
# refused WORDS NAME=VALUE...: the build must fail with a line that contains the words.
refused() {
    words=$1
    shift
    said=$(env "$@" CARGO_TARGET_DIR=target/kamailio cargo build -q --release --lib --features kamailio 2>&1)
    if [ $? -ne 0 ] && echo "$said" | grep -q "imcharge cannot be built for this Kamailio: .*$words"; then
        echo "test result: ok. 1 passed; 0 failed" | tee -a "$log"
    else
        echo "$said"
        echo "not refused with '$words': $*"
        echo "test result: FAILED. 0 passed; 1 failed" | tee -a "$log"
    fi
}
# Prints the sum and ends the script.
finish() {
    passed=$(awk '/^test result:/ { sum += $4 } END { print sum + 0 }' "$log")
    failed=$(awk '/^test result:/ { sum += $6 } END { print sum + 0 }' "$log")
    [ "$broken" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
    exit
}
all=${1:-}
run scripts/check.sh
run env RUSTDOCFLAGS=-Dwarnings cargo doc -q --workspace --no-deps
# Rules, codecs, engine, layers, documentation, header; the C ABI under its C harness, plain, killed and under valgrind.
run cargo test -q --no-fail-fast --lib --test header --test layers --test manual --test links --test tidy --test rings \
    --test corpus --test kills --test harness
# The shared ledger on servers of PostgreSQL that the tests start: schema, client, binding, commands.
run cargo test -q --no-fail-fast --test postgres --test postgres_client --test postgres_binding --test shared_ledger \
    -- --test-threads=2
# The stock Kamailio on real sockets, with the OCS simulator.
run cargo build -q --release --example ocs
IMCHARGE_OCS=$PWD/target/release/examples/ocs
IMCHARGE_PEERS=$PWD/out/peers
IMCHARGE_PROMETHEUS=$PWD/out/prometheus
export IMCHARGE_OCS IMCHARGE_PEERS IMCHARGE_PROMETHEUS
# Cases of foreign stacks, and those that wait for minutes.
SLOW_CASES='foreign:: memory:: two_minutes a_minute_of_silence reconcile:: prometheus'
echo "== end to end in Kamailio $(dpkg-query -W -f '${Version}' kamailio) of this machine"
run cargo test -q --test e2e -- --test-threads=2 $(printf -- '--skip %s ' $SLOW_CASES)
if [ "$all" != all ]; then
    finish
fi
echo "== end to end: foreign stacks, and cases that take minutes"
for cases in $SLOW_CASES; do
    run cargo test -q --test e2e -- --test-threads=2 "$cases"
done
echo "== the shared ledger: a thousand sessions of a dead proxy, partitions of 90 s"
run env OPEN=1000 CUT=90 cargo test -q --test e2e -- --test-threads=2 shared::takeover::sessions shared::partition::
# The shared memory of the processes, in every order of threads.
run scripts/loom.sh
# Every input of the corpus, then new ones, ten seconds a target, under the address sanitizer.
run scripts/fuzz.sh --test 10
# Unit tests of the adapter to the host.
run env CARGO_TARGET_DIR=target/kamailio cargo test -q --release --lib --features kamailio host::
# The oldest Rust that Cargo.toml promises, where rustup has it.
msrv=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if rustup run "$msrv" cargo --version >/dev/null 2>&1; then
    run env CARGO_TARGET_DIR=target/msrv rustup run "$msrv" cargo check -q --lib
else
    echo "== Rust $msrv: NOT tested, rustup has no such toolchain; clippy's incompatible_msrv stands in"
fi
# The whole product on a simulated machine: the same seeds on every machine, and on a slow one those that fit into the time.
# "make sim" runs more.
run env CARGO_TARGET_DIR=target/simulate SEEDS=1400 SECONDS_MAX=150 cargo test -q --release --features simulate --test simulation
# The package, installed into a small Debian.
run scripts/test-package.sh out/imcharge.so "$(. /etc/os-release && echo "$VERSION_CODENAME")" \
    "$(dpkg-query -W -f '${Version}' kamailio)"
# The cases that touch the host, in the stock Kamailio of other releases of Debian. memcheck does not know their C libraries.
# A release that the mirror no longer has is reported as not tested.
HOST_CASES='--test-threads=2 --skip ledger:: --skip shared:: --skip ahead:: --skip ocs_wire:: --skip two_minutes'
HOST_CASES="$HOST_CASES --skip diameter:: --skip foreign:: --skip trouble:: --skip hostile::answers --skip memory::"
in_host() {
    env "IMCHARGE_MODULE=$PWD/out/$version" "KAMAILIO_BIN=$host/bin/kamailio" "KAMAILIO_MODULES=$host/modules" \
        "PATH=$host/bin:$PATH" "$@"
}
untested=
for release in ${RELEASES-trixie sid}; do
    host=$PWD/out/hosts/$release
    echo "== Kamailio of Debian $release"
    scripts/kamailio-release.sh "$release" "$host"
    case $? in
        0) ;;
        3) untested="$untested $release"; continue ;;
        *) broken=1; continue ;;
    esac
    version=$(cat "$host/version")
    if ! grep -q "kamailio $version (" "$KAMAILIO_BIN"; then
        echo "== the build refuses headers of another version"
        refused "get the sources of" "KAMAILIO_SRC=$host/source/src"
        refused "are of kamailio $version" "KAMAILIO_MODULES=$host/modules" "KAMAILIO_SRC=$host/source/src"
        refused "is not a program file" "KAMAILIO_BIN=$host/bin/kamailio" \
            "KAMAILIO_MODULES=$host/modules" "KAMAILIO_SRC=$host/source/src"
        # Its headers, disguised as those of this machine's version, including the flags.
        false=$host/false/src
        rm -rf "$host/false"
        mkdir -p "$false/core"
        cp "$KAMAILIO_SRC/../CMakeLists.txt" "$host/false/" 2>/dev/null
        ln -s "$host/source/src/modules" "$host/source/src/lib" "$false/"
        ln -s "$host"/source/src/core/* "$false/core/"
        rm "$false/core/ver_defs.h"
        cp "$KAMAILIO_SRC/core/ver_defs.h" "$false/core/"
        cp "$KAMAILIO_SRC/Makefile.defs" "$false/"
        refused "octets by the headers" "KAMAILIO_SRC=$false"
    fi
    make -s module "KAMAILIO=$release" || { broken=1; continue; }
    echo "== end to end in Kamailio $version of Debian $release"
    run in_host cargo test -q --test e2e -- $HOST_CASES
    # From 6.1 on its TCP process can have threads.
    if grep -q tcp_main_threads "$host/root/usr/sbin/kamailio"; then
        echo "== end to end in Kamailio $version with tcp_main_threads=1"
        run in_host KAMAILIO_SETTINGS=tcp_main_threads=1 cargo test -q --test e2e -- $HOST_CASES
    fi
    before=$broken
    run scripts/test-package.sh "out/$version/imcharge.so" "$release" "$(cat "$host/packed")"
    [ "$status" -ne 3 ] || { broken=$before; untested="$untested $release (package)"; }
done
[ -z "$untested" ] || echo "NOT tested, since the mirror lacks it (see above): Kamailio of Debian$untested"
# The OpenSIPS module, if OPENSIPS_SRC and OPENSIPS_BIN name an OpenSIPS.
if [ -n "${OPENSIPS_SRC:-}" ] && [ -n "${OPENSIPS_BIN:-}" ]; then
    run scripts/test-opensips.sh
else
    echo '== OpenSIPS: NOT tested, OPENSIPS_SRC and OPENSIPS_BIN are not set'
fi
# A tenth of "make soak".
run cargo build -q --release -p imcharge-testkit --bin soak
run target/release/soak --module out/imcharge.so --sessions 100000 --rate 1000 --retrievals 2000
finish
