//! `bench`, and the sample checkpoint.
#![allow(clippy::unwrap_used, reason = "a test ends where something is amiss")]

mod support;

use std::fs;

use serde_json::Value;
use support::{Model, Place, text};

const WAYS: [&str; 8] = [
    "ceiling",
    "page-faults",
    "page-faults-random",
    "madvise",
    "buffered",
    "direct",
    "auto",
    "stream",
];

/// The figures of a row are complete, or it says why there are none.
fn check(figures: &Value, bytes: u64) {
    if let Some(reason) = figures["unavailable"].as_str() {
        assert!(!reason.is_empty());
        println!("skipped: {reason}");
        return;
    }
    let rate = |name: &str| figures[name].as_f64().unwrap();
    assert!(0.0 < rate("min"), "{figures}");
    assert!(
        rate("min") <= rate("median") && rate("median") <= rate("max"),
        "{figures}"
    );
    let turns = figures["turns"].as_array().unwrap();
    assert_eq!(turns.len(), 2, "{figures}");
    for turn in turns {
        assert!(turn["bytes"].as_u64().unwrap() >= bytes, "{figures}");
        assert!(turn["seconds"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn bench_compares_every_way() {
    let place = Place::new();
    for model in [Model::new(&place), Model::sharded(&place)] {
        let plot = place.path("bars.svg");
        let path = text(&model.path);
        let compared = place.json(&["bench", path, "--rounds", "2", "--plot", text(&plot)]);
        assert_eq!(compared["path"], path);
        assert_eq!(compared["bytes"], model.bytes());
        assert_eq!(compared["rounds"], 2);
        let rows = compared["rows"].as_array().unwrap();
        let ways: Vec<&str> = rows
            .iter()
            .map(|row| row["way"].as_str().unwrap())
            .collect();
        assert_eq!(ways, WAYS);
        for row in rows {
            check(&row["cold"], model.bytes());
            if row["way"] != "ceiling" {
                check(&row["half"], model.bytes());
                check(&row["warm"], model.bytes());
            }
        }
        let buffered = rows.iter().find(|row| row["way"] == "buffered").unwrap();
        assert!(buffered["warm"]["median"].is_f64(), "{buffered}");
        check_plot(&fs::read_to_string(&plot).unwrap());
        fs::remove_file(&plot).unwrap();
    }
}

/// The plot is well-formed, names each way, and all of it lies within its frame.
fn check_plot(plot: &str) {
    let document = roxmltree::Document::parse(plot).unwrap();
    let root = document.root_element();
    let number = |node: roxmltree::Node<'_, '_>, name: &str| -> Option<f64> {
        node.attribute(name).map(|value| value.parse().unwrap())
    };
    let (width, height) = (
        number(root, "width").unwrap(),
        number(root, "height").unwrap(),
    );
    let texts: Vec<&str> = root
        .descendants()
        .filter(|node| node.has_tag_name("text"))
        .filter_map(|node| node.text())
        .map(str::trim)
        .collect();
    for title in ["buffered reads", "direct reads", "auto (the default)"] {
        assert!(texts.contains(&title), "{title} in {texts:?}");
    }
    for node in root.descendants() {
        for (from, to, most) in [("x", "width", width), ("y", "height", height)] {
            let end = number(node, from).unwrap_or(0.0) + number(node, to).unwrap_or(0.0);
            assert!((0.0..=most).contains(&end), "{node:?}");
        }
    }
}

#[test]
fn plots_take_any_name() {
    let place = Place::new();
    // Of the characters that mean something in a plot, those that names may have here.
    let name = if cfg!(windows) {
        "a&c'.bin"
    } else {
        "a<b>&\"c'.bin"
    };
    let path = place.file(name, &support::noise(2000, 1));
    let plot = place.path("bars.svg");
    let arguments = ["bench", text(&path), "--rounds", "1", "--plot", text(&plot)];
    place.json(&arguments);
    let plot = fs::read_to_string(plot).unwrap();
    let document = roxmltree::Document::parse(&plot).unwrap();
    let title = document
        .descendants()
        .find(|node| node.has_tag_name("title"));
    let title = title.unwrap().text().unwrap();
    assert!(title.contains(name), "{title}");
}

#[test]
fn bench_measures_only_what_is_asked_for() {
    let place = Place::new();
    let model = Model::new(&place);
    let path = text(&model.path);
    let only = ["bench", path, "--rounds", "1", "--only", "auto,buffered"];
    let compared = place.json(&only);
    assert_eq!(compared["rows"].as_array().unwrap().len(), 2);
    assert_eq!(compared["ceiling"], Value::Null);

    let (name, bytes) = &model.tensors[0];
    let few = place.json(&[&only[..], &["--tensors", name]].concat());
    assert_eq!(
        (&few["tensors"], &few["bytes"]),
        (&1.into(), &bytes.len().into())
    );

    // The time is over before the first round begins.
    let none = place.json(&["bench", path, "--seconds", "0", "--only", "auto"]);
    assert_eq!(none["rounds"], 0);
    assert!(none["rows"][0]["warm"]["unavailable"].is_string());
}

#[test]
fn bench_needs_every_strategy() {
    let place = Place::new();
    let model = Model::new(&place);
    let mut command = place.command();
    command
        .env("WEIGHTLOADER_STRATEGY", "buffered")
        .args(["bench", text(&model.path)]);
    let ended = support::Ended::from(command.output().unwrap());
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("WEIGHTLOADER_STRATEGY"), "{ended:?}");
}

#[test]
fn nothing_cannot_be_compared() {
    let place = Place::new();
    let path = place.file("empty.bin", b"");
    let message = place.error(&["bench", text(&path)]);
    assert!(message.contains("no weights"), "{message}");
}

#[test]
fn without_a_path_a_sample_is_made_and_kept() {
    if cfg!(windows) {
        println!("skipped: Windows has no variable for the cache folder");
        return;
    }
    let place = Place::new();
    let arguments = ["load", "--sample-bytes", "1MiB", "--json"];
    let first = place.run(&arguments);
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(first.stderr.contains("writing a sample"), "{first:?}");
    let loaded = first.last_line();
    let path = loaded["path"].as_str().unwrap();
    assert!(path.starts_with(text(&place.path(""))), "{path}");
    assert!(loaded["bytes"].as_u64().unwrap() >= 1 << 20);
    let bytes = fs::read(path).unwrap();

    let second = place.run(&arguments);
    assert!(second.stderr.contains("using the sample"), "{second:?}");
    assert_eq!(second.last_line()["path"], path);
    assert!(fs::read(path).unwrap() == bytes);
    let folder = fs::read_dir(std::path::Path::new(path).parent().unwrap()).unwrap();
    assert_eq!(folder.count(), 1, "nothing is left beside the sample");

    let info = place.json(&["info", path]);
    let names = info["tensors"].as_array().unwrap();
    let layer = "model.layers.0.self_attn.q_proj.weight";
    assert!(names.iter().any(|tensor| tensor["name"] == layer));

    let bench = place.json(&["bench", "--sample-bytes", "1MiB", "--rounds", "1"]);
    assert_eq!(bench["path"], path);
}

#[test]
fn a_sample_needs_a_folder_to_go_to() {
    if cfg!(windows) {
        println!("skipped: Windows has no variable for the cache folder");
        return;
    }
    let place = Place::new();
    // A file stands where the folder would be, on any system.
    place.file("cache", b"");
    place.file("Library", b"");
    let message = place.error(&["load", "--sample-bytes", "1MiB"]);
    assert!(message.contains("cannot make the folder"), "{message}");
}
