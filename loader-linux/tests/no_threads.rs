//! Where the system gives no more threads, loads fail with an error that says so, and prefetches
//! bring nothing; neither panics or hangs.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::process::Command;

use loader_core::{Copier, Error, Extent, Job, LoadOptions, Operation, WeightFile};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

#[test]
fn an_error_says_that_there_are_no_threads() {
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "without_threads", "--nocapture", "--ignored"])
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    let errors = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{output}\n{errors}");
    assert!(output.contains("1 passed"), "{output}\n{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    for line in output.lines().filter(|line| line.contains("skipped:")) {
        println!("{line}");
    }
}

/// Run by the test above in a child process, behind a filter.
#[test]
#[ignore = "run by the other test in a process of its own"]
fn without_threads() {
    let folder = tempfile::tempdir_in(PathBuf::from(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let path = folder.path().join("weights");
    std::fs::write(&path, vec![7; 5_000_000]).unwrap();
    let file = WeightFile::open(&path).unwrap();
    let platform = loader_linux::platform();
    platform.system.evict(&file, 0..file.len()).unwrap();

    let rules = [libc::SYS_clone3, libc::SYS_clone].map(|call| (call, Vec::new()));
    let action = SeccompAction::Errno(libc::EAGAIN.unsigned_abs());
    let architecture = env::consts::ARCH.try_into().unwrap();
    let rules = BTreeMap::from(rules);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    if let Err(error) = seccompiler::apply_filter(&program) {
        println!("skipped: no seccomp filter can be set: {error}");
        return;
    }

    let options = LoadOptions::default();
    let copier = Copier::new(&platform, &options);
    let mut loaded = vec![0; 5_000_000];
    let extent = Extent {
        offset: 0,
        len: file.len(),
        destination: 0,
    };
    let plan = copier.plan(&[extent], loaded.len()).unwrap();
    let job = Job {
        file: file.clone(),
        plan,
        destination: (&mut loaded).into(),
    };
    match copier.run(vec![job], Operation::new()) {
        Err(Error::Unsupported { mechanism, .. }) => assert_eq!(mechanism.name(), "worker-thread"),
        other => panic!("expected that there are no threads, got {other:?}"),
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
    assert_eq!(outcome.brought, 0);
}
