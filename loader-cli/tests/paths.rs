//! Checkpoints whose paths are unusual, given to every command.
#![allow(clippy::unwrap_used, reason = "a test ends where something is amiss")]

mod support;

use std::fs;

use support::{Model, Place, text};

#[test]
fn every_command_takes_any_path() {
    let place = Place::new();
    let model = Model::new(&place);
    let long = ["a folder of a name that is neither short nor very long"; 6].join("/");
    for folder in [" two  spaces", "веса/重み 🦀 e\u{301}", &long] {
        let folder = place.path(folder);
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("the model.safetensors");
        fs::copy(&model.path, &path).unwrap();
        let path = text(&path);

        for command in ["load", "info", "prefetch", "residency"] {
            assert_eq!(place.json(&[command, path])["path"], path, "{command}");
        }
        let doctor = place.json(&["doctor", path]);
        assert_eq!(doctor["files"][0]["path"], path);
        let bench = place.json(&["bench", path, "--rounds", "1", "--only", "buffered"]);
        assert_eq!(bench["path"], path);
        let (name, bytes) = &model.tensors[0];
        let out = folder.join("extracted to here");
        place.json(&["extract", path, name, "--output", text(&out)]);
        assert!(fs::read(&out).unwrap() == *bytes);
    }
}
