#!/bin/sh
# Fuzzes the named targets of fuzz/ (default: all) for a number of seconds each, and prints a line for each and one for
# all. Findings are stored in out/fuzz/findings, the corpus in out/fuzz/corpus.
#
#   scripts/fuzz.sh [--test] SECONDS [TARGET ...]
#
# --test: from the committed corpus alone, nothing kept, two targets at a time.
set -u
cd "$(dirname "$0")/.."
testing=0
[ "${1:-}" = --test ] && { testing=1; shift; }
seconds=${1:?usage: scripts/fuzz.sh [--test] SECONDS [TARGET ...]}
shift
[ $# -gt 0 ] || set -- diameter_message diameter_peer postgres_client msrp_frame cpim rcs_file sip_message sdp \
    session_events ring_contents c_abi
out=out/fuzz
mkdir -p "$out/findings"
PATH=$PWD/out/cargo-fuzz/bin:$PATH
# RUSTC_BOOTSTRAP lets stable Rust accept the flag of the sanitizer. It is set for this build only.
RUSTC_BOOTSTRAP=1
export PATH RUSTC_BOOTSTRAP
command -v cargo-fuzz >/dev/null || {
    echo 'installing cargo-fuzz into out/cargo-fuzz'
    RUSTC_BOOTSTRAP=0 cargo install -q --locked --root out/cargo-fuzz cargo-fuzz || exit 1
}
echo 'building the fuzz targets (the first time takes some minutes)'
build="cargo fuzz build --target-dir target/fuzz"
if ! $build >"$out/build.log" 2>&1; then
    echo 'no address sanitizer with this compiler: fuzzing without'
    $build --sanitizer none >"$out/build.log" 2>&1 || { tail -n 30 "$out/build.log" >&2; exit 1; }
fi
programs=target/fuzz/$(rustc -vV | sed -n 's/^host: //p')/release
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
# As "cargo fuzz run" sets it.
ASAN_OPTIONS=detect_odr_violation=0
export ASAN_OPTIONS

# One target; its line, and its status in a file.
fuzz() {
    target=$1
    kept=$out/corpus/$target
    [ $testing -eq 0 ] || kept=$results/$target.corpus
    mkdir -p "$kept"
    log=$results/$target.log
    "$programs/$target" -max_total_time="$seconds" -timeout=60 -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="$out/findings/$target-" "$kept" "fuzz/corpus/$target" >"$log" 2>&1
    status=$?
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(sed -n 's/.*\(cov: [0-9]* ft: [0-9]*\).*/\1/p' "$log" | tail -n 1)
    if [ $status -eq 0 ] && [ -n "$executions" ]; then
        echo "$target: $executions executions, $coverage, no finding"
        touch "$results/$target.passed"
    else
        cp "$log" "$out/findings/$target.log"
        found=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        echo "$target: ${executions:-some} executions, FINDING: ${found:-none written}, see $out/findings/$target.log"
        grep -m 1 -A 3 -E 'panicked at|ERROR: ' "$log"
    fi
}

running=0
for target in "$@"; do
    fuzz "$target" &
    running=$((running + 1))
    # Two at a time in a test, one otherwise.
    if [ $testing -eq 0 ] || [ $((running % 2)) -eq 0 ]; then wait; fi
done
wait
passed=$(find "$results" -name '*.passed' | wc -l)
failed=$(($# - passed))
# In the words of cargo's own runner: scripts/test.sh adds them up.
echo "test result: $([ $failed -eq 0 ] && echo ok || echo FAILED). $passed passed; $failed failed"
[ $failed -eq 0 ]
