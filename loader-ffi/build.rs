//! Keeps the shared library in memory for as long as the process lives, where `dlclose` would take
//! it away under threads that still run in it: those of a prefetch that was let go of, for one.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    // Elsewhere the linker knows no such flag.
    if matches!(target.as_str(), "linux" | "android") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
