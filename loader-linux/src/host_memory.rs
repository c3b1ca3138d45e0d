//! Destination memory on transparent huge pages.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::thread;

use loader_core::{Backing, HostMemory, HostRegion, new_thread, processors};
use memmap2::{MmapOptions, MmapRaw};
use rustix::mm::Advice;
use rustix::param::page_size;

use crate::small_region::SmallRegion;
use crate::{pagemap, pages};

/// The size of a huge page on x86-64 and on 64-bit ARM with pages of 4 KiB. Where it differs, the
/// alignment does no harm and the kernel decides.
const HUGE_PAGE: usize = 2 << 20;

/// Memory that a thread of its own gives back is so long at least, so that starting one is worth it.
const SHORTEST_PART: usize = 128 << 20;

/// Threads that give memory back at most: nobody waits for it, as for weights.
const MOST_PARTS: usize = 4;

/// Anonymous memory that asks for transparent huge pages.
///
/// With pages of 4 KiB a warm load spends most of its time in page faults, and a cold direct one
/// much of it pinning pages; huge pages make both several times cheaper.
///
/// ```
/// use loader_core::HostBuffer;
/// use loader_linux::HugePageMemory;
/// let mut buffer = HostBuffer::zeroed(&HugePageMemory, 5 << 20)?;
/// // From 2 MiB on it begins where a huge page may, whether the system has one or not.
/// assert_eq!(buffer.as_ptr().addr() % (2 << 20), 0);
/// buffer.fill(7);
/// buffer.release(0..2 << 20);
/// assert_eq!((buffer[0], buffer[2 << 20]), (0, 7));
/// # Ok::<(), loader_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct HugePageMemory;

impl HostMemory for HugePageMemory {
    /// Takes up to 1 MiB from the allocator, and maps anonymous memory for more. From 2 MiB on it
    /// begins at a multiple of 2 MiB, and its whole huge pages are advised to be such
    /// (`MADV_HUGEPAGE`); the rest stays on small ones, so that no memory beyond `len` is taken.
    fn allocate(&self, len: usize) -> io::Result<Box<dyn HostRegion>> {
        if let Some(small) = SmallRegion::allocate(len) {
            return Ok(Box::new(small?));
        }
        let too_long = || io::Error::from(io::ErrorKind::OutOfMemory);
        let len = len
            .max(1)
            .checked_next_multiple_of(page_size())
            .ok_or_else(too_long)?;
        if len < HUGE_PAGE {
            let mapping = MmapRaw::from(MmapOptions::new().len(len).map_anon()?);
            return Ok(Box::new(MappedRegion {
                mapping,
                begin: 0,
                len,
            }));
        }
        // Longer than asked for, so that a multiple of a huge page lies within; what is never
        // touched costs only addresses.
        let room = len.checked_add(HUGE_PAGE).ok_or_else(too_long)?;
        let mapping = MmapRaw::from(MmapOptions::new().len(room).map_anon()?);
        let begin = mapping.as_ptr().addr().wrapping_neg() % HUGE_PAGE;
        let region = MappedRegion {
            mapping,
            begin,
            len,
        };
        if let Err(error) = region.advise(Advice::LinuxHugepage, 0..len - len % HUGE_PAGE) {
            // A kernel built without them.
            tracing::debug!(%error, "no transparent huge pages");
        }
        Ok(Box::new(region))
    }

    /// `MADV_POPULATE_WRITE`, since Linux 5.14; before that, whoever fills the memory faults it in.
    fn populate(&self, start: NonNull<u8>, len: usize) {
        if let Err(error) = fault_in(start, len) {
            tracing::trace!(%error, len, "memory is not faulted in ahead");
        }
    }

    /// By `PAGEMAP_SCAN`, since Linux 6.7.
    fn backing(&self, start: NonNull<u8>, len: usize) -> Backing {
        pagemap::backing(start, len)
    }

    /// `MADV_HUGEPAGE`, outwards to whole pages, so that the blocks of an allocator that lie side by
    /// side stay one mapping and huge pages may reach across them.
    fn prefer_huge_pages(&self, start: NonNull<u8>, len: usize) {
        if len < HUGE_PAGE {
            return;
        }
        let outcome = whole_pages_around(start, len).and_then(|(first, whole)| {
            // SAFETY: which pages the kernel puts under an address changes nothing of what is
            // there; the call fails where nothing is mapped.
            unsafe { rustix::mm::madvise(first.cast(), whole, Advice::LinuxHugepage) }?;
            Ok(())
        });
        if let Err(error) = outcome {
            tracing::debug!(%error, "no transparent huge pages");
        }
    }
}

impl HugePageMemory {
    /// Whether this kernel faults memory in on request.
    pub(crate) fn can_populate() -> io::Result<()> {
        let page = MmapOptions::new().len(1).map_anon()?;
        fault_in(NonNull::from(&*page).cast(), page.len())
    }
}

fn fault_in(start: NonNull<u8>, len: usize) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    // Faulting in what lies beside changes nothing there.
    let (first, whole) = whole_pages_around(start, len)?;
    // SAFETY: populating leaves contents as they are, whatever the memory is: pages that are there
    // stay, missing ones are faulted in as a write would, and where nothing is mapped or nothing
    // may be written the call fails.
    unsafe { rustix::mm::madvise(first.cast(), whole, Advice::LinuxPopulateWrite) }?;
    Ok(())
}

/// The whole pages that `len` bytes at `start` lie on: their start and length.
fn whole_pages_around(start: NonNull<u8>, len: usize) -> io::Result<(*mut u8, usize)> {
    let page = page_size();
    let before = start.addr().get() % page;
    let whole = len
        .checked_add(before)
        .and_then(|len| len.checked_next_multiple_of(page))
        .ok_or(io::ErrorKind::InvalidInput)?;
    Ok((start.as_ptr().wrapping_sub(before), whole))
}

/// A part of an anonymous mapping.
#[derive(Debug)]
struct MappedRegion {
    mapping: MmapRaw,
    /// Where the region begins in the mapping, in bytes: a multiple of the page.
    begin: usize,
    /// A multiple of the page; the mapping is long enough.
    len: usize,
}

// SAFETY: the mapping is private to this process, zeroed by the kernel, owned until the region is
// dropped and never moved; `begin` and `len` lie within it.
unsafe impl HostRegion for MappedRegion {
    fn start(&self) -> NonNull<u8> {
        // Not through a reference to the bytes, which others may be writing.
        let start = self.mapping.as_mut_ptr().wrapping_add(self.begin);
        NonNull::new(start).unwrap_or(NonNull::dangling())
    }

    fn len(&self) -> usize {
        self.len
    }

    fn release(&mut self, range: Range<usize>) {
        let pages = whole_pages(range, self.len, page_size());
        if pages.is_empty() {
            return;
        }
        if let Err(error) = self.advise(Advice::LinuxDontNeed, pages) {
            // Locked memory, for one, stays.
            tracing::debug!(%error, "memory is not given back");
        }
    }

    /// Unmapping it unlocks it.
    fn lock(&self) -> io::Result<()> {
        pages::lock(self.start(), self.len)
    }

    fn exclude_from_fork(&self, excluded: bool) {
        pages::exclude_from_fork(self.start(), self.len, excluded);
    }
}

impl Drop for MappedRegion {
    /// Gives long memory back by several threads before it is unmapped by one: the kernel takes 7 ms
    /// for each 2 GB on huge pages.
    fn drop(&mut self) {
        let parts = processors().min(MOST_PARTS).min(self.len / SHORTEST_PART);
        if parts < 2 {
            return;
        }
        let part = (self.len / parts).next_multiple_of(HUGE_PAGE);
        let region = &*self;
        let give_back = |start| region.advise(Advice::LinuxDontNeed, start..start + part);
        thread::scope(|scope| {
            for start in (part..region.len).step_by(part) {
                // Whatever stays, without a thread or because it is locked, unmapping gives back.
                let _ = new_thread("weightloader-free")
                    .and_then(|thread| thread.spawn_scoped(scope, move || give_back(start)));
            }
            let _ = give_back(0);
        });
    }
}

impl MappedRegion {
    /// Advises on a range of the region, which begins at a page. `LinuxDontNeed` makes its bytes
    /// zero, so whoever gives that must have the region for itself.
    fn advise(&self, advice: Advice, range: Range<usize>) -> io::Result<()> {
        let len = range.end.min(self.len).saturating_sub(range.start);
        let first = self.start().as_ptr().wrapping_add(range.start);
        // SAFETY: the range lies within the mapping. Advice does not change what anonymous memory
        // holds but for `LinuxDontNeed`, after which it reads as zero, a valid value for bytes;
        // only `release` and `drop` give that, which borrow the region exclusively.
        unsafe { rustix::mm::madvise(first.cast(), len, advice) }?;
        Ok(())
    }
}

/// The whole pages within `range`, as far as it lies within `len` bytes.
fn whole_pages(range: Range<usize>, len: usize, page: usize) -> Range<usize> {
    let end = range.end.min(len);
    let start = range.start.min(end).next_multiple_of(page);
    start..(end - end % page).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use loader_core::HostBuffer;
    use proptest::prelude::*;

    #[test]
    fn memory_is_zeroed_and_aligned() {
        let page = page_size();
        for len in [
            1,
            page - 1,
            page,
            page + 1,
            HUGE_PAGE - 1,
            HUGE_PAGE,
            3 * HUGE_PAGE + 5,
        ] {
            let mut buffer = HostBuffer::zeroed(&HugePageMemory, len).unwrap();
            let alignment = if len >= HUGE_PAGE { HUGE_PAGE } else { page };
            assert_eq!((buffer.len(), buffer.as_ptr().addr() % alignment), (len, 0));
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(0xa5);
            assert!(buffer.iter().all(|byte| *byte == 0xa5));
            let region = HugePageMemory.allocate(len).unwrap();
            assert_eq!(region.len(), len.next_multiple_of(page));
        }
    }

    #[test]
    fn long_memory_is_given_back_in_parts() {
        for locked in [false, true] {
            let mut buffer = HostBuffer::zeroed(&HugePageMemory, 2 * SHORTEST_PART + 5).unwrap();
            buffer[0] = 1;
            buffer[2 * SHORTEST_PART + 4] = 1;
            if locked && buffer.lock().is_err() {
                println!("skipped: so much memory cannot be locked here");
            }
        }
    }

    #[test]
    fn impossible_lengths_are_an_error() {
        for len in [usize::MAX, usize::MAX / 2, 1 << 47] {
            assert!(HugePageMemory.allocate(len).is_err());
        }
    }

    #[test]
    fn populated_memory_keeps_its_contents() {
        let mut buffer = HostBuffer::zeroed(&HugePageMemory, 5 << 20).unwrap();
        buffer[100_000..200_000].fill(7);
        let start = buffer.start();
        HugePageMemory.populate(start, buffer.len());
        // SAFETY: within the buffer.
        HugePageMemory.populate(unsafe { start.add(100_001) }, 50_000);
        HugePageMemory.populate(start, 0);
        assert!(buffer[100_000..200_000].iter().all(|byte| *byte == 7));
        assert_eq!(buffer.iter().filter(|byte| **byte == 7).count(), 100_000);
    }

    #[test]
    fn populating_what_is_not_there_is_harmless() {
        HugePageMemory.populate(NonNull::dangling(), 100);
        HugePageMemory.populate(NonNull::dangling(), usize::MAX);
        let constant: &'static [u8] = b"in memory that may only be read";
        HugePageMemory.populate(NonNull::from(constant).cast(), constant.len());
    }

    #[test]
    fn huge_pages_come_under_memory_of_others() {
        let len = 8 * HUGE_PAGE;
        let mut memory: Vec<u8> = Vec::with_capacity(len);
        memory.extend_from_slice(b"there before");
        let start = NonNull::from(memory.as_mut_slice()).cast();
        HugePageMemory.prefer_huge_pages(start, len);
        HugePageMemory.prefer_huge_pages(NonNull::dangling(), len);
        HugePageMemory.prefer_huge_pages(NonNull::dangling(), usize::MAX);
        memory.resize(len, 7);
        assert!(memory.starts_with(b"there before"));
        assert!(memory[12..].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn locked_memory_is_usable_or_the_limit_is_told() {
        // What a short one locks is unlocked before the allocator gets it back.
        let small = HostBuffer::zeroed(&HugePageMemory, 5000).unwrap();
        if let Err(error) = small.lock() {
            assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}");
        }
        drop(small);
        let mut buffer = HostBuffer::zeroed(&HugePageMemory, 3 << 20).unwrap();
        match buffer.lock() {
            Ok(()) => {
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                let locked = status
                    .lines()
                    .find(|line| line.starts_with("VmLck:"))
                    .unwrap();
                let kib: usize = locked.split_whitespace().nth(1).unwrap().parse().unwrap();
                assert!(kib >= 3 << 10, "{locked}");
            }
            Err(error) => assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}"),
        }
        buffer.fill(1);
        assert!(
            HostBuffer::zeroed(&HugePageMemory, 0)
                .unwrap()
                .lock()
                .is_ok()
        );
    }

    #[test]
    fn released_pages_read_as_zero_and_others_stay() {
        let page = page_size();
        for len in [4 * page + 1, 4 << 20] {
            let mut buffer = HostBuffer::zeroed(&HugePageMemory, len).unwrap();
            buffer.fill(1);
            buffer.release(page + 1..4 * page - 1);
            let (released, kept): (Vec<_>, Vec<_>) = buffer
                .iter()
                .enumerate()
                .partition(|(at, _)| (2 * page..3 * page).contains(at));
            assert!(released.iter().all(|(_, byte)| **byte == 0));
            assert!(kept.iter().all(|(_, byte)| **byte == 1));
            buffer.release(0..len);
            assert!(buffer[..4 * page].iter().all(|byte| *byte == 0));
        }
    }

    proptest! {
        #[test]
        fn whole_pages_are_those_within(
            start in 0_usize..200,
            len in 0_usize..200,
            of_pages in 1_usize..20,
        ) {
            let (page, end) = (8, start + len);
            let all = of_pages * page;
            let found = whole_pages(start..end, all, page);
            for first in (0..all).step_by(page) {
                let within = first >= start && first + page <= end;
                prop_assert_eq!(within, found.contains(&first));
            }
            prop_assert!(found.is_empty() || found.end <= all);
        }
    }
}
