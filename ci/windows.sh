#!/usr/bin/env bash
# Builds the test suites for Windows and really runs them, under Wine:
#   ci/windows.sh [PACKAGE...]      by default all that a program for Windows is made of
#
# What Wine lacks is a test that prints `skipped: reason`; docs/testing.md lists them.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source ci/cross-toolchain.sh

[ $# -gt 0 ] || set -- loader-core loader-formats loader-windows weightloader loader-cli

need gcc-mingw-w64-x86-64 wine64

target=x86_64-pc-windows-gnu
export WINEPREFIX=$cache/wine
export WINEDEBUG=-all
# Wine writes file names in the encoding of the locale.
export LC_ALL=C.UTF-8
export WINEPATH=$cache/wine-dlls
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=/usr/lib/wine/wine64

mkdir -p "$WINEPATH"
x86_64-w64-mingw32-gcc -shared -o "$WINEPATH/bcryptprimitives.dll" ci/wine/prng.c -ladvapi32

# Makes the folder that stands for the drives, if it is not there yet.
/usr/lib/wine/wine64 wineboot --init
# A share for tests of network paths: \\localhost\C$, as Windows offers administrators.
mkdir -p "$WINEPREFIX/dosdevices/unc/localhost"
ln -sfn ../../../drive_c "$WINEPREFIX/dosdevices/unc/localhost/c\$"

packages=()
for package in "$@"; do packages+=(--package "$package"); done
$cross_cargo test --locked --all-features --no-fail-fast "${packages[@]}" --lib --bins --tests \
    "${build_std[@]}" --target $target
