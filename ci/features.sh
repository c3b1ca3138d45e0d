#!/usr/bin/env bash
# Every combination of the features compiles without a warning.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

command -v cargo-hack >/dev/null || cargo install --locked cargo-hack

# Apart from the other builds, because the flags differ.
export CARGO_TARGET_DIR=$cache/features
export RUSTFLAGS=-Dwarnings

cargo hack check --locked --workspace --feature-powerset --exclude-features default
