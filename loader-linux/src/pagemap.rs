//! Which pages lie under memory of this process, as `/proc/self/pagemap` tells.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use loader_core::Backing;
use rustix::param::page_size;

/// Places that are looked at, evenly spread: memory of one kind mostly is so throughout.
const SAMPLES: usize = 16;

/// `PAGEMAP_SCAN`: `_IOWR('f', 16, struct pm_scan_arg)` (include/uapi/linux/fs.h).
const PAGEMAP_SCAN: libc::Ioctl = 0xC060_6610_u32 as libc::Ioctl;

const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_HUGE: u64 = 1 << 6;

/// `struct pm_scan_arg` (include/uapi/linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region` (include/uapi/linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// What lies under `len` bytes at `start`; unknown before Linux 6.7, which brought the call, where
/// `/proc` is not mounted, and on Android, whose policy for its apps need not know the call.
pub(crate) fn backing(start: NonNull<u8>, len: usize) -> Backing {
    if cfg!(target_os = "android") {
        return Backing::Unknown;
    }
    sample(start.addr().get(), len).unwrap_or(Backing::Unknown)
}

/// Whether this kernel tells of pages, by asking about one of our own.
pub(crate) fn probe() -> io::Result<()> {
    let here = 0_u8;
    page(&open()?, (&raw const here).addr())?;
    Ok(())
}

fn open() -> io::Result<File> {
    File::open("/proc/self/pagemap")
}

fn sample(start: usize, len: usize) -> io::Result<Backing> {
    let pagemap = open()?;
    let (mut small, mut huge) = (0, 0);
    for sample in 0..SAMPLES {
        // In the middle of each part: allocators touch the ends of what they give.
        let within = len / SAMPLES * sample + len / SAMPLES / 2;
        match page(&pagemap, start.saturating_add(within))? {
            None => {}
            Some(categories) if categories & PAGE_IS_HUGE != 0 => huge += 1,
            Some(_) => small += 1,
        }
    }
    Ok(match (small, huge) {
        (0, 0) => Backing::Untouched,
        (small, huge) if small > huge => Backing::SmallPages,
        _ => Backing::HugePages,
    })
}

/// What the kernel says of the page that `address` lies on; `None` where there is none yet.
fn page(pagemap: &File, address: usize) -> io::Result<Option<u64>> {
    let page = page_size();
    let start = address - address % page;
    let mut region = PageRegion::default();
    let mut arguments = ScanArguments {
        size: size_of::<ScanArguments>() as u64,
        start: start as u64,
        end: start.saturating_add(page) as u64,
        regions: (&raw mut region).expose_provenance() as u64,
        regions_len: 1,
        max_pages: 1,
        category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        return_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_HUGE,
        ..ScanArguments::default()
    };
    // SAFETY: the structure has the layout that the kernel expects and names one region, which is
    // valid for writes; both outlive the call. Without flags the call only looks at page tables.
    let found = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arguments) };
    match found {
        0 => Ok(None),
        1.. => Ok(Some(region.categories)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loader_core::{HostBuffer, HostMemory};

    use crate::HugePageMemory;

    const LEN: usize = 32 << 20;

    fn told(memory: &[u8]) -> Backing {
        backing(NonNull::from(memory).cast(), memory.len())
    }

    #[test]
    fn memory_is_untouched_until_it_is_written_to() {
        // Not of an allocator, which may have used it before.
        let mut memory = memmap2::MmapMut::map_anon(LEN).unwrap();
        let before = told(&memory);
        if before == Backing::Unknown {
            println!("skipped: this kernel does not tell what pages lie under memory");
            return;
        }
        assert_eq!(before, Backing::Untouched);
        memory.fill(1);
        assert_ne!(told(&memory), Backing::Untouched);
    }

    #[test]
    fn pages_are_told_by_their_size() {
        let mut memory = HostBuffer::zeroed(&HugePageMemory, LEN).unwrap();
        if told(&memory) == Backing::Unknown {
            println!("skipped: this kernel does not tell what pages lie under memory");
            return;
        }
        // One page of each huge page's first, so that none comes as a whole.
        let mapping = memmap2::MmapMut::map_anon(LEN).unwrap();
        let start = NonNull::from(&*mapping).cast::<u8>();
        // SAFETY: which pages come does not change what the memory holds.
        unsafe {
            rustix::mm::madvise(
                start.as_ptr().cast(),
                LEN,
                rustix::mm::Advice::LinuxNoHugepage,
            )
        }
        .unwrap();
        HugePageMemory.populate(start, LEN);
        assert_eq!(told(&mapping), Backing::SmallPages);

        memory.fill(1);
        match told(&memory) {
            Backing::HugePages => {}
            Backing::SmallPages => println!("skipped: no huge pages are to be had here"),
            other => panic!("expected pages, got {other:?}"),
        }
    }

    #[test]
    fn what_is_not_there_is_no_matter() {
        for (address, len) in [
            (1 << 12, LEN),
            (usize::MAX - 5, 5),
            (usize::MAX / 2, usize::MAX),
        ] {
            let address = NonNull::new(std::ptr::without_provenance_mut(address)).unwrap();
            let told = backing(address, len);
            assert!(
                matches!(told, Backing::Unknown | Backing::Untouched),
                "{told:?}"
            );
        }
    }
}
