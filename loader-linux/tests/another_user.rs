//! Residency as a user sees it who may only read a file: a service that loads weights which an
//! administrator installed.
#![cfg(any(target_os = "linux", target_os = "android"))]
#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use loader_core::{System, WeightFile};
use loader_linux::LinuxSystem;

/// Names the file to the child, which runs this same test as another user.
const FILE: &str = "LOADER_LINUX_FOREIGN_FILE";
/// The share of the file that the child shall find resident, in percent.
const EXPECTED: &str = "LOADER_LINUX_EXPECTED_SHARE";

const LEN: u64 = 16 << 20;
const NOBODY: u32 = 65534;

#[test]
fn a_reader_who_does_not_own_the_file_tells_cold_from_cached() {
    if let Ok(path) = std::env::var(FILE) {
        let expected = std::env::var(EXPECTED).unwrap().parse().unwrap();
        return look_at(Path::new(&path), expected);
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("weights");
    fs::write(&path, vec![1; usize::try_from(LEN).unwrap()]).unwrap();
    let file = WeightFile::open(&path).unwrap();
    let facts = LinuxSystem.file_facts(&file);
    if facts.iter().any(|fact| fact.value == "always resident") {
        println!("skipped: temporary files lie in memory here");
        return;
    }
    // The test program may lie where that user cannot look.
    let program = folder.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();

    for (cached, expected) in [(0, "0"), (LEN / 2, "50"), (LEN, "100")] {
        LinuxSystem.evict(&file, 0..LEN).unwrap();
        cache(&file, cached);
        let child = Command::new(&program)
            .arg("--nocapture")
            .uid(NOBODY)
            .gid(NOBODY)
            .env(FILE, &path)
            .env(EXPECTED, expected)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        let erred = String::from_utf8_lossy(&child.stderr);
        assert!(
            child.status.success(),
            "{cached} bytes cached:\n{said}\n{erred}"
        );
        print!(
            "{}",
            said.lines()
                .filter(|line| line.contains("told by"))
                .collect::<String>()
        );
    }
    println!();
}

/// Caches the first `len` bytes and nothing beyond.
fn cache(file: &WeightFile, len: u64) {
    rustix::fs::fadvise(file.file(), 0, None, rustix::fs::Advice::Random).unwrap();
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
}

fn look_at(path: &Path, expected: u64) {
    assert_eq!(rustix::process::geteuid().as_raw(), NOBODY);
    let file = WeightFile::open(path).unwrap();
    let facts = LinuxSystem.file_facts(&file);
    let method = &facts
        .iter()
        .find(|fact| fact.name == "residency")
        .unwrap()
        .value;
    println!(" {expected}% told by {method};");
    if method.starts_with("unknown") {
        return;
    }
    let map = LinuxSystem.residency(&file, 0..LEN, 1 << 20);
    let resident = map.resident_bytes().unwrap();
    // Finding the method may have brought in a page.
    let wrong = resident.abs_diff(LEN / 100 * expected);
    assert!(wrong <= LEN / 64, "{resident} bytes of {LEN}: {map:?}");
}
