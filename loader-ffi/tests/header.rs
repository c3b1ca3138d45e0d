//! The checked-in header is the one that the sources make:
//! `WEIGHTLOADER_WRITE_HEADER=1 cargo test -p loader-ffi --test header` writes it anew.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::path::Path;

#[test]
fn the_header_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("include/weightloader.h");
    let mut written = Vec::new();
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    cbindgen::Builder::new()
        .with_config(config)
        .with_crate(root)
        .generate()
        .unwrap()
        .write(&mut written);
    let written = String::from_utf8(written).unwrap();
    if std::env::var_os("WEIGHTLOADER_WRITE_HEADER").is_some() {
        fs::write(&path, &written).unwrap();
    }
    // Git may check it out with other line ends.
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found.replace("\r\n", "\n") == written,
        "{} is stale; write it by WEIGHTLOADER_WRITE_HEADER=1 cargo test -p loader-ffi --test header",
        path.display()
    );
}

#[test]
fn the_header_tells_the_version_of_the_crate() {
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/weightloader.h");
    let header = fs::read_to_string(header).unwrap();
    let told = |part: &str| {
        let name = format!("#define WEIGHTLOADER_VERSION_{part} ");
        let line = header.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap().to_owned()
    };
    let version = ["MAJOR", "MINOR", "PATCH"].map(told).join(".");
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
}
