//! Models whose weights we read are those whose weights tract reads itself.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::{Path, PathBuf};

use tract_onnx::Onnx;
use tract_onnx::data_resolver::{FopenDataResolver, MmapDataResolver, ModelDataResolver};
use tract_onnx::prelude::*;
use weightloader_tract::DataResolver;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn floats(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(fixture(name)).unwrap();
    let values = bytes.chunks_exact(4);
    let values = values.map(|four| f32::from_le_bytes(four.try_into().unwrap()));
    values.collect()
}

/// What the model computes of the fixture's input, as it is and optimised.
fn outputs(onnx: &Onnx) -> [Vec<f32>; 2] {
    let model = onnx.model_for_path(fixture("model.onnx")).unwrap();
    let plain = model.clone().into_typed().unwrap();
    let optimised = model.into_optimized().unwrap();
    [plain, optimised].map(|model| {
        let input = Tensor::from_shape(&[3, 64], &floats("input.f32")).unwrap();
        let output = model.into_runnable().unwrap().run(tvec!(input.into()));
        let output = output.unwrap().remove(0);
        assert_eq!(output.shape(), [3, 10]);
        let values = output.to_plain_array_view::<f32>().unwrap();
        values.iter().copied().collect()
    })
}

#[test]
fn a_model_computes_the_same() {
    let ours = outputs(&weightloader_tract::onnx().unwrap());
    let theirs = outputs(&tract_onnx::onnx());
    assert_eq!(ours, theirs);
    // And what ONNX's reference implementation computed, up to rounding.
    let expected = floats("output.f32");
    for output in &ours {
        let close = |(ours, expected): (&f32, &f32)| (ours - expected).abs() < 1e-4;
        assert!(
            output.iter().zip(&expected).all(close),
            "{output:?} {expected:?}"
        );
    }
}

/// What a resolver appends to a buffer that has something already.
fn read(
    resolver: &dyn ModelDataResolver,
    path: &Path,
    offset: usize,
    length: Option<usize>,
) -> TractResult<Vec<u8>> {
    let mut buffer = Vec::new();
    resolver.read_bytes_from_path(&mut buffer, path, offset, length)?;
    Ok(buffer)
}

#[test]
fn any_part_of_a_file_is_as_tract_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = [5_000_000, 70_000, 1]
        .iter()
        .map(|&len: &usize| {
            let path = folder.path().join(len.to_string());
            let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
            std::fs::write(&path, bytes).unwrap();
            path
        })
        .collect();
    let ours = DataResolver::new().unwrap();
    let parts = [
        (0, None),
        (0, Some(1)),
        (1, None),
        (1, Some(0)),
        (3000, Some(40_000)),
        (65_536, Some(4096)),
        (1_000_001, Some(3_000_003)),
        (4_999_999, Some(1)),
        (5_000_000, None),
    ];
    // Files in turns, so that each is left and come back to.
    for (offset, length) in parts {
        for path in &paths {
            let ours = read(&ours, path, offset, length);
            match read(&MmapDataResolver, path, offset, length) {
                Ok(theirs) => assert!(ours.unwrap() == theirs, "{offset} {length:?}"),
                Err(_) => assert!(ours.is_err(), "{offset} {length:?}"),
            }
        }
    }
}

#[test]
fn bytes_are_appended() {
    let path = fixture("model.onnx.data");
    let whole = std::fs::read(&path).unwrap();
    let mut buffer = b"before".to_vec();
    let ours = DataResolver::new().unwrap();
    ours.read_bytes_from_path(&mut buffer, &path, 100, Some(50_000))
        .unwrap();
    assert_eq!(buffer[..6], *b"before");
    assert!(buffer[6..] == whole[100..50_100]);
}

#[test]
fn what_makes_no_sense_is_an_error() {
    let path = fixture("model.onnx.data");
    let ours = DataResolver::new().unwrap();
    for (offset, length) in [(0, Some(200_000)), (200_000, None), (5, Some(usize::MAX))] {
        let error = read(&ours, &path, offset, length).unwrap_err();
        assert!(error.to_string().contains("model.onnx.data"), "{error}");
        assert!(read(&FopenDataResolver, &path, offset, length).is_err());
    }
    let error = read(&ours, &fixture("missing"), 0, None).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    let error = read(&ours, &fixture(""), 0, None).unwrap_err();
    assert!(error.to_string().contains("directory"), "{error}");
}
