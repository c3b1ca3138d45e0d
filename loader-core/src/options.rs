//! What can be chosen, none of which has to be.

use std::fmt;
use std::str::FromStr;

use crate::pace::Pace;
use crate::{Error, Placement, Result};

/// How bytes are read.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// use loader_core::{Copier, Error, Extent, Job, LoadOptions, Operation, Platform, WeightFile};
/// let platform = Platform::portable(); // It has no direct I/O.
/// let mut options = LoadOptions::default();
/// options.strategy = "direct".parse()?;
/// let copier = Copier::new(&platform, &options);
/// let file = WeightFile::open(&path)?;
/// let mut memory = [0; 7];
/// let plan = copier.plan(&[Extent { offset: 0, len: 7, destination: 0 }], 7)?;
/// let job = Job { file, plan, destination: (&mut memory).into() };
/// // What was forced never falls back.
/// assert!(matches!(copier.run(vec![job], Operation::new()), Err(Error::Unsupported { .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// Resident bytes through the page cache, cold ones past it, each where it is fastest.
    #[default]
    Auto,
    /// All bytes past the page cache; an error where the file does not allow it. It caches nothing,
    /// so that [`CachePolicy::Keep`] is refused beside it.
    Direct,
    /// All bytes through the page cache.
    Buffered,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Buffered => "buffered",
        })
    }
}

impl FromStr for Strategy {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        match value.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "direct" => Ok(Self::Direct),
            "buffered" => Ok(Self::Buffered),
            _ => Err(Error::InvalidOption {
                option: "strategy",
                value: value.to_owned(),
                expected: "auto, direct or buffered",
            }),
        }
    }
}

/// What becomes of the page cache.
///
/// ```
/// use loader_core::CachePolicy;
/// assert_eq!(CachePolicy::default(), CachePolicy::Auto);
/// // From an argument of a program, say.
/// let cache: CachePolicy = "keep".parse()?;
/// assert_eq!(cache, CachePolicy::Keep);
/// assert_eq!(cache.to_string(), "keep");
/// assert!("forget".parse::<CachePolicy>().is_err());
/// # Ok::<(), loader_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CachePolicy {
    /// Whatever is fastest now; where direct I/O serves, the page cache stays as it was.
    #[default]
    Auto,
    /// The bytes read end up cached, so that the next start is warm. Not with
    /// [`Strategy::Direct`], which reads past the cache.
    Keep,
    /// Bytes that were not cached before are not cached afterwards.
    ///
    /// What is read through the page cache all the same is evicted at the end of an operation that
    /// succeeds; so is what was cached before in stretches that were so in part, or of which nobody
    /// knows. It stays where nothing can be evicted: on Windows, and with the portable parts alone.
    /// On Linux pages stay that somebody has mapped.
    Bypass,
}

impl fmt::Display for CachePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Keep => "keep",
            Self::Bypass => "bypass",
        })
    }
}

impl FromStr for CachePolicy {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        match value.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "keep" => Ok(Self::Keep),
            "bypass" => Ok(Self::Bypass),
            _ => Err(Error::InvalidOption {
                option: "cache",
                value: value.to_owned(),
                expected: "auto, keep or bypass",
            }),
        }
    }
}

/// In which order a stream gives what has landed.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"biasweights")?;
/// use loader_core::{LoadOptions, Platform, Stream, StreamItem, StreamOrder, WeightFile};
/// let mut options = LoadOptions::default();
/// options.stream_order = StreamOrder::Landed;
/// let files = vec![WeightFile::open(&path)?];
/// let items = vec![StreamItem { file: 0, range: 4..11 }, StreamItem { file: 0, range: 0..4 }];
/// let mut landed = [false; 2];
/// for item in Stream::start(&Platform::portable(), &options, files, items)? {
///     let (index, _) = item?; // Whichever came first.
///     landed[index] = true;
/// }
/// assert_eq!(landed, [true; 2]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamOrder {
    /// The order asked for; for a checkpoint that of its files.
    #[default]
    Asked,
    /// What lands first comes first: for consumers to whom all are alike.
    Landed,
}

/// Options of a load; the defaults need no tuning.
///
/// ```
/// use loader_core::{Copier, Extent, LoadOptions, Platform};
/// let mut options = LoadOptions::default();
/// options.chunk_bytes = Some(1 << 20);
/// options.memory_limit = Some(8 << 20);
/// options.check()?;
/// // What is read is cut into chunks of that length.
/// let platform = Platform::portable();
/// let extent = Extent { offset: 0, len: 3 << 20, destination: 0 };
/// let plan = Copier::new(&platform, &options).plan(&[extent], 3 << 20)?;
/// assert_eq!(plan.chunks().len(), 3);
/// # Ok::<(), loader_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadOptions {
    /// How bytes are read.
    pub strategy: Strategy,
    /// What becomes of the page cache.
    pub cache: CachePolicy,
    /// Threads that copy from the page cache; by default as many as suit the machine.
    pub threads: Option<usize>,
    /// Direct reads in flight.
    pub queue_depth: Option<usize>,
    /// Bytes of one read at most.
    pub chunk_bytes: Option<u64>,
    /// Bytes in flight and read ahead at most. Whatever it says, one chunk may be in flight, each
    /// worker may have one slab of 1 MiB where reads are unaligned, and a [`Stream`](crate::Stream)
    /// reads one item ahead.
    ///
    /// By default as many chunks are in flight as `queue_depth` says, and a stream reads 128 MiB
    /// ahead. A quarter of the memory that is available bounds a stream in any case, and 1 GiB the
    /// bytes in flight of a whole process.
    pub memory_limit: Option<u64>,
    /// How tensors lie in buffers of ours.
    pub placement: Placement,
    /// Bytes a second at most, read or prefetched, for each operation.
    pub pace: Option<u64>,
    /// Whether the buffers that `weightloader::Loader::load` gives are locked in memory once they are
    /// filled, as far as the system allows it; the report tells. Memory that uploads import, that
    /// streams give or that is the caller's is not locked.
    ///
    /// Linux allows `RLIMIT_MEMLOCK` bytes, macOS that and `vm.user_wire_limit`. On Windows the working
    /// set has to grow as much, which users may be denied. Memory of the portable parts cannot be
    /// locked.
    pub lock_memory: bool,
    /// In which order a stream gives what has landed.
    pub stream_order: StreamOrder,
}

/// Bytes of the largest block that common devices ask of direct I/O.
const BLOCK: u64 = 4096;

impl LoadOptions {
    /// The most bytes of one chunk, unless chosen otherwise.
    pub const DEFAULT_CHUNK_BYTES: u64 = 2 << 20;
    /// Direct reads in flight, unless chosen otherwise.
    pub const DEFAULT_QUEUE_DEPTH: usize = 32;

    /// Up to this many bytes in all, [`Strategy::Auto`] reads through the page cache: asking around
    /// would cost more than any choice gains.
    pub const SMALL_BYTES: u64 = 1 << 20;

    pub(crate) fn chunk_bytes(&self) -> u64 {
        let chosen = self.chunk_bytes.unwrap_or(Self::DEFAULT_CHUNK_BYTES);
        // Whole blocks of any device, as all limits of chunks are.
        let paced = |pace| Pace::new(pace).piece_bytes() / BLOCK * BLOCK;
        self.pace.map_or(chosen, |pace| chosen.min(paced(pace)))
    }

    pub(crate) fn queue_depth(&self) -> usize {
        self.queue_depth.unwrap_or(Self::DEFAULT_QUEUE_DEPTH)
    }

    /// Whether `bytes` of a file may be read past the page cache, where the file allows it.
    pub(crate) fn may_read_directly(&self, bytes: u64) -> bool {
        match self.strategy {
            Strategy::Direct => true,
            Strategy::Buffered => false,
            Strategy::Auto => self.cache != CachePolicy::Keep && bytes > Self::SMALL_BYTES,
        }
    }

    /// Checks that every option makes sense, by itself and beside the others.
    ///
    /// ```
    /// use loader_core::{CachePolicy, LoadOptions, Strategy};
    /// let mut options = LoadOptions::default();
    /// options.cache = CachePolicy::Keep;
    /// assert!(options.check().is_ok());
    /// // Nothing read past the page cache ends up in it.
    /// options.strategy = Strategy::Direct;
    /// assert!(options.check().is_err());
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidOption`] naming the one that does not.
    pub fn check(&self) -> Result<()> {
        let invalid = |option, value: String, expected| {
            Err(Error::InvalidOption {
                option,
                value,
                expected,
            })
        };
        if (self.strategy, self.cache) == (Strategy::Direct, CachePolicy::Keep) {
            let expected = "auto or bypass with the strategy direct, which caches nothing";
            return invalid("cache", self.cache.to_string(), expected);
        }
        if let Some(threads @ (0 | 1025..)) = self.threads {
            return invalid("threads", threads.to_string(), "1 to 1024");
        }
        if let Some(depth @ (0 | 4097..)) = self.queue_depth {
            return invalid("queue depth", depth.to_string(), "1 to 4096");
        }
        match self.chunk_bytes {
            Some(bytes) if !(4096..=1 << 30).contains(&bytes) => {
                return invalid("chunk bytes", bytes.to_string(), "4096 to 1073741824 bytes");
            }
            _ => {}
        }
        if self.pace == Some(0) {
            return invalid("pace", "0".to_owned(), "at least 1 byte a second");
        }
        match self.placement {
            Placement::Aligned(bytes) if !bytes.is_power_of_two() || bytes > 1 << 21 => invalid(
                "placement",
                bytes.to_string(),
                "a power of two up to 2097152 bytes",
            ),
            _ => Ok(()),
        }
    }
}
