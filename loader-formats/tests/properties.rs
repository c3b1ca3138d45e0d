//! Whatever a file holds, opening it does not panic, and an index that comes of it is sound.

#![cfg(all(feature = "safetensors", feature = "gguf"))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod support;

use proptest::collection::vec;
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as Theirs, TensorView};
use support::{Gguf, array, assert_sound, header, open, text};

const THEIRS: [Theirs; 22] = [
    Theirs::BOOL,
    Theirs::F4,
    Theirs::F6_E2M3,
    Theirs::F6_E3M2,
    Theirs::U8,
    Theirs::I8,
    Theirs::F8_E5M2,
    Theirs::F8_E4M3,
    Theirs::F8_E8M0,
    Theirs::F8_E4M3FNUZ,
    Theirs::F8_E5M2FNUZ,
    Theirs::I16,
    Theirs::U16,
    Theirs::F16,
    Theirs::BF16,
    Theirs::I32,
    Theirs::U32,
    Theirs::F32,
    Theirs::C64,
    Theirs::F64,
    Theirs::I64,
    Theirs::U64,
];

/// What files begin with.
const STARTS: [&[u8]; 4] = [
    b"",
    b"GGUF\x03\0\0\0",
    b"GGUF\x02\0\0\0\x01\0\0\0\0\0\0\0",
    b"\x40\0\0\0\0\0\0\0{\"",
];

/// A tensor for the reference to write: what it is, and whole bytes of it.
fn tensor() -> impl Strategy<Value = (String, Theirs, Vec<usize>, Vec<u8>)> {
    let shape = vec(0_usize..5, 0..4);
    (
        any::<String>(),
        prop::sample::select(&THEIRS[..]),
        shape,
        any::<u8>(),
    )
        .prop_map(|(name, dtype, mut shape, byte)| {
            // Four elements fill whole bytes in every dtype.
            shape.push(4);
            let bits = shape.iter().product::<usize>() * dtype.bitsize();
            (name, dtype, shape, vec![byte; bits / 8])
        })
}

/// A file as the reference writes it.
fn reference_file() -> impl Strategy<Value = Vec<u8>> {
    let metadata = prop::option::of(prop::collection::hash_map(
        any::<String>(),
        any::<String>(),
        0..3,
    ));
    (vec(tensor(), 0..8), metadata).prop_map(|(mut tensors, metadata)| {
        // Of no tensors and empty metadata the reference (0.8.0) writes what is not JSON.
        let metadata = metadata.filter(|metadata| !metadata.is_empty());
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        tensors.dedup_by(|a, b| a.0 == b.0);
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize(views, metadata).unwrap()
    })
}

/// A GGUF file, sound or nearly.
fn gguf() -> impl Strategy<Value = Vec<u8>> {
    let key = ("[a-z.]{0,12}", 0_u32..14, vec(any::<u8>(), 0..24));
    let name = "[a-z.]{0,6}";
    let shape = vec(0_u64..70, 0..5);
    // Where it lies beyond the end of those before, in alignments: mostly nowhere.
    let beyond = prop_oneof![9 => Just(0_u64), 1 => 1_u64..3];
    let kind = prop_oneof![3 => Just(24_u32), 1 => 0_u32..44];
    let tensor = (name, shape, kind, beyond);
    let alignment = prop::sample::select(&[1_u32, 8, 32, 64][..]);
    (vec(key, 0..3), vec(tensor, 0..5), alignment, 0_usize..4000).prop_map(
        |(keys, tensors, alignment, data)| {
            let mut gguf = Gguf::new().u32("general.alignment", alignment);
            gguf.alignment = alignment as usize;
            for (key, kind, bytes) in keys {
                let value = match kind {
                    8 => text(&bytes),
                    9 => array(0, bytes.len() as u64, &bytes),
                    0 | 1 | 7 => vec![1],
                    2 | 3 => vec![2; 2],
                    10.. => vec![8; 8],
                    _ => vec![4; 4],
                };
                gguf = gguf.key(key.as_bytes(), kind, &value);
            }
            let alignment = u64::from(alignment);
            let mut end = 0_u64;
            for (name, shape, kind, beyond) in tensors {
                let start = end.next_multiple_of(alignment) + beyond * alignment;
                gguf = gguf.tensor(name.as_bytes(), &shape, kind, start);
                // Right for those of one byte an element, which most are.
                end = start + shape.iter().product::<u64>();
            }
            gguf.with_data(data)
        },
    )
}

/// A change to the bytes of a file.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Cut(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = || any::<prop::sample::Index>();
    // What JSON and binary headers are made of.
    let piece = prop_oneof![
        vec(any::<u8>(), 1..9),
        "[0-9{}\\[\\]\",:.eE+-]{1,4}".prop_map(String::into_bytes),
        any::<u64>().prop_map(|number| number.to_le_bytes().to_vec()),
        Just(u64::MAX.to_le_bytes().to_vec()),
        Just(u64::MAX.to_string().into_bytes()),
    ];
    prop_oneof![
        3 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        2 => (at(), piece).prop_map(|(at, piece)| Change::Insert(at, piece)),
        1 => (at(), 1_usize..20).prop_map(|(at, len)| Change::Remove(at, len)),
        1 => (at(), 1_usize..80).prop_map(|(at, len)| Change::Repeat(at, len)),
        1 => at().prop_map(Change::Cut),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let len = bytes.len();
        match change {
            _ if bytes.is_empty() => {}
            Change::Set(at, byte) => bytes[at.index(len)] = *byte,
            Change::Insert(at, piece) => {
                drop(bytes.splice(at.index(len)..at.index(len), piece.clone()))
            }
            Change::Remove(at, count) => {
                drop(bytes.drain(at.index(len)..(at.index(len) + count).min(len)))
            }
            Change::Repeat(at, count) => {
                let range = at.index(len)..(at.index(len) + count).min(len);
                let piece = bytes[range.clone()].to_vec();
                drop(bytes.splice(range.end..range.end, piece));
            }
            Change::Cut(at) => bytes.truncate(at.index(len)),
        }
    }
    bytes
}

/// Makes the length that a safetensors file begins with fit what follows, where it can: otherwise
/// most changes would go no further than that.
fn with_fitting_length(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().rposition(|&byte| byte == b'}');
    if let Some(length) = end.and_then(|end| (end + 1).checked_sub(8)) {
        bytes[..8].copy_from_slice(&(length as u64).to_le_bytes());
    }
    bytes
}

/// Opens a file, and checks what comes of it against the reference.
fn check_against_reference(bytes: &[u8]) -> Result<(), TestCaseError> {
    let reference = SafeTensors::deserialize(bytes);
    let ours = match open(bytes) {
        Ok(ours) if ours.format() == loader_formats::Format::Safetensors => ours,
        _ => return Ok(()),
    };
    assert_sound(&ours);
    // We may refuse what the reference accepts (names that appear twice), and not the reverse.
    let reference = reference.map_err(|error| TestCaseError::fail(format!("{error}: {ours:?}")))?;
    prop_assert_eq!(ours.tensors().len(), reference.len());
    for (name, theirs) in reference.iter() {
        let ours = ours.tensor(name).unwrap();
        let shape: Vec<u64> = theirs
            .shape()
            .iter()
            .map(|&dimension| dimension as u64)
            .collect();
        prop_assert_eq!(ours.shape(), shape);
        prop_assert_eq!(ours.dtype().name(), theirs.dtype().to_string());
        let start = usize::try_from(ours.range().start).unwrap();
        let end = usize::try_from(ours.range().end).unwrap();
        prop_assert_eq!(&bytes[start..end], theirs.data());
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_the_reference_writes_is_read_alike(bytes in reference_file()) {
        let ours = open(&bytes).unwrap();
        prop_assert_eq!(ours.format(), loader_formats::Format::Safetensors);
        let (_, reference) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = reference.metadata().clone().unwrap_or_default();
        prop_assert_eq!(ours.metadata().clone(), metadata.into_iter().collect());
        check_against_reference(&bytes)?;
    }

    #[test]
    fn changed_safetensors_files_are_refused_or_sound(
        bytes in reference_file(),
        changes in vec(change(), 1..4),
        fit in prop::bool::weighted(0.7),
    ) {
        let bytes = changed(bytes, &changes);
        check_against_reference(&if fit { with_fitting_length(bytes) } else { bytes })?;
    }

    #[test]
    fn offsets_are_refused_unless_they_cover_the_file(
        tensors in vec((0_u64..6, 0_u64..6, 0_u64..6), 0..5),
        data in 0_usize..12,
    ) {
        // Names that differ, sizes and offsets that sometimes fit together.
        let names = ["a", "b", "c", "d", "e"];
        let tensors = names.iter().zip(tensors).map(|(&name, (shape, begin, end))| (name, "U8", vec![shape], [begin, end]));
        let bytes = support::safetensors(&header(tensors), data);
        check_against_reference(&bytes)?;
        // Without names that appear twice both refuse the same.
        prop_assert_eq!(open(&bytes).is_ok(), SafeTensors::deserialize(&bytes).is_ok());
    }

    #[test]
    fn changed_gguf_files_are_refused_or_sound(bytes in gguf(), changes in vec(change(), 0..4)) {
        if let Ok(checkpoint) = open(&changed(bytes, &changes)) {
            assert_sound(&checkpoint);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_sound(
        start in prop::sample::select(&STARTS[..]),
        rest in vec(any::<u8>(), 0..200),
    ) {
        if let Ok(checkpoint) = open(&[start, &rest].concat()) {
            assert_sound(&checkpoint);
        }
    }
}
