//! From a checkpoint to tensors, on the host or on a device.

use std::collections::HashMap;

use candle_core::{Device, Error, Result, Shape, Tensor};
use weightloader::{Checkpoint, Dtype, Format, Loader, Operation, ReadRequest, Report, TensorInfo};

use crate::dtype;
use crate::elements::{Elements, elements, unknown};

/// Tensors by name, and how they were read.
pub(crate) type Loaded = (HashMap<String, Tensor>, Report);

/// Loads all tensors of `checkpoint`, which candle must have types for.
pub(crate) fn load(
    loader: &Loader,
    checkpoint: &Checkpoint,
    device: &Device,
    operation: Operation<'_>,
) -> Result<Loaded> {
    match device {
        Device::Cpu => onto_host(loader, checkpoint, operation),
        device => onto_device(loader, checkpoint, device, operation),
    }
}

/// Reads every tensor straight into the memory that will be its own, all in one operation.
fn onto_host(loader: &Loader, checkpoint: &Checkpoint, operation: Operation<'_>) -> Result<Loaded> {
    let infos = checkpoint.tensors();
    let mut memory: Vec<Box<dyn Elements>> = infos.iter().map(elements).collect::<Result<_>>()?;
    let requests = infos.iter().zip(&mut memory).map(|(info, memory)| {
        let file = &checkpoint.files()[info.file()];
        ReadRequest::new(file, info.range(), memory.destination())
    });
    let report = loader.read_many(requests, operation).map_err(Error::wrap)?;
    let tensors = infos.iter().zip(memory).map(|(info, memory)| {
        // SAFETY: the reads have succeeded, so every byte of every destination is there.
        let tensor = unsafe { memory.into_tensor(shape(checkpoint, info)?) }?;
        Ok((info.name().to_owned(), tensor))
    });
    Ok((tensors.collect::<Result<_>>()?, report))
}

/// Brings tensors to a device one by one as they land, in bounded memory, while the next ones are
/// read.
fn onto_device(
    loader: &Loader,
    checkpoint: &Checkpoint,
    device: &Device,
    mut operation: Operation<'_>,
) -> Result<Loaded> {
    let mut stream = loader.stream(checkpoint).map_err(Error::wrap)?;
    let (total, mut landed) = (checkpoint.bytes(), 0);
    let mut tensors = HashMap::with_capacity(checkpoint.tensors().len());
    for streamed in stream.by_ref() {
        let streamed = streamed.map_err(Error::wrap)?;
        let (info, bytes) = (streamed.info(), streamed.bytes());
        let shape = shape(checkpoint, info)?;
        let tensor = match info.dtype() {
            Dtype::U16 => {
                let wide = bytes.chunks_exact(2);
                let wide = wide.map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]])));
                Tensor::from_vec(wide.collect(), shape, device)?
            }
            other => {
                let dtype = dtype::of(other).ok_or_else(|| unknown(info.name(), other))?;
                Tensor::from_raw_buffer(bytes, dtype, shape.dims(), device)?
            }
        };
        tensors.insert(info.name().to_owned(), tensor);
        landed += info.bytes();
        operation.report(landed, total);
        if operation.is_cancelled() {
            return Err(Error::wrap(weightloader::Error::Cancelled));
        }
    }
    Ok((tensors, stream.report().unwrap_or_default()))
}

fn shape(checkpoint: &Checkpoint, info: &TensorInfo) -> Result<Shape> {
    let dimensions = info.shape().iter();
    let dimensions = dimensions.map(|&length| usize::try_from(length).map_err(Error::wrap));
    let mut dimensions = dimensions.collect::<Result<Vec<_>>>()?;
    if checkpoint.format() == Format::Gguf {
        // GGUF begins with the innermost dimension.
        dimensions.reverse();
    }
    Ok(dimensions.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    #[test]
    fn devices_get_what_the_host_gets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let values = Tensor::arange(0_u32, 500_000, &Device::Cpu).unwrap();
        let dtypes = [DType::U8, DType::U32, DType::I64, DType::BF16, DType::F32];
        let tensors: HashMap<String, Tensor> = dtypes
            .iter()
            .map(|&dtype| (format!("{dtype:?}"), values.to_dtype(dtype).unwrap()))
            .collect();
        candle_core::safetensors::save(&tensors, &path).unwrap();
        // As another program writes it: a type that candle widens.
        let short = folder.path().join("short.safetensors");
        let header = r#"{"short":{"dtype":"U16","shape":[2,2],"data_offsets":[0,8]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&[1, 0, 0, 1, 255, 255, 7, 7]);
        std::fs::write(&short, bytes).unwrap();

        let loader = Loader::new().unwrap();
        for path in [&path, &short] {
            let checkpoint = loader.open(path).unwrap();
            let (host, _) = onto_host(&loader, &checkpoint, Operation::new()).unwrap();
            let mut told = Vec::new();
            let operation = Operation::new().on_progress(|progress| told.push(progress.bytes));
            // The host is a device as well.
            let (device, report) =
                onto_device(&loader, &checkpoint, &Device::Cpu, operation).unwrap();
            assert_eq!(device.len(), host.len());
            for (name, host) in host {
                let device = &device[&name];
                assert_eq!((device.dtype(), device.dims()), (host.dtype(), host.dims()));
                let text = |tensor: &Tensor| {
                    let tensor = tensor.flatten_all().unwrap();
                    let tensor = tensor.to_dtype(DType::F64).unwrap();
                    tensor.to_vec1::<f64>().unwrap()
                };
                assert!(text(device) == text(&host), "{name}");
            }
            assert_eq!(told.last(), Some(&checkpoint.bytes()));
            assert!(report.bytes >= checkpoint.bytes());
        }
    }
}
