//! The page-fault copy: weights copied out of a mapping by one thread, as many runtimes do it.

use std::time::{Duration, Instant};

use weightloader::{Advice, Checkpoint, HostBuffer, Loader, Mechanism, Operation, Report};

use crate::failure::Failure;

/// Bytes copied between two looks at the clock.
const STEP: usize = 4 << 20;

/// How weights are copied out of mappings.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MappedCopy {
    /// What the system is told about each mapping first.
    pub(crate) advice: Option<Advice>,
    /// When to stop, complete or not.
    pub(crate) time_limit: Option<Duration>,
}

impl MappedCopy {
    /// Copies the tensors one after the other into fresh memory.
    pub(crate) fn load(
        self,
        loader: &Loader,
        checkpoint: &Checkpoint,
        mut operation: Operation<'_>,
    ) -> Result<(HostBuffer, Report), Failure> {
        let started = Instant::now();
        let platform = loader.platform();
        let total = checkpoint.bytes();
        let len = usize::try_from(total)
            .map_err(|_| Failure::Message(format!("{total} bytes exceed the address space")))?;
        let mut buffer = HostBuffer::zeroed(&*platform.memory, len)?;

        let mut free = &mut buffer[..];
        let mut copied = 0_usize;
        let in_time = |_: &usize| {
            self.time_limit
                .is_none_or(|limit| started.elapsed() < limit)
        };
        for (index, file) in checkpoint.files().iter().enumerate() {
            // SAFETY: whoever chooses this way, by an option whose help says so, promises that
            // nobody changes or truncates the file meanwhile.
            let mapping = unsafe { weightloader::map(file, ..) }?;
            if let Some(advice) = self.advice {
                mapping.advise(advice)?;
            }
            for tensor in checkpoint.tensors().iter().filter(|t| t.file() == index) {
                // The mapping was made, so its offsets fit the address space.
                let range = tensor.range();
                let bytes = usize::try_from(range.start)
                    .ok()
                    .zip(usize::try_from(range.end).ok())
                    .and_then(|(start, end)| mapping.get(start..end))
                    .unwrap_or_default();
                for at in (0..bytes.len()).step_by(STEP).take_while(in_time) {
                    let source = &bytes[at..bytes.len().min(at + STEP)];
                    let (target, rest) = free.split_at_mut(source.len());
                    target.copy_from_slice(source);
                    free = rest;
                    copied += source.len();
                    operation.report(copied as u64, total);
                }
            }
        }

        let elapsed = started.elapsed();
        let mut report = Report::default();
        report.bytes = copied as u64;
        report.elapsed = elapsed;
        report.chunks = [(Mechanism::MAPPED, checkpoint.files().len() as u64)].into();
        Ok((buffer, report))
    }
}
