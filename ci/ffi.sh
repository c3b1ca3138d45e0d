#!/usr/bin/env bash
# The C interface as others use it: installed by one command, found by pkg-config, tested from C and
# C++ with sanitizers and under Valgrind. That the header is current, `cargo test` checks.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

need gcc g++ pkg-config valgrind

root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

PREFIX=$work/installed ci/install
export PKG_CONFIG_PATH=$work/installed/lib/pkgconfig
export LD_LIBRARY_PATH=$work/installed/lib

strict=(-Wall -Wextra -Werror -pedantic -g -O1)
sanitizers=(-fsanitize="address,undefined" -fno-sanitize-recover=all)
read -ra flags < <(pkg-config --cflags --libs weightloader)
static=$(pkg-config --static --libs weightloader)
read -ra all_static <<<"$static"
read -ra static_libraries <<<"${static/-lweightloader/-l:libweightloader.a}"
read -ra includes < <(pkg-config --cflags weightloader)
tests=$root/loader-ffi/tests/c
examples=$root/loader-ffi/examples

cd "$work"
for standard in c99 c11 c17; do
    gcc -std=$standard "${strict[@]}" -fsyntax-only -x c "${includes[@]}" - <<<'#include <weightloader.h>
int nothing;'
done
gcc -std=c11 "${strict[@]}" "$tests/interface.c" "${flags[@]}" -pthread -o interface
gcc -std=c11 "${strict[@]}" "${sanitizers[@]}" "$tests/interface.c" "${flags[@]}" -pthread -o interface-sanitized
gcc -std=c11 "${strict[@]}" "$tests/interface.c" "${includes[@]}" "${static_libraries[@]}" -pthread -o interface-static
# glibc warns of what it would load all the same, of which the library calls nothing.
gcc -static -std=c11 "${strict[@]}" "$tests/interface.c" "${includes[@]}" "${all_static[@]}" -pthread -o interface-alone
g++ -std=c++17 "${strict[@]}" "$tests/wrappers.cpp" "${flags[@]}" -pthread -o wrappers
g++ -std=c++17 "${strict[@]}" "${sanitizers[@]}" "$tests/wrappers.cpp" "${flags[@]}" -pthread -o wrappers-sanitized
gcc -std=c99 "${strict[@]}" "${sanitizers[@]}" "$examples/staging_ring.c" "${flags[@]}" -o staging_ring
gcc -std=c11 "${strict[@]}" "$tests/unload.c" "${includes[@]}" -pthread -ldl -o unload

check() {
    echo "$*"
    "$@"
}
check ./interface
WEIGHTLOADER_STRATEGY=buffered check ./interface-static
check ./interface-alone
check ./interface-sanitized
check ./wrappers
check ./wrappers-sanitized
check ./unload "$work/installed/lib/libweightloader.so"

# Valgrind does not know every system call that Linux has, and says so of each. It runs one thread at
# a time; unless its turns are fair, others may not get to their end before the program does.
under_valgrind() {
    echo "valgrind $*"
    valgrind --fair-sched=yes --quiet --error-exitcode=9 --leak-check=full \
        --show-leak-kinds=definite,indirect,possible \
        --errors-for-leak-kinds=definite,indirect,possible "$@" 2>valgrind.log ||
        { cat valgrind.log; fail "valgrind: $*"; }
}
under_valgrind ./interface without-forks
under_valgrind ./wrappers

head -c 20000000 /dev/urandom >ring.bin
check ./staging_ring ring.bin
check ./staging_ring ring.bin 5
