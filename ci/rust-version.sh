#!/usr/bin/env bash
# The libraries and the program compile with the oldest Rust that Cargo.toml promises. Tests may
# need a newer one, since their dependencies do.
#
# That compiler comes from Debian 12, unpacked into the cache rather than installed, since another
# version of the same package serves ci/cross.sh. Code for other systems than Linux is not compiled
# here; there clippy's incompatible_msrv (ci/cross.sh) names what is too new in the standard library.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

oldest=1.85

declared=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
[ "$declared" = "$oldest" ] ||
    fail "Cargo.toml promises Rust '$declared', this script checks $oldest: change both together"
for manifest in loader-*/Cargo.toml; do
    grep -q '^rust-version.workspace = true$' "$manifest" ||
        fail "$manifest does not take its rust-version from the workspace"
done

need jq libllvm19

toolchain=$cache/rust-$oldest
if [ ! -x "$toolchain/usr/bin/rustc" ]; then
    as_root apt-get update -qq
    version=$(apt-cache madison rustc-web | cut -d'|' -f2 | tr -d ' ' | grep -m1 "^$oldest\.") ||
        fail "apt offers no rustc-web of version $oldest"
    unpacked=$(mktemp -d "$cache/rust-$oldest.XXXXXX")
    (
        cd "$unpacked"
        apt-get download -qq -o APT::Sandbox::User="$(id -un)" \
            "rustc-web=$version" "libstd-rust-web-$oldest=$version" "libstd-rust-web-dev=$version"
        for package in *.deb; do dpkg -x "$package" .; done
        rm -- *.deb
    )
    rm -rf "$toolchain"
    mv "$unpacked" "$toolchain"
fi

# Cargo itself refuses dependencies that say they need a newer Rust, but only looks at those of
# this target. The ones of other targets are compared here.
newer=$(
    cargo metadata --locked --format-version 1 | jq -r --arg oldest "$oldest" '
        def numbers: split(".") | map(tonumber);
        .packages[]
        | select(.rust_version != null and (.rust_version | numbers) > ($oldest + ".999" | numbers))
        | "\(.name) v\(.version)"'
)
built=$(
    cargo tree --locked --workspace --all-features --target all -e normal,build \
        --prefix none --format '{p}'
)
too_new=$(comm -12 <(sort <<<"$newer") <(cut -d' ' -f1,2 <<<"$built" | sort -u))
[ -z "$too_new" ] || fail "needs a newer Rust than $oldest: $too_new"

export LD_LIBRARY_PATH=$toolchain/usr/lib/x86_64-linux-gnu
export RUSTC=$toolchain/usr/bin/rustc
export CARGO_TARGET_DIR=$cache/rust-version
"$RUSTC" --version
cargo check --locked --workspace --lib --bins --all-features
