#!/usr/bin/env bash
# Links what can be linked for macOS, which nothing here can run: the program, the example for
# Metal, and the tests of loader-macos.
#   ci/macos.sh [TARGET...]      by default Macs with Apple silicon
#
# The linker is zig's, which knows the symbols of macOS's own library. Those that we use of
# Objective-C and of Metal are listed in ci/macos: a name that is missing there, or misspelt, fails.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source ci/cross-toolchain.sh

[ $# -gt 0 ] || set -- aarch64-apple-darwin

need python3-venv
zig=$cache/zig
[ -x "$zig/bin/python" ] || python3 -m venv "$zig"
"$zig/bin/pip" install --quiet --disable-pip-version-check "ziglang==0.17.*"

export CARGO_TARGET_DIR=$cache/macos
stubs=$PWD/ci/macos
# Rust asks for an SDK unless it is told of one; what it would look for there, zig brings.
export SDKROOT=$stubs

for target in "$@"; do
    linker=$zig/link-$target
    cat >"$linker" <<SCRIPT
#!/bin/sh
exec "$zig/bin/python" -m ziglang cc -target ${target%%-*}-macos -L"$stubs" -F"$stubs" "\$@"
SCRIPT
    chmod +x "$linker"
    name=${target//-/_}
    export "CARGO_TARGET_${name^^}_LINKER=$linker"

    echo "linking for $target"
    build=("${build_std[@]}" --quiet --locked --all-features --target "$target")
    $cross_cargo build "${build[@]}" --package loader-cli
    $cross_cargo build "${build[@]}" --package weightloader --example metal
    $cross_cargo test "${build[@]}" --no-run --package loader-macos
done
