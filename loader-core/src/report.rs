//! What happened during an operation.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::{HostBuffer, Landing, Mechanism, Strategy};

/// Why a mechanism does not serve a file or a machine.
///
/// ```
/// use loader_core::{Mechanism, Refusal};
/// let refusal = Refusal::new(Mechanism::new("example"), "the device is asleep");
/// assert_eq!(refusal.to_string(), "example: the device is asleep");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// What does not serve.
    pub mechanism: Mechanism,
    /// Why, as a clause: "io_uring is forbidden by seccomp (EPERM)".
    pub reason: String,
}

impl Refusal {
    /// A refusal of `mechanism` for `reason`.
    pub fn new(mechanism: Mechanism, reason: impl Into<String>) -> Self {
        Self {
            mechanism,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.mechanism, self.reason)
    }
}

/// What the process has used, as far as the system tells.
///
/// ```
/// use loader_core::Usage;
/// let before = Usage::new(Some(100), Some(3), None);
/// let after = Usage::new(Some(160), Some(3), None);
/// let since = |now: Option<u64>, then: Option<u64>| Some(now? - then?);
/// assert_eq!(since(after.minor_faults, before.minor_faults), Some(60));
/// assert_eq!(since(after.peak_memory, before.peak_memory), None); // The system does not tell.
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Page faults served without I/O since the process began.
    pub minor_faults: Option<u64>,
    /// Page faults that waited for I/O since the process began.
    pub major_faults: Option<u64>,
    /// The most memory the process has had resident, in bytes.
    pub peak_memory: Option<u64>,
}

impl Usage {
    /// Usage of a process.
    #[must_use]
    pub fn new(
        minor_faults: Option<u64>,
        major_faults: Option<u64>,
        peak_memory: Option<u64>,
    ) -> Self {
        Self {
            minor_faults,
            major_faults,
            peak_memory,
        }
    }
}

/// Locking memory, so that it is never swapped out.
const LOCK: Mechanism = Mechanism::new("lock-memory");

/// What happened during an operation.
///
/// Page faults and peak memory are not asked for operations of up to 1 MiB, where asking would take
/// longer than the operation.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// use loader_core::{Copier, Extent, Job, LoadOptions, Mechanism, Operation, Platform, WeightFile};
/// let (platform, options) = (Platform::portable(), LoadOptions::default());
/// let copier = Copier::new(&platform, &options);
/// let file = WeightFile::open(&path)?;
/// let plan = copier.plan(&[Extent { offset: 0, len: 7, destination: 0 }], 7)?;
/// let mut memory = [0; 7];
/// let job = Job { file, plan, destination: (&mut memory).into() };
/// let report = copier.run(vec![job], Operation::new())?;
/// println!("{} bytes in {:?}", report.bytes, report.elapsed);
/// assert_eq!((report.bytes, report.chunks[&Mechanism::BUFFERED]), (7, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// Bytes asked for that are now in place.
    pub bytes: u64,
    /// From the start of the operation to the last byte in place.
    pub elapsed: Duration,
    /// The strategy asked for.
    pub strategy: Strategy,
    /// How many chunks each mechanism brought.
    pub chunks: BTreeMap<Mechanism, u64>,
    /// What was passed over on the way, and why, each reason once.
    pub fallbacks: Vec<Refusal>,
    /// How the buffers of an uploader were filled, where the operation was an upload.
    pub landing: Option<Landing>,
    /// Bytes of memory that are locked, where that was asked for.
    pub locked_bytes: Option<u64>,
    /// Bytes that were in the page cache when the operation began, where that was asked and told.
    pub resident_bytes: Option<u64>,
    /// Page faults of the process without I/O meanwhile, where the system tells.
    pub minor_faults: Option<u64>,
    /// Page faults of the process with I/O meanwhile, where the system tells.
    pub major_faults: Option<u64>,
    /// The most memory the process has had resident so far, in bytes, where the system tells.
    pub peak_memory: Option<u64>,
}

impl Report {
    /// Locks `buffers` in memory as far as the system allows it, and says what came of it.
    ///
    /// ```
    /// use loader_core::{HeapMemory, HostBuffer, Report};
    /// let mut report = Report::default();
    /// report.lock(&[HostBuffer::zeroed(&HeapMemory, 4096)?]);
    /// // The allocator's memory cannot be locked.
    /// assert_eq!(report.locked_bytes, Some(0));
    /// assert_eq!(report.fallbacks[0].mechanism.name(), "lock-memory");
    /// # Ok::<(), loader_core::Error>(())
    /// ```
    pub fn lock(&mut self, buffers: &[HostBuffer]) {
        let mut locked = 0;
        for buffer in buffers {
            match buffer.lock() {
                Ok(()) => locked += buffer.len() as u64,
                Err(error) => {
                    let reason = format!("{} bytes stay unlocked: {error}", buffer.len());
                    tracing::debug!(reason, "memory is not locked");
                    self.fallbacks.push(Refusal::new(LOCK, reason));
                }
            }
        }
        self.locked_bytes = Some(locked);
    }
}
