//! A `Reader` over a source that has no descriptor: blocks that are made when they are asked for,
//! as those of a compressed archive or of a remote store are.
//!
//! ```text
//! cargo run --release --example custom_reader
//! ```
//!
//! The library bounds every read by a file. One without contents, as long as what the source holds
//! and under the source's name, stands for it here; no reader of the platform's touches it.

use std::error::Error;
use std::io;
use std::sync::Arc;

use weightloader::core::{Platform, Queue, Reader, Support};
use weightloader::{Loader, Mechanism, Operation, Refusal, WeightFile};

/// Where the bytes come from.
trait Source: std::fmt::Debug + Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Fills `buffer`, or part of its front, with the bytes at `offset`; tells how many.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// Stands for an archive: each block is made from its number.
#[derive(Debug)]
struct Blocks(u64);

const BLOCK: u64 = 64 << 10;

impl Source for Blocks {
    fn len(&self) -> u64 {
        self.0 * BLOCK
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        // One block at a time. What is short of the buffer is asked for again.
        let left = usize::try_from(BLOCK - offset % BLOCK).unwrap_or(buffer.len());
        let len = buffer.len().min(left);
        buffer[..len].fill((offset / BLOCK).to_le_bytes()[0]);
        Ok(len)
    }
}

/// Serves tasks from a source, on as many threads as the copier gives it.
#[derive(Debug)]
struct SourceReader(Arc<dyn Source>);

const MECHANISM: Mechanism = Mechanism::new("example-source");

impl Reader for SourceReader {
    fn mechanism(&self) -> Mechanism {
        MECHANISM
    }

    fn support(&self, _: &WeightFile) -> Result<Support, Refusal> {
        Ok(Support::any())
    }

    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
        while let Some(task) = queue.next() {
            let offset = task.offset();
            task.fill(MECHANISM, |buffer| self.0.read_at(buffer, offset));
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let source = Arc::new(Blocks(1000));
    let stand_in = tempfile::tempfile()?;
    stand_in.set_len(source.len())?;
    let file = WeightFile::from_file(stand_in, "archive.zip/weights.bin")?;

    let loader = Loader::builder()
        .platform(Platform {
            name: "example",
            buffered: Arc::new(SourceReader(source)),
            ..Platform::portable()
        })
        .build()?;
    let mut weights = vec![0; usize::try_from(file.len())?];
    let report = loader.read_into(&file, .., &mut weights, Operation::new())?;
    assert!(
        weights
            .chunks(64 << 10)
            .zip(0_u64..)
            .all(|(block, number)| {
                let wanted = number.to_le_bytes()[0];
                block.iter().all(|byte| *byte == wanted)
            })
    );
    println!("{} bytes by {:?}", report.bytes, report.chunks);
    Ok(())
}
