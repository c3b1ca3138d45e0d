//! `prefetch`, `residency`, `evict` and `doctor`.
#![allow(clippy::unwrap_used, reason = "a test ends where something is amiss")]

mod support;

use serde_json::Value;
use support::{Model, Place, noise, text};

#[test]
fn prefetch_residency_and_evict_agree() {
    let place = Place::new();
    for model in [Model::new(&place), Model::sharded(&place)] {
        let path = text(&model.path);
        let evicted = place.run(&["evict", path, "--json"]);
        if evicted.code != Some(0) {
            println!(
                "skipped: this system does not evict: {}",
                evicted.last_line()
            );
            return;
        }
        let evicted = evicted.last_line();
        let cold = place.json(&["residency", path]);
        assert_eq!(cold["bytes"], evicted["bytes"]);
        assert!(cold["bytes"].as_u64().unwrap() > model.bytes());
        if cold["resident_bytes"] == cold["bytes"] {
            println!("skipped: files stay in the page cache here (tmpfs)");
            return;
        }
        let Some(cold_share) = cold["share"].as_f64() else {
            println!("skipped: this system does not tell what is cached");
            return;
        };
        assert!(cold_share < 0.5, "{cold}");

        let prefetched = place.json(&["prefetch", path]);
        let figure = |name: &str| prefetched[name].as_u64().unwrap();
        let parts = ["brought", "skipped", "cancelled", "failed"];
        assert_eq!(parts.into_iter().map(figure).sum::<u64>(), figure("bytes"));
        assert_eq!(figure("brought"), figure("bytes"));
        assert!(prefetched["seconds"].as_f64().unwrap() > 0.0);
        assert!(prefetched["call_seconds"].as_f64() < prefetched["seconds"].as_f64());

        let warm = place.json(&["residency", path]);
        assert!(warm["share"].as_f64().unwrap() > 0.9, "{warm}");
        assert!(prefetched["resident_after"].as_f64().unwrap() > 0.9);

        let evicted = place.json(&["evict", path]);
        assert!(evicted["resident_before"].as_u64() > evicted["resident_after"].as_u64());
    }
}

#[test]
fn residency_maps_every_file() {
    let place = Place::new();
    let model = Model::sharded(&place);
    let residency = place.json(&["residency", text(&model.path)]);
    let files = residency["files"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    for file in files {
        let map = file["map"].as_array().unwrap();
        assert!(map.len() > 10 && map.len() <= 200, "{}", map.len());
        for share in map.iter().filter_map(Value::as_f64) {
            assert!((0.0..=1.0).contains(&share));
        }
    }
    let people = place.run(&["residency", text(&model.path)]);
    assert_eq!(people.text().matches('[').count(), 2, "{people:?}");
}

#[test]
fn files_of_no_bytes_are_all_there() {
    let place = Place::new();
    let path = place.file("empty", b"");
    assert_eq!(place.json(&["residency", text(&path)])["share"], 1.0);
    assert_eq!(place.json(&["prefetch", text(&path)])["brought"], 0);
}

#[test]
fn any_file_can_be_prefetched_whatever_it_holds() {
    let place = Place::new();
    let path = place.file("broken.safetensors", &noise(5000, 4));
    assert_eq!(place.json(&["prefetch", text(&path)])["bytes"], 5000);
}

#[test]
fn doctor_tells_of_the_machine_and_of_a_file() {
    let place = Place::new();
    let machine = place.json(&["doctor"]);
    assert_eq!(machine["files"].as_array().unwrap().len(), 0);
    assert!(machine["system"].is_string());
    assert!(!machine["machine"].as_object().unwrap().is_empty() || !cfg!(target_os = "linux"));
    assert!(!machine["conclusions"].as_array().unwrap().is_empty());

    let model = Model::sharded(&place);
    let both = place.json(&["doctor", text(&model.path)]);
    let files = both["files"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    for file in files {
        let direct = file["direct"].as_object().unwrap();
        assert!(direct.contains_key("possible") || direct.contains_key("impossible"));
    }
    let conclusions = both["conclusions"].as_array().unwrap();
    let about_auto = |line: &&Value| line.as_str().unwrap().contains("Auto");
    assert_eq!(
        conclusions.iter().filter(about_auto).count(),
        2,
        "{conclusions:?}"
    );

    let small = place.file("small.bin", &noise(1000, 5));
    let small = place.run(&["doctor", text(&small)]);
    assert!(small.text().contains("too small"), "{small:?}");
}

#[test]
fn doctor_tells_why_a_file_does_not_load() {
    let place = Place::new();
    let path = place.file("broken.safetensors", &noise(5000, 4));
    let ended = place.run(&["doctor", text(&path)]);
    assert_eq!(ended.code, Some(0));
    assert!(ended.text().contains("It does not load"), "{ended:?}");
}
