//! What macOS tells about memory and caches.

use std::ffi::CStr;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::ops::Range;

use loader_core::{
    Advice, Error, Fact, Mechanism, ResidencyMap, Result, System, Usage, WeightFile,
};
use rustix::mm;

use crate::mapping;

/// The system calls behind [`System`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct MacSystem;

impl System for MacSystem {
    /// Free pages, pages of files and pages that programs offered to lose.
    fn available_memory(&self) -> Option<u64> {
        let pages = [
            c"vm.page_free_count",
            c"vm.page_pageable_external_count",
            c"vm.page_purgeable_count",
        ];
        let count = pages.into_iter().map(number).sum::<Option<u64>>()?;
        count.checked_mul(rustix::param::page_size() as u64)
    }

    fn usage(&self) -> Usage {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the system writes one `rusage`, for which there is room.
        let told = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
        if told != 0 {
            return Usage::default();
        }
        // SAFETY: plain numbers, zeroed at first and then written by the system.
        let usage = unsafe { usage.assume_init() };
        Usage::new(
            u64::try_from(usage.ru_minflt).ok(),
            u64::try_from(usage.ru_majflt).ok(),
            // Bytes here, unlike on Linux (getrusage(2)).
            u64::try_from(usage.ru_maxrss).ok(),
        )
    }

    fn residency(&self, file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
        mapping::residency(file, range, granularity)
    }

    fn evict(&self, _file: &WeightFile, _range: Range<u64>) -> Result<()> {
        Err(Error::Unsupported {
            mechanism: Mechanism::new("evict"),
            reason: "macOS has no call that drops one file's pages; purge(8) drops all".to_owned(),
        })
    }

    fn advise(&self, mapped: &[u8], advice: Advice) -> Result<()> {
        let unsupported = |reason: String| Error::Unsupported {
            mechanism: Mechanism::new("madvise"),
            reason,
        };
        let advice = match advice {
            Advice::WillNeed => mm::Advice::WillNeed,
            Advice::Random => mm::Advice::Random,
            _ => return Err(unsupported(format!("macOS takes no advice {advice:?}"))),
        };
        // The call takes whole pages, and the first one is mapped in full.
        let before = mapped.as_ptr().addr() % rustix::param::page_size();
        let start = mapped.as_ptr().wrapping_sub(before).cast_mut();
        // SAFETY: these pages are mapped, and neither advice changes what they hold.
        unsafe { mm::madvise(start.cast(), mapped.len() + before, advice) }
            .map_err(|error| unsupported(error.to_string()))
    }

    fn machine_facts(&self) -> Vec<Fact> {
        let bytes =
            |name, bytes: Option<u64>| bytes.map(|bytes| Fact::new(name, format!("{bytes} bytes")));
        [
            text(c"kern.osproductversion").map(|version| Fact::new("macos", version)),
            bytes("page_size", Some(rustix::param::page_size() as u64)),
            bytes("memory", number(c"hw.memsize")),
            bytes("available_memory", self.available_memory()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn file_facts(&self, file: &WeightFile) -> Vec<Fact> {
        let Ok(found) = rustix::fs::fstatfs(file.file()) else {
            return Vec::new();
        };
        let name: Vec<u8> = found
            .f_fstypename
            .iter()
            .flat_map(|byte| byte.to_ne_bytes())
            .take_while(|byte| *byte != 0)
            .collect();
        vec![
            Fact::new("filesystem", String::from_utf8_lossy(&name)),
            Fact::new("preferred_read", format!("{} bytes", found.f_iosize)),
        ]
    }
}

/// An unsigned number that sysctl(3) tells, of 4 or 8 bytes.
fn number(name: &CStr) -> Option<u64> {
    let mut bytes = [0; size_of::<u64>()];
    match read(name, &mut bytes).ok()? {
        // Little-endian on every Mac that Rust runs on.
        4 | 8 => Some(u64::from_le_bytes(bytes)),
        _ => None,
    }
}

/// A line of text that sysctl(3) tells.
fn text(name: &CStr) -> Option<String> {
    let mut bytes = [0; 256];
    let len = read(name, &mut bytes).ok()?;
    let text = CStr::from_bytes_until_nul(&bytes[..len]).ok()?;
    Some(text.to_string_lossy().into_owned())
}

/// Reads what sysctl(3) tells under `name` to the front of `buffer`; returns its length.
fn read(name: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = buffer.len();
    // SAFETY: the name ends with a nul; the system writes at most `len` bytes to the buffer and
    // then how many there were to `len`; nothing is set.
    let told = unsafe {
        libc::sysctlbyname(
            name.as_ptr(),
            buffer.as_mut_ptr().cast(),
            &raw mut len,
            std::ptr::null_mut(),
            0,
        )
    };
    match told {
        0 => Ok(len.min(buffer.len())),
        _ => Err(io::Error::last_os_error()),
    }
}
