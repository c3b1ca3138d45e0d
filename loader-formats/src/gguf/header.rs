//! Headers of GGUF files.
//!
//! The layout is that of <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>: magic,
//! version, counts, keys with values, tensors, padding, then the bytes of the tensors. Of the
//! crates that read it, the two looked at closely in 2026 allocate what a header claims: `ggus`
//! for its counts, and it wants the whole file in memory; `gguf-rs` for the lengths of strings, up
//! to a cap. Hence this one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use loader_core::{Result, WeightFile};

use super::value::{self, Value};
use crate::error::Quoted;
use crate::header::HeaderReader;
use crate::join::Header;
use crate::tensor::bytes_of;
use crate::{Dtype, OpenOptions, TensorInfo};

/// Where tensors begin unless `general.alignment` says otherwise: at multiples of so many bytes.
const DEFAULT_ALIGNMENT: u64 = 32;

/// The most keys. Files have some dozens.
const MOST_KEYS: u64 = 1 << 16;

/// The most dimensions of a tensor: those of ggml (`GGML_MAX_DIMS`), which reads no more either.
const MOST_DIMENSIONS: u32 = 4;

/// The fewest bytes of a key: its length, the type of the value, and a value of one byte.
const SMALLEST_KEY: u64 = 8 + 4 + 1;

/// The fewest bytes of a tensor: length of the name, number of dimensions, type, offset.
const SMALLEST_TENSOR: u64 = 8 + 4 + 4 + 8;

/// What a part of a split file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// From one.
    pub(super) number: u64,
    pub(super) count: u64,
    /// How many tensors all parts have together, if it says so.
    pub(super) tensors: Option<u64>,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "part {} of {}", self.number, self.count)?;
        match self.tensors {
            Some(tensors) => write!(f, " with {tensors} tensors in all"),
            None => Ok(()),
        }
    }
}

/// Reads the header of a file; with a part number where it is one of several.
pub(super) fn read(file: &WeightFile, options: &OpenOptions) -> Result<(Header, Option<Part>)> {
    let end = file.len().min(options.header_limit);
    let mut reader = HeaderReader::new(file, 0, end);
    check_version(&mut reader)?;
    let tensor_count = value::long(&mut reader)?;
    let key_count = value::long(&mut reader)?;
    let keys = Keys::read(&mut reader, key_count)?;
    let part = keys.part().map_err(|message| reader.error(message))?;
    let alignment = keys.alignment.unwrap_or(DEFAULT_ALIGNMENT);
    let tensors = read_tensors(&mut reader, file, tensor_count, alignment)?;
    let header = Header {
        tensors,
        metadata: keys.text,
    };
    Ok((header, part))
}

fn check_version(reader: &mut HeaderReader<'_>) -> Result<()> {
    if reader.array()? != *b"GGUF" {
        return Err(reader.error_at(0, "a GGUF file begins with \"GGUF\", this one does not"));
    }
    match value::natural(reader)? {
        2 | 3 => Ok(()),
        // Versions are small, so the other byte order shows in the low half.
        swapped if swapped & 0xffff == 0 => {
            let version = swapped.swap_bytes();
            let message = format!("GGUF version {version} in big-endian byte order is not read");
            Err(reader.error_at(4, message))
        }
        version => {
            let message = format!("GGUF version {version} is not read, versions 2 and 3 are");
            Err(reader.error_at(4, message))
        }
    }
}

/// What the keys of a header say.
#[derive(Default)]
struct Keys {
    alignment: Option<u64>,
    split_number: Option<u64>,
    split_count: Option<u64>,
    split_tensors: Option<u64>,
    text: BTreeMap<String, String>,
    arrays: BTreeSet<String>,
}

impl Keys {
    fn read(reader: &mut HeaderReader<'_>, count: u64) -> Result<Self> {
        check_room(reader, count, SMALLEST_KEY, "keys")?;
        if count > MOST_KEYS {
            let message = format!("{count} keys are claimed, at most {MOST_KEYS} are read");
            return Err(reader.error(message));
        }
        let mut keys = Self::default();
        for _ in 0..count {
            let start = reader.position();
            let key = value::text(reader)?;
            let value = value::read(reader, &key)?;
            if keys.text.contains_key(&key) || keys.arrays.contains(&key) {
                let message = format!("the key {} appears twice", Quoted(&key));
                return Err(reader.error_at(start, message));
            }
            keys.note(&key, value.as_ref())
                .map_err(|message| reader.error_at(start, message))?;
            match value {
                Some(value) => drop(keys.text.insert(key, value.into_text())),
                None => drop(keys.arrays.insert(key)),
            }
        }
        Ok(keys)
    }

    /// Keeps what matters here.
    fn note(&mut self, key: &str, value: Option<&Value>) -> Result<(), String> {
        let place = match key {
            "general.alignment" => &mut self.alignment,
            "split.no" => &mut self.split_number,
            "split.count" => &mut self.split_count,
            "split.tensors.count" => &mut self.split_tensors,
            _ => return Ok(()),
        };
        let number = value
            .and_then(Value::count)
            .ok_or_else(|| format!("{key} is not a whole number"))?;
        if key == "general.alignment" && !number.is_power_of_two() {
            return Err(format!("{key} is {number}, expected a power of two"));
        }
        *place = Some(number);
        Ok(())
    }

    /// Which part of a split file this is, if it is one.
    fn part(&self) -> Result<Option<Part>, String> {
        let count = self.split_count.unwrap_or(0);
        if count < 2 {
            return Ok(None);
        }
        match self.split_number {
            Some(number) if number < count => Ok(Some(Part {
                number: number + 1,
                count,
                tensors: self.split_tensors,
            })),
            Some(number) => Err(format!("split.no is {number} where split.count is {count}")),
            None => Err(format!("split.count is {count} and split.no is missing")),
        }
    }
}

/// Reads what the header says of the tensors, the last part of it.
fn read_tensors(
    reader: &mut HeaderReader<'_>,
    file: &WeightFile,
    count: u64,
    alignment: u64,
) -> Result<Vec<TensorInfo>> {
    check_room(reader, count, SMALLEST_TENSOR, "tensors")?;
    let mut entry = reader.position();
    let mut tensors = Vec::new();
    for _ in 0..count {
        tensors.push(read_tensor(reader, file.len(), alignment)?);
    }
    // The offsets count from here, which is known only now.
    let data_start = reader
        .position()
        .checked_next_multiple_of(alignment)
        .unwrap_or(u64::MAX);
    for tensor in &mut tensors {
        let range = tensor.range();
        let moved = tensor.move_by(data_start);
        if moved.is_none() || tensor.range().end > file.len() {
            let on_disk = |offset: u64| file.base().saturating_add(offset);
            let message = format!(
                "the tensor {} spans bytes {}..{} of the file, which ends after {}; was it cut short?",
                Quoted(tensor.name()),
                on_disk(data_start.saturating_add(range.start)),
                on_disk(data_start.saturating_add(range.end)),
                on_disk(file.len()),
            );
            return Err(reader.error_at(entry, message));
        }
        entry += entry_bytes(tensor);
    }
    tensors.sort_unstable_by_key(|tensor| (tensor.range().start, tensor.range().end));
    check_gaps(reader, &tensors, data_start, alignment)?;
    Ok(tensors)
}

/// Bytes that the header has of a tensor.
fn entry_bytes(tensor: &TensorInfo) -> u64 {
    SMALLEST_TENSOR + tensor.name().len() as u64 + 8 * tensor.shape().len() as u64
}

/// Checks that before and between tensors, given by offset, lie no bytes but those that alignment
/// asks for: ggml's own reader refuses others, which nobody would look at.
fn check_gaps(
    reader: &HeaderReader<'_>,
    tensors: &[TensorInfo],
    data_start: u64,
    alignment: u64,
) -> Result<()> {
    let mut end = data_start;
    for tensor in tensors.iter().filter(|tensor| tensor.bytes() > 0) {
        let start = tensor.range().start;
        let padded = end.checked_next_multiple_of(alignment);
        if padded.is_some_and(|padded| start > padded) {
            let message = format!(
                "no tensor covers the {} bytes before {}; a GGUF file has no holes beyond what pads to multiples of {alignment}",
                start - end,
                Quoted(tensor.name()),
            );
            return Err(reader.error_at(end, message));
        }
        end = end.max(tensor.range().end);
    }
    Ok(())
}

/// Reads one tensor, its range counted from the end of the header.
fn read_tensor(reader: &mut HeaderReader<'_>, file_len: u64, alignment: u64) -> Result<TensorInfo> {
    let start = reader.position();
    let name = value::text(reader)?.into_boxed_str();
    let dimensions = value::natural(reader)?;
    if dimensions > MOST_DIMENSIONS {
        let name = Quoted(&name);
        let message = format!(
            "{dimensions} dimensions are claimed, at most {MOST_DIMENSIONS} are read (tensor {name})"
        );
        return Err(reader.error_at(start, message));
    }
    let shape = (0..dimensions)
        .map(|_| value::long(reader))
        .collect::<Result<Box<[u64]>>>()?;
    let number = value::natural(reader)?;
    let offset = value::long(reader)?;
    range(number, &shape, offset, file_len, alignment)
        .map(|(dtype, range)| TensorInfo::new(name.clone(), dtype, shape, range))
        .map_err(|message| {
            let name = Quoted(&name);
            reader.error_at(start, format_args!("{message} (tensor {name})"))
        })
}

/// The dtype of a tensor and its bytes, counted from the end of the header.
fn range(
    number: u32,
    shape: &[u64],
    offset: u64,
    file_len: u64,
    alignment: u64,
) -> Result<(Dtype, Range<u64>), String> {
    let dtype =
        Dtype::from_ggml(number).ok_or_else(|| format!("the ggml type {number} is not known"))?;
    let (per_block, _) = dtype.block();
    let row = shape.first().copied().unwrap_or(1);
    if row % per_block != 0 {
        return Err(format!(
            "rows of {row} elements do not fill {dtype} blocks of {per_block}"
        ));
    }
    let bytes = bytes_of(dtype, shape)
        .ok_or_else(|| format!("{dtype} of shape {shape:?} has more bytes than can be counted"))?;
    if offset % alignment != 0 {
        return Err(format!(
            "the offset {offset} is not a multiple of {alignment}"
        ));
    }
    match offset.checked_add(bytes) {
        Some(end) if end <= file_len => Ok((dtype, offset..end)),
        _ => Err(format!(
            "{bytes} bytes that begin {offset} after the header are claimed, more than the whole file of {file_len} holds; was it cut short?"
        )),
    }
}

/// Refuses a count at once where the header has no room for so many.
fn check_room(reader: &HeaderReader<'_>, count: u64, smallest: u64, what: &str) -> Result<()> {
    let room = reader.remaining() / smallest;
    if count > room {
        let message = format!("{count} {what} are claimed, there is room for {room} at most");
        return Err(reader.error(message));
    }
    Ok(())
}
