//! The ways of loading that are compared.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use weightloader::{Advice, Checkpoint, HostBuffer, Loader, Operation, Strategy};

use super::state::State;
use crate::failure::Failure;
use crate::mapped::MappedCopy;
use crate::target::{Target, UploadWay};

/// A way of getting weights into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// What the device gives: direct reads with a deep queue into huge pages faulted in beforehand.
    Ceiling,
    /// mmap and memcpy on one thread, with the system's readahead.
    PageFaults,
    /// The same with readahead off (MADV_RANDOM).
    PageFaultsRandom,
    /// One madvise(MADV_WILLNEED) over each file, then mmap and memcpy on one thread.
    Madvise,
    /// Every byte through the page cache, on several threads.
    Buffered,
    /// Every byte past the page cache.
    Direct,
    /// What `weightloader load` does by default.
    Auto,
    /// Tensor by tensor, each given back before the next one is taken, in bounded memory.
    Stream,
    /// What `weightloader upload --to vulkan` does by default.
    Vulkan,
    /// Into host memory that becomes the Vulkan device's without a copy.
    VulkanImport,
    /// Into memory of the Vulkan device that the host can see.
    VulkanInPlace,
    /// Through staging slots that the Vulkan device copies from.
    VulkanStaged,
}

/// One turn of one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// What was copied.
    pub(crate) bytes: u64,
    /// From taking memory to the last byte in place.
    pub(crate) time: Duration,
}

/// A turn at a page fault every 4 KiB may take minutes; its speed is plain much sooner.
const LONGEST_FAULTING: Duration = Duration::from_secs(2);

/// What keeps any device busy.
const CEILING_DEPTH: usize = 64;
const CEILING_CHUNK: u64 = 1 << 20;

impl Way {
    /// Its name in JSON and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling",
            Self::PageFaults => "page-faults",
            Self::PageFaultsRandom => "page-faults-random",
            Self::Madvise => "madvise",
            Self::Buffered => "buffered",
            Self::Direct => "direct",
            Self::Auto => "auto",
            Self::Stream => "stream",
            Self::Vulkan => "vulkan",
            Self::VulkanImport => "vulkan-import",
            Self::VulkanInPlace => "vulkan-in-place",
            Self::VulkanStaged => "vulkan-staged",
        }
    }

    /// Its name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling of the device",
            Self::PageFaults => "page faults (mmap + memcpy)",
            Self::PageFaultsRandom => "page faults, no readahead",
            Self::Madvise => "one madvise, then page faults",
            Self::Buffered => "buffered reads",
            Self::Direct => "direct reads",
            Self::Auto => "auto (the default)",
            Self::Stream => "stream, tensor by tensor",
            Self::Vulkan => "upload to Vulkan",
            Self::VulkanImport => "upload to Vulkan, imported",
            Self::VulkanInPlace => "upload to Vulkan, in place",
            Self::VulkanStaged => "upload to Vulkan, staged",
        }
    }

    /// Which way it uploads, where it does.
    pub(crate) fn upload(self) -> Option<UploadWay> {
        match self {
            Self::Vulkan => Some(UploadWay::Auto),
            Self::VulkanImport => Some(UploadWay::Import),
            Self::VulkanInPlace => Some(UploadWay::InPlace),
            Self::VulkanStaged => Some(UploadWay::Staged),
            _ => None,
        }
    }

    /// Whether it has a turn in that state: the device is the same, whatever the cache holds.
    pub(crate) fn has_turn(self, state: State) -> bool {
        self != Self::Ceiling || state == State::Cold
    }

    /// A loader that reads this way.
    pub(crate) fn loader(self) -> Result<Loader, Failure> {
        let builder = Loader::builder();
        let (builder, strategy) = match self {
            Self::Ceiling => (
                builder
                    .queue_depth(CEILING_DEPTH)
                    .chunk_bytes(CEILING_CHUNK),
                Strategy::Direct,
            ),
            Self::Direct => (builder, Strategy::Direct),
            Self::Buffered => (builder, Strategy::Buffered),
            _ => (builder, Strategy::Auto),
        };
        let loader = builder.strategy(strategy).build()?;
        if loader.options().strategy == strategy {
            Ok(loader)
        } else {
            let reason = "WEIGHTLOADER_STRATEGY is set; a comparison needs every strategy";
            Err(Failure::Message(reason.to_owned()))
        }
    }

    /// Loads once; giving the memory back is not timed.
    pub(crate) fn take_turn(
        self,
        loader: &Loader,
        checkpoint: &Checkpoint,
    ) -> Result<Turn, Failure> {
        if let Some(way) = self.upload() {
            return uploaded(loader, checkpoint, way);
        }
        match self {
            Self::Ceiling => ceiling(loader, checkpoint),
            Self::PageFaults => mapped(loader, checkpoint, None, None),
            Self::PageFaultsRandom => mapped(
                loader,
                checkpoint,
                Some(Advice::Random),
                Some(LONGEST_FAULTING),
            ),
            Self::Madvise => mapped(loader, checkpoint, Some(Advice::WillNeed), None),
            Self::Stream => streamed(loader, checkpoint),
            _ => {
                let started = Instant::now();
                let model = loader.load(checkpoint, Operation::new())?;
                let time = started.elapsed();
                let bytes = model.checkpoint().bytes();
                Ok(Turn { bytes, time })
            }
        }
    }
}

fn mapped(
    loader: &Loader,
    checkpoint: &Checkpoint,
    advice: Option<Advice>,
    time_limit: Option<Duration>,
) -> Result<Turn, Failure> {
    let copy = MappedCopy { advice, time_limit };
    let (_buffer, report) = copy.load(loader, checkpoint, Operation::new())?;
    Ok(Turn {
        bytes: report.bytes,
        time: report.elapsed,
    })
}

fn streamed(loader: &Loader, checkpoint: &Checkpoint) -> Result<Turn, Failure> {
    let started = Instant::now();
    let mut bytes = 0;
    for tensor in loader.stream(checkpoint)? {
        bytes += tensor?.bytes().len() as u64;
    }
    let time = started.elapsed();
    Ok(Turn { bytes, time })
}

/// Opens the device before the clock starts, and gives its memory back after it has stopped.
fn uploaded(loader: &Loader, checkpoint: &Checkpoint, way: UploadWay) -> Result<Turn, Failure> {
    let mut opened = Target::Vulkan.open(way)?;
    let started = Instant::now();
    loader.upload(checkpoint, &mut *opened.uploader, Operation::new())?;
    let time = started.elapsed();
    let bytes = checkpoint.bytes();
    Ok(Turn { bytes, time })
}

/// Reads every file as a whole into memory that is already there.
fn ceiling(loader: &Loader, checkpoint: &Checkpoint) -> Result<Turn, Failure> {
    let mut turn = Turn {
        bytes: 0,
        time: Duration::ZERO,
    };
    let memory = &*loader.platform().memory;
    for file in checkpoint.files() {
        let len = usize::try_from(file.len()).map_err(|_| {
            let path = file.path().display();
            Failure::Message(format!("{path}: exceeds the address space"))
        })?;
        let mut buffer = HostBuffer::zeroed(memory, len)?;
        buffer.fill(1);
        let started = Instant::now();
        let report = loader.read_into(file, .., &mut buffer[..], Operation::new())?;
        turn.time += started.elapsed();
        turn.bytes += report.bytes;
    }
    Ok(turn)
}
