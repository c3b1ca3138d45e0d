//! Brings the bytes of files to an uploader, the way it asks for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use crossbeam::channel::unbounded;

use crate::feeder::{FedChunks, Feed, Feeder};
use crate::staging::{Fill, Slots};
use crate::{
    Copier, Destination, Error, Extent, HostBuffer, Job, Landing, Layout, Operation, Platform,
    Report, Result, Slot, StagedPart, Uploader, WeightFile,
};

/// Brings what `layouts` lay out of `files` into one buffer of the uploader's for each layout. A
/// file that goes into several buffers is named once for each.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// use loader_core::{
///     Copier, HostUploader, Landing, Layout, LoadOptions, Operation, Placement, Platform,
///     WeightFile, upload,
/// };
/// let (platform, options) = (Platform::portable(), LoadOptions::default());
/// let copier = Copier::new(&platform, &options);
/// let files = [WeightFile::open(&path)?];
/// let layouts = [Layout::new(&[0..7], 0..7, Placement::Aligned(64))?];
/// let mut uploader = HostUploader::new();
/// let operation = Operation::new();
/// let report = upload(&platform, &copier, &files, &layouts, &mut uploader, operation)?;
/// assert_eq!(report.landing, Some(Landing::Import));
/// assert_eq!(&uploader.into_buffers()[0][..7], b"weights");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Whatever reading or the uploader fails with; [`Error::Upload`] where the uploader contradicts
/// itself; [`Error::OutOfMemory`] where host memory that is to be imported cannot fit;
/// [`Error::Cancelled`].
pub fn upload(
    platform: &Platform,
    copier: &Copier<'_>,
    files: &[WeightFile],
    layouts: &[Layout],
    uploader: &mut dyn Uploader,
    operation: Operation<'_>,
) -> Result<Report> {
    let started = Instant::now();
    let _span = tracing::debug_span!("upload", uploader = uploader.name()).entered();
    let mut upload = Upload {
        uploader,
        finished: false,
    };
    let lens: Vec<usize> = layouts.iter().map(Layout::len).collect();
    let landing = upload.uploader.prepare(&lens, &*platform.memory)?;
    tracing::debug!(
        ?landing,
        buffers = lens.len(),
        bytes = lens.iter().sum::<usize>(),
        "prepared"
    );
    let mut report = match landing {
        Landing::Import => upload.import(platform, copier, files, layouts, operation)?,
        Landing::InPlace => upload.fill_in_place(copier, files, layouts, operation)?,
        Landing::Staged {
            slot_bytes,
            copy_alignment,
        } => {
            let slots = Slots::new(slot_bytes, copy_alignment);
            let fills = slots.and_then(|slots| slots.schedule(layouts));
            let fills = fills.map_err(|message| upload.error(message))?;
            upload.stage(copier, files, slot_bytes, fills, operation)?
        }
    };
    upload.finish()?;
    report.fallbacks.extend(upload.uploader.refusals());
    report.landing = Some(landing);
    report.elapsed = started.elapsed();
    tracing::debug!(bytes = report.bytes, "uploaded");
    Ok(report)
}

/// An uploader at work, which is told to abort unless it comes to finish.
struct Upload<'u> {
    uploader: &'u mut dyn Uploader,
    finished: bool,
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.uploader.abort();
        }
    }
}

impl Upload<'_> {
    fn finish(&mut self) -> Result<()> {
        self.uploader.finish()?;
        self.finished = true;
        Ok(())
    }

    fn error(&self, message: String) -> Error {
        Error::Upload {
            uploader: self.uploader.name(),
            message,
        }
    }

    fn import(
        &mut self,
        platform: &Platform,
        copier: &Copier<'_>,
        files: &[WeightFile],
        layouts: &[Layout],
        operation: Operation<'_>,
    ) -> Result<Report> {
        platform.check_memory(layouts.iter().map(|layout| layout.len() as u64).sum())?;
        let mut buffers = Vec::with_capacity(layouts.len());
        for layout in layouts {
            buffers.push(HostBuffer::zeroed(&*platform.memory, layout.len())?);
        }
        let report = fill(copier, files, layouts, &mut buffers, operation)?;
        self.uploader.import(buffers)?;
        Ok(report)
    }

    fn fill_in_place(
        &mut self,
        copier: &Copier<'_>,
        files: &[WeightFile],
        layouts: &[Layout],
        operation: Operation<'_>,
    ) -> Result<Report> {
        let name = self.uploader.name();
        let destinations = self.uploader.destinations()?;
        let (found, wanted) = (destinations.len(), layouts.len());
        if found != wanted {
            return Err(Error::Upload {
                uploader: name,
                message: format!("{found} destinations for {wanted} buffers"),
            });
        }
        copier.run(jobs(copier, files, layouts, destinations)?, operation)
    }

    fn stage(
        &mut self,
        copier: &Copier<'_>,
        files: &[WeightFile],
        slot_bytes: usize,
        fills: Vec<Fill>,
        operation: Operation<'_>,
    ) -> Result<Report> {
        let mut wanted: Vec<_> = files
            .iter()
            .map(|file| (file.clone(), Vec::new()))
            .collect();
        for fill in &fills {
            let ranges = fill.reads.iter().map(range);
            wanted[fill.buffer].1.extend(ranges);
        }
        let mut feeder = StagingFeeder {
            copier: *copier,
            uploader: &mut *self.uploader,
            fills: fills.into_iter(),
            filling: BTreeMap::new(),
            slot_bytes,
            groups: 0,
            submitted: 0,
        };
        // SAFETY: the slots' memory is valid and untouched by `Slot::new`'s contract, until they
        // are submitted, which happens when their group has landed, or until `upload` is left,
        // which happens after `feed` has returned.
        unsafe { copier.feed(&wanted, unbounded(), &mut feeder, operation) }?.complete()
    }
}

/// Reads what `layouts` lay out into buffers of ours, which a forked child does not share while a
/// device may write to them.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// use loader_core::{
///     Copier, HostBuffer, Layout, LoadOptions, Operation, Placement, Platform, WeightFile,
/// };
/// let (platform, options) = (Platform::portable(), LoadOptions::default());
/// let copier = Copier::new(&platform, &options);
/// let layout = Layout::new(&[0..4, 4..7], 0..7, Placement::Aligned(64))?;
/// let second = layout.locate(&(4..7)).expect("it was laid out");
/// let mut buffers = [HostBuffer::zeroed(&*platform.memory, layout.len())?];
/// let files = [WeightFile::open(&path)?];
/// loader_core::fill(&copier, &files, &[layout], &mut buffers, Operation::new())?;
/// assert_eq!((&buffers[0][..4], &buffers[0][second..]), (&b"weig"[..], &b"hts"[..]));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`Copier::run`].
pub fn fill(
    copier: &Copier<'_>,
    files: &[WeightFile],
    layouts: &[Layout],
    buffers: &mut [HostBuffer],
    operation: Operation<'_>,
) -> Result<Report> {
    // All or none of them, since several may be filled from one file.
    let bytes = buffers.iter().map(|buffer| buffer.len() as u64).sum();
    let by_device = copier.options.may_read_directly(bytes);
    let exclude = |buffers: &[HostBuffer], excluded| {
        if by_device {
            buffers
                .iter()
                .for_each(|buffer| buffer.exclude_from_fork(excluded));
        }
    };
    exclude(buffers, true);
    let destinations = buffers.iter_mut().map(HostBuffer::destination);
    let outcome =
        jobs(copier, files, layouts, destinations).and_then(|jobs| copier.run(jobs, operation));
    exclude(buffers, false);
    outcome
}

/// What is read from each file, and where it lands.
fn jobs<'d>(
    copier: &Copier<'_>,
    files: &[WeightFile],
    layouts: &[Layout],
    destinations: impl IntoIterator<Item = Destination<'d>>,
) -> Result<Vec<Job<'d>>> {
    let of_files = files.iter().zip(layouts).zip(destinations);
    of_files
        .map(|((file, layout), destination)| {
            Ok(Job {
                file: file.clone(),
                plan: copier.plan(layout.extents(), layout.len())?,
                destination,
            })
        })
        .collect()
}

/// Which bytes of its file an extent wants.
fn range(extent: &Extent) -> Range<u64> {
    extent.offset..extent.offset + extent.len
}

/// Feeds the copier with what fits a slot, as the uploader hands slots back.
struct StagingFeeder<'u> {
    copier: Copier<'u>,
    uploader: &'u mut dyn Uploader,
    fills: std::vec::IntoIter<Fill>,
    /// By their groups: slots that are read into, and what is copied from them afterwards.
    filling: BTreeMap<usize, (Slot, Vec<StagedPart>)>,
    slot_bytes: usize,
    groups: usize,
    submitted: usize,
}

impl StagingFeeder<'_> {
    /// A slot that can be filled, if there is one or will be before anything else happens.
    fn slot(&mut self) -> Result<Option<Slot>> {
        // While reads are in flight their completion comes back here; else the device's must be
        // waited for, where it has anything.
        let idle = self.filling.is_empty();
        let slot = self.uploader.acquire(idle && self.submitted > 0)?;
        let message = match &slot {
            Some(slot) if slot.len < self.slot_bytes => format!(
                "a slot of {} bytes where {} were promised",
                slot.len, self.slot_bytes
            ),
            None if idle => "there is no staging slot to be had".to_owned(),
            _ => return Ok(slot),
        };
        Err(Error::Upload {
            uploader: self.uploader.name(),
            message,
        })
    }
}

impl Feeder for StagingFeeder<'_> {
    fn next(&mut self) -> Result<Feed> {
        if self.fills.as_slice().is_empty() {
            return Ok(Feed::End);
        }
        let Some(slot) = self.slot()? else {
            return Ok(Feed::Later);
        };
        let Some(fill) = self.fills.next() else {
            return Ok(Feed::End);
        };
        let plan = self.copier.plan(&fill.reads, slot.len)?;
        let group = self.groups;
        self.groups += 1;
        let fed = FedChunks {
            file: fill.buffer,
            chunks: plan.chunks().to_vec(),
            start: slot.start,
            direct: slot.direct,
            group,
            memory: None,
        };
        self.filling.insert(group, (slot, fill.parts));
        Ok(Feed::Chunks(fed))
    }

    fn landed(&mut self, group: usize) -> Result<()> {
        if let Some((slot, parts)) = self.filling.remove(&group) {
            self.uploader.submit(slot, &parts)?;
            self.submitted += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::ptr::NonNull;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{HeapMemory, HostMemory, HostRegion, LoadOptions};

    static EXCLUSIONS: AtomicUsize = AtomicUsize::new(0);

    /// The allocator's memory, which counts how often it is to be kept out of forked children.
    #[derive(Debug)]
    struct Counting;

    #[derive(Debug)]
    struct CountingRegion(Box<dyn HostRegion>);

    impl HostMemory for Counting {
        fn allocate(&self, len: usize) -> io::Result<Box<dyn HostRegion>> {
            Ok(Box::new(CountingRegion(HeapMemory.allocate(len)?)))
        }
        fn populate(&self, _start: NonNull<u8>, _len: usize) {}
    }

    // SAFETY: the memory is that of such a region, which is owned.
    unsafe impl HostRegion for CountingRegion {
        fn start(&self) -> NonNull<u8> {
            self.0.start()
        }
        fn len(&self) -> usize {
            self.0.len()
        }
        fn release(&mut self, range: Range<usize>) {
            self.0.release(range);
        }
        fn exclude_from_fork(&self, excluded: bool) {
            EXCLUSIONS.fetch_add(usize::from(excluded), Ordering::SeqCst);
        }
    }

    #[test]
    fn what_a_device_may_write_to_is_kept_out_of_children() {
        const LEN: u64 = LoadOptions::SMALL_BYTES;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, vec![7; 2 << 20]).unwrap();
        let file = WeightFile::open(&path).unwrap();
        let (platform, options) = (crate::Platform::portable(), LoadOptions::default());
        let copier = Copier::new(&platform, &options);
        // Alone each is small; together they are read from one file, maybe directly.
        for (parts, excluded) in [(1, 0), (2, 2)] {
            let layout = |part: u64| {
                let range = part * LEN..(part + 1) * LEN;
                Layout::new(&[range], 0..file.disk_len(), options.placement).unwrap()
            };
            let layouts: Vec<_> = (0..parts).map(layout).collect();
            let files = vec![file.clone(); layouts.len()];
            let mut buffers: Vec<_> = layouts
                .iter()
                .map(|layout| HostBuffer::zeroed(&Counting, layout.len()).unwrap())
                .collect();
            fill(&copier, &files, &layouts, &mut buffers, Operation::new()).unwrap();
            assert_eq!(EXCLUSIONS.swap(0, Ordering::SeqCst), excluded);
        }
    }
}
