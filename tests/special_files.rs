//! What is not a regular file: a clear error, and nobody waits for a writer.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use loader_core::testing::{Sample, Watchdog};
use weightloader::{Error, Result, WeightFile};

fn make_fifo(path: &Path) {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the name ends with a zero byte and outlives the call.
    let outcome = unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}

fn check_not_regular<T: std::fmt::Debug>(outcome: Result<T>, path: &Path) {
    match outcome {
        Err(Error::NotRegular { path: named, .. }) => assert_eq!(named, path),
        other => panic!(
            "{}: expected that it is not regular, got {other:?}",
            path.display()
        ),
    }
}

#[test]
fn a_fifo_is_refused_without_waiting() {
    let _watchdog = Watchdog::over("opening a fifo");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo.safetensors");
    make_fifo(&path);
    check_not_regular(WeightFile::open(&path), &path);
    check_not_regular(weightloader::load(&path), &path);
    // One that someone opened already.
    let mut options = File::options();
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    let fifo = options.open(&path).unwrap();
    check_not_regular(WeightFile::from_file(fifo, &path), &path);
    // Behind a link.
    let link = folder.path().join("link.safetensors");
    symlink(&path, &link).unwrap();
    check_not_regular(WeightFile::open(&link), &link);
}

#[test]
fn devices_are_refused() {
    let _watchdog = Watchdog::over("opening devices");
    for path in ["/dev/zero", "/dev/null"].map(Path::new) {
        check_not_regular(WeightFile::open(path), path);
        check_not_regular(weightloader::load(path), path);
        check_not_regular(WeightFile::from_file(File::open(path).unwrap(), path), path);
    }
}

#[test]
fn sockets_and_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    check_not_regular(WeightFile::open(&path), &path);
    let opened = File::open(folder.path()).unwrap();
    check_not_regular(WeightFile::from_file(opened, folder.path()), folder.path());
}

#[test]
fn links_are_followed_as_far_as_they_lead() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "weights.bin", 100_000);
    let link = folder.path().join("link.bin");
    symlink(sample.path(), &link).unwrap();
    let file = WeightFile::open(&link).unwrap();
    assert!(file.is_same_file(&sample.open()));
    let mut memory = vec![0; 100_000];
    weightloader::read_into(&file, .., &mut memory).unwrap();
    assert!(memory == sample.bytes());

    let nowhere = folder.path().join("nowhere.bin");
    symlink(folder.path().join("gone"), &nowhere).unwrap();
    let circle = folder.path().join("circle.bin");
    symlink(&circle, &circle).unwrap();
    for path in [nowhere, circle] {
        match WeightFile::open(&path) {
            Err(Error::Io { path: named, .. }) => assert_eq!(named, path),
            other => panic!("expected an error of the system, got {other:?}"),
        }
    }
}

#[test]
fn a_file_that_was_not_opened_for_reading_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "weights.bin", 3_000_000);
    let write_only = File::options().write(true).open(sample.path()).unwrap();
    match WeightFile::from_file(write_only, sample.path()) {
        Err(error @ Error::Io { .. }) => {
            let message = error.to_string();
            assert!(message.starts_with(&sample.path().display().to_string()));
            assert!(
                message.contains("expected a file that is open for reading"),
                "{message}"
            );
        }
        other => panic!("expected an error of the system, got {other:?}"),
    }
}

#[test]
fn files_that_the_system_makes_up_have_no_bytes() {
    let made_up = Path::new("/proc/self/status");
    if fs::metadata(made_up).is_ok() {
        assert_eq!(WeightFile::open(made_up).unwrap().len(), 0);
    }
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn a_file_that_was_opened_for_direct_reads_is_read_as_any_other() {
    use std::os::fd::AsRawFd;

    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "weights.bin", 3_000_001);
    let mut direct = File::options();
    direct.read(true).custom_flags(libc::O_DIRECT);
    let Ok(opened) = direct.open(sample.path()) else {
        println!("skipped: this filesystem has no direct I/O");
        return;
    };
    let shared = opened.try_clone().unwrap();
    let file = WeightFile::from_file(opened, sample.path()).unwrap();
    let mut few = [0; 8];
    file.read_exact_at(&mut few, 3).unwrap();
    assert_eq!(few, sample.bytes()[3..11]);
    let mut memory = vec![0; 3_000_001];
    weightloader::read_into(&file, .., &mut memory).unwrap();
    assert!(memory == sample.bytes());
    assert!(file.is_same_file(&WeightFile::open(sample.path()).unwrap()));
    // Others who share the open file keep their direct reads.
    // SAFETY: the descriptor is open, and the question changes nothing.
    let flags = unsafe { libc::fcntl(shared.as_raw_fd(), libc::F_GETFL) };
    assert_ne!(flags & libc::O_DIRECT, 0);
}
