#!/usr/bin/env bash
# Feeds each fuzz target for a minute: ci/fuzz.sh [SECONDS]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

seconds=${1:-60}
[ -f fuzz/Cargo.toml ] || {
    echo "skipped: there are no fuzz targets"
    exit 0
}

need g++
command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz

# The instrumentation that libFuzzer needs is not stable yet.
export RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR=$cache/fuzz
for target in $(cargo fuzz list); do
    echo "fuzzing $target for $seconds s"
    cargo fuzz run "$target" -- -max_total_time="$seconds" -rss_limit_mb=4096 -verbosity=0
done
