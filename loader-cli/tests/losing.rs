//! What becomes of output that cannot be written, or that nobody wants to the end.
#![allow(clippy::unwrap_used, reason = "a test ends where something is amiss")]

mod support;

use std::process::Stdio;

use support::{Ended, Place, safetensors, text};

/// A checkpoint whose listing no pipe holds, nor one tensor of it.
fn long(place: &Place) -> String {
    let names: Vec<String> = (0..3000).map(|number| format!("tensor {number}")).collect();
    let bytes = vec![7; 1 << 20];
    let mut tensors = vec![("large", &bytes[..])];
    tensors.extend(names.iter().map(|name| (name.as_str(), &[0; 4][..])));
    let path = place.file("long.safetensors", &safetensors(&tensors));
    text(&path).to_owned()
}

#[test]
fn nobody_complains_where_the_reader_has_enough() {
    let place = Place::new();
    let path = long(&place);
    for arguments in [
        &["info", &path][..],
        &["info", &path, "--json"],
        &["extract", &path, "large", "-o", "-"],
    ] {
        let mut command = place.command();
        command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let ended = Ended::from(child.wait_with_output().unwrap());
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        assert!(!ended.stderr.contains("error"), "{arguments:?}: {ended:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn lost_output_is_an_error() {
    let place = Place::new();
    let model = support::Model::new(&place);
    let path = text(&model.path);
    for arguments in [
        &["info", path][..],
        &["info", path, "--json"],
        &["load", path],
        &["load", path, "--json"],
        &["extract", path, "a.bias", "-o", "-"],
        &["doctor"],
        &["residency", path],
        &["--help"],
        &["--version"],
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
        let mut command = place.command();
        command.args(arguments).stdout(full.unwrap());
        let ended = Ended::from(command.output().unwrap());
        assert_eq!(ended.code, Some(1), "{arguments:?}: {ended:?}");
        let expected = "cannot write to standard output: No space left on device";
        assert!(ended.stderr.contains(expected), "{arguments:?}: {ended:?}");
    }
}
