#!/usr/bin/env bash
# The documentation builds without a warning.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --all-features --locked
