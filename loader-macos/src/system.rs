//! What the system tells and does about memory and caches.

use std::mem::MaybeUninit;
use std::ops::Range;

use loader_core::{
    Advice, Error, Fact, Mechanism, ResidencyMap, Result, System, Usage, WeightFile,
};
use rustix::mm;

use crate::mapping::{self, Mapping};
use crate::{host_statistics, sysctl};

/// macOS, or another system of the same kernel.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct MacSystem;

impl System for MacSystem {
    fn available_memory(&self) -> Option<u64> {
        let counts = host_statistics::page_counts()?;
        Some(counts.available(host_statistics::kernel_page_bytes() as u64))
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

    /// Drops whole pages, those included that `range` only touches and those that others have
    /// mapped, who then fault them in again. Dirty ones are written to the device first.
    fn evict(&self, file: &WeightFile, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let dropped = Mapping::of(file).and_then(|mapping| mapping.evict(&range));
        dropped.map_err(|source| Error::Io {
            path: file.path().to_path_buf(),
            action: "drop from the page cache",
            source,
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
            sysctl::text(c"kern.osproductversion").map(|version| Fact::new("macos", version)),
            bytes("page_size", Some(rustix::param::page_size() as u64)),
            bytes(
                "kernel_page_size",
                Some(host_statistics::kernel_page_bytes() as u64),
            ),
            bytes("memory", sysctl::number(c"hw.memsize")),
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
        let place = if is_local(file) { "local" } else { "network" };
        vec![
            Fact::new("filesystem", String::from_utf8_lossy(&name)),
            Fact::new("volume", place),
            Fact::new("preferred_read", format!("{} bytes", found.f_iosize)),
        ]
    }
}

/// Whether `file` lies on a volume of this machine; `true` where nobody tells.
pub(crate) fn is_local(file: &WeightFile) -> bool {
    let local = libc::MNT_LOCAL.unsigned_abs();
    rustix::fs::fstatfs(file.file()).map_or(true, |found| found.f_flags & local != 0)
}
