#!/usr/bin/env bash
# Type-checks and lints the whole workspace, tests included, for systems other than this one:
#   ci/cross.sh [TARGET...]      by default Windows and macOS
#
# The standard library of each target is built from its sources by Debian's Rust, which carries
# them; the first time takes a minute a target, later ones find it in the cache.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source ci/cross-toolchain.sh

[ $# -gt 0 ] || set -- x86_64-pc-windows-gnu aarch64-apple-darwin

# The standard library for Windows takes its import libraries from MinGW's dlltool.
need rust-web-clippy binutils-mingw-w64-x86-64
for target in "$@"; do
    echo "clippy for $target"
    # cargo-clippy runs the clippy-driver beside it; `cargo clippy` might find another one first.
    CARGO=$cross_cargo /usr/bin/cargo-clippy clippy --locked \
        --workspace --all-targets --all-features "${build_std[@]}" --target "$target" -- -D warnings
done
