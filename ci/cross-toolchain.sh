# Sourced after common.sh by the scripts that build for other systems: Debian's Rust, which comes
# with the sources of the standard library, so that any target can be built.
need rustc-web cargo-web rust-web-src

cross_cargo=/usr/bin/cargo
build_std=(-Zbuild-std=std,panic_abort,test)
export RUSTC=/usr/bin/rustc
export RUSTDOC=/usr/bin/rustdoc
# -Zbuild-std is not stable yet.
export RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR=$cache/cross
