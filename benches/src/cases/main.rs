//! The default beside what it is judged by: checkpoints in shards, of many tensors or asked for in
//! part, small files, the first tensor of a stream, and the processor time of a cold load.
//!
//! ```text
//! cargo run --release -p weightloader-lab --bin cases -- FOLDER [--rounds N] [--mebibytes N]
//! ```
//!
//! The checkpoints are written into FOLDER, on the disk in question, and stay there. What came of
//! it stands in docs/performance.md.

#[cfg(target_os = "linux")]
mod checkpoints;
#[cfg(target_os = "linux")]
mod contest;
#[cfg(target_os = "linux")]
mod turn;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    contest::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the cases count processor time as Linux tells it; nothing to measure here");
}
