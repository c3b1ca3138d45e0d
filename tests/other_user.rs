//! What a service user sees, who may read the weights but does not own them, or may not even read
//! them. The tests start themselves again as such a user, which takes root.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::env;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use loader_core::testing::{Guarded, Sample, Watchdog, bytes};
use weightloader::{CachePolicy, Error, Loader, Operation, Strategy, WeightFile};

/// The file that a test reads when it has been started again as another user.
const FILE: &str = "WEIGHTLOADER_TEST_FILE";

/// The user whom systems keep for those who own nothing.
const NOBODY: u32 = 65534;

const LEN: usize = 3_000_001;

static STARTING: Mutex<()> = Mutex::new(());

/// Whether this is the child, and so may go on; otherwise runs `test` again as a user who owns
/// nothing, on a file of that mode, cold where `cold` says so.
fn is_other_user(test: &str, mode: u32, cold: bool) -> bool {
    if env::var_os(FILE).is_some() {
        return true;
    }
    // SAFETY: it has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: only root can become another user");
        return false;
    }
    // One after the other: while one test starts a program, the copy that another one is writing
    // counts as open for writing in the new process too, and such a program cannot be started.
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let sample = Sample::new(folder.path(), "weights.bin", LEN);
    fs::set_permissions(sample.path(), Permissions::from_mode(mode)).unwrap();
    if cold {
        sample.sync().unwrap();
        // A system without eviction leaves it warm.
        let _ = Loader::new().unwrap().evict(&sample.open(), ..);
    }
    // The program may lie where that user cannot look.
    let program = folder.path().join("test");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(&program)
        .args(["--exact", test, "--nocapture"])
        .env(FILE, sample.path())
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "as nobody:\n{told}\n{complained}");
    assert!(told.contains("1 passed"), "the test did not run:\n{told}");
    false
}

fn path() -> std::path::PathBuf {
    env::var_os(FILE).unwrap().into()
}

/// Reads all by every strategy, with every policy, and asks all that can be asked.
fn use_every_way(path: &Path) {
    let _watchdog = Watchdog::over("reading as another user");
    let expected = bytes(LEN, LEN as u64);
    for strategy in [Strategy::Auto, Strategy::Direct, Strategy::Buffered] {
        for cache in [CachePolicy::Auto, CachePolicy::Keep, CachePolicy::Bypass] {
            if (strategy, cache) == (Strategy::Direct, CachePolicy::Keep) {
                // Refused: it would not keep.
                continue;
            }
            let what = format!("{strategy:?} {cache:?}");
            let file = WeightFile::open(path).unwrap();
            let builder = Loader::builder().strategy(strategy).cache(cache);
            let loader = builder.chunk_bytes(128 << 10).build().unwrap();
            let ahead = loader.prefetch(&file, ..LEN as u64 / 2).unwrap();
            let mut memory = Guarded::new(&expected, 0);
            let outcome = loader.read_into(&file, .., memory.destination(), Operation::new());
            match outcome {
                Err(Error::Unsupported { reason, .. }) if strategy == Strategy::Direct => {
                    println!("skipped: no direct reads here: {reason}");
                }
                outcome => {
                    outcome.unwrap_or_else(|error| panic!("{what}: {error}"));
                    memory.check_complete(&what);
                }
            }
            let outcome = ahead.wait(Operation::new()).unwrap();
            let settled = outcome.brought + outcome.skipped + outcome.cancelled + outcome.failed;
            assert_eq!(settled, LEN as u64 / 2, "{outcome:?}");
            let map = loader.residency(&file, .., 4096).unwrap();
            let told: u64 = map
                .runs()
                .iter()
                .map(|run| run.range.end - run.range.start)
                .sum();
            assert_eq!(told, LEN as u64);
        }
    }
    let model = weightloader::load(path).unwrap();
    let all: Vec<_> = model.tensors().map(|tensor| tensor.bytes()).collect();
    assert!(all.concat() == expected);
}

#[test]
fn warm_files_of_others_are_read_right() {
    if is_other_user("warm_files_of_others_are_read_right", 0o644, false) {
        use_every_way(&path());
    }
}

#[test]
fn cold_files_of_others_are_read_right() {
    if is_other_user("cold_files_of_others_are_read_right", 0o644, true) {
        use_every_way(&path());
    }
}

#[test]
fn cold_files_of_others_are_not_taken_for_resident() {
    let test = "cold_files_of_others_are_not_taken_for_resident";
    if !is_other_user(test, 0o644, true) {
        return;
    }
    let file = WeightFile::open(path()).unwrap();
    let loader = Loader::new().unwrap();
    // To those who do not own a file, mincore(2) says that all of it is resident.
    match loader
        .residency(&file, .., 64 << 10)
        .unwrap()
        .resident_bytes()
    {
        None => println!("skipped: the system does not tell what is resident"),
        Some(resident) => assert!(resident < LEN as u64, "all of {resident} bytes"),
    }
}

#[test]
fn files_that_may_not_be_read_are_an_error() {
    if !is_other_user("files_that_may_not_be_read_are_an_error", 0o600, false) {
        return;
    }
    let path = path();
    for outcome in [
        WeightFile::open(&path).map(|_| ()),
        weightloader::load(&path).map(|_| ()),
    ] {
        match outcome {
            Err(Error::Io {
                path: named,
                source,
                ..
            }) => {
                assert_eq!(named, path);
                assert_eq!(source.kind(), ErrorKind::PermissionDenied);
            }
            other => panic!("expected that it is denied, got {other:?}"),
        }
    }
}
