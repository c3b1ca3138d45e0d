#!/usr/bin/env bash
# Runs the tests under ThreadSanitizer, which reports data races:
#   ci/thread-sanitizer.sh [PACKAGE...]
#
# The standard library must be built with it, so this takes Debian's Rust, which has the sources;
# the sanitizer's runtime it takes from the ordinary toolchain.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# A forked child starts threads of its own in tests/fork.rs.
export TSAN_OPTIONS=die_after_fork=0

[ $# -gt 0 ] || set -- loader-core loader-linux weightloader

host=$(rustc -vV | sed -n 's/^host: //p')
ours=$(rustc --print sysroot)/lib/rustlib/$host
runtime=$(find "$ours/lib" -name 'librustc-*_rt.tsan.a')
[ -n "$runtime" ] || fail "the toolchain on the path brings no runtime of ThreadSanitizer"

source ci/cross-toolchain.sh

export CARGO_TARGET_DIR=$cache/thread-sanitizer
# The toolchain's own linker, because GNU's does not find the old names of C functions that the
# runtime refers to.
export RUSTFLAGS="-Zsanitizer=thread -Zexternal-clangrt \
    -Clink-arg=-B$ours/bin/gcc-ld -Clink-arg=-fuse-ld=lld \
    -Clink-arg=-Wl,--whole-archive,$runtime,--no-whole-archive,-lm,-lpthread,-lc"

packages=()
for package in "$@"; do packages+=(--package "$package"); done
$cross_cargo test --locked --all-features "${packages[@]}" --lib --tests \
    "${build_std[@]}" --target "$host"
