#!/usr/bin/env bash
# Every combination of the features compiles without a warning.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Apart from the other builds, because the flags differ.
export CARGO_TARGET_DIR=$cache/features
export RUSTFLAGS=-Dwarnings

check() {
    echo "cargo check $*"
    cargo check --locked --quiet "$@"
}

for io_uring in "" io-uring; do
    for safetensors in "" safetensors; do
        for gguf in "" gguf; do
            check -p weightloader --no-default-features --features "$io_uring $safetensors $gguf"
        done
    done
done

check -p weightloader --no-default-features --features vulkan
check -p loader-cli --no-default-features

check -p loader-core
check -p loader-core --features testing
for features in "" safetensors gguf; do
    check -p loader-formats --no-default-features --features "$features"
done
