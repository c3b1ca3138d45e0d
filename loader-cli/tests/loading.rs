//! `load`, `info` and `extract`.
#![allow(clippy::unwrap_used, reason = "a test ends where something is amiss")]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Model, Place, noise, text};

#[test]
fn load_reports_what_it_did() {
    let place = Place::new();
    for model in [Model::new(&place), Model::sharded(&place)] {
        let loaded = place.json(&["load", text(&model.path)]);
        assert_eq!(loaded["bytes"], model.bytes());
        assert_eq!(loaded["tensors"], 3);
        assert_eq!(loaded["strategy"], "auto");
        assert_eq!(loaded["path"], text(&model.path));
        assert!(loaded["bytes_read"].as_u64() >= Some(model.bytes()));
        assert!(loaded["seconds"].as_f64().unwrap() > 0.0);
        assert!(loaded["bytes_per_second"].as_f64().unwrap() > 0.0);
        assert!(loaded["fallbacks"].is_array());
        let chunks = loaded["chunks"].as_object().unwrap();
        assert!(!chunks.is_empty());
        assert!(chunks.values().all(|count| count.as_u64() > Some(0)));
        for figure in ["major_faults", "minor_faults", "peak_memory"] {
            let figure = &loaded[figure];
            assert!(figure.is_u64() || !cfg!(target_os = "linux"), "{loaded}");
        }
    }
}

#[test]
fn loads_and_uploads_of_any_size_tell_what_they_used() {
    let place = Place::new();
    let path = place.file("small.bin", &noise(1000, 1));
    for command in [
        &["load", text(&path)][..],
        &["upload", text(&path), "--to", "host"],
    ] {
        let told = place.json(command);
        for figure in ["major_faults", "minor_faults", "peak_memory"] {
            let figure = &told[figure];
            assert!(figure.is_u64() || !cfg!(target_os = "linux"), "{told}");
        }
    }
}

#[test]
fn people_read_standard_output_and_programs_its_last_line() {
    let place = Place::new();
    let model = Model::new(&place);
    let plain = place.run(&["load", text(&model.path)]);
    assert_eq!(plain.code, Some(0));
    assert!(plain.text().contains("3 tensors in 1 file"), "{plain:?}");
    assert_eq!(plain.stderr, "");

    let json = place.run(&["--json", "load", text(&model.path)]);
    assert_eq!(json.text().lines().count(), 1);
    assert!(json.stderr.contains("3 tensors in 1 file"), "{json:?}");
}

#[test]
fn load_selects_tensors_by_patterns() {
    let place = Place::new();
    let model = Model::sharded(&place);
    let path = text(&model.path);
    let bytes = |index: usize| model.tensors[index].1.len();
    for (patterns, tensors, expected) in [
        (&["--tensors", "a.*"][..], 2, bytes(0) + bytes(1)),
        (&["--tensors", "a.bias,b.*"], 2, bytes(1) + bytes(2)),
        (&["--tensors", "{a,b}.weight"], 2, bytes(0) + bytes(2)),
        (&["--tensors", "a.bias", "--tensors", "?.bias"], 1, bytes(1)),
    ] {
        let loaded = place.json(&[&["load", path], patterns].concat());
        assert_eq!(loaded["tensors"], tensors, "{patterns:?}");
        assert_eq!(loaded["bytes"], expected, "{patterns:?}");
    }
}

#[test]
fn load_takes_every_option() {
    let place = Place::new();
    let model = Model::new(&place);
    let path = text(&model.path);
    for strategy in ["auto", "buffered", "mapped"] {
        let loaded = place.json(&["load", path, "--strategy", strategy]);
        assert_eq!(loaded["strategy"], strategy);
        assert_eq!(loaded["bytes"], model.bytes());
    }
    let buffered = place.json(&["load", path, "--strategy", "buffered", "--chunk", "1MiB"]);
    assert_eq!(buffered["chunks"], json!({ "buffered": 5 }));
    let mapped = place.json(&["load", path, "--strategy", "mapped"]);
    assert_eq!(mapped["chunks"], json!({ "mapped": 1 }));
    place.json(&[
        "load",
        path,
        "--cache",
        "keep",
        "--threads",
        "3",
        "--queue-depth",
        "7",
        "--chunk",
        "65536",
        "--memory-limit",
        "1MiB",
    ]);
}

#[test]
fn direct_reads_are_direct_or_an_error() {
    let place = Place::new();
    let model = Model::new(&place);
    let ended = place.run(&["load", text(&model.path), "--strategy", "direct", "--json"]);
    let result = ended.last_line();
    if ended.code == Some(0) {
        let chunks = result["chunks"].as_object().unwrap();
        assert!(
            chunks.keys().all(|name| name.contains("direct")),
            "{result}"
        );
    } else {
        let error = result["error"].as_str().unwrap();
        assert!(error.contains("cannot be used here"), "{error}");
    }
}

#[test]
fn cold_loads_begin_without_the_page_cache() {
    let place = Place::new();
    let model = Model::new(&place);
    let path = text(&model.path);
    let ended = place.run(&["load", path, "--cold", "--json"]);
    let loaded = ended.last_line();
    if ended.code != Some(0) {
        println!("skipped: this system does not evict: {loaded}");
        return;
    }
    if ended.stderr.contains("stayed in the page cache") {
        println!("skipped: {}", ended.stderr.lines().next().unwrap());
        return;
    }
    // Auto asks for residency only where direct I/O is to be had.
    if let Some(resident) = loaded["resident_bytes"].as_u64() {
        assert!(resident < model.bytes() / 2, "{loaded}");
    }
}

#[test]
fn the_environment_overrules_the_command_line() {
    let place = Place::new();
    let model = Model::new(&place);
    let mut command = place.command();
    command
        .env("WEIGHTLOADER_STRATEGY", "buffered")
        .args(["load", text(&model.path), "--json"]);
    let ended = support::Ended::from(command.output().unwrap());
    assert_eq!(ended.last_line()["strategy"], "buffered");
    command.env("WEIGHTLOADER_STRATEGY", "sideways");
    let ended = support::Ended::from(command.output().unwrap());
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("WEIGHTLOADER_STRATEGY"), "{ended:?}");
    command.env("WEIGHTLOADER_STRATEGY", "direct");
    command.env("WEIGHTLOADER_CACHE", "keep");
    let ended = support::Ended::from(command.output().unwrap());
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("which caches nothing"), "{ended:?}");
}

#[test]
fn doctor_tells_what_the_environment_makes_of_a_load() {
    let place = Place::new();
    let model = Model::new(&place);
    let mut command = place.command();
    command
        .env("WEIGHTLOADER_CACHE", "keep")
        .args(["doctor", text(&model.path), "--json"]);
    let ended = support::Ended::from(command.output().unwrap());
    let told = ended.last_line()["conclusions"].to_string();
    assert!(told.contains("WEIGHTLOADER_CACHE asks to keep"), "{told}");
}

#[test]
fn weights_are_locked_or_the_report_says_that_they_are_not() {
    let place = Place::new();
    let model = Model::new(&place);
    let path = text(&model.path);
    let locked = place.json(&["load", path, "--lock"]);
    assert!(locked["locked_bytes"].is_u64(), "{locked}");
    assert_eq!(place.json(&["load", path])["locked_bytes"], Value::Null);
    let message = place.error(&["load", path, "--lock", "--strategy", "mapped"]);
    assert!(message.contains("--lock"), "{message}");
}

#[test]
fn info_lists_every_tensor_where_it_lies() {
    let place = Place::new();
    for model in [Model::new(&place), Model::sharded(&place)] {
        let info = place.json(&["info", text(&model.path)]);
        assert_eq!(info["format"], "safetensors");
        assert_eq!(info["bytes"], model.bytes());
        let tensors = info["tensors"].as_array().unwrap();
        assert_eq!(tensors.len(), 3);
        for (name, bytes) in &model.tensors {
            let tensor = tensors
                .iter()
                .find(|tensor| tensor["name"] == *name)
                .unwrap();
            assert_eq!(tensor["dtype"], "U8");
            assert_eq!(tensor["shape"], json!([bytes.len()]));
            assert_eq!(tensor["bytes"], bytes.len());
            let file = fs::read(tensor["file"].as_str().unwrap()).unwrap();
            let offset = usize::try_from(tensor["offset"].as_u64().unwrap()).unwrap();
            assert!(&file[offset..offset + bytes.len()] == bytes.as_slice());
        }
        let people = place.run(&["info", text(&model.path)]);
        assert!(people.text().contains("b.weight"), "{people:?}");
    }
}

#[test]
fn info_shows_people_a_row_for_each_tensor_however_long_its_name() {
    let place = Place::new();
    let long = "long".repeat(1 << 18);
    let file = support::safetensors(&[(&long, &[1, 2, 3]), ("short", &[4])]);
    let path = place.file("model.safetensors", &file);
    let info = place.run(&["info", text(&path)]);
    let lines: Vec<&str> = info.text().lines().collect();
    assert!(lines[0].starts_with("tensor  "), "{info:?}");
    assert!(lines[1].contains("longlo…"), "{}", lines[1].len());
    assert!(lines[2].starts_with("short  "), "{}", lines[2].len());
    assert_eq!(lines.len(), 4);
    assert!(info.stdout.len() < 1000, "{}", info.stdout.len());
    // Programs get the whole name, and people beside them no table.
    let ended = place.run(&["info", text(&path), "--json"]);
    assert_eq!(ended.last_line()["tensors"][0]["name"], long);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr.len());
}

#[test]
fn info_takes_any_file_for_raw_bytes() {
    let place = Place::new();
    let path = place.file("blob.bin", &noise(1000, 1));
    let info = place.json(&["info", text(&path)]);
    assert_eq!(info["format"], "raw");
    assert_eq!(info["tensors"][0]["name"], "blob");
    assert_eq!(info["tensors"][0]["bytes"], 1000);
}

#[test]
fn extract_writes_the_exact_bytes_by_every_strategy() {
    let place = Place::new();
    let out = place.path("out.bin");
    for model in [Model::new(&place), Model::sharded(&place)] {
        for (name, bytes) in &model.tensors {
            for options in [
                &[][..],
                &["--strategy", "buffered"],
                &["--strategy", "mapped"],
                &["--memory-limit", "64KiB", "--chunk", "4096"],
                &["--cache", "bypass", "--threads", "2"],
            ] {
                let arguments = ["extract", text(&model.path), *name, "-o", text(&out)];
                let extracted = place.json(&[&arguments, options].concat());
                assert_eq!(extracted["bytes"], bytes.len());
                assert!(fs::read(&out).unwrap() == *bytes, "{name} {options:?}");
            }
        }
    }
}

#[test]
fn extract_reads_cold_files() {
    let place = Place::new();
    let model = Model::new(&place);
    let out = place.path("out.bin");
    let (name, bytes) = &model.tensors[0];
    let ended = place.run(&[
        "extract",
        text(&model.path),
        name,
        "-o",
        text(&out),
        "--cold",
    ]);
    if ended.code == Some(0) {
        assert!(fs::read(&out).unwrap() == *bytes);
    } else {
        println!("skipped: this system does not evict: {}", ended.stderr);
    }
}

#[test]
fn extract_writes_to_standard_output() {
    let place = Place::new();
    let model = Model::new(&place);
    for (name, bytes) in &model.tensors {
        let ended = place.run(&["extract", text(&model.path), name, "-o", "-"]);
        assert_eq!(ended.code, Some(0));
        assert!(ended.stdout == *bytes);
        assert!(ended.stderr.contains(name), "{}", ended.stderr);
    }
    let refused = place.error(&["extract", text(&model.path), "a.bias", "-o", "-"]);
    assert!(refused.contains("--json"), "{refused}");
}

#[test]
fn extract_writes_tensors_of_no_bytes() {
    let place = Place::new();
    let file = support::safetensors(&[("empty", &[]), ("full", &[1, 2, 3])]);
    let path = place.file("model.safetensors", &file);
    let out = place.path("out.bin");
    for strategy in ["auto", "mapped"] {
        let arguments = ["extract", text(&path), "empty", "-o", text(&out)];
        place.json(&[&arguments[..], &["--strategy", strategy]].concat());
        assert_eq!(fs::read(&out).unwrap(), b"");
    }
}

#[test]
fn extract_never_overwrites_what_it_reads() {
    let place = Place::new();
    let model = Model::new(&place);
    let before = fs::read(&model.path).unwrap();
    let path = text(&model.path);
    let refused = place.error(&["extract", path, "a.bias", "-o", path]);
    assert!(refused.contains("the checkpoint itself"), "{refused}");
    assert!(fs::read(&model.path).unwrap() == before);

    let sharded = Model::sharded(&place).path;
    let index = sharded.join("model.safetensors.index.json");
    let before = fs::read(&index).unwrap();
    for path in [&sharded, &index] {
        let refused = place.error(&["extract", text(path), "a.bias", "-o", text(&index)]);
        assert!(refused.contains("the checkpoint itself"), "{refused}");
        assert!(fs::read(&index).unwrap() == before);
    }
}

#[test]
fn empty_files_load() {
    let place = Place::new();
    let path = place.file("empty.bin", b"");
    let loaded: Value = place.json(&["load", text(&path)]);
    assert_eq!(loaded["bytes"], 0);
}
