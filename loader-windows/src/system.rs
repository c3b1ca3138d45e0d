//! What Windows tells about memory and caches.

use std::mem::size_of;
use std::ops::Range;

use loader_core::{
    Advice, Error, Fact, Mechanism, ResidencyMap, Result, System, Usage, WeightFile,
};
use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use crate::{facts, hint, timed_probes};

/// Windows.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct WindowsSystem;

impl System for WindowsSystem {
    /// Free memory and pages of files, as far as the process may commit them.
    fn available_memory(&self) -> Option<u64> {
        let memory = memory()?;
        Some(memory.ullAvailPhys.min(memory.ullAvailPageFile))
    }

    /// Windows counts page faults in one number, with I/O and without, so neither is told.
    fn usage(&self) -> Usage {
        let size = size_of::<PROCESS_MEMORY_COUNTERS>();
        let mut counters = PROCESS_MEMORY_COUNTERS {
            cb: u32::try_from(size).unwrap_or_default(),
            ..Default::default()
        };
        // SAFETY: a pseudo handle, which needs no closing.
        let process = unsafe { GetCurrentProcess() };
        // SAFETY: the system writes as many bytes as `cb` says, for which there is room.
        let told = unsafe { K32GetProcessMemoryInfo(process, &raw mut counters, counters.cb) };
        let peak = (told != 0).then_some(counters.PeakWorkingSetSize as u64);
        Usage::new(None, None, peak)
    }

    /// An estimate: Windows does not tell, so a few buffered reads of single pages are timed. Those
    /// pages are cached afterwards.
    fn residency(&self, file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
        timed_probes::residency(file, range, granularity)
    }

    fn evict(&self, _file: &WeightFile, _range: Range<u64>) -> Result<()> {
        Err(Error::Unsupported {
            mechanism: Mechanism::new("evict"),
            reason: "Windows has no call that drops a file's pages".to_owned(),
        })
    }

    fn advise(&self, mapped: &[u8], advice: Advice) -> Result<()> {
        let unsupported = |reason: String| Error::Unsupported {
            mechanism: Mechanism::new("prefetch-virtual-memory"),
            reason,
        };
        match advice {
            Advice::WillNeed => hint::prefetch(&[(mapped.as_ptr(), mapped.len())])
                .map_err(|error| unsupported(error.to_string())),
            _ => Err(unsupported(format!("Windows takes no advice {advice:?}"))),
        }
    }

    fn machine_facts(&self) -> Vec<Fact> {
        facts::of_machine()
    }

    fn file_facts(&self, file: &WeightFile) -> Vec<Fact> {
        facts::of_file(file)
    }
}

/// The machine's memory.
pub(crate) fn memory() -> Option<MEMORYSTATUSEX> {
    let mut memory = MEMORYSTATUSEX {
        dwLength: u32::try_from(size_of::<MEMORYSTATUSEX>()).ok()?,
        ..Default::default()
    };
    // SAFETY: the system writes as many bytes as `dwLength` says, for which there is room.
    let told = unsafe { GlobalMemoryStatusEx(&raw mut memory) };
    (told != 0).then_some(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told() {
        let available = WindowsSystem.available_memory().unwrap();
        let total = memory().unwrap().ullTotalPhys;
        assert!(
            0 < available && available <= total,
            "{available} of {total}"
        );
    }

    #[test]
    fn the_peak_follows_what_is_touched() {
        let Some(before) = WindowsSystem.usage().peak_memory else {
            return println!("skipped: the process's memory is not told");
        };
        let touched = vec![1_u8; 64 << 20];
        let after = WindowsSystem.usage().peak_memory.unwrap();
        assert!(touched.iter().all(|byte| *byte == 1));
        if after == before {
            return println!("skipped: this system does not count the peak of the working set");
        }
        assert!(after >= 64 << 20, "{before} became {after}");
    }

    #[test]
    fn advice_that_windows_lacks_is_refused() {
        assert!(WindowsSystem.advise(&[1, 2, 3], Advice::Random).is_err());
    }
}
