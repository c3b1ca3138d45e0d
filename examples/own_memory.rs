//! A runtime that allocates every tensor by itself: all of them are filled in one operation, each
//! read straight into its own memory.
//!
//! ```text
//! cargo run --release --example own_memory -- CHECKPOINT
//! ```

use std::error::Error;
use std::mem::MaybeUninit;

use weightloader::{Destination, Loader, Operation, ReadRequest};

/// A tensor of the runtime's.
struct Weight {
    name: String,
    bytes: Box<[MaybeUninit<u8>]>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("which checkpoint?")?;
    let loader = Loader::new()?;
    let checkpoint = loader.open(path)?;

    let mut weights = Vec::new();
    for tensor in checkpoint.tensors() {
        let len = usize::try_from(tensor.bytes())?;
        weights.push(Weight {
            name: tensor.name().to_owned(),
            // Nothing is zeroed: every byte will come from the file.
            bytes: Box::new_uninit_slice(len),
        });
    }

    let tensors = checkpoint.tensors().iter();
    let requests = tensors.zip(&mut weights).map(|(tensor, weight)| {
        let file = &checkpoint.files()[tensor.file()];
        // Fresh memory may still get huge pages, which makes filling it several times cheaper.
        let destination = Destination::from(&mut *weight.bytes).fresh();
        ReadRequest::new(file, tensor.range(), destination)
    });
    let operation = Operation::new().on_progress(|progress| {
        eprint!(
            "\r{} of {} MB ",
            progress.bytes / 1_000_000,
            progress.total / 1_000_000
        );
    });
    let report = loader.read_many(requests, operation)?;
    eprintln!();

    for Weight { name, bytes } in weights.into_iter().take(5) {
        // SAFETY: the reads have succeeded, so every byte of every destination is there.
        let bytes = unsafe { bytes.assume_init() };
        println!(
            "{name}: {} bytes that begin with {:?}",
            bytes.len(),
            &bytes[..bytes.len().min(4)]
        );
    }
    println!(
        "{} bytes in {:.3} s by {:?}",
        report.bytes,
        report.elapsed.as_secs_f64(),
        report.chunks
    );
    Ok(())
}
