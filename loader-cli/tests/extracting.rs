//! What `extract` writes to: complete files, or those that were there before.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test ends where something is amiss")]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use support::{Ended, Model, Place, text};

/// Extracts the longest tensor to `out`, with `before` run by the shell that becomes the program.
fn extract_after(place: &Place, before: &str, path: &str, out: &str) -> Ended {
    let mut program = place.command();
    program.args(["extract", path, "b.weight", "-o", out]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{before}; exec \"$0\" \"$@\"")])
        .arg(program.get_program())
        .args(program.get_args())
        .current_dir(place.path(""));
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.output().unwrap().into()
}

/// The names of all files in the folder of the test.
fn names(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.path("")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn what_was_there_stays_until_all_is_written() {
    let place = Place::new();
    let model = Model::new(&place);
    let path = text(&model.path);
    let old = place.file("old", b"before");
    let new = place.path("new");
    // No file may be longer than a block: the system kills whoever goes on to write.
    let killed = extract_after(&place, "ulimit -c 0; ulimit -f 1", path, text(&old));
    assert_eq!(killed.code, None, "{killed:?}");
    assert_eq!(fs::read(&old).unwrap(), b"before");
    let killed = extract_after(&place, "ulimit -c 0; ulimit -f 1", path, text(&new));
    assert_eq!(killed.code, None, "{killed:?}");
    assert!(!new.exists());

    // Or refuses to write, where the signal is ignored.
    let known = names(&place).len();
    for out in [&old, &new] {
        let failed = extract_after(&place, "trap '' XFSZ; ulimit -f 1", path, text(out));
        assert_eq!(failed.code, Some(1), "{failed:?}");
        let expected = format!("error: {}: cannot write", text(out));
        assert!(failed.stderr.starts_with(&expected), "{failed:?}");
    }
    assert_eq!(fs::read(&old).unwrap(), b"before");
    assert!(!new.exists());
    assert_eq!(names(&place).len(), known, "{:?}", names(&place));
}

#[test]
fn a_file_that_is_replaced_keeps_its_permissions_and_its_links() {
    let place = Place::new();
    let model = Model::new(&place);
    let (name, bytes) = &model.tensors[1];
    let old = place.file("old", b"before");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
    let link = place.path("link");
    symlink("old", &link).unwrap();
    place.json(&["extract", text(&model.path), name, "-o", text(&link)]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read(&old).unwrap() == *bytes);
    let mode = fs::metadata(&old).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    // A new one is made as others are.
    place.json(&["extract", text(&model.path), name, "-o", "new"]);
    let other = place.file("other", b"");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&place.path("new")), mode(&other));
}

#[test]
fn pipes_with_a_name_are_written_to() {
    let place = Place::new();
    let model = Model::new(&place);
    let (name, bytes) = &model.tensors[0];
    let fifo = place.path("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: there is no mkfifo");
        return;
    }
    let mut command = place.command();
    command.args(["extract", text(&model.path), name, "-o", text(&fifo)]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(fs::read(&fifo).unwrap() == *bytes);
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(0), "{ended:?}");
}
