//! What each choice in reading a file into memory costs on this machine: one thing is varied at a
//! time, in interleaved rounds.
//!
//! ```text
//! cargo run --release -p weightloader-lab -- FILE [--experiment NAME]... [--rounds N]
//! ```
//!
//! What it told the library's authors stands in docs/performance.md.

#[cfg(target_os = "linux")]
mod lab;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    lab::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the laboratory varies Linux's own mechanisms; nothing to measure here");
}
