#!/usr/bin/env bash
# Rust runtimes load through us: their tests and lints, each a workspace of its own beside the main
# one.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

for runtime in candle tract; do
    manifest=integrations/$runtime/Cargo.toml
    # The runtimes are slow to build and the same every time. Not --locked: this lock file lags
    # behind whenever a crate of the main workspace gets another dependency, and pins the rest.
    export CARGO_TARGET_DIR=$cache/$runtime
    cargo fmt --manifest-path "$manifest" --check
    cargo test --manifest-path "$manifest"
    cargo clippy --manifest-path "$manifest" --all-targets -- -D warnings
done
