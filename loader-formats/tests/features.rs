//! Files of a format whose feature is off are refused, not taken for raw ones.

use std::path::Path;

use loader_formats::{Checkpoint, Format};

fn check(enabled: bool, feature: &str, format: Format, fixtures: &[&str]) {
    for name in fixtures {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(name);
        match Checkpoint::open(path) {
            Ok(checkpoint) => assert!(enabled && checkpoint.format() == format, "{name}"),
            Err(error) => {
                let message = error.to_string();
                let expected = format!("built without the feature \"{feature}\"");
                assert!(!enabled && message.contains(&expected), "{name}: {message}");
                assert!(message.contains(name), "{name}: {message}");
            }
        }
    }
}

#[test]
fn safetensors() {
    let fixtures = [
        "odd.safetensors",
        "sharded",
        "sharded/model.safetensors.index.json",
    ];
    check(
        cfg!(feature = "safetensors"),
        "safetensors",
        Format::Safetensors,
        &fixtures,
    );
}

#[test]
fn gguf() {
    let fixtures = ["types.gguf", "split", "split/model-00002-of-00003.gguf"];
    check(cfg!(feature = "gguf"), "gguf", Format::Gguf, &fixtures);
}
