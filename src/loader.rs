//! The face: options and the platform, and what can be done with them.

use std::ops::{Range, RangeBounds};
use std::path::Path;

use loader_core::{
    Copier, Destination, Extent, HostBuffer, Job, Layout, LoadOptions, Operation, Platform,
    Prefetch, Report, ResidencyMap, Result, Stream, StreamItem, Uploader, WeightFile,
};
#[cfg(doc)]
use loader_core::{Error, StreamOrder};
use loader_formats::Checkpoint;

use crate::{LoaderBuilder, Model, ReadRequest, TensorStream, Uploaded};

/// Loads weights as its options say. Making one is cheap.
///
/// ```
/// # fn main() -> weightloader::Result<()> {
/// use weightloader::{CachePolicy, Loader};
/// let loader = Loader::builder().cache(CachePolicy::Keep).memory_limit(64 << 20).build()?;
/// # drop(loader);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Loader {
    pub(crate) platform: Platform,
    pub(crate) options: LoadOptions,
}

impl Loader {
    /// A loader with the default options.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where an environment variable makes no sense.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// A loader with options.
    pub fn builder() -> LoaderBuilder {
        LoaderBuilder::default()
    }

    /// The options in force, environment included.
    #[must_use]
    pub fn options(&self) -> &LoadOptions {
        &self.options
    }

    /// The mechanisms in use.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Reads the headers of a checkpoint: a file of safetensors, GGUF or raw bytes, or a folder of
    /// shards.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.bin");
    /// # std::fs::write(&path, b"biasweights")?;
    /// let checkpoint = weightloader::Loader::new()?.open(&path)?;
    /// for tensor in checkpoint.tensors() {
    ///     println!("{} {:?}: bytes {:?}", tensor.name(), tensor.shape(), tensor.range());
    /// }
    /// # assert_eq!(checkpoint.tensors().len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Checkpoint> {
        Checkpoint::open(path)
    }

    /// Loads the tensors of `checkpoint` into host memory, one buffer a file.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.bin");
    /// # std::fs::write(&path, b"biasweights")?;
    /// use weightloader::{Loader, Operation};
    /// let loader = Loader::new()?;
    /// let checkpoint = loader.open(&path)?;
    /// let operation = Operation::new().on_progress(|progress| {
    ///     println!("{} of {} bytes", progress.bytes, progress.total);
    /// });
    /// let model = loader.load(&checkpoint, operation)?;
    /// assert_eq!(model.report().bytes, 11);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] before anything is read where the model cannot fit; otherwise the
    /// first error of any read, with its file and offset; [`Error::Unsupported`] where a forced
    /// strategy cannot serve or no thread can be started; [`Error::Cancelled`].
    pub fn load(&self, checkpoint: &Checkpoint, operation: Operation<'_>) -> Result<Model> {
        let copier = Copier::new(&self.platform, &self.options);
        let layouts = self.layouts(checkpoint)?;
        let needed = layouts.iter().map(|layout| layout.len() as u64).sum();
        self.platform.check_memory(needed)?;
        let mut buffers = Vec::with_capacity(layouts.len());
        for layout in &layouts {
            buffers.push(HostBuffer::zeroed(&*self.platform.memory, layout.len())?);
        }
        let files = checkpoint.files();
        let mut report = loader_core::fill(&copier, files, &layouts, &mut buffers, operation)?;
        if self.options.lock_memory {
            report.lock(&buffers);
        }
        Ok(Model {
            checkpoint: checkpoint.clone(),
            buffers,
            layouts,
            report,
        })
    }

    /// Reads `range` of `file` into `destination`, which must hold exactly as many bytes. Nothing
    /// writes to it any more when this returns, errs or unwinds.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.bin");
    /// # std::fs::write(&path, b"biasweights")?;
    /// use weightloader::{Loader, Operation, WeightFile};
    /// let file = WeightFile::open(&path)?;
    /// let mut weights = [0; 7];
    /// let report = Loader::new()?.read_into(&file, 4..11, &mut weights, Operation::new())?;
    /// assert_eq!((&weights, report.bytes), (b"weights", 7));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfBounds`], [`Error::Destination`]; the first error of any read, with its
    /// offset; [`Error::Unsupported`] where a forced strategy cannot serve or no thread can be
    /// started; [`Error::Cancelled`]. After an error the destination holds part of the bytes.
    pub fn read_into<'d>(
        &self,
        file: &WeightFile,
        range: impl RangeBounds<u64>,
        destination: impl Into<Destination<'d>>,
        operation: Operation<'_>,
    ) -> Result<Report> {
        let range = file.range(range)?;
        let base = file.base();
        let request = ReadRequest::new(file, range.start - base..range.end - base, destination);
        self.read_many([request], operation)
    }

    /// Reads many ranges of `file`, each to a place of its own in `destination`. The extents'
    /// offsets count from the start of `file`.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.bin");
    /// # std::fs::write(&path, b"biasweights")?;
    /// use weightloader::{Extent, Loader, Operation, WeightFile};
    /// let file = WeightFile::open(&path)?;
    /// let extents = [
    ///     Extent { offset: 4, len: 7, destination: 0 },
    ///     Extent { offset: 0, len: 4, destination: 7 },
    /// ];
    /// let mut memory = [0; 11];
    /// Loader::new()?.read_ranges_into(&file, &extents, &mut memory, Operation::new())?;
    /// assert_eq!(&memory, b"weightsbias");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`read_into`](Self::read_into), and [`Error::OverlappingDestinations`].
    pub fn read_ranges_into<'d>(
        &self,
        file: &WeightFile,
        extents: &[Extent],
        destination: impl Into<Destination<'d>>,
        operation: Operation<'_>,
    ) -> Result<Report> {
        let mut absolute = Vec::with_capacity(extents.len());
        for extent in extents {
            let end = extent.offset.saturating_add(extent.len);
            let range = file.range(extent.offset..end)?;
            absolute.push(Extent {
                offset: range.start,
                ..*extent
            });
        }
        self.read_extents(file, &absolute, destination.into(), operation)
    }

    /// Makes many reads at once, from any number of files, each into memory of its own: the
    /// tensors of a runtime that allocates every one by itself. Bytes are read in the order of the
    /// files, with as many reads in flight as if it were one.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("weights.bin");
    /// # std::fs::write(&path, b"biaskernel")?;
    /// use weightloader::{Loader, Operation, ReadRequest, WeightFile};
    /// let file = WeightFile::open(&path)?;
    /// let (mut kernel, mut bias) = ([0; 6], [0; 4]);
    /// let requests = [
    ///     ReadRequest::new(&file, 4..10, &mut kernel),
    ///     ReadRequest::new(&file, 0..4, &mut bias),
    /// ];
    /// Loader::new()?.read_many(requests, Operation::new())?;
    /// assert_eq!((&kernel, &bias), (b"kernel", b"bias"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`read_into`](Self::read_into).
    pub fn read_many<'d>(
        &self,
        requests: impl IntoIterator<Item = ReadRequest<'d>>,
        operation: Operation<'_>,
    ) -> Result<Report> {
        let copier = Copier::new(&self.platform, &self.options);
        let requests = requests.into_iter();
        let jobs = requests.map(|request| request.into_job(&copier));
        copier.run(jobs.collect::<Result<_>>()?, operation)
    }

    fn read_extents(
        &self,
        file: &WeightFile,
        extents: &[Extent],
        destination: Destination<'_>,
        operation: Operation<'_>,
    ) -> Result<Report> {
        let copier = Copier::new(&self.platform, &self.options);
        let destination = copier.examine(destination);
        let plan = copier.plan_for(extents, &destination)?;
        copier.run(
            vec![Job {
                file: file.clone(),
                plan,
                destination,
            }],
            operation,
        )
    }

    /// Brings `range` of `file` into the page cache in the background. Returns at once, whatever
    /// the size. A later read of the same bytes claims what has not begun by then.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.bin");
    /// # std::fs::write(&path, b"biasweights")?;
    /// use weightloader::{Loader, Operation, WeightFile};
    /// let loader = Loader::new()?;
    /// let file = WeightFile::open(&path)?;
    /// let ahead = loader.prefetch(&file, 4..)?;
    /// // Other work comes here.
    /// let mut weights = [0; 7];
    /// loader.read_into(&file, 4.., &mut weights, Operation::new())?;
    /// ahead.cancel(); // As dropping it would: nothing is left of it.
    /// # assert_eq!(&weights, b"weights");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]. That a hint fails is no error: the outcome tells.
    pub fn prefetch(&self, file: &WeightFile, range: impl RangeBounds<u64>) -> Result<Prefetch> {
        let range = file.range(range)?;
        let Platform {
            prefetchers,
            system,
            ..
        } = &self.platform;
        Ok(loader_core::prefetch(
            prefetchers,
            system,
            file,
            vec![range],
            self.options.pace,
        ))
    }

    /// Brings what lies behind mapped memory into the page cache in the background: for those who
    /// got an address from a runtime and not the file. Only the address is used, never the memory.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the system does not tell which file is mapped there (only Linux
    /// does), where that is none or more than one, or where it was deleted or replaced.
    pub fn prefetch_mapped(&self, start: *const u8, len: usize) -> Result<Prefetch> {
        let Platform {
            prefetchers,
            system,
            ..
        } = &self.platform;
        let (file, ranges) = system.mapped_file(start.addr(), len)?;
        Ok(loader_core::prefetch(
            prefetchers,
            system,
            &file,
            ranges,
            self.options.pace,
        ))
    }

    /// Gives the tensors of `checkpoint` one by one, in the [`StreamOrder`] that the options name,
    /// in bounded memory: for callers that convert or upload as they go.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.bin");
    /// # std::fs::write(&path, b"biasweights")?;
    /// let loader = weightloader::Loader::new()?;
    /// let checkpoint = loader.open(&path)?;
    /// for tensor in loader.stream(&checkpoint)? {
    ///     let tensor = tensor?;
    ///     println!("{} has landed", tensor.name());
    ///     assert_eq!(tensor.bytes(), b"biasweights");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidOption`]; [`Error::Unsupported`] where no thread can be started. Errors of
    /// reads come from the stream.
    pub fn stream(&self, checkpoint: &Checkpoint) -> Result<TensorStream> {
        TensorStream::start(self, checkpoint)
    }

    /// As [`stream`](Self::stream), for ranges of one file, each given with its index. They may
    /// overlap and come in any order; one that is empty is given all the same.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.bin");
    /// std::fs::write(&path, b"biasweights")?;
    /// let file = weightloader::WeightFile::open(&path)?;
    /// let loader = weightloader::Loader::new()?;
    /// for part in loader.stream_ranges(&file, [4..11, 0..4])? {
    ///     let (index, bytes) = part?;
    ///     assert_eq!(&bytes[..], [&b"weights"[..], b"bias"][index]);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; as [`stream`](Self::stream).
    pub fn stream_ranges(
        &self,
        file: &WeightFile,
        ranges: impl IntoIterator<Item = Range<u64>>,
    ) -> Result<Stream> {
        let item = |range: Range<u64>| {
            Ok(StreamItem {
                file: 0,
                range: file.range(range)?,
            })
        };
        let items = ranges.into_iter().map(item).collect::<Result<_>>()?;
        Stream::start(&self.platform, &self.options, vec![file.clone()], items)
    }

    /// Brings the tensors of `checkpoint` to where `uploader` takes them, and tells where each
    /// ended up.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.bin");
    /// # std::fs::write(&path, b"biasweights")?;
    /// use weightloader::{HostUploader, Loader, Operation};
    /// let loader = Loader::new()?;
    /// let checkpoint = loader.open(&path)?;
    /// let mut uploader = HostUploader::new();
    /// let uploaded = loader.upload(&checkpoint, &mut uploader, Operation::new())?;
    /// let placed = &uploaded.placements[0];
    /// let buffers = uploader.into_buffers();
    /// let bytes = &buffers[placed.buffer][placed.offset..placed.offset + placed.len];
    /// assert_eq!(bytes, b"biasweights");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Whatever reading or the uploader fails with; [`Error::Cancelled`].
    pub fn upload(
        &self,
        checkpoint: &Checkpoint,
        uploader: &mut dyn Uploader,
        operation: Operation<'_>,
    ) -> Result<Uploaded> {
        crate::upload::upload(self, checkpoint, uploader, operation)
    }

    /// How much of `range` the page cache holds; `granularity` is how finely, in bytes, to tell.
    ///
    /// Linux tells those who own the file or may write it (cachestat(2), since Linux 6.5). For
    /// others, and before, single bytes are sampled, which brings in the pages of those that are
    /// not cached. macOS tells (mincore(2)). On Windows a few reads are timed, whose pages are cached
    /// afterwards: the map [is an estimate](ResidencyMap::is_estimate). On Android, and where there
    /// are the portable parts alone, nobody knows.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.bin");
    /// # std::fs::write(&path, b"biasweights")?;
    /// let loader = weightloader::Loader::new()?;
    /// let file = weightloader::WeightFile::open(&path)?;
    /// let map = loader.residency(&file, .., 1 << 20)?;
    /// match map.resident_bytes() {
    ///     Some(bytes) => println!("{bytes} of {} bytes are cached", file.len()),
    ///     None => println!("nobody knows what is cached"),
    /// }
    /// # assert!(map.resident_bytes().is_none_or(|bytes| bytes <= 11));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn residency(
        &self,
        file: &WeightFile,
        range: impl RangeBounds<u64>,
        granularity: u64,
    ) -> Result<ResidencyMap> {
        Ok(self
            .platform
            .system
            .residency(file, file.range(range)?, granularity))
    }

    /// Drops `range` of `file` from the page cache, in whole pages, those included that it only
    /// touches. Dirty ones are written to the device first, on Linux with all others of the file.
    /// What cannot be written stays, on Linux also what is being read or mapped by anybody; macOS
    /// drops what is mapped too. Windows has no such call.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Unsupported`] where the system has no such call.
    pub fn evict(&self, file: &WeightFile, range: impl RangeBounds<u64>) -> Result<()> {
        self.platform.system.evict(file, file.range(range)?)
    }

    /// Where the tensors of each file lie in its buffer.
    pub(crate) fn layouts(&self, checkpoint: &Checkpoint) -> Result<Vec<Layout>> {
        let files = checkpoint.files();
        let mut wanted: Vec<Vec<Range<u64>>> = vec![Vec::new(); files.len()];
        for tensor in checkpoint.tensors() {
            let base = files[tensor.file()].base();
            let range = tensor.range();
            wanted[tensor.file()].push(base + range.start..base + range.end);
        }
        let layout = |(file, ranges): (&WeightFile, &mut Vec<Range<u64>>)| {
            ranges.sort_unstable_by_key(|range| range.start);
            let within = file.base()..file.base() + file.len();
            Layout::new(ranges, within, self.options.placement)
        };
        files.iter().zip(&mut wanted).map(layout).collect()
    }
}
