//! What the process has used.

use std::fs;

use loader_core::Usage;

use crate::system_calls;

/// What this process has used so far.
pub(crate) fn usage() -> Usage {
    let (minor, major) = system_calls::page_faults().unzip();
    let status = fs::read_to_string("/proc/self/status").ok();
    let peak = status.and_then(|status| kibibytes(&status, "VmHWM"));
    Usage::new(minor, major, peak)
}

/// The bytes that a line such as `VmHWM:      1234 kB` tells, as /proc/meminfo and
/// /proc/PID/status write them. What they call kB are 1024 bytes.
pub(crate) fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then_some(value)
    })?;
    let number = value.trim().strip_suffix("kB")?.trim_end();
    number.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_their_whole_name() {
        let text = "Name:\tVmHWM\nVmHWMX:\t  1 kB\nVmHWM:\t   2048 kB\nVmRSS:\t x kB\nVmData: 3\n";
        assert_eq!(kibibytes(text, "VmHWM"), Some(2 << 20));
        for missing in ["VmRSS", "VmData", "VmPeak"] {
            assert_eq!(kibibytes(text, missing), None);
        }
        assert_eq!(kibibytes("VmHWM: 18446744073709551615 kB", "VmHWM"), None);
    }

    #[test]
    fn use_is_seen() {
        let before = usage();
        let memory = vec![1_u8; 64 << 20];
        let after = usage();
        assert!(after.minor_faults > before.minor_faults);
        assert!(
            after.peak_memory >= Some(64 << 20),
            "{after:?} {}",
            memory.len()
        );
        assert!(after.major_faults.is_some());
    }
}
