//! Checkpoints of more than one file, and what may be wrong among them.

#![cfg(all(feature = "safetensors", feature = "gguf"))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod support;

use std::fs;

use loader_core::Error;
use loader_formats::{Checkpoint, Dtype, Format, OpenOptions};
use support::{Gguf, format_error, header, refused, safetensors};
use tempfile::TempDir;

const INDEX: &str = "model.safetensors.index.json";

/// A folder of these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

/// A shard with tensors of one byte each.
fn shard(names: &[&str]) -> Vec<u8> {
    let tensors = (0..)
        .zip(names)
        .map(|(at, &name)| (name, "U8", vec![1], [at, at + 1]));
    safetensors(&header(tensors), names.len())
}

fn index(map: &[(&str, &str)]) -> Vec<u8> {
    let map: serde_json::Map<_, _> = map
        .iter()
        .map(|(tensor, shard)| ((*tensor).into(), (*shard).into()))
        .collect();
    serde_json::json!({ "metadata": { "total_size": 0 }, "weight_map": map })
        .to_string()
        .into_bytes()
}

fn part(number: u16, count: u16, total: u32, tensor: &str) -> Vec<u8> {
    Gguf::new()
        .u16("split.no", number)
        .u16("split.count", count)
        .u32("split.tensors.count", total)
        .tensor(tensor.as_bytes(), &[4], 24, 0)
        .with_data(4)
}

/// Names of the tensors with the names of their files.
fn listing(checkpoint: &Checkpoint) -> Vec<(String, String)> {
    support::assert_sound(checkpoint);
    let file = |number: usize| {
        checkpoint.files()[number]
            .path()
            .file_name()
            .unwrap()
            .to_string_lossy()
    };
    let tensors = checkpoint.tensors().iter();
    tensors
        .map(|tensor| (tensor.name().to_owned(), file(tensor.file()).into_owned()))
        .collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

#[test]
fn shards_without_an_index_are_joined() {
    let folder = folder(&[
        ("b.safetensors", &shard(&["b1", "b2"])),
        ("a.safetensors", &shard(&["a"])),
        ("._a.safetensors", b"left by macOS"),
        ("readme.md", b"{}"),
    ]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let expected = [
        ("a", "a.safetensors"),
        ("b1", "b.safetensors"),
        ("b2", "b.safetensors"),
    ];
    assert_eq!(listing(&checkpoint), pairs(&expected));
    assert_eq!(checkpoint.format(), Format::Safetensors);
}

#[test]
fn an_index_says_which_shards_belong() {
    let folder = folder(&[
        ("one.safetensors", &shard(&["a", "extra"])),
        ("two.safetensors", &shard(&["b"])),
        ("adapter.safetensors", &shard(&["a"])),
        ("other.safetensors.index.json", b"not read"),
        (
            INDEX,
            &index(&[("a", "one.safetensors"), ("b", "two.safetensors")]),
        ),
    ]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let expected = [
        ("a", "one.safetensors"),
        ("extra", "one.safetensors"),
        ("b", "two.safetensors"),
    ];
    assert_eq!(listing(&checkpoint), pairs(&expected));
    let path = folder.path().join(INDEX);
    let named = Checkpoint::open(&path).unwrap();
    assert_eq!(listing(&named), listing(&checkpoint));
    for opened in [checkpoint.select(|_| false), checkpoint, named] {
        assert_eq!(opened.shard_index(), Some(&*path));
    }
    let shard = Checkpoint::open(folder.path().join("two.safetensors")).unwrap();
    assert_eq!(shard.shard_index(), None);
}

#[test]
fn an_index_by_another_name_serves_if_it_is_the_only_one() {
    let content = index(&[("a", "one.safetensors")]);
    let shard = shard(&["a"]);
    let name = "diffusion_pytorch_model.safetensors.index.json";
    let folder = folder(&[("one.safetensors", &shard), (name, &content)]);
    assert_eq!(Checkpoint::open(folder.path()).unwrap().tensors().len(), 1);
    fs::write(folder.path().join("x.index.json"), &content).unwrap();
    refused(folder.path(), folder.path(), "which one is meant");
}

#[test]
fn a_folder_with_one_file_is_that_file() {
    let folder = folder(&[("m.safetensors", &shard(&["a"]))]);
    assert_eq!(Checkpoint::open(folder.path()).unwrap().tensors().len(), 1);
    let folder = self::folder(&[(
        "m.gguf",
        &Gguf::new().tensor(b"a", &[1], 24, 0).with_data(1),
    )]);
    assert_eq!(
        Checkpoint::open(folder.path()).unwrap().format(),
        Format::Gguf
    );
    let folder = self::folder(&[
        ("m-00001-of-00002.gguf", &part(0, 2, 2, "a")),
        ("m-00002-of-00002.gguf", &part(1, 2, 2, "b")),
    ]);
    assert_eq!(Checkpoint::open(folder.path()).unwrap().tensors().len(), 2);
}

#[test]
fn folders_that_leave_a_question_are_refused() {
    let safetensors = shard(&["a"]);
    let gguf = Gguf::new().with_data(0);
    for (files, message) in [
        (&[][..], "no .safetensors or .gguf files"),
        (
            &[("weights.bin", &b"bytes"[..])],
            "no .safetensors or .gguf files",
        ),
        (
            &[("a.safetensors", &safetensors[..]), ("a.gguf", &gguf)],
            "which one is meant",
        ),
        (
            &[("a.gguf", &gguf[..]), ("b.gguf", &gguf)],
            "which one is meant",
        ),
        (
            &[
                ("a-00001-of-00002.gguf", &gguf[..]),
                ("b-00002-of-00002.gguf", &gguf),
            ],
            "which one is meant",
        ),
        (
            &[
                ("a-00001-of-00003.safetensors", &safetensors[..]),
                ("a-00003-of-00003.safetensors", &safetensors),
            ],
            "a-00002-of-00003.safetensors is missing",
        ),
        (
            &[("a-00001-of-00002.safetensors", &safetensors[..])],
            "a-00002-of-00002.safetensors is missing",
        ),
        (
            &[("a-00002-of-00002.safetensors", &safetensors[..])],
            "a-00001-of-00002.safetensors is missing",
        ),
    ] {
        let folder = folder(files);
        refused(folder.path(), folder.path(), message);
        // A folder has no offsets.
        let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(!error.contains("offset"), "{error}");
    }
}

#[test]
fn a_name_in_two_shards_is_refused() {
    let folder = folder(&[
        ("a.safetensors", &shard(&["x", "w"])),
        ("b.safetensors", &shard(&["v", "w"])),
    ]);
    refused(
        folder.path(),
        &folder.path().join("b.safetensors"),
        "a tensor is named \"w\", as is one of",
    );
}

#[test]
fn lying_indexes_are_refused() {
    let good = shard(&["a"]);
    let outside = folder(&[("secret.safetensors", &good)]);
    let outside_name = outside.path().file_name().unwrap().to_str().unwrap();
    let relative = format!("../{outside_name}/secret.safetensors");
    let absolute = outside.path().join("secret.safetensors");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (index(&[("a", &relative)]), "cannot be a shard"),
        (
            index(&[("a", absolute.to_str().unwrap())]),
            "cannot be a shard",
        ),
        (index(&[("a", "sub/one.safetensors")]), "cannot be a shard"),
        (index(&[("a", "sub\\one.safetensors")]), "cannot be a shard"),
        (index(&[("a", "C:one.safetensors")]), "cannot be a shard"),
        (index(&[("a", "one.safetensors\0")]), "cannot be a shard"),
        (index(&[("a", "..")]), "cannot be a shard"),
        (index(&[("a", ".")]), "cannot be a shard"),
        (index(&[("a", "")]), "cannot be a shard"),
        (
            index(&[("a", "one.safetensors"), ("b", "two.safetensors")]),
            "the shard \"two.safetensors\" is not in this folder",
        ),
        (
            index(&[("b", "one.safetensors")]),
            "the tensor \"b\" is said to be in \"one.safetensors\", and is not",
        ),
        (
            br#"{"metadata":{}}"#.to_vec(),
            "has a \"weight_map\", this one has none",
        ),
        (
            br#"{"weight_map":[]}"#.to_vec(),
            "expected an object from tensors to shards",
        ),
        (br#"{"weight_map":{"a":1}}"#.to_vec(), "expected a string"),
        (
            br#"{"weight_map":{},"weight_map":{}}"#.to_vec(),
            "weight_map appears twice",
        ),
        (
            br#"{"weight_map":{"a":"one.safetensors","a":"one.safetensors"}}"#.to_vec(),
            "the tensor \"a\" appears twice in weight_map",
        ),
        (
            br#"{"weight_map":{"a":"one.safetensors"}"#.to_vec(),
            "not valid JSON",
        ),
        (b"[]".to_vec(), "expected an object with a weight_map"),
        (b"".to_vec(), "not valid JSON"),
        (b"\xff".to_vec(), "not valid JSON"),
        (
            [&b"{\"x\":"[..], &b"[".repeat(100_000)].concat(),
            "recursion limit",
        ),
        (
            vec![b' '; (32 << 20) + 1],
            "more than the limit of 33554432",
        ),
    ];
    for (content, message) in cases {
        let folder = folder(&[("one.safetensors", &good), (INDEX, &content)]);
        refused(folder.path(), &folder.path().join(INDEX), message);
    }
    // A tensor that two shards are said to hold, and one shard does.
    let map = br#"{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}"#;
    let two = shard(&["b"]);
    let folder = folder(&[
        ("one.safetensors", &good),
        ("two.safetensors", &two),
        (INDEX, map),
    ]);
    refused(
        folder.path(),
        &folder.path().join(INDEX),
        "the tensor \"a\" appears twice in weight_map",
    );
}

#[test]
fn a_shard_that_lies_is_the_one_named() {
    let index = index(&[("a", "one.safetensors"), ("b", "two.safetensors")]);
    let cut = shard(&["b"]);
    let folder = folder(&[
        ("one.safetensors", &shard(&["a"])),
        ("two.safetensors", &cut[..cut.len() - 1]),
        (INDEX, &index),
    ]);
    refused(
        folder.path(),
        &folder.path().join("two.safetensors"),
        "cut short",
    );
}

#[test]
fn lying_parts_are_refused() {
    let names = [
        "m-00001-of-00003.gguf",
        "m-00002-of-00003.gguf",
        "m-00003-of-00003.gguf",
    ];
    let good = [part(0, 3, 3, "a"), part(1, 3, 3, "b"), part(2, 3, 3, "c")];
    let with_second = |second: &[u8]| {
        folder(&[
            (names[0], &good[0]),
            (names[1], second),
            (names[2], &good[2]),
        ])
    };
    let open = |folder: &TempDir, name: &str| Checkpoint::open(folder.path().join(name));
    for name in names {
        let folder = with_second(&good[1]);
        let expected = [("a", names[0]), ("b", names[1]), ("c", names[2])];
        assert_eq!(listing(&open(&folder, name).unwrap()), pairs(&expected));
    }
    for (second, message) in [
        (
            part(2, 3, 3, "b"),
            "expected part 2 of 3 with 3 tensors in all, found part 3 of 3",
        ),
        (part(1, 4, 3, "b"), "found part 2 of 4"),
        (
            part(1, 3, 4, "b"),
            "found part 2 of 3 with 4 tensors in all",
        ),
        (Gguf::new().with_data(0), "found no part"),
        (b"not one".to_vec(), "begins with \"GGUF\""),
    ] {
        let folder = with_second(&second);
        refused(
            &folder.path().join(names[0]),
            &folder.path().join(names[1]),
            message,
        );
    }
    let folder = with_second(&part(1, 3, 3, "a"));
    refused(
        &folder.path().join(names[0]),
        &folder.path().join(names[1]),
        "a tensor is named \"a\"",
    );

    let folder = self::folder(&[(names[0], &good[0]), (names[2], &good[2])]);
    refused(
        &folder.path().join(names[0]),
        &folder.path().join(names[1]),
        "this part of 3 is missing",
    );

    let folder = self::folder(&[("m.gguf", &good[0])]);
    refused(
        &folder.path().join("m.gguf"),
        &folder.path().join("m.gguf"),
        "is not named so",
    );
    let folder = self::folder(&[(names[1], &good[0])]);
    refused(
        &folder.path().join(names[1]),
        &folder.path().join(names[1]),
        "this is part 1 of 3, but is not named so",
    );

    let total = [part(0, 2, 5, "a"), part(1, 2, 5, "b")];
    let folder = self::folder(&[
        ("m-00001-of-00002.gguf", &total[0]),
        ("m-00002-of-00002.gguf", &total[1]),
    ]);
    let (_, _, message) = format_error(open(&folder, "m-00002-of-00002.gguf"));
    assert!(
        message.contains("split.tensors.count is 5, the 2 parts have 2 tensors"),
        "{message}"
    );
}

#[test]
fn formats_are_known_by_content_then_by_extension() {
    let safetensors = shard(&["a"]);
    let gguf = Gguf::new().tensor(b"a", &[1], 24, 0).with_data(1);
    let open = |name: &str, bytes: &[u8]| support::open_named(name, bytes, &OpenOptions::new());
    for (name, bytes, format) in [
        ("blob", &safetensors[..], Format::Safetensors),
        ("misnamed.gguf", &safetensors, Format::Safetensors),
        ("blob", &gguf, Format::Gguf),
        ("misnamed.safetensors", &gguf, Format::Gguf),
        ("blob", b"", Format::Raw),
        ("blob.bin", b"anything", Format::Raw),
        // A brace where a header would begin, behind a length that no header has.
        (
            "blob.bin",
            b"\xff\xff\xff\xff\xff\xff\xff\xff{}",
            Format::Raw,
        ),
    ] {
        assert_eq!(open(name, bytes).unwrap().format(), format, "{name}");
    }
    for name in ["empty.safetensors", "empty.gguf"] {
        format_error(open(name, b""));
    }
    // Cut short, without an extension: known all the same.
    format_error(open("blob", &safetensors[..20]));
}

#[test]
fn a_raw_file_is_one_tensor() {
    let folder = folder(&[
        ("weights.v1.bin", b"0123456789"),
        ("x.safetensors", &shard(&["a"])),
    ]);
    let checkpoint = Checkpoint::open(folder.path().join("weights.v1.bin")).unwrap();
    let tensor = checkpoint.tensor("weights.v1").unwrap();
    assert_eq!(
        (tensor.dtype(), tensor.shape(), tensor.range()),
        (Dtype::U8, &[10][..], 0..10)
    );
    assert_eq!((checkpoint.bytes(), checkpoint.is_whole()), (10, true));
    // Asked for, even a file with a header is raw.
    let file = loader_core::WeightFile::open(folder.path().join("x.safetensors")).unwrap();
    let len = file.len();
    assert_eq!(Checkpoint::raw(file.clone()).bytes(), len);
    let slice = Checkpoint::raw(file.slice(3, 4).unwrap());
    assert_eq!(slice.tensors()[0].range(), 0..4);
}

#[test]
fn selecting_keeps_names_and_files() {
    let folder = folder(&[
        ("a.safetensors", &shard(&["p", "q"])),
        ("b.safetensors", &shard(&["r"])),
    ]);
    let whole = Checkpoint::open(folder.path()).unwrap();
    let some = whole.select(|tensor| tensor.name() != "q");
    assert_eq!(
        listing(&some),
        pairs(&[("p", "a.safetensors"), ("r", "b.safetensors")])
    );
    assert_eq!(
        (some.files().len(), some.bytes(), some.is_whole()),
        (2, 2, false)
    );
    assert!(matches!(some.tensor("q"), Err(Error::NoSuchTensor { name }) if name == "q"));
    assert!(whole.select(|_| true).is_whole());
    // What was dropped stays dropped.
    assert!(!some.select(|_| true).is_whole());
    let none = whole.select(|_| false);
    assert_eq!((none.tensors().len(), none.bytes()), (0, 0));
}

#[test]
fn paths_that_are_no_files_are_refused() {
    let folder = folder(&[]);
    let missing = folder.path().join("missing.safetensors");
    assert!(matches!(Checkpoint::open(&missing), Err(Error::Io { path, .. }) if path == missing));
    let in_the_way = folder.path().join("a.safetensors");
    fs::create_dir(in_the_way).unwrap();
    refused(
        folder.path(),
        folder.path(),
        "no .safetensors or .gguf files",
    );
    if cfg!(unix) {
        assert!(matches!(
            Checkpoint::open("/dev/null"),
            Err(Error::NotRegular { .. })
        ));
    }
}

/// The cache of the Hugging Face hub: a snapshot is a folder of links to blobs named by their hash.
#[cfg(unix)]
#[test]
fn links_to_shards_are_followed() {
    let cache = folder(&[]);
    let blobs = cache.path().join("blobs");
    let snapshot = cache.path().join("snapshots/0123abcd");
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    for (name, blob, content) in [
        ("one.safetensors", "7d1f", shard(&["a"])),
        ("two.safetensors", "e2c9", shard(&["b"])),
        (
            INDEX,
            "5b0a",
            index(&[("a", "one.safetensors"), ("b", "two.safetensors")]),
        ),
    ] {
        fs::write(blobs.join(blob), content).unwrap();
        let target = std::path::Path::new("../../blobs").join(blob);
        std::os::unix::fs::symlink(target, snapshot.join(name)).unwrap();
    }
    let expected = pairs(&[("a", "one.safetensors"), ("b", "two.safetensors")]);
    assert_eq!(listing(&Checkpoint::open(&snapshot).unwrap()), expected);
    assert_eq!(
        listing(&Checkpoint::open(snapshot.join(INDEX)).unwrap()),
        expected
    );
    fs::remove_file(snapshot.join(INDEX)).unwrap();
    assert_eq!(listing(&Checkpoint::open(&snapshot).unwrap()), expected);
    // A link to nowhere is an error, not a shard less.
    fs::remove_file(blobs.join("e2c9")).unwrap();
    assert!(
        matches!(Checkpoint::open(&snapshot), Err(Error::Io { path, .. }) if path.ends_with("two.safetensors"))
    );
}

#[test]
fn an_index_can_be_shared_by_threads() {
    fn is_shared<T: Send + Sync + Clone>() {}
    is_shared::<Checkpoint>();
}
