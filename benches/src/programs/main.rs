//! Whole programs beside each other, by the wall clock: `weightloader`, `fio`, and what programs do
//! that know of neither.
//!
//! ```text
//! cargo build --release -p loader-cli --features vulkan
//! cargo run --release -p weightloader-lab --bin programs -- FILE [--case NAME]... [--rounds N]
//! ```
//!
//! What came of it stands in docs/performance.md.

#[cfg(target_os = "linux")]
mod case;
#[cfg(target_os = "linux")]
mod contest;
#[cfg(target_os = "linux")]
mod contestant;
#[cfg(target_os = "linux")]
mod rival;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    contest::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the rivals are programs for Linux; nothing to measure here");
}
