//! The scene that this project started with: a program knows early which file it will need, has
//! other work to do first, and only then copies the weights.
//!
//! ```text
//! cargo run --release --example early_hint [FILE]
//! ```
//!
//! Without a file it makes one of 1 GiB in the current folder, which vanishes when it ends. Every
//! turn begins with the file dropped from the page cache.

use std::error::Error;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use weightloader::{HostBuffer, Loader, Operation, WeightFile};

const OTHER_WORK: Duration = Duration::from_millis(200);
const ROUNDS: usize = 5;
const SAMPLE_BYTES: usize = 1 << 30;

/// How a program gets its weights into memory of its own.
#[derive(Clone, Copy)]
enum Copying {
    /// Out of a mapping, on one thread: what runtimes do that know of no loader.
    Mapped,
    /// By `read_into`, which claims what the hint has not begun.
    ReadInto,
}

fn main() -> Result<(), Box<dyn Error>> {
    let file = match std::env::args_os().nth(1) {
        Some(path) => WeightFile::open(path)?,
        None => sample()?,
    };
    let loader = Loader::new()?;
    println!(
        "{}: {} MiB, {} ms of other work before the copy",
        file.path().display(),
        file.len() >> 20,
        OTHER_WORK.as_millis()
    );
    for (title, copying) in [
        ("copied out of a mapping", Copying::Mapped),
        ("read by read_into", Copying::ReadInto),
    ] {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            // Turn by turn, so that a disturbance hits both.
            without.push(scene(&loader, &file, copying, false)?);
            with.push(scene(&loader, &file, copying, true)?);
        }
        with.sort_unstable();
        without.sort_unstable();
        println!("{title}, {ROUNDS} rounds:");
        for (name, pick) in [("best", 0), ("median", ROUNDS / 2)] {
            let saved = without[pick].as_secs_f64() - with[pick].as_secs_f64();
            println!(
                "  {name:6} {:5} ms without the hint, {:5} ms with it; it saves {:.0} ms",
                without[pick].as_millis(),
                with[pick].as_millis(),
                saved * 1e3
            );
        }
    }
    Ok(())
}

/// Hint or none, other work, copy: how long all of it takes.
fn scene(
    loader: &Loader,
    file: &WeightFile,
    copying: Copying,
    hint: bool,
) -> Result<Duration, Box<dyn Error>> {
    loader.evict(file, ..)?;
    let len = usize::try_from(file.len())?;

    let started = Instant::now();
    let ahead = hint.then(|| loader.prefetch(file, ..)).transpose()?;
    thread::sleep(OTHER_WORK);
    let mut weights = HostBuffer::zeroed(&*loader.platform().memory, len)?;
    match copying {
        Copying::Mapped => {
            // SAFETY: nobody else knows of the file, or is to change it while this runs.
            let mapping = unsafe { weightloader::map(file, ..) }?;
            weights.copy_from_slice(&mapping);
        }
        Copying::ReadInto => {
            loader.read_into(file, .., &mut weights[..], Operation::new())?;
        }
    }
    let time = started.elapsed();
    drop(ahead);
    Ok(time)
}

/// A file without a name, which the system removes when it is closed.
fn sample() -> io::Result<WeightFile> {
    println!(
        "no file named: writing a sample of {} MiB",
        SAMPLE_BYTES >> 20
    );
    let mut file = tempfile::tempfile_in(".")?;
    let piece: Vec<u8> = (0..=255).cycle().take(4 << 20).collect();
    for _ in 0..SAMPLE_BYTES / piece.len() {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    WeightFile::from_file(file, "sample").map_err(io::Error::other)
}
