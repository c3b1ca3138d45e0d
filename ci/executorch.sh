#!/usr/bin/env bash
# ExecuTorch, as its wheel ships it, loads a program with external weights through our DataLoader:
#   ci/executorch.sh
# With arguments it times the DataLoaders instead:
#   ci/executorch.sh FILE [MEBIBYTES [ROUNDS [NAME]]]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

version=1.5.1

need g++ pkg-config
python3 -m pip --version >/dev/null 2>&1 || need python3-pip

wheel=$cache/executorch-$version
if [ ! -d "$wheel" ]; then
    unpacked=$(mktemp -d "$wheel.XXXXXX")
    python3 -m pip install --quiet --no-deps --target "$unpacked" "executorch==$version"
    mv "$unpacked" "$wheel"
fi
executorch=$wheel/executorch

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
PREFIX=$work/installed ci/install
export PKG_CONFIG_PATH=$work/installed/lib/pkgconfig

source=$PWD/integrations/executorch
read -ra ours < <(pkg-config --cflags --libs weightloader)
options=(
    -std=c++17 -O2 -Wall -Wextra -Werror -pedantic -pthread
    -DC10_USING_CUSTOM_GENERATED_MACROS
    -isystem "$executorch/include"
    -isystem "$executorch/include/executorch/runtime/core/portable_type/c10"
)
libraries=(
    "${ours[@]}" -L"$executorch/lib" -Wl,--no-as-needed
    -lexecutorch -lexecutorch_kernels_optimized -lexecutorch_threadpool
    -Wl,-rpath,"$executorch/lib" -Wl,-rpath,"$work/installed/lib"
)
# As ExecuTorch itself is built.
g++ "${options[@]}" -fno-exceptions -fno-rtti "${ours[@]}" -fsyntax-only "$source/weightloader_data_loader.cpp"
g++ "${options[@]}" -fno-exceptions "${ours[@]}" -c "$source/weightloader_data_loader.cpp" -o "$work/loader.o"
g++ "${options[@]}" "$source/bench.cpp" "$work/loader.o" "${libraries[@]}" -o "$work/bench"
if [ $# -gt 0 ]; then
    "$work/bench" "$@"
    exit
fi
g++ "${options[@]}" "$source/test.cpp" "$work/loader.o" "${libraries[@]}" -o "$work/test"
cd "$work"
./test "$source/data"
./bench blob 64 1
