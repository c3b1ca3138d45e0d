//! How much one system call is given: what old and new kernels honour.

/// The most that one `madvise(MADV_WILLNEED)` reads before macOS 15.4: `MAX_UPL_TRANSFER_BYTES`,
/// silently (XNU, `osfmk/vm/vm_map.c`, `vm_map_willneed`). Later systems walk every page of what
/// they are given before they return, so short calls keep a prefetch cancellable there.
pub(crate) const WILL_NEED_BYTES: u64 = 1 << 20;

/// What one `F_RDADVISE` is given. The system issues it as reads of at most 512 KiB that it does
/// not wait for (XNU, `bsd/vfs/vfs_cluster.c`, `advisory_read_ext`).
pub(crate) const ADVISORY_BYTES: u64 = 16 << 20;

// The system takes the length as an int.
const _: () = assert!(ADVISORY_BYTES <= i32::MAX.unsigned_abs() as u64);
// Pieces begin and end at pages, whichever the system has.
const _: () = assert!(WILL_NEED_BYTES % 16_384 == 0 && ADVISORY_BYTES % 16_384 == 0);

/// Why reads that pass by the cache should rather not be used for a file, though they work.
pub(crate) fn discouragement(
    is_local: bool,
    page_bytes: usize,
    kernel_page_bytes: usize,
) -> Option<&'static str> {
    if !is_local {
        Some("it lies on a network volume, which buffered reads serve better")
    } else if page_bytes < kernel_page_bytes {
        // XNU, `bsd/vfs/vfs_cluster.c`, `cluster_read_direct`: so it is under Rosetta.
        Some("this process has smaller pages than the kernel, which then reads through its cache")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_files_of_native_processes_are_read_past_the_cache() {
        assert_eq!(discouragement(true, 16_384, 16_384), None);
        assert_eq!(discouragement(true, 4096, 4096), None);
        let translated = discouragement(true, 4096, 16_384);
        assert!(translated.is_some_and(|reason| reason.contains("pages")));
        let remote = discouragement(false, 16_384, 16_384);
        assert!(remote.is_some_and(|reason| reason.contains("network")));
    }
}
