//! Tensors as they land, converted one by one in bounded memory while the next ones are read.
//!
//! ```text
//! cargo run --release --example stream -- CHECKPOINT
//! ```

use std::error::Error;

use weightloader::{Dtype, Loader, StreamedTensor};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("which checkpoint?")?;
    // 32 MiB are read ahead at most, however large the checkpoint is, or one tensor that is longer.
    let loader = Loader::builder().memory_limit(32 << 20).build()?;
    let checkpoint = loader.open(path)?;

    let mut stream = loader.stream(&checkpoint)?;
    for tensor in stream.by_ref() {
        let tensor = tensor?;
        match largest(&tensor) {
            Some(largest) => println!("{}: no element beyond {largest}", tensor.name()),
            None => println!("{}: {} as it is", tensor.name(), tensor.dtype()),
        }
        // Dropping the tensor makes room for another one. Leaving the loop would stop the reads.
    }
    if let Some(report) = stream.report() {
        println!("{:.3} s, {:?}", report.elapsed.as_secs_f64(), report.chunks);
    }
    Ok(())
}

/// The largest magnitude of a tensor's elements, of the types that this example converts.
fn largest(tensor: &StreamedTensor) -> Option<f32> {
    let bytes = tensor.bytes();
    let values: Box<dyn Iterator<Item = f32>> = match tensor.dtype() {
        Dtype::F32 => Box::new(
            bytes
                .chunks_exact(4)
                .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])),
        ),
        Dtype::BF16 => Box::new(
            bytes
                .chunks_exact(2)
                .map(|two| f32::from_le_bytes([0, 0, two[0], two[1]])),
        ),
        _ => return None,
    };
    Some(values.fold(0.0, |largest, value| largest.max(value.abs())))
}
