#!/usr/bin/env bash
# Runs the tests under AddressSanitizer, which stops at memory errors and at leaks:
#   ci/address-sanitizer.sh [PACKAGE...]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# -gt 0 ] || set -- loader-core loader-linux loader-formats weightloader

host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=$cache/address-sanitizer
# -Zsanitizer is not stable yet; its runtime comes with the stable standard library all the same.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS=-Zsanitizer=address
# A driver leaks by itself, and once unloaded has no name that could be excepted: ci/vulkan.sh is for
# uploads to Vulkan.
export VK_DRIVER_FILES=/dev/null VK_ICD_FILENAMES=/dev/null
# Tests that allow themselves little memory ask whether a sanitizer takes some.
export ASAN_OPTIONS=detect_leaks=1
export LSAN_OPTIONS=suppressions=$PWD/ci/expected-leaks.txt:print_suppressions=0

packages=()
for package in "$@"; do packages+=(--package "$package"); done
# Naming the target keeps the flags away from build scripts and procedural macros.
cargo test --locked --all-features "${packages[@]}" --lib --bins --tests --target "$host"
