//! What people and programs are told when something is wrong.
#![allow(clippy::unwrap_used, reason = "a test ends where something is amiss")]

mod support;

use std::fs;

use support::{Model, Place, text};

/// The commands that take a path, with what else they need.
const COMMANDS: [&[&str]; 8] = [
    &["load"],
    &["info"],
    &["extract", "a.bias", "-o", "out"],
    &["prefetch"],
    &["residency"],
    &["evict"],
    &["bench"],
    &["doctor"],
];

/// Runs every command on `path`, which must fail; the messages.
fn errors(place: &Place, path: &str) -> Vec<String> {
    COMMANDS
        .iter()
        .map(|command| {
            let (name, rest) = command.split_first().unwrap();
            place.error(&[&[name, path], rest].concat())
        })
        .collect()
}

#[test]
fn a_missing_file_is_named() {
    let place = Place::new();
    for message in errors(&place, "nowhere.safetensors") {
        assert!(message.starts_with("nowhere.safetensors: "), "{message}");
        assert!(message.contains("os error 2"), "{message}");
    }
}

#[test]
fn a_folder_without_a_model_is_named() {
    let place = Place::new();
    fs::create_dir(place.path("folder")).unwrap();
    for message in errors(&place, "folder") {
        assert!(message.starts_with("folder: "), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn a_fifo_is_refused_rather_than_waited_for() {
    let place = Place::new();
    let made = std::process::Command::new("mkfifo")
        .arg(place.path("fifo"))
        .status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: there is no mkfifo");
        return;
    }
    for message in errors(&place, "fifo") {
        assert!(message.contains("expected a regular file"), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::new();
    let path = place.file("secret.safetensors", b"nothing");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        println!("skipped: this user may read everything");
        return;
    }
    for message in errors(&place, "secret.safetensors") {
        assert!(message.starts_with("secret.safetensors: "), "{message}");
        assert!(message.contains("ermission denied"), "{message}");
    }
}

#[test]
fn a_broken_header_is_told_with_its_place() {
    let place = Place::new();
    place.file("broken.safetensors", &u64::MAX.to_le_bytes());
    for command in ["load", "info", "bench"] {
        let message = place.error(&[command, "broken.safetensors"]);
        assert!(message.contains("at offset 0"), "{message}");
    }
}

#[test]
fn unknown_tensors_are_named() {
    let place = Place::new();
    let path = Model::new(&place).path;
    let message = place.error(&["extract", text(&path), "c.weight", "-o", "out"]);
    let expected = format!("{}: no tensor is named \"c.weight\"", text(&path));
    assert_eq!(message, expected);
    assert!(!place.path("out").exists());
    let message = place.error(&["load", text(&path), "--tensors", "c.*"]);
    let expected = format!("{}: none of the 3 tensors matches c.*", text(&path));
    assert!(message.starts_with(&expected), "{message}");
    let message = place.error(&["load", text(&path), "--tensors", "[a"]);
    assert!(message.starts_with("--tensors: "), "{message}");
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let place = Place::new();
    let path = Model::new(&place).path;
    for (option, value) in [
        ("--threads", "0"),
        ("--queue-depth", "1000000"),
        ("--chunk", "1"),
    ] {
        let message = place.error(&["load", text(&path), option, value]);
        assert!(message.contains("expected"), "{message}");
    }
    let message = place.error(&[
        "load",
        text(&path),
        "--strategy",
        "direct",
        "--cache",
        "keep",
    ]);
    assert!(message.contains("which caches nothing"), "{message}");
    for arguments in [
        &["load", "--threads", "many"][..],
        &["load", "--chunk", "some"],
        &["load", "--strategy", "sideways"],
        &["bench", "--rounds", "0"],
        &["bench", "--only", "teleport"],
        &["extract"],
        &["fly"],
        &["load", "--json", "--what"],
    ] {
        let ended = place.run(&[arguments, &["--json"]].concat());
        assert_eq!(ended.code, Some(2), "{arguments:?}");
        let message = ended.last_line()["error"].as_str().unwrap().to_owned();
        let first = ended.stderr.lines().next().unwrap();
        let first = first.strip_prefix("error: ").unwrap();
        assert!(message.starts_with(first), "{message}");
    }
    let ended = place.run(&["extract", text(&path), "a.bias", "--json"]);
    let message = ended.last_line()["error"].as_str().unwrap().to_owned();
    assert!(
        message.ends_with("not provided: --output <OUT>"),
        "{message}"
    );
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let place = Place::new();
    let path = Model::new(&place).path;
    let out = place.path("no").join("such").join("folder");
    let message = place.error(&["extract", text(&path), "a.bias", "-o", text(&out)]);
    assert!(message.contains("folder: cannot create"), "{message}");
    let plot = ["bench", text(&path), "--rounds", "1", "--plot", text(&out)];
    let message = place.error(&plot);
    assert!(message.contains("folder: cannot draw"), "{message}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_of() {
    let place = Place::new();
    let path = Model::new(&place).path;
    let message = place.error(&["extract", text(&path), "b.weight", "-o", "/dev/full"]);
    assert!(message.starts_with("/dev/full: cannot write"), "{message}");
    assert!(message.contains("os error 28"), "{message}");
}

#[test]
fn logging_is_chosen_by_the_environment() {
    let place = Place::new();
    let path = Model::new(&place).path;
    let mut command = place.command();
    command.args(["load", text(&path), "--json"]);
    let trace = command.env("WEIGHTLOADER_LOG", "trace").output().unwrap();
    let trace = support::Ended::from(trace);
    assert_eq!(trace.code, Some(0), "{trace:?}");
    assert_eq!(trace.last_line()["tensors"], 3);
    let wrong = command.env("WEIGHTLOADER_LOG", "loud").output().unwrap();
    let wrong = support::Ended::from(wrong);
    assert_eq!(wrong.code, Some(1));
    assert!(
        wrong.stderr.contains("WEIGHTLOADER_LOG: \"loud\""),
        "{wrong:?}"
    );
}

#[test]
fn help_is_no_error() {
    let place = Place::new();
    for arguments in [&["--help"][..], &["load", "--help"], &["--version"]] {
        let ended = place.run(arguments);
        assert_eq!(ended.code, Some(0));
        assert!(!ended.stdout.is_empty());
    }
    assert_eq!(place.run(&[]).code, Some(2));
}
