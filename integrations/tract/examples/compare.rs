//! Times tract's own ways to read the external data of an ONNX model against ours, from the path
//! of the model to tract's tensors, cold and warm.
//!
//! ```text
//! cargo run --release --example compare -- FOLDER [LAYERS] [ROUNDS]
//! ```
//!
//! Writes a model into the folder with weights of 64 MiB a layer (15 layers unless told) and
//! removes it at the end. Ways take turns within each round, each in a process of its own. Before a
//! cold turn the data is dropped from the page cache; before the warm ones it is read once.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use prost::Message;
use tract_onnx::Onnx;
use tract_onnx::data_resolver::{FopenDataResolver, MmapDataResolver};
use tract_onnx::pb;
use tract_onnx::prelude::{Framework, TractResult};
use weightloader::{Loader, WeightFile};

type Outcome<T> = Result<T, Box<dyn Error>>;
type Way = (&'static str, fn() -> TractResult<Onnx>);

const WAYS: [Way; 3] = [
    ("tract, MmapDataResolver", || {
        Ok(Onnx {
            provider: Arc::new(MmapDataResolver),
            ..tract_onnx::onnx()
        })
    }),
    ("tract, FopenDataResolver", || {
        Ok(Onnx {
            provider: Arc::new(FopenDataResolver),
            ..tract_onnx::onnx()
        })
    }),
    ("weightloader", weightloader_tract::onnx),
];

const MODEL: &str = "weightloader-compare.onnx";
const DATA: &str = "weightloader-compare.onnx.data";
const WIDTH: usize = 4096;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("which folder?")?;
    let folder = Path::new(&folder);
    let number = arguments.next().map_or(Ok(15), |number| number.parse())?;
    let rounds = arguments.next().unwrap_or("5".to_owned());
    if rounds == "turn" {
        return turn(folder, WAYS[number].1);
    }
    write(folder, number)?;
    let outcome = compare(folder, rounds.parse::<usize>()?.max(1));
    std::fs::remove_file(folder.join(MODEL))?;
    std::fs::remove_file(folder.join(DATA))?;
    outcome
}

/// Reads the model once, in this process, and says how long that took.
fn turn(folder: &Path, way: fn() -> TractResult<Onnx>) -> Outcome<()> {
    let started = Instant::now();
    let model = way()?.model_for_path(folder.join(MODEL))?;
    println!("{}", started.elapsed().as_secs_f64());
    drop(model);
    Ok(())
}

fn compare(folder: &Path, rounds: usize) -> Outcome<()> {
    let data = folder.join(DATA);
    let file = WeightFile::open(&data)?;
    let loader = Loader::new()?;
    println!(
        "{}: {} MB, {rounds} rounds",
        data.display(),
        file.len() / 1_000_000
    );
    for (state, cold) in [("cold", true), ("warm", false)] {
        let mut seconds = [const { Vec::new() }; WAYS.len()];
        if !cold {
            std::io::copy(&mut File::open(&data)?, &mut std::io::sink())?;
        }
        for _ in 0..rounds {
            for (way, seconds) in seconds.iter_mut().enumerate() {
                if cold {
                    loader.evict(&file, ..)?;
                }
                seconds.push(turn_elsewhere(folder, way)?);
            }
        }
        println!("{state}:");
        for ((name, _), seconds) in WAYS.iter().zip(&mut seconds) {
            seconds.sort_by(f64::total_cmp);
            let rate = |seconds: f64| file.len() as f64 / seconds / 1e9;
            println!(
                "  {name:26} best {:5.2} GB/s, median {:5.2} GB/s, slowest {:5.2} GB/s",
                rate(seconds[0]),
                rate(seconds[rounds / 2]),
                rate(seconds[rounds - 1]),
            );
        }
    }
    Ok(())
}

/// Reads the model once in another process, which says how many seconds that took.
fn turn_elsewhere(folder: &Path, way: usize) -> Outcome<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command
        .arg(folder)
        .args([&way.to_string(), "turn"])
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Writes a model of so many products with square matrices, which lie in a file beside it.
fn write(folder: &Path, layers: usize) -> Outcome<()> {
    let bytes = WIDTH * WIDTH * size_of::<f32>();
    let mut data = BufWriter::new(File::create(folder.join(DATA))?);
    let row: Vec<u8> = (0..WIDTH)
        .flat_map(|place| (place as f32).to_le_bytes())
        .collect();
    for _ in 0..layers * WIDTH {
        data.write_all(&row)?;
    }
    data.into_inner()?.sync_all()?;

    let entry = |key: &str, value: String| pb::StringStringEntryProto {
        key: key.to_owned(),
        value,
    };
    let initializer = (0..layers).map(|layer| pb::TensorProto {
        name: format!("w{layer}"),
        dims: vec![WIDTH as i64; 2],
        data_type: pb::tensor_proto::DataType::Float.into(),
        data_location: Some(pb::tensor_proto::DataLocation::External.into()),
        external_data: vec![
            entry("location", DATA.to_owned()),
            entry("offset", (layer * bytes).to_string()),
            entry("length", bytes.to_string()),
        ],
        ..Default::default()
    });
    let node = (0..layers).map(|layer| pb::NodeProto {
        op_type: "MatMul".to_owned(),
        input: vec![format!("x{layer}"), format!("w{layer}")],
        output: vec![format!("x{}", layer + 1)],
        ..Default::default()
    });
    let row = |name: String| pb::ValueInfoProto {
        name,
        r#type: Some(pb::TypeProto {
            value: Some(pb::type_proto::Value::TensorType(pb::type_proto::Tensor {
                elem_type: pb::tensor_proto::DataType::Float.into(),
                shape: Some(pb::TensorShapeProto {
                    dim: [1, WIDTH as i64]
                        .map(|length| pb::tensor_shape_proto::Dimension {
                            value: Some(pb::tensor_shape_proto::dimension::Value::DimValue(length)),
                            ..Default::default()
                        })
                        .to_vec(),
                }),
            })),
            ..Default::default()
        }),
        ..Default::default()
    };
    let model = pb::ModelProto {
        ir_version: 8,
        opset_import: vec![pb::OperatorSetIdProto {
            domain: String::new(),
            version: 18,
        }],
        graph: Some(pb::GraphProto {
            name: "products".to_owned(),
            initializer: initializer.collect(),
            node: node.collect(),
            input: vec![row("x0".to_owned())],
            output: vec![row(format!("x{layers}"))],
            ..Default::default()
        }),
        ..Default::default()
    };
    std::fs::write(folder.join(MODEL), model.encode_to_vec())?;
    Ok(())
}
