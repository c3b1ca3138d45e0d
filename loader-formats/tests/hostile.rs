//! Headers that lie: each is refused with an error that names the file and says what is wrong.

#![cfg(all(feature = "safetensors", feature = "gguf"))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod support;

use loader_formats::{Checkpoint, OpenOptions};
use support::{Gguf, array, format_error, header, open, open_named, open_with, safetensors, text};

const HUGE: u64 = 1 << 60;

/// A header with one good tensor of 8 bytes named `a`, and a string to put after it.
fn one(rest: &str) -> String {
    format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}{rest}}}"#)
}

/// A header with one tensor described so.
fn described(tensor: &str) -> String {
    format!(r#"{{"a":{tensor}}}"#)
}

#[test]
fn lying_safetensors_headers_are_refused() {
    let deep = 100_000;
    let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(deep), close.repeat(deep));
    let pair = |first: [u64; 2], second: [u64; 2]| {
        let shape = |offsets: [u64; 2]| vec![offsets[1] - offsets[0]];
        header([
            ("a", "U8", shape(first), first),
            ("b", "U8", shape(second), second),
        ])
    };
    let with_shape = |shape: &str| {
        described(&format!(
            r#"{{"dtype":"F32","shape":{shape},"data_offsets":[0,8]}}"#
        ))
    };
    let with_offsets = |offsets: &str| {
        described(&format!(
            r#"{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#
        ))
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        // The length of the header.
        (
            "length only",
            2_u64.to_le_bytes().to_vec(),
            "2 bytes long, 0 follow",
        ),
        (
            "longer than the file",
            [&9_u64.to_le_bytes()[..], b"{}"].concat(),
            "9 bytes long, 2 follow",
        ),
        (
            "length overflows",
            [&u64::MAX.to_le_bytes()[..], b"{}"].concat(),
            "long, 2 follow",
        ),
        ("no header", safetensors("", 8), "begins with \"{\""),
        ("not an object", safetensors("[]", 0), "begins with \"{\""),
        ("space first", safetensors(" {}", 0), "begins with \"{\""),
        // The JSON.
        (
            "cut off",
            safetensors(r#"{"a":{"dty"#, 0),
            "not valid JSON: EOF",
        ),
        ("no end", safetensors("{", 0), "not valid JSON: EOF"),
        (
            "more after the end",
            safetensors("{} {}", 0),
            "trailing characters",
        ),
        (
            "zeros after the end",
            safetensors("{}\0\0", 0),
            "trailing characters",
        ),
        (
            "not UTF-8",
            [&7_u64.to_le_bytes()[..], b"{\"\xff\xfe\":1"].concat(),
            "not valid JSON: invalid unicode",
        ),
        (
            "half a surrogate",
            safetensors(r#"{"\ud800":1}"#, 0),
            "not valid JSON",
        ),
        (
            "deep array",
            safetensors(&described(&nested("[", "]")), 0),
            "expected an object with dtype",
        ),
        (
            "deep shape",
            safetensors(&with_shape(&nested("[", "]")), 8),
            "expected u64",
        ),
        (
            "deep beside",
            safetensors(&described(&format!(r#"{{"x":{}}}"#, nested("[", "]"))), 0),
            "recursion limit",
        ),
        (
            "deep objects beside",
            safetensors(
                &described(&format!(r#"{{"x":{}}}"#, nested(r#"{"x":"#, "}"))),
                0,
            ),
            "recursion limit",
        ),
        (
            "deep and unending",
            safetensors(&format!("{{\"a\":{}", "[".repeat(deep)), 0),
            "expected an object",
        ),
        // One tensor.
        (
            "a number",
            safetensors(&described("1"), 0),
            "expected an object with dtype",
        ),
        (
            "a list",
            safetensors(&described(r#"["F32",[2],[0,8]]"#), 8),
            "expected an object with dtype",
        ),
        (
            "null",
            safetensors(&described("null"), 0),
            "expected an object with dtype",
        ),
        (
            "no dtype",
            safetensors(&described(r#"{"shape":[2],"data_offsets":[0,8]}"#), 8),
            "dtype is missing",
        ),
        (
            "no shape",
            safetensors(&described(r#"{"dtype":"F32","data_offsets":[0,8]}"#), 8),
            "shape is missing",
        ),
        (
            "no offsets",
            safetensors(&described(r#"{"dtype":"F32","shape":[2]}"#), 8),
            "data_offsets is missing",
        ),
        (
            "dtype twice",
            safetensors(
                &described(r#"{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}"#),
                8,
            ),
            "dtype appears twice",
        ),
        (
            "unknown dtype",
            safetensors(
                &described(r#"{"dtype":"F33","shape":[2],"data_offsets":[0,8]}"#),
                8,
            ),
            "the dtype \"F33\" is not known",
        ),
        (
            "a dtype of ggml",
            safetensors(
                &described(r#"{"dtype":"Q4_0","shape":[32],"data_offsets":[0,18]}"#),
                18,
            ),
            "the dtype \"Q4_0\" is not known",
        ),
        (
            "negative shape",
            safetensors(&with_shape("[-2]"), 8),
            "integer `-2`, expected u64",
        ),
        (
            "fractional shape",
            safetensors(&with_shape("[2.0]"), 8),
            "expected u64",
        ),
        (
            "shape beyond 64 bits",
            safetensors(&with_shape("[99999999999999999999]"), 8),
            "expected u64",
        ),
        (
            "text as shape",
            safetensors(&with_shape(r#""2""#), 8),
            "whole numbers",
        ),
        (
            "shape overflows",
            safetensors(&with_shape(&format!("[{HUGE},{HUGE}]")), 8),
            "countable number of bytes",
        ),
        (
            "bytes overflow",
            safetensors(&with_shape(&format!("[{}]", u64::MAX / 2)), 8),
            "countable number of bytes",
        ),
        (
            "many dimensions",
            safetensors(&with_shape(&format!("[{}1]", "1,".repeat(1 << 20))), 8),
            "more than 255 numbers",
        ),
        (
            "larger shape",
            safetensors(&with_shape("[3]"), 8),
            "takes 12 bytes, the tensor \"a\" is said to have 8",
        ),
        (
            "smaller shape",
            safetensors(&with_shape("[1]"), 8),
            "takes 4 bytes",
        ),
        ("scalar", safetensors(&with_shape("[]"), 8), "takes 4 bytes"),
        (
            "half a byte",
            safetensors(
                &described(r#"{"dtype":"F4","shape":[3],"data_offsets":[0,1]}"#),
                1,
            ),
            "F4 of shape [3] does not fill a countable number of bytes",
        ),
        (
            "one offset",
            safetensors(&with_offsets("[0]"), 8),
            "data_offsets needs two numbers",
        ),
        (
            "three offsets",
            safetensors(&with_offsets("[0,8,8]"), 8),
            "more than 2 numbers",
        ),
        (
            "negative offset",
            safetensors(&with_offsets("[-8,0]"), 8),
            "expected u64",
        ),
        (
            "end before begin",
            safetensors(&with_offsets("[8,0]"), 8),
            "begin at 8 and to end at 0",
        ),
        (
            "end after the file",
            safetensors(&with_offsets("[0,8]"), 7),
            "end 8 bytes after the header, 7 follow",
        ),
        (
            "offsets overflow",
            safetensors(
                &with_offsets(&format!("[{},{}]", u64::MAX - 7, u64::MAX)),
                8,
            ),
            "was the file cut short?",
        ),
        // Tensors among each other.
        (
            "name twice",
            safetensors(
                &one(r#","a":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}"#),
                9,
            ),
            "two tensors are named \"a\"",
        ),
        (
            "name twice, no bytes",
            safetensors(
                &one(
                    r#","e":{"dtype":"U8","shape":[0],"data_offsets":[8,8]},"\u0065":{"dtype":"U8","shape":[0],"data_offsets":[8,8]}"#,
                ),
                8,
            ),
            "two tensors are named \"e\"",
        ),
        (
            "same bytes",
            safetensors(&pair([0, 8], [0, 8]), 8),
            "overlaps the one before it",
        ),
        (
            "overlap",
            safetensors(&pair([0, 8], [7, 15]), 15),
            "the tensor \"b\" overlaps",
        ),
        (
            "one inside the other",
            safetensors(&pair([0, 8], [2, 4]), 8),
            "overlaps the one before it",
        ),
        (
            "empty one inside",
            safetensors(&pair([0, 8], [4, 4]), 8),
            "overlaps the one before it",
        ),
        (
            "hole",
            safetensors(&pair([0, 8], [9, 15]), 15),
            "no tensor covers the 1 bytes before \"b\"",
        ),
        (
            "hole at the start",
            safetensors(&pair([1, 8], [8, 15]), 15),
            "no tensor covers the 1 bytes before \"a\"",
        ),
        (
            "more after the last",
            safetensors(&one(""), 9),
            "1 bytes follow the last tensor",
        ),
        (
            "bytes without tensors",
            safetensors("{}", 1),
            "1 bytes follow the last tensor",
        ),
        // The metadata.
        (
            "metadata of numbers",
            safetensors(r#"{"__metadata__":{"a":1}}"#, 0),
            "expected a string",
        ),
        (
            "metadata nested",
            safetensors(r#"{"__metadata__":{"a":{"b":"c"}}}"#, 0),
            "expected a string",
        ),
        (
            "metadata a string",
            safetensors(r#"{"__metadata__":"a"}"#, 0),
            "strings in __metadata__",
        ),
        (
            "metadata twice",
            safetensors(r#"{"__metadata__":{},"__metadata__":{}}"#, 0),
            "__metadata__ appears twice",
        ),
        (
            "metadata key twice",
            safetensors(r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0),
            "has \"k\" twice",
        ),
        (
            "much metadata",
            safetensors(
                &format!(
                    r#"{{"__metadata__":{{{}"":""}}}}"#,
                    (0..1 << 16)
                        .map(|key| format!(r#""{key}":"","#))
                        .collect::<String>()
                ),
                0,
            ),
            "more than 65536 entries",
        ),
    ];
    for (name, bytes, message) in cases {
        let (path, offset, found) =
            format_error(open_named("file.safetensors", &bytes, &OpenOptions::new()));
        assert!(
            found.contains(message),
            "{name}: expected {message:?} in {found:?}"
        );
        assert!(path.ends_with("file.safetensors"), "{name}: {path:?}");
        assert!(
            offset <= Some(bytes.len() as u64),
            "{name}: {offset:?} of {}",
            bytes.len()
        );
        assert!(
            found.len() < 1000,
            "{name}: {} bytes of message",
            found.len()
        );
    }
}

#[test]
fn lying_gguf_headers_are_refused() {
    let new = Gguf::new;
    let count = |keys, tensors| Gguf {
        key_count: keys,
        tensor_count: tensors,
        ..new()
    };
    let string = |len: u64| len.to_le_bytes().to_vec();
    let nested = |depth: usize| {
        let mut value = array(0, 1, &[7]);
        for _ in 0..depth {
            value = array(9, 1, &value);
        }
        new().key(b"k", 9, &value)
    };
    let split = |number: u16, count: u16| new().u16("split.no", number).u16("split.count", count);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        // Before the keys.
        (
            "other magic",
            Gguf {
                magic: *b"GGML",
                ..new()
            }
            .with_data(0),
            "begins with \"GGUF\"",
        ),
        (
            "nothing",
            vec![],
            "4 more bytes of header are claimed, the file ends after 0",
        ),
        ("magic only", b"GGUF".to_vec(), "4 more bytes"),
        (
            "version 1",
            Gguf {
                version: 1,
                ..new()
            }
            .with_data(0),
            "GGUF version 1 is not read",
        ),
        (
            "version 4",
            Gguf {
                version: 4,
                ..new()
            }
            .with_data(0),
            "GGUF version 4 is not read",
        ),
        (
            "big-endian",
            Gguf {
                version: 3 << 24,
                ..new()
            }
            .with_data(0),
            "GGUF version 3 in big-endian byte order",
        ),
        (
            "many tensors",
            count(None, Some(HUGE)).with_data(64),
            "1152921504606846976 tensors are claimed, there is room for 3",
        ),
        (
            "most tensors",
            count(None, Some(u64::MAX)).with_data(64),
            "tensors are claimed",
        ),
        (
            "one tensor too many",
            count(None, Some(1)).with_data(0),
            "1 tensors are claimed, there is room for 0",
        ),
        (
            "many keys",
            count(Some(HUGE), None).with_data(64),
            "1152921504606846976 keys are claimed, there is room for 5",
        ),
        (
            "more keys than are read",
            count(Some(65_537), None).with_data(1 << 20),
            "at most 65536 are read",
        ),
        (
            "keys of zeros",
            count(Some(2), None).with_data(64),
            "the type 1515870810 of a value is not known",
        ),
        // Keys and values.
        (
            "long key",
            [
                &count(Some(1), None).header()[..24],
                &string(HUGE),
                &[0; 64],
            ]
            .concat(),
            "1152921504606846976 more bytes",
        ),
        (
            "long string",
            new().key(b"k", 8, &string(HUGE)).with_data(64),
            "1152921504606846976 more bytes",
        ),
        (
            "longest string",
            new().key(b"k", 8, &string(u64::MAX)).with_data(64),
            "18446744073709551615 more bytes",
        ),
        (
            "key not UTF-8",
            new().key(b"k\xff", 4, &[0; 4]).with_data(0),
            "a string is not UTF-8",
        ),
        (
            "value not UTF-8",
            new().key(b"k", 8, &text(b"\xc3\x28")).with_data(0),
            "a string is not UTF-8",
        ),
        (
            "unknown type",
            new().key(b"k", 13, &[0; 8]).with_data(0),
            "the type 13 of a value is not known (key \"k\")",
        ),
        (
            "not a boolean",
            new().key(b"k", 7, &[2]).with_data(0),
            "2 is not a boolean",
        ),
        (
            "key twice",
            new().u32("k", 1).u32("k", 1).with_data(0),
            "the key \"k\" appears twice",
        ),
        (
            "key of an array twice",
            new()
                .key(b"k", 9, &array(0, 0, &[]))
                .key(b"k", 9, &array(0, 0, &[]))
                .with_data(0),
            "the key \"k\" appears twice",
        ),
        (
            "long array",
            new().key(b"k", 9, &array(4, HUGE, &[])).with_data(64),
            "said to have 1152921504606846976 elements",
        ),
        (
            "longest array",
            new().key(b"k", 9, &array(12, u64::MAX, &[])).with_data(64),
            "elements, there is room for",
        ),
        (
            "long array of bytes",
            new().key(b"k", 9, &array(0, 65, &[])).with_data(32),
            "65 elements, there is room for",
        ),
        (
            "long array of strings",
            new().key(b"k", 9, &array(8, HUGE, &[])).with_data(64),
            "elements, there is room for",
        ),
        (
            "long array of arrays",
            new().key(b"k", 9, &array(9, HUGE, &[])).with_data(64),
            "elements, there is room for",
        ),
        (
            "unknown elements",
            new().key(b"k", 9, &array(99, 1, &[0; 8])).with_data(64),
            "the type 99 of a value",
        ),
        (
            "long string in an array",
            new()
                .key(b"k", 9, &array(8, 1, &string(HUGE)))
                .with_data(64),
            "1152921504606846976 more bytes",
        ),
        (
            "deep arrays",
            nested(5).with_data(64),
            "arrays lie more than 4 deep",
        ),
        (
            "very deep arrays",
            nested(100_000).with_data(64),
            "arrays lie more than 4 deep",
        ),
        // Alignment.
        (
            "alignment zero",
            new().u32("general.alignment", 0).with_data(0),
            "general.alignment is 0, expected a power of two",
        ),
        (
            "odd alignment",
            new().u32("general.alignment", 48).with_data(0),
            "is 48, expected a power of two",
        ),
        (
            "textual alignment",
            new()
                .key(b"general.alignment", 8, &text(b"32"))
                .with_data(0),
            "general.alignment is not a whole number",
        ),
        (
            "alignment overflows",
            new()
                .key(b"general.alignment", 10, &(1_u64 << 63).to_le_bytes())
                .tensor(b"a", &[1], 24, 0)
                .with_data(64),
            "9223372036854775808..9223372036854775809 of the file, which ends after 160",
        ),
        (
            "alignment beyond the file",
            new()
                .u32("general.alignment", 1 << 31)
                .tensor(b"a", &[1], 24, 0)
                .with_data(64),
            "2147483648..2147483649 of the file, which ends after 160",
        ),
        // One tensor.
        (
            "name not UTF-8",
            new().tensor(b"\xff", &[8], 0, 0).with_data(32),
            "a string is not UTF-8",
        ),
        (
            "many dimensions",
            new().tensor(b"a", &[1; 9], 0, 0).with_data(32),
            "9 dimensions are claimed",
        ),
        (
            "more dimensions than ggml has",
            new().tensor(b"a", &[1; 5], 24, 0).with_data(32),
            "5 dimensions are claimed, at most 4 are read",
        ),
        (
            "a removed type",
            new().tensor(b"a", &[32], 4, 0).with_data(32),
            "the ggml type 4 is not known (tensor \"a\")",
        ),
        (
            "an unknown type",
            new().tensor(b"a", &[32], 1 << 31, 0).with_data(32),
            "the ggml type 2147483648 is not known",
        ),
        (
            "half a block",
            new().tensor(b"a", &[48, 2], 2, 0).with_data(64),
            "rows of 48 elements do not fill Q4_0 blocks of 32",
        ),
        (
            "scalar of blocks",
            new().tensor(b"a", &[], 2, 0).with_data(64),
            "rows of 1 elements do not fill",
        ),
        (
            "elements overflow",
            new().tensor(b"a", &[HUGE, HUGE], 0, 0).with_data(64),
            "more bytes than can be counted",
        ),
        (
            "bytes overflow",
            new().tensor(b"a", &[u64::MAX / 2], 0, 0).with_data(64),
            "more bytes than can be counted",
        ),
        (
            "odd offset",
            new().tensor(b"a", &[1], 0, 4).with_data(64),
            "the offset 4 is not a multiple of 32",
        ),
        (
            "offset overflows",
            new().tensor(b"a", &[8], 0, u64::MAX - 31).with_data(64),
            "was it cut short?",
        ),
        (
            "offset beyond the file",
            new().tensor(b"a", &[8], 0, 1 << 40).with_data(64),
            "was it cut short?",
        ),
        (
            "longer than the file",
            new().tensor(b"a", &[1 << 40], 0, 0).with_data(64),
            "was it cut short?",
        ),
        (
            "one byte short",
            new().tensor(b"a", &[8], 0, 0).with_data(31),
            "spans bytes 64..96 of the file, which ends after 95; was it cut short?",
        ),
        // Tensors among each other.
        (
            "name twice",
            new()
                .tensor(b"a", &[8], 0, 0)
                .tensor(b"a", &[8], 0, 32)
                .with_data(64),
            "two tensors are named \"a\"",
        ),
        (
            "same bytes",
            new()
                .tensor(b"a", &[8], 0, 0)
                .tensor(b"b", &[8], 0, 0)
                .with_data(64),
            "the tensors \"a\" and \"b\" overlap",
        ),
        (
            "overlap",
            new()
                .tensor(b"b", &[8], 0, 32)
                .tensor(b"a", &[9], 0, 0)
                .with_data(64),
            "the tensors \"a\" and \"b\" overlap",
        ),
        (
            "hole",
            new()
                .tensor(b"a", &[1], 24, 0)
                .tensor(b"b", &[1], 24, 64)
                .with_data(100),
            "no tensor covers the 63 bytes before \"b\"",
        ),
        (
            "hole after whole blocks",
            new()
                .tensor(b"b", &[32], 24, 64)
                .tensor(b"a", &[32], 24, 0)
                .with_data(96),
            "no tensor covers the 32 bytes before \"b\"",
        ),
        (
            "hole at the start",
            new().tensor(b"a", &[1], 24, 32).with_data(64),
            "no tensor covers the 32 bytes before \"a\"",
        ),
        (
            "hole that a tensor without bytes lies in",
            new()
                .tensor(b"a", &[1], 24, 0)
                .tensor(b"e", &[0], 24, 32)
                .tensor(b"b", &[1], 24, 64)
                .with_data(100),
            "no tensor covers the 63 bytes before \"b\"",
        ),
        // Parts.
        (
            "a part",
            split(0, 2).with_data(0),
            "this is part 1 of 2 of a split file; open its path",
        ),
        (
            "no such part",
            split(2, 2).with_data(0),
            "split.no is 2 where split.count is 2",
        ),
        (
            "no number",
            new().u16("split.count", 2).with_data(0),
            "split.no is missing",
        ),
        (
            "negative number",
            new()
                .key(b"split.no", 3, &(-1_i16).to_le_bytes())
                .u16("split.count", 2)
                .with_data(0),
            "split.no is not a whole number",
        ),
    ];
    for (name, bytes, message) in cases {
        let (path, offset, found) =
            format_error(open_named("file.gguf", &bytes, &OpenOptions::new()));
        assert!(
            found.contains(message),
            "{name}: expected {message:?} in {found:?}"
        );
        assert!(path.ends_with("file.gguf"), "{name}: {path:?}");
        assert!(
            offset <= Some(bytes.len() as u64),
            "{name}: {offset:?} of {}",
            bytes.len()
        );
    }
}

#[test]
fn a_tensor_that_is_cut_short_is_told_with_its_entry() {
    let gguf = Gguf::new()
        .tensor(b"first", &[2, 2], 0, 0)
        .tensor(b"second", &[8], 0, 32);
    let entry = gguf.header().windows(6).position(|name| name == b"second");
    let (_, offset, _) = format_error(open(&gguf.with_data(63)));
    // The entry begins with the length of its name.
    assert_eq!(offset, entry.map(|name| name as u64 - 8));
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let sound = safetensors(&one(r#","__metadata__":{"k":"v"}"#), 8);
    open(&sound).unwrap();
    let gguf = Gguf::new()
        .key(b"k", 8, &text(b"value"))
        .key(b"list", 9, &array(8, 2, &[text(b"a"), text(b"b")].concat()))
        .tensor(b"a", &[3, 2], 1, 0)
        .tensor(b"b", &[32], 8, 32)
        .with_data(66);
    open(&gguf).unwrap();
    for (name, sound) in [("file.safetensors", sound), ("file.gguf", gguf)] {
        for len in 0..sound.len() {
            let (_, offset, message) =
                format_error(open_named(name, &sound[..len], &OpenOptions::new()));
            assert!(
                offset <= Some(len as u64),
                "{name} cut to {len}: {message} at {offset:?}"
            );
        }
    }
}

#[test]
fn headers_over_the_limit_are_refused() {
    let limit = |bytes| OpenOptions::new().header_limit(bytes);
    let header = one("");
    let sound = safetensors(&header, 8);
    let len = header.len() as u64;
    open_with(&sound, &limit(len)).unwrap();
    let (_, _, message) = format_error(open_with(&sound, &limit(len - 1)));
    assert!(message.contains("more than the limit of"), "{message}");

    let gguf = Gguf::new()
        .key(b"k", 8, &text(&[b'x'; 1000]))
        .tensor(b"a", &[8], 0, 0);
    let len = gguf.header().len() as u64;
    let sound = gguf.with_data(32);
    open_with(&sound, &limit(len)).unwrap();
    let (_, _, message) = format_error(open_with(&sound, &limit(1000)));
    assert!(
        message.contains("longer than the limit of 1000 bytes"),
        "{message}"
    );

    // The default: 32 MiB.
    let mut padded = header.clone();
    padded.extend(std::iter::repeat_n(' ', (32 << 20) - header.len()));
    open(&safetensors(&padded, 8)).unwrap();
    padded.push(' ');
    let (_, _, message) = format_error(open(&safetensors(&padded, 8)));
    assert!(
        message.contains("more than the limit of 33554432"),
        "{message}"
    );
}

#[test]
fn offsets_count_from_the_start_of_the_file_on_disk() {
    let lying = safetensors(
        &one(r#","b":{"dtype":"U8","shape":[1],"data_offsets":[9,10]}"#),
        10,
    );
    let hole = lying.len() as u64 - 2;
    let packed = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(packed.path(), [&[0; 100][..], &lying].concat()).unwrap();
    let file = loader_core::WeightFile::open(packed.path()).unwrap();
    let slice = file.slice(100, lying.len() as u64).unwrap();
    let (path, offset, _) = format_error(Checkpoint::from_file(slice));
    assert_eq!((&*path, offset), (packed.path(), Some(100 + hole)));
}

#[test]
fn what_the_formats_allow_is_accepted() {
    // Padding, tensors of GGUF in any order, those without bytes anywhere, keys unknown today.
    for (name, bytes, tensors) in [
        ("padded", safetensors("{}   ", 0), 0),
        (
            "null metadata",
            safetensors(r#"{"__metadata__":null}"#, 0),
            0,
        ),
        (
            "keys of tomorrow",
            safetensors(
                &described(
                    r#"{"new":[{"er":null}],"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#,
                ),
                8,
            ),
            1,
        ),
        (
            "empty in the middle",
            safetensors(
                &one(
                    r#","e":{"dtype":"F64","shape":[0,5],"data_offsets":[8,8]},"b":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}"#,
                ),
                9,
            ),
            3,
        ),
        (
            "sub-byte",
            safetensors(
                &described(r#"{"dtype":"F6_E2M3","shape":[2,2],"data_offsets":[0,3]}"#),
                3,
            ),
            1,
        ),
        (
            "padded in any order",
            Gguf::new()
                .tensor(b"b", &[1], 24, 64)
                .tensor(b"a", &[33], 24, 0)
                .with_data(100),
            2,
        ),
        (
            "empty",
            Gguf::new()
                .tensor(b"a", &[0, 4], 0, 0)
                .tensor(b"b", &[8], 0, 0)
                .with_data(32),
            2,
        ),
        (
            "scalar",
            Gguf::new().tensor(b"a", &[], 0, 0).with_data(4),
            1,
        ),
        ("no tensors", Gguf::new().with_data(0), 0),
        (
            "one part",
            Gguf::new()
                .u16("split.no", 0)
                .u16("split.count", 1)
                .with_data(0),
            0,
        ),
        (
            "nested arrays",
            Gguf::new()
                .key(b"k", 9, &array(9, 1, &array(8, 1, &text(b"x"))))
                .with_data(0),
            0,
        ),
    ] {
        let checkpoint = open(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(checkpoint.tensors().len(), tensors, "{name}");
        support::assert_sound(&checkpoint);
    }
}
