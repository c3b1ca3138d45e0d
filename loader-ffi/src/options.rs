//! What can be chosen about a file.

use weightloader::{Loader, StreamOrder};

use crate::boundary::invalid;
use crate::failure::Result;
use crate::sized::{self, Growing};

/// How bytes are read.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// What is cached through the page cache, the rest past it, each where it is fastest.
    Auto = 0,
    /// All past the page cache; an error where the file does not allow it.
    Direct = 1,
    /// All through the page cache.
    Buffered = 2,
}

/// What becomes of the page cache.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CachePolicy {
    /// Whatever is fastest now; where direct reads serve, the cache stays as it was.
    Auto = 0,
    /// The bytes read end up cached, so that the next start is warm. Refused where all reads are to
    /// go past the cache.
    Keep = 1,
    /// What was not cached before is not cached afterwards.
    Bypass = 2,
}

/// How a file is read; zero everywhere is the best for most. The environment may overrule it:
/// `WEIGHTLOADER_STRATEGY`, `WEIGHTLOADER_CACHE`, `WEIGHTLOADER_THREADS`, and so on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// sizeof(weightloader_options).
    pub struct_size: usize,
    /// A weightloader_strategy.
    pub strategy: u32,
    /// A weightloader_cache.
    pub cache: u32,
    /// Threads that copy from the page cache, 1 to 1024, independent of how many compute; 0 for as
    /// many as suit the machine.
    pub threads: u32,
    /// Direct reads in flight, 1 to 4096; 0 for the default.
    pub queue_depth: u32,
    /// Bytes of one read at most, 4096 to 2^30; 0 for the default.
    pub chunk_bytes: u64,
    /// Bytes in flight and read ahead at most, besides the destination: never less than one chunk,
    /// and 1 MiB a worker where reads are unaligned; 0 for what suits the machine.
    pub memory_limit: u64,
    /// Bytes a second at most, read or prefetched, for each operation, so that others who use the
    /// device are not disturbed; 0 for no limit.
    pub bytes_per_second: u64,
}

// SAFETY: numbers, the first of which is the length.
unsafe impl Growing for Options {
    const NAME: &'static str = "weightloader_options";
}

/// Options that were read from the caller.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chosen(Options);

impl Chosen {
    /// # Safety
    /// `options` is null or points to as many bytes as its first member says.
    pub(crate) unsafe fn read(options: *const Options) -> Result<Self> {
        // SAFETY: the caller's promise.
        Ok(Self(unsafe { sized::read_or_default(options) }?))
    }

    /// The loader that they make.
    pub(crate) fn loader(&self) -> Result<Loader> {
        self.paced_loader(self.0.bytes_per_second, StreamOrder::Asked)
    }

    /// The same with another pace, where that is not zero.
    pub(crate) fn paced_loader(&self, bytes_per_second: u64, order: StreamOrder) -> Result<Loader> {
        let Options {
            strategy,
            cache,
            threads,
            queue_depth,
            chunk_bytes,
            memory_limit,
            ..
        } = self.0;
        let strategy = match strategy {
            0 => weightloader::Strategy::Auto,
            1 => weightloader::Strategy::Direct,
            2 => weightloader::Strategy::Buffered,
            other => return Err(invalid(format!("{other} is no weightloader_strategy"))),
        };
        let cache = match cache {
            0 => weightloader::CachePolicy::Auto,
            1 => weightloader::CachePolicy::Keep,
            2 => weightloader::CachePolicy::Bypass,
            other => return Err(invalid(format!("{other} is no weightloader_cache"))),
        };
        let pace = match bytes_per_second {
            0 => self.0.bytes_per_second,
            own => own,
        };
        let mut builder = Loader::builder()
            .strategy(strategy)
            .cache(cache)
            .stream_order(order);
        if threads > 0 {
            builder = builder.threads(count(threads));
        }
        if queue_depth > 0 {
            builder = builder.queue_depth(count(queue_depth));
        }
        if chunk_bytes > 0 {
            builder = builder.chunk_bytes(chunk_bytes);
        }
        if memory_limit > 0 {
            builder = builder.memory_limit(memory_limit);
        }
        if pace > 0 {
            builder = builder.pace(pace);
        }
        Ok(builder.build()?)
    }
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
