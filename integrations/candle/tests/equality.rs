//! Our tensors are those of candle's own loaders: for every type, wherever the bytes lie.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use weightloader::{CancelToken, Loader, Operation};
use weightloader_candle::Weights;

/// All types that candle's own loader takes.
const KNOWN: [Dtype; 15] = [
    Dtype::U8,
    Dtype::U16,
    Dtype::U32,
    Dtype::I16,
    Dtype::I32,
    Dtype::I64,
    Dtype::F16,
    Dtype::BF16,
    Dtype::F32,
    Dtype::F64,
    Dtype::F8_E4M3,
    Dtype::F4,
    Dtype::F6_E2M3,
    Dtype::F6_E3M2,
    Dtype::F8_E8M0,
];

/// Bytes that look like none of their neighbours.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A tensor to be written: its name, type, shape and bytes.
type Written = (String, Dtype, Vec<usize>, Vec<u8>);

fn written(name: &str, dtype: Dtype, shape: &[usize]) -> Written {
    let bits = shape.iter().product::<usize>() * dtype.bitsize();
    let bytes = noise(bits / 8, name.len() as u64 + bits as u64);
    (name.to_owned(), dtype, shape.to_vec(), bytes)
}

fn write(path: &Path, tensors: &[Written]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Every type, in shapes of every rank, some of them empty and some of them long.
fn every_type() -> Vec<Written> {
    let shapes: [&[usize]; 5] = [&[16], &[3, 8, 5], &[0, 4], &[], &[64, 9000]];
    let mut tensors = Vec::new();
    for dtype in KNOWN {
        for shape in shapes {
            // A scalar of less than a byte cannot be written.
            if shape.iter().product::<usize>() * dtype.bitsize() % 8 == 0 {
                tensors.push(written(&format!("{dtype:?}.{shape:?}"), dtype, shape));
            }
        }
    }
    tensors
}

/// The very bits of a tensor.
fn bits(tensor: &Tensor) -> Vec<u8> {
    let tensor = tensor.contiguous().unwrap();
    let (storage, layout) = tensor.storage_and_layout();
    assert_eq!(layout.start_offset(), 0);
    let Storage::Cpu(storage) = &*storage else {
        panic!("not on the host")
    };
    macro_rules! bytes {
        ($values:expr, $bits:ident) => {
            $values
                .iter()
                .flat_map(|value| value.$bits().to_ne_bytes())
                .collect()
        };
    }
    let whole = |values: &[u8]| values.to_vec();
    match storage {
        CpuStorage::U8(values) => whole(values),
        CpuStorage::U32(values) => values.iter().flat_map(|v| v.to_ne_bytes()).collect(),
        CpuStorage::I16(values) => values.iter().flat_map(|v| v.to_ne_bytes()).collect(),
        CpuStorage::I32(values) => values.iter().flat_map(|v| v.to_ne_bytes()).collect(),
        CpuStorage::I64(values) => values.iter().flat_map(|v| v.to_ne_bytes()).collect(),
        CpuStorage::BF16(values) => bytes!(values, to_bits),
        CpuStorage::F16(values) => bytes!(values, to_bits),
        CpuStorage::F32(values) => bytes!(values, to_bits),
        CpuStorage::F64(values) => bytes!(values, to_bits),
        CpuStorage::F8E4M3(values) => bytes!(values, to_bits),
        CpuStorage::F6E2M3(values)
        | CpuStorage::F6E3M2(values)
        | CpuStorage::F4(values)
        | CpuStorage::F8E8M0(values) => whole(values),
    }
}

fn assert_same(ours: &HashMap<String, Tensor>, theirs: &HashMap<String, Tensor>) {
    assert_eq!(ours.len(), theirs.len());
    for (name, theirs) in theirs {
        let ours = &ours[name];
        assert_eq!(ours.dtype(), theirs.dtype(), "{name}");
        assert_eq!(ours.dims(), theirs.dims(), "{name}");
        assert!(bits(ours) == bits(theirs), "{name}");
    }
}

#[test]
fn every_type_is_as_candle_loads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &every_type());
    let theirs = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    assert_eq!(theirs.len(), every_type().len());
    // Warm, and as cold as the system lets it become.
    for cold in [false, true] {
        if cold {
            let file = weightloader::WeightFile::open(&path).unwrap();
            let evicted = Loader::new().unwrap().evict(&file, ..);
            evicted.unwrap_or_else(|error| println!("skipped: no cold file: {error}"));
        }
        let ours = weightloader_candle::load(&path, &Device::Cpu).unwrap();
        assert_same(&ours, &theirs);
    }
}

#[test]
fn tensors_may_lie_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.safetensors");
    let bytes = noise(3 + 4 * 700_000 + 8 * 9, 1);
    for padding in 0..8 {
        // What other programs write: a header of any length, tensors one after the other.
        let mut header = format!(
            r#"{{"a":{{"dtype":"U8","shape":[3],"data_offsets":[0,3]}},"b":{{"dtype":"F32","shape":[7,100000],"data_offsets":[3,2800003]}},"c":{{"dtype":"F64","shape":[9],"data_offsets":[2800003,{}]}}}}"#,
            bytes.len()
        );
        header.push_str(&" ".repeat(padding));
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(&bytes);
        std::fs::write(&path, file).unwrap();
        let theirs = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        let ours = weightloader_candle::load(&path, &Device::Cpu).unwrap();
        assert_same(&ours, &theirs);
    }
}

#[test]
fn shards_are_one_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (1..=3)
        .map(|shard| {
            folder
                .path()
                .join(format!("model-0000{shard}-of-00003.safetensors"))
        })
        .collect();
    let mut map = String::new();
    for (tensors, path) in every_type().chunks(30).zip(&paths) {
        write(path, tensors);
        for (name, ..) in tensors {
            let comma = if map.is_empty() { "" } else { "," };
            let file = path.file_name().unwrap().to_str().unwrap();
            map.push_str(&format!(r#"{comma}"{name}":"{file}""#));
        }
    }
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(
        &index,
        format!(r#"{{"metadata":{{}},"weight_map":{{{map}}}}}"#),
    )
    .unwrap();

    // SAFETY: nobody changes the files meanwhile.
    let theirs = unsafe { MmapedSafetensors::multi(&paths) }.unwrap();
    let tensors = theirs.tensors().into_iter();
    let tensors = tensors.map(|(name, _)| {
        let tensor = theirs.load(&name, &Device::Cpu).unwrap();
        (name, tensor)
    });
    let theirs = tensors.collect();
    for path in [index.as_path(), folder.path()] {
        let ours = weightloader_candle::load(path, &Device::Cpu).unwrap();
        assert_same(&ours, &theirs);
    }
}

#[test]
fn plain_tensors_of_gguf_are_as_candle_loads_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let values = Tensor::arange(0_f32, 6400., &Device::Cpu).unwrap();
    let values = values.reshape((50, 2, 64)).unwrap();
    let quantised = |dtype| QTensor::quantize(&values, dtype).unwrap();
    let (plain, half) = (quantised(GgmlDType::F32), quantised(GgmlDType::F16));
    let packed = quantised(GgmlDType::Q4_0);
    let tensors = [("plain", &plain), ("half", &half), ("packed", &packed)];
    let mut file = std::fs::File::create(&path).unwrap();
    gguf_file::write(&mut file, &[], &tensors).unwrap();

    let mut file = std::fs::File::open(&path).unwrap();
    let theirs = gguf_file::Content::read(&mut file).unwrap();
    let weights = Weights::open(&path, &Device::Cpu).unwrap();
    for (name, dtype) in [("plain", DType::F32), ("half", DType::F16)] {
        let theirs = theirs.tensor(&mut file, name, &Device::Cpu).unwrap();
        let theirs = theirs.dequantize(&Device::Cpu).unwrap();
        let ours = weights.get_unchecked(name, dtype, &Device::Cpu).unwrap();
        assert_eq!((ours.dtype(), ours.dims()), (dtype, theirs.dims()));
        let ours = ours.to_dtype(DType::F32).unwrap();
        assert!(bits(&ours) == bits(&theirs), "{name}");
    }
    let packed = weights.get_unchecked("packed", DType::F32, &Device::Cpu);
    let error = packed.unwrap_err().to_string();
    assert!(
        error.starts_with("packed: candle has no type for Q4_0"),
        "{error}"
    );
}

#[test]
fn variables_are_converted_and_checked_as_by_candle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let values = Tensor::arange(0_f32, 600., &Device::Cpu).unwrap();
    let values = values.reshape((20, 30)).unwrap();
    let half = values.to_dtype(DType::F16).unwrap();
    let tensors = HashMap::from([("a.weight", values), ("a.half", half)]);
    candle_core::safetensors::save(&tensors, &path).unwrap();

    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        // SAFETY: nobody changes the file meanwhile.
        let theirs = unsafe { VarBuilder::from_mmaped_safetensors(&[&path], dtype, &Device::Cpu) };
        let theirs = theirs.unwrap().pp("a");
        let ours = weightloader_candle::var_builder(&path, dtype, &Device::Cpu).unwrap();
        let ours = ours.pp("a");
        for name in ["weight", "half"] {
            assert!(ours.contains_tensor(name) && !ours.contains_tensor("a.weight"));
            let (ours, theirs) = (
                ours.get((20, 30), name).unwrap(),
                theirs.get((20, 30), name).unwrap(),
            );
            assert_eq!((ours.dtype(), theirs.dtype()), (dtype, dtype));
            assert!(bits(&ours) == bits(&theirs), "{name} as {dtype:?}");
        }
        // Once more, since models tie weights.
        assert!(ours.get((20, 30), "weight").is_ok());
        assert!(ours.get_unchecked("weight").is_ok());
        for (shape, name) in [((30, 20), "weight"), ((1, 1), "bias")] {
            let refused = |weights: &VarBuilder<'_>| {
                let error = weights.get(shape, name).unwrap_err().to_string();
                // Errors carry a backtrace where the environment asks for one.
                error.lines().next().unwrap_or_default().to_owned()
            };
            let (ours, theirs) = (refused(&ours), refused(&theirs));
            assert!(ours.contains(name), "{ours}");
            if name == "weight" {
                assert_eq!(ours, theirs);
            }
        }
    }
}

#[test]
fn types_that_candle_lacks_are_errors_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors = [
        written("known", Dtype::F32, &[5]),
        written("flags", Dtype::BOOL, &[5]),
        written("long", Dtype::U64, &[5]),
    ];
    write(&path, &tensors);
    assert!(candle_core::safetensors::load(&path, &Device::Cpu).is_err());
    let error = weightloader_candle::load(&path, &Device::Cpu).unwrap_err();
    assert!(
        error.to_string().contains("candle has no type for"),
        "{error}"
    );

    let weights = Weights::open(&path, &Device::Cpu).unwrap();
    let get = |name| {
        SimpleBackend::get(
            &weights,
            5.into(),
            name,
            Init::default(),
            DType::F32,
            &Device::Cpu,
        )
    };
    assert!(get("known").is_ok());
    let error = get("flags").unwrap_err().to_string();
    assert!(
        error.starts_with("flags: candle has no type for BOOL"),
        "{error}"
    );
    assert!(SimpleBackend::contains_tensor(&weights, "long"));
}

#[test]
fn a_part_of_a_checkpoint_is_loaded_with_progress() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &every_type());
    let loader = Loader::new().unwrap();
    let all = loader.open(&path).unwrap();
    let part = all.select(|tensor| tensor.name().starts_with("BF16."));
    let mut last = None;
    let operation = Operation::new().on_progress(|told| last = Some((told.bytes, told.total)));
    let weights = Weights::load(&loader, &part, &Device::Cpu, operation).unwrap();
    assert_eq!(weights.report().bytes, part.bytes());
    assert_eq!(last, Some((part.bytes(), part.bytes())));
    let tensors = weights.into_tensors();
    assert_eq!(tensors.len(), 5);
    assert!(tensors.values().all(|tensor| tensor.dtype() == DType::BF16));

    let token = CancelToken::new();
    token.cancel();
    let operation = Operation::new().cancel(&token);
    let error = Weights::load(&loader, &all, &Device::Cpu, operation).unwrap_err();
    assert!(error.to_string().contains("cancelled"), "{error}");
}

#[test]
fn a_file_that_ends_early_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &[written("long", Dtype::F32, &[1_000_000])]);
    let loader = Loader::new().unwrap();
    let checkpoint = loader.open(&path).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(2_000_000).unwrap();
    let error = Weights::load(&loader, &checkpoint, &Device::Cpu, Operation::new()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("model.safetensors"), "{error}");
    let error = weightloader_candle::load(&path, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}
