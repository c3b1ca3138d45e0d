//! What the kernel counts of the whole machine.

use std::mem::MaybeUninit;

use mach2::kern_return::KERN_SUCCESS;
use mach2::mach_init::mach_host_self;
use mach2::mach_port::mach_port_deallocate;
use mach2::traps::mach_task_self;
use mach2::vm_page_size::vm_kernel_page_size;

use crate::statistics::PageCounts;

/// Bytes of the pages that [`page_counts`] counts: under Rosetta larger than those of the process.
pub(crate) fn kernel_page_bytes() -> usize {
    // SAFETY: set by the system's library before anything of ours runs, and never again.
    unsafe { vm_kernel_page_size }
}

/// Asks host_statistics64.
pub(crate) fn page_counts() -> Option<PageCounts> {
    let mut statistics = MaybeUninit::<libc::vm_statistics64>::zeroed();
    let mut count = libc::HOST_VM_INFO64_COUNT;
    // SAFETY: it takes nothing, and gives a right to a port that is given back below.
    let host = unsafe { mach_host_self() };
    // SAFETY: the system writes at most `count` integers, for which there is room: `count` is the
    // length of what is pointed to.
    let told = unsafe {
        libc::host_statistics64(
            host,
            libc::HOST_VM_INFO64,
            statistics.as_mut_ptr().cast(),
            &raw mut count,
        )
    };
    // SAFETY: it takes nothing, and gives the name of this very task.
    let task = unsafe { mach_task_self() };
    // SAFETY: the right was given above and is not used any more.
    unsafe { mach_port_deallocate(task, host) };
    if told != KERN_SUCCESS {
        return None;
    }
    // SAFETY: plain numbers, zeroed at first, of which older systems write a part.
    let statistics = unsafe { statistics.assume_init() };
    Some(PageCounts {
        free: statistics.free_count,
        speculative: statistics.speculative_count,
        external: statistics.external_page_count,
        purgeable: statistics.purgeable_count,
    })
}
