#!/usr/bin/env bash
# Run fuzz targets, each for FUZZ_SECONDS, as many at once as there are cores, under
# AddressSanitizer. The first crash ends all. What `make fuzz` calls.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${FUZZ_SECONDS:-1800}
work=build/fuzz
triple=$(rustc -vV | sed -n 's/^host: //p')
binaries=target/fuzz/$triple/release
# One input takes microseconds, or a tenth of a second where indices are brought to their wrap.
options=(-max_total_time="$seconds" -timeout=30 -max_len=2048 -print_final_stats=1)
export ASAN_OPTIONS=${ASAN_OPTIONS:-quarantine_size_mb=64}

echo "== building $# fuzz targets"
# The stable toolchain, with the sanitizer and the coverage that it keeps for unstable ones.
(cd rust/fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz build --fuzz-dir . --sanitizer address \
    --target-dir ../../target/fuzz)

crashed() {
    local target=$1
    tail -n 40 "$work/$target.log" >&2
    cat >&2 <<END
$target failed: $work/$target.log. Its input is in $work/crashes. To replay it, to cut it down, and
to keep it as a test, which \`make test\` replays from then on:
    $binaries/$target $work/crashes/$target-...
    $binaries/$target -minimize_crash=1 -max_total_time=60 $work/crashes/$target-...
    cp ... rust/fuzz/seeds/$target/what_was_wrong
END
}

run() {
    local target=$1
    echo "== $target for $seconds s"
    if "$binaries/$target" "${options[@]}" -artifact_prefix="$work/crashes/$target-" \
        "$work/corpus/$target" "rust/fuzz/seeds/$target" >"$work/$target.log" 2>&1; then
        echo "$target: no crash in $(sed -n 's/^stat::number_of_executed_units: *//p' \
            "$work/$target.log") runs"
    else
        crashed "$target"
        return 1
    fi
}

mkdir -p "$work/crashes"
trap 'for job in $(jobs -p); do pkill -P "$job" || true; kill "$job" || true; done 2>/dev/null' EXIT
running=0
for target in "$@"; do
    mkdir -p "$work/corpus/$target"
    if [ "$running" -ge "$(nproc)" ]; then
        wait -n
        running=$((running - 1))
    fi
    run "$target" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n
    running=$((running - 1))
done
echo "make fuzz: no target crashed"
