//! Where a seccomp filter refuses io_uring, in part or altogether, loads go on without it and say
//! why; as in containers.
#![cfg(all(target_os = "linux", feature = "io-uring"))]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod behind_filter;

use std::env;
use std::path::PathBuf;

use loader_core::{Copier, LoadOptions, Operation, Strategy, WeightFile};

const REFUSED: &str = "WEIGHTLOADER_TEST_REFUSED_CALL";

fn refuse(call: i64, errno: i32) {
    behind_filter::run_alone("refused_here", (REFUSED, format!("{call}:{errno}")));
}

#[test]
fn setup_forbidden() {
    refuse(libc::SYS_io_uring_setup, libc::EPERM);
}

#[test]
fn setup_missing() {
    refuse(libc::SYS_io_uring_setup, libc::ENOSYS);
}

#[test]
fn enter_forbidden() {
    refuse(libc::SYS_io_uring_enter, libc::EPERM);
}

#[test]
fn register_forbidden() {
    refuse(libc::SYS_io_uring_register, libc::EACCES);
}

/// Run by the others in a child process, behind a filter.
#[test]
#[ignore = "run by the other tests in a process of its own"]
fn refused_here() {
    let refused = env::var(REFUSED).expect("run by the other tests");
    let (call, errno) = refused.split_once(':').unwrap();
    let errno: i32 = errno.parse().unwrap();
    if !behind_filter::forbid(&[call.parse().unwrap()], errno) {
        return;
    }

    let platform = loader_linux::platform();
    let [refusal] = &platform.refusals[..] else {
        panic!("one refusal expected: {:?}", platform.refusals);
    };
    assert_eq!(refusal.mechanism.name(), "uring-direct");
    let clue = if errno == libc::ENOSYS {
        "no io_uring"
    } else {
        "seccomp"
    };
    assert!(refusal.reason.contains(clue), "{refusal}");

    let folder = tempfile::tempdir_in(PathBuf::from(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let path = folder.path().join("weights");
    let bytes: Vec<u8> = (0..5_000_000_u32)
        .map(|at| at.to_le_bytes()[at as usize % 3])
        .collect();
    std::fs::write(&path, &bytes).unwrap();
    let file = WeightFile::open(&path).unwrap();
    platform.system.evict(&file, 0..file.len()).unwrap();
    if let Err(refusal) = platform.direct.as_ref().unwrap().support(&file) {
        println!("skipped: {refusal}");
        return;
    }
    for strategy in [Strategy::Auto, Strategy::Direct] {
        let mut options = LoadOptions::default();
        options.strategy = strategy;
        let copier = Copier::new(&platform, &options);
        let mut loaded = vec![0; bytes.len()];
        let report = behind_filter::read_all(&copier, &file, &mut loaded).unwrap();
        assert!(loaded == bytes, "wrong bytes by {strategy:?}");
        if strategy == Strategy::Auto && report.resident_bytes == Some(0) {
            assert_eq!(report.fallbacks, platform.refusals);
        }
    }

    let outcome = loader_core::prefetch(
        &platform.prefetchers,
        &platform.system,
        &file,
        std::iter::once(0..file.len()).collect(),
        None,
    )
    .wait(Operation::new())
    .unwrap();
    assert_eq!(outcome.brought, file.len());
}
