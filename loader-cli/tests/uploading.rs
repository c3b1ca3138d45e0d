//! `upload`, and uploads in `bench`.
#![allow(clippy::unwrap_used, reason = "a test ends where something is amiss")]

mod support;

use serde_json::Value;
use support::{Model, Place, text};

/// What an upload to Vulkan tells, or nothing where there is no device.
fn to_vulkan(place: &Place, path: &str, more: &[&str]) -> Option<Value> {
    let arguments = [&["--json", "upload", path, "--to", "vulkan"], more].concat();
    let ended = place.run(&arguments);
    if ended.code == Some(0) {
        return Some(ended.last_line());
    }
    let error = ended.last_line()["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("vulkan"), "{error}");
    println!("skipped: {error}");
    None
}

#[test]
fn upload_to_host_memory_reports_what_it_did() {
    let place = Place::new();
    for (model, files) in [(Model::new(&place), 1), (Model::sharded(&place), 2)] {
        let path = text(&model.path);
        let uploaded = place.json(&["upload", path, "--to", "host"]);
        assert_eq!(uploaded["path"], path);
        assert_eq!(uploaded["to"], "host");
        assert_eq!(uploaded["way"], "import");
        assert_eq!(uploaded["bytes"], model.bytes());
        assert_eq!(uploaded["tensors"], 3);
        assert_eq!(uploaded["files"], files);
        assert_eq!(uploaded["buffers"], files);
        assert!(uploaded["bytes_read"].as_u64() >= Some(model.bytes()));
        assert!(uploaded["seconds"].as_f64().unwrap() > 0.0);
        assert!(!uploaded["chunks"].as_object().unwrap().is_empty());
    }
    let model = Model::new(&place);
    let plain = place.run(&["upload", text(&model.path), "--to", "host"]);
    assert!(plain.text().contains("3 tensors in 1 file"), "{plain:?}");
    assert!(plain.text().contains("host memory"), "{plain:?}");
}

#[test]
fn upload_goes_each_way_to_vulkan_and_says_which() {
    let place = Place::new();
    let model = Model::sharded(&place);
    let path = text(&model.path);
    for (option, told) in [
        ("import", "import"),
        ("in-place", "in place"),
        ("staged", "staged"),
    ] {
        let Some(uploaded) = to_vulkan(&place, path, &["--way", option]) else {
            continue;
        };
        assert_eq!(uploaded["way"], told);
        assert_eq!(uploaded["to"], "vulkan");
        assert_eq!(uploaded["bytes"], model.bytes());
        assert_eq!(uploaded["buffers"], 2);
        assert!(!uploaded["device"].as_str().unwrap().is_empty());
    }
    if let Some(uploaded) = to_vulkan(&place, path, &["--tensors", "a.*"]) {
        assert!(uploaded["way"].is_string());
        assert_eq!(uploaded["tensors"], 2);
    }
}

#[test]
fn targets_that_cannot_be_reached_are_errors() {
    let place = Place::new();
    let model = Model::new(&place);
    let path = text(&model.path);
    for way in ["in-place", "staged"] {
        let error = place.error(&["upload", path, "--to", "host", "--way", way]);
        assert!(error.contains("--way") && error.contains(way), "{error}");
    }
    if !cfg!(target_vendor = "apple") {
        let error = place.error(&["upload", path, "--to", "metal"]);
        assert!(error.contains("Metal"), "{error}");
    }
    let error = place.error(&["upload", path, "--to", "host", "--strategy", "mapped"]);
    assert!(error.contains("mapped"), "{error}");
    let error = place.error(&["upload", "nowhere", "--to", "host"]);
    assert!(error.contains("nowhere"), "{error}");
    // Where it goes must be said.
    assert_eq!(place.run(&["upload", path]).code, Some(2));
}

#[test]
fn bench_measures_uploads_where_asked() {
    let place = Place::new();
    let model = Model::new(&place);
    let path = text(&model.path);
    let ways = |arguments: &[&str]| -> Vec<(String, Value)> {
        let compared = place.json(&[&["bench", path, "--rounds", "1"], arguments].concat());
        let rows = compared["rows"].as_array().unwrap();
        rows.iter()
            .map(|row| (row["way"].as_str().unwrap().to_owned(), row["warm"].clone()))
            .collect()
    };
    let rows = ways(&["--upload"]);
    let uploads: Vec<_> = rows
        .iter()
        .filter(|(way, _)| way.starts_with("vulkan"))
        .collect();
    assert_eq!(uploads.len(), 4);
    for (way, figures) in uploads {
        if let Some(reason) = figures["unavailable"].as_str() {
            println!("skipped: {way}: {reason}");
            continue;
        }
        assert!(figures["median"].as_f64() > Some(0.0), "{way}: {figures}");
    }
    assert!(rows.iter().any(|(way, _)| way == "auto"));
    assert_eq!(ways(&["--only", "vulkan-staged"]).len(), 1);
}
