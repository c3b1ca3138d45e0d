//! The options of a loader.

#[cfg(doc)]
use loader_core::Error;
use loader_core::{CachePolicy, LoadOptions, Placement, Platform, Result, Strategy, StreamOrder};

use crate::{Loader, environment};

/// Options of a [`Loader`]; nothing is required.
///
/// The environment may overrule what is chosen here, so that an operator can change a runtime that
/// embeds the loader: `WEIGHTLOADER_STRATEGY`, `WEIGHTLOADER_CACHE`, `WEIGHTLOADER_THREADS`,
/// `WEIGHTLOADER_QUEUE_DEPTH`, `WEIGHTLOADER_CHUNK`, `WEIGHTLOADER_MEMORY_LIMIT` (bytes) and
/// `WEIGHTLOADER_PACE` (bytes a second).
///
/// ```
/// # fn main() -> weightloader::Result<()> {
/// use weightloader::{Loader, Placement, StreamOrder};
/// let loader = Loader::builder()
///     .memory_limit(64 << 20) // Bytes in flight and read ahead.
///     .pace(500_000_000) // Bytes a second.
///     .placement(Placement::Aligned(64))
///     .stream_order(StreamOrder::Landed)
///     .build()?;
/// assert_eq!(loader.options().placement, Placement::Aligned(64));
/// assert_eq!(loader.options().stream_order, StreamOrder::Landed);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until build() is called"]
pub struct LoaderBuilder {
    platform: Option<Platform>,
    options: LoadOptions,
}

impl LoaderBuilder {
    /// How bytes are read; by default each where it is fastest.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.options.strategy = strategy;
        self
    }

    /// What becomes of the page cache; by default whatever is fastest now. [`CachePolicy::Bypass`]
    /// cannot keep its promise everywhere.
    pub fn cache(mut self, cache: CachePolicy) -> Self {
        self.options.cache = cache;
        self
    }

    /// Threads that copy from the page cache, 1 to 1024; by default as many as suit the machine.
    pub fn threads(mut self, threads: usize) -> Self {
        self.options.threads = Some(threads);
        self
    }

    /// Direct reads in flight, 1 to 4096; by default [`LoadOptions::DEFAULT_QUEUE_DEPTH`].
    pub fn queue_depth(mut self, reads: usize) -> Self {
        self.options.queue_depth = Some(reads);
        self
    }

    /// Bytes of one read at most, 4096 to 2^30; by default [`LoadOptions::DEFAULT_CHUNK_BYTES`].
    pub fn chunk_bytes(mut self, bytes: u64) -> Self {
        self.options.chunk_bytes = Some(bytes);
        self
    }

    /// Bytes in flight and read ahead at most. Whatever the limit, one chunk is in flight, each
    /// worker has one slab of 1 MiB where reads are unaligned, and a stream reads one tensor ahead.
    /// Without one, see [`LoadOptions::memory_limit`].
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.options.memory_limit = Some(bytes);
        self
    }

    /// How tensors lie in the buffers that [`Loader::load`] gives; by default as in their file.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.bin");
    /// # std::fs::write(&path, b"headerweights")?;
    /// use weightloader::{Checkpoint, Loader, Operation, Placement, WeightFile};
    /// let loader = Loader::builder().placement(Placement::Aligned(64)).build()?;
    /// // Weights that begin at an odd place of a larger file.
    /// let checkpoint = Checkpoint::raw(WeightFile::open(&path)?.slice(6, 7)?);
    /// let model = loader.load(&checkpoint, Operation::new())?;
    /// let weights = model.tensor("weights")?.bytes();
    /// assert_eq!((weights, weights.as_ptr().addr() % 64), (&b"weights"[..], 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn placement(mut self, placement: Placement) -> Self {
        self.options.placement = placement;
        self
    }

    /// Bytes a second at most, read or prefetched, for each operation: so that others who use the
    /// device are not disturbed.
    pub fn pace(mut self, bytes_per_second: u64) -> Self {
        self.options.pace = Some(bytes_per_second);
        self
    }

    /// Locks weights in memory once [`Loader::load`] has them in place, so that they are never
    /// swapped out, as far as the system allows it; the report tells. Only the buffers of ours that
    /// [`Loader::load`] gives: not what streams give, and not what uploads import. See
    /// [`LoadOptions::lock_memory`] for each system's limits.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.bin");
    /// # std::fs::write(&path, b"biasweights")?;
    /// use weightloader::{Loader, Operation};
    /// let loader = Loader::builder().lock_memory(true).build()?;
    /// let model = loader.load(&loader.open(&path)?, Operation::new())?;
    /// let report = model.report();
    /// println!("{} bytes are locked", report.locked_bytes.expect("it was asked for"));
    /// for fallback in &report.fallbacks {
    ///     println!("{fallback}"); // Why others are not, say.
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock_memory(mut self, lock: bool) -> Self {
        self.options.lock_memory = lock;
        self
    }

    /// In which order [`Loader::stream`] gives tensors; by default that of the files.
    pub fn stream_order(mut self, order: StreamOrder) -> Self {
        self.options.stream_order = order;
        self
    }

    /// Other mechanisms than those of this system: readers of your own, or the portable ones.
    ///
    /// ```
    /// # fn main() -> weightloader::Result<()> {
    /// use weightloader::{Loader, core::Platform};
    /// let loader = Loader::builder().platform(Platform::portable()).build()?;
    /// assert_eq!(loader.platform().name, "portable");
    /// # Ok(())
    /// # }
    /// ```
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// The loader.
    ///
    /// ```
    /// use weightloader::{Error, Loader, Placement};
    /// // Alignments are powers of two.
    /// let refused = Loader::builder().placement(Placement::Aligned(48)).build();
    /// assert!(matches!(refused, Err(Error::InvalidOption { .. })));
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidOption`] naming the option or environment variable that makes no sense.
    pub fn build(self) -> Result<Loader> {
        let mut options = self.options;
        environment::override_options(&mut options)?;
        options.check()?;
        let platform = self.platform.unwrap_or_else(|| crate::platform().clone());
        Ok(Loader { platform, options })
    }
}
