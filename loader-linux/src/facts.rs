//! What this machine and a file's filesystem offer, for people to read.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;

use loader_core::{Fact, WeightFile};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};

use crate::host_memory::HugePageMemory;
use crate::memory_limits::{self, ReadText};
use crate::residency::Method;
use crate::{block_device, direct_file, filesystem, pagemap, system_calls};

/// What the machine offers; `read` reads files of procfs and sysfs.
pub(crate) fn of_machine(read: ReadText<'_>, available: Option<u64>) -> Vec<Fact> {
    let unknown = || "unknown".to_owned();
    let line = |path: &str| read(Path::new(path)).map(|text| text.trim().to_owned());
    let kernel = line("/proc/sys/kernel/osrelease").unwrap_or_else(unknown);
    let processors = thread::available_parallelism();
    let processors = processors.map_or_else(|_| unknown(), |count| count.to_string());
    vec![
        Fact::new("kernel", kernel),
        Fact::new("processors", processors),
        Fact::new("page_size", bytes(page_size() as u64)),
        Fact::new("available_memory", available.map_or_else(unknown, bytes)),
        Fact::new("cgroup_memory_limit", group_limit(read)),
        Fact::new("locked_memory_limit", limit(Resource::Memlock)),
        Fact::new("address_space_limit", limit(Resource::As)),
        Fact::new("huge_pages", huge_pages(&line)),
        Fact::new("populate_write", support(HugePageMemory::can_populate())),
        Fact::new("io_uring", io_uring()),
        Fact::new("cachestat", cachestat()),
        Fact::new("pagemap_scan", pagemap_scan()),
    ]
}

/// What the filesystem under `file` offers.
pub(crate) fn of_file(file: &WeightFile) -> Vec<Fact> {
    let mut facts = vec![
        Fact::new("length", bytes(file.disk_len())),
        Fact::new("filesystem", filesystem::kind(file.file()).name),
    ];
    match block_device::under(file.file()) {
        None => facts.push(Fact::new("device", "none of its own")),
        Some(device) => {
            let rotational = if device.rotational {
                "yes, by its own account"
            } else {
                "no"
            };
            let (readahead, advice) = (device.readahead, device.advice_window());
            facts.extend([
                Fact::new("device", device.name),
                Fact::new("rotational", rotational),
                Fact::new("readahead_window", bytes(readahead)),
                Fact::new("largest_request", bytes(device.largest_request)),
                Fact::new("largest_advice", bytes(advice)),
            ]);
        }
    }
    facts.push(Fact::new("direct_io", direct_io(file)));
    facts.push(Fact::new("residency", residency(file)));
    facts
}

fn group_limit(read: ReadText<'_>) -> String {
    let Some(group) = memory_limits::tightest_group(read) else {
        return "none".to_owned();
    };
    let (limit, available) = (bytes(group.limit), bytes(group.available));
    let (version, folder) = (group.version, group.folder.display());
    format!("{limit}, {available} of them available (version {version}, {folder})")
}

fn limit(resource: Resource) -> String {
    let limit = getrlimit(resource).current;
    limit.map_or_else(|| "none".to_owned(), bytes)
}

fn huge_pages(line: &dyn Fn(&str) -> Option<String>) -> String {
    let folder = "/sys/kernel/mm/transparent_hugepage";
    let setting = |name: &str| chosen(&line(&format!("{folder}/{name}"))?).map(str::to_owned);
    match (setting("enabled"), setting("defrag")) {
        (None, _) => "this kernel has none".to_owned(),
        (Some(enabled), None) => enabled,
        (Some(enabled), Some(defrag)) => format!("{enabled} (defrag: {defrag})"),
    }
}

/// The word in brackets of a line such as `always [madvise] never`.
fn chosen(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once('[')?;
    Some(rest.split_once(']')?.0)
}

#[cfg(feature = "io-uring")]
fn io_uring() -> String {
    match crate::uring::probe(loader_core::Mechanism::new("io_uring")) {
        Ok(()) => "works".to_owned(),
        Err(refusal) => refusal.reason,
    }
}

#[cfg(not(feature = "io-uring"))]
fn io_uring() -> String {
    "built without the feature io-uring".to_owned()
}

fn cachestat() -> String {
    if cfg!(target_os = "android") {
        return "not tried: Android kills those who call it".to_owned();
    }
    let own = memfd_create("weightloader", MemfdFlags::CLOEXEC).map_err(io::Error::from);
    support(own.and_then(|file| system_calls::cached_pages(&File::from(file), 0, 1)))
}

fn pagemap_scan() -> String {
    if cfg!(target_os = "android") {
        return "not tried on Android".to_owned();
    }
    support(pagemap::probe())
}

fn support<T>(outcome: io::Result<T>) -> String {
    match outcome {
        Ok(_) => "works".to_owned(),
        Err(error) => format!("refused ({error})"),
    }
}

fn direct_io(file: &WeightFile) -> String {
    match direct_file::support(file) {
        Ok(support) => support.to_string(),
        Err(refusal) => refusal.reason,
    }
}

fn residency(file: &WeightFile) -> String {
    if file.disk_len() == 0 {
        return "nothing to ask about".to_owned();
    }
    match Method::of(file.file(), 0) {
        Method::InMemory => "always resident".to_owned(),
        Method::Cachestat => "cachestat".to_owned(),
        Method::Sampling(_) => "samples: cachestat refuses to tell".to_owned(),
        Method::None(reason) => format!("unknown: {reason}"),
    }
}

/// A number of bytes as people say it, in the largest unit that it fills.
#[expect(clippy::cast_precision_loss, reason = "rounded for people")]
fn bytes(count: u64) -> String {
    let units = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    match units.iter().find(|(unit, _)| count >= *unit) {
        None => format!("{count} bytes"),
        Some((unit, name)) if count % unit == 0 => format!("{} {name}", count / unit),
        Some((unit, name)) => format!("{:.1} {name}", count as f64 / *unit as f64),
    }
}

/// Reads a small file of procfs or sysfs.
pub(crate) fn read_text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_exact_or_rounded() {
        for (count, said) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (4096, "4 KiB"),
            (1280 << 10, "1.2 MiB"),
            (8 << 20, "8 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(bytes(count), said);
        }
    }

    #[test]
    fn settings_are_what_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise"));
        assert_eq!(chosen("always"), None);
    }

    #[test]
    fn every_fact_says_something_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = WeightFile::open(file.path()).unwrap();
        let facts = [of_machine(&read_text, Some(1 << 30)), of_file(&file)].concat();
        let mut names: Vec<_> = facts.iter().map(|fact| fact.name).collect();
        assert!(facts.iter().all(|fact| !fact.value.is_empty()), "{facts:?}");
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn machines_that_tell_nothing_have_facts_too() {
        let facts = of_machine(&|_| None, None);
        let value = |name| &facts.iter().find(|fact| fact.name == name).unwrap().value;
        assert_eq!(value("kernel"), "unknown");
        assert_eq!(value("cgroup_memory_limit"), "none");
        assert_eq!(value("huge_pages"), "this kernel has none");
    }
}
