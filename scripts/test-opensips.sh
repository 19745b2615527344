#!/bin/sh
# Tests of the OpenSIPS module: the checks of the build, its unit tests, and the end-to-end cases. Called by
# "make test-opensips", which has built the module, and by scripts/test.sh. OPENSIPS_SRC and OPENSIPS_BIN locate OpenSIPS.
#
#   scripts/test-opensips.sh [WORD]      WORD: only the end-to-end cases whose names contain it
set -u
cd "$(dirname "$0")/.."
failed=0
# refused WORDS NAME=VALUE...: the build must fail with a line that contains the words.
refused() {
    words=$1
    shift
    said=$(env "$@" CARGO_TARGET_DIR=target/opensips cargo build -q --release --lib --features opensips 2>&1)
    if [ $? -ne 0 ] && echo "$said" | grep -q "imcharge cannot be built for this OpenSIPS: .*$words"; then
        echo "test result: ok. 1 passed; 0 failed"
    else
        echo "$said"
        echo "not refused with '$words': $*"
        echo "test result: FAILED. 0 passed; 1 failed"
        failed=1
    fi
}
if [ $# -eq 0 ]; then
    echo '== the build refuses mismatched headers and binaries'
    other=$(mktemp)
    trap 'rm -f "$other"' EXIT
    # The program, disguised as another version.
    sed 's/\(opensips [0-9]*\.[0-9]*\.\)[0-9]* (/\19 (/' "$OPENSIPS_BIN" >"$other"
    refused 'is opensips [0-9.]*9 .*, the stock modules in' "OPENSIPS_BIN=$other"
    refused 'does not contain its version' OPENSIPS_BIN=/bin/sh
    refused 'is not a program file' OPENSIPS_BIN=scripts/test-opensips.sh
    CARGO_TARGET_DIR=target/opensips cargo test -q --release --lib --features opensips host:: || failed=1
fi
echo '== end to end in OpenSIPS'
IMCHARGE_MODULE=$PWD/out IMCHARGE_OPENSIPS_MODULE=$PWD/out/opensips IMCHARGE_OCS=$PWD/target/release/examples/ocs \
    IMCHARGE_PEERS=$PWD/out/peers cargo test -q --test e2e -- --include-ignored --test-threads=2 "opensips::${1:-}" || failed=1
exit $failed
