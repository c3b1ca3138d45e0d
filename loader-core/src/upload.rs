//! Brings the bytes of files to an uploader, the way it asks for.

use std::collections::BTreeMap;
use std::ops::Range;

use crossbeam::channel::unbounded;

use crate::feeder::{FedChunks, Feed, Feeder};
use crate::{
    Copier, Destination, Error, Extent, HostBuffer, Job, Landing, Layout, Operation, Platform,
    Report, Result, Slot, StagedPart, Uploader, WeightFile,
};

/// Slots keep offsets congruent to so many bytes between file and memory, so that direct reads can
/// go straight into them.
const BLOCK: u64 = 4096;

/// Brings what `layouts` lay out of `files` into one buffer of the uploader's for each file.
///
/// # Errors
/// Whatever reading or the uploader fails with; [`Error::Upload`] where the uploader contradicts
/// itself; [`Error::Cancelled`].
pub fn upload(
    platform: &Platform,
    copier: &Copier<'_>,
    files: &[WeightFile],
    layouts: &[Layout],
    uploader: &mut dyn Uploader,
    operation: Operation<'_>,
) -> Result<Report> {
    let lens: Vec<usize> = layouts.iter().map(Layout::len).collect();
    let report = match uploader.prepare(&lens)? {
        Landing::Import => {
            let mut buffers = Vec::with_capacity(lens.len());
            for len in lens {
                buffers.push(HostBuffer::zeroed(&*platform.memory, len)?);
            }
            let report = fill(copier, files, layouts, &mut buffers, operation)?;
            uploader.import(buffers)?;
            report
        }
        Landing::InPlace => {
            let name = uploader.name();
            let destinations = uploader.destinations()?;
            if destinations.len() != files.len() {
                let message = format!(
                    "{} destinations for {} files",
                    destinations.len(),
                    files.len()
                );
                return Err(Error::Upload {
                    uploader: name,
                    message,
                });
            }
            copier.run(jobs(copier, files, layouts, destinations)?, operation)?
        }
        Landing::Staged { slot_bytes } => {
            let mut feeder = StagingFeeder::new(*copier, layouts, slot_bytes, uploader)?;
            let wanted: Vec<_> = files
                .iter()
                .zip(layouts)
                .map(|(file, layout)| (file.clone(), ranges(layout)))
                .collect();
            // SAFETY: the slots' memory is valid and untouched by `Slot::new`'s contract, until
            // they are submitted, which happens when their group has landed, or until this
            // function is left, which happens after `feed` has returned.
            unsafe { copier.feed(&wanted, unbounded(), &mut feeder, operation)? }
        }
    };
    uploader.finish()?;
    Ok(report)
}

/// Reads what `layouts` lay out into buffers of ours, which a forked child does not share
/// meanwhile.
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
    for buffer in &*buffers {
        buffer.exclude_from_fork(true);
    }
    let destinations = buffers.iter_mut().map(HostBuffer::destination);
    let outcome =
        jobs(copier, files, layouts, destinations).and_then(|jobs| copier.run(jobs, operation));
    for buffer in &*buffers {
        buffer.exclude_from_fork(false);
    }
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

/// Which bytes of its file a layout wants.
fn ranges(layout: &Layout) -> Vec<Range<u64>> {
    let extents = layout.extents().iter();
    extents
        .map(|extent| extent.offset..extent.offset + extent.len)
        .collect()
}

/// Feeds the copier with parts that fit a slot, as the uploader hands slots back.
struct StagingFeeder<'u> {
    copier: Copier<'u>,
    uploader: &'u mut dyn Uploader,
    parts: std::vec::IntoIter<Part>,
    /// A slot that waits for a part.
    slot: Option<Slot>,
    filling: BTreeMap<usize, (Slot, StagedPart)>,
    slot_bytes: usize,
    groups: usize,
    submitted: usize,
}

/// What goes through one slot.
struct Part {
    buffer: usize,
    extent: Extent,
}

impl<'u> StagingFeeder<'u> {
    fn new(
        copier: Copier<'u>,
        layouts: &[Layout],
        slot_bytes: usize,
        uploader: &'u mut dyn Uploader,
    ) -> Result<Self> {
        // The block before the first byte of a part leaves room for its congruence.
        let Some(room) = (slot_bytes as u64)
            .checked_sub(BLOCK)
            .filter(|room| *room >= BLOCK)
        else {
            let message = format!("staging slots of {slot_bytes} bytes are too small");
            return Err(Error::Upload {
                uploader: uploader.name(),
                message,
            });
        };
        let room = room - room % BLOCK;
        let mut parts = Vec::new();
        for (buffer, layout) in layouts.iter().enumerate() {
            for extent in layout.extents() {
                parts.extend(split(extent, room).map(|extent| Part { buffer, extent }));
            }
        }
        Ok(Self {
            copier,
            uploader,
            parts: parts.into_iter(),
            slot: None,
            filling: BTreeMap::new(),
            slot_bytes,
            groups: 0,
            submitted: 0,
        })
    }
}

/// Cuts an extent at multiples of `room` bytes of its file.
fn split(extent: &Extent, room: u64) -> impl Iterator<Item = Extent> + use<> {
    let Extent {
        mut offset,
        len,
        mut destination,
    } = *extent;
    let end = offset + len;
    std::iter::from_fn(move || {
        let cut = ((offset / room + 1) * room).min(end);
        let len = cut.checked_sub(offset).filter(|len| *len > 0)?;
        let part = Extent {
            offset,
            len,
            destination,
        };
        offset = cut;
        destination += usize::try_from(len).ok()?;
        Some(part)
    })
}

impl Feeder for StagingFeeder<'_> {
    fn next(&mut self) -> Result<Feed> {
        if self.parts.as_slice().is_empty() {
            return Ok(Feed::End);
        }
        if self.slot.is_none() {
            // While reads are in flight their completion comes back here; else the device's must
            // be waited for, where it has anything.
            let wait = self.filling.is_empty() && self.submitted > 0;
            self.slot = self.uploader.acquire(wait)?;
        }
        let Some(slot) = self.slot.take() else {
            if self.filling.is_empty() {
                let message = "there is no staging slot to be had".to_owned();
                return Err(Error::Upload {
                    uploader: self.uploader.name(),
                    message,
                });
            }
            return Ok(Feed::Later);
        };
        let Some(Part { buffer, extent }) = self.parts.next() else {
            return Ok(Feed::End);
        };
        if slot.len < self.slot_bytes {
            let message = format!(
                "a slot of {} bytes where {} were promised",
                slot.len, self.slot_bytes
            );
            return Err(Error::Upload {
                uploader: self.uploader.name(),
                message,
            });
        }
        // Both are less than the slot's length, by the way parts are cut.
        let small = |bytes: u64| usize::try_from(bytes).unwrap_or(self.slot_bytes);
        let slot_offset = small(extent.offset % BLOCK);
        let placed = Extent {
            destination: slot_offset,
            ..extent
        };
        let plan = self.copier.plan(&[placed], slot.len)?;
        let part = StagedPart {
            buffer,
            offset: extent.destination,
            slot_offset,
            len: small(extent.len),
        };
        let group = self.groups;
        self.groups += 1;
        let chunks = plan.chunks().to_vec();
        let (start, direct) = (slot.start, slot.direct);
        self.filling.insert(group, (slot, part));
        Ok(Feed::Chunks(FedChunks {
            file: buffer,
            chunks,
            start,
            direct,
            group,
            memory: None,
        }))
    }

    fn landed(&mut self, group: usize) -> Result<()> {
        if let Some((slot, part)) = self.filling.remove(&group) {
            self.uploader.submit(slot, part)?;
            self.submitted += 1;
        }
        Ok(())
    }
}
