#!/bin/sh
# All tests, with one line at the end: N passed, N failed. Called by "make test", which has built the module.
set -u
cd "$(dirname "$0")/.."
IMCHARGE_MODULE=$PWD/out
export IMCHARGE_MODULE
log=$(mktemp)
trap 'rm -f "$log" "$log.status"' EXIT
broken=0
# Runs a part and remembers whether it failed: a part that is no test of cargo has no line of its own to be counted.
run() {
    echo "== $*"
    { "$@"; echo $? >"$log.status"; } 2>&1 | tee -a "$log"
    status=$(cat "$log.status")
    [ "$status" -eq 0 ] || broken=1
}
# refused WORDS NAME=VALUE...: no module is built so, and the line that says why has these words.
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
run cargo fmt --all --check
run cargo clippy -q --workspace --all-targets -- -D warnings
# Rules, codecs, engine, layers, manual, header; the C ABI under its C harness, plain, killed and under valgrind.
run cargo test -q --no-fail-fast --lib --test header --test layers --test manual --test rings --test corpus --test kills --test harness
# The shared memory of the processes, in every order of threads.
run scripts/loom.sh
# Every input of the corpus once more, then new ones, ten seconds a target, under the address sanitizer.
run cargo fmt --check --manifest-path fuzz/Cargo.toml
run scripts/fuzz.sh --test 10
# What only the module has.
run env CARGO_TARGET_DIR=target/kamailio cargo test -q --release --lib --features kamailio host::
# The whole on a simulated machine, for as long as there is time for it.
run env CARGO_TARGET_DIR=target/simulate SECONDS_MAX=100 cargo test -q --release --features simulate --test simulation
# The stock Kamailio, on real sockets, and the charging system to rehearse with.
run cargo build -q --release --example ocs
IMCHARGE_OCS=$PWD/target/release/examples/ocs
IMCHARGE_PEERS=$PWD/out/peers
IMCHARGE_PROMETHEUS=$PWD/out/prometheus
export IMCHARGE_OCS IMCHARGE_PEERS IMCHARGE_PROMETHEUS
echo "== end to end in Kamailio $(dpkg-query -W -f '${Version}' kamailio) of this machine"
run cargo test -q --test e2e -- --test-threads=2
# The package, in a small Debian of its own.
run scripts/test-package.sh out/imcharge.so "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$(dpkg-query -W -f '${Version}' kamailio)"
# What touches the host, in the stock Kamailio of other releases of Debian: not ledger or Diameter binding alone, nor
# memcheck, which does not know their C libraries. What a mirror no longer has is no fault of ours, and is said.
HOST_CASES='--test-threads=2 --skip ledger:: --skip ahead:: --skip ocs_wire:: --skip two_minutes --skip diameter:: --skip foreign:: --skip trouble:: --skip hostile::answers --skip memory::'
in_host() {
    env "IMCHARGE_MODULE=$PWD/out/$version" "KAMAILIO_BIN=$host/bin/kamailio" "KAMAILIO_MODULES=$host/modules" "PATH=$host/bin:$PATH" "$@"
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
        echo "== what would be misread is not built"
        refused "get the sources of" "KAMAILIO_SRC=$host/source/src"
        refused "are of kamailio $version" "KAMAILIO_MODULES=$host/modules" "KAMAILIO_SRC=$host/source/src"
        refused "is no program file" "KAMAILIO_BIN=$host/bin/kamailio" "KAMAILIO_MODULES=$host/modules" "KAMAILIO_SRC=$host/source/src"
        # Its headers, passed off as those of this machine's version, down to the flags.
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
# The same before OpenSIPS, where somebody has said where it is.
if [ -n "${OPENSIPS_SRC:-}" ] && [ -n "${OPENSIPS_BIN:-}" ]; then
    run scripts/test-opensips.sh
else
    echo '== OpenSIPS: NOT tested, for OPENSIPS_SRC and OPENSIPS_BIN do not say where one is'
fi
# A tenth of "make soak", for a machine that has other things to do as well.
run cargo build -q --release -p imcharge-testkit --bin soak
run target/release/soak --module out/imcharge.so --sessions 100000 --rate 1000 --retrievals 2000
passed=$(awk '/^test result:/ { sum += $4 } END { print sum + 0 }' "$log")
failed=$(awk '/^test result:/ { sum += $6 } END { print sum + 0 }' "$log")
[ "$broken" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
