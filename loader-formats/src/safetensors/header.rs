//! Headers of safetensors files.
//!
//! Eight bytes of length (little-endian), so many bytes of JSON, then the bytes of the tensors
//! without holes: <https://huggingface.co/docs/safetensors/index#format>. The JSON is parsed as it
//! is read, straight into the index, so that a header that turns out wrong costs nothing beyond
//! that point, and a right one costs little more than its index.

use std::collections::BTreeMap;
use std::fmt;

use loader_core::{Result, WeightFile};
use serde_core::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::error::{Quoted, format_error};
use crate::header::HeaderReader;
use crate::join::Header;
use crate::tensor::bytes_of;
use crate::{Dtype, OpenOptions, TensorInfo, json};

/// Bytes of the length that a file begins with.
const LENGTH: u64 = 8;

/// The most dimensions that a tensor may have. Frameworks stop at 64 at the latest.
const MOST_DIMENSIONS: usize = 255;

/// The most entries of `__metadata__`. Files have a handful.
const MOST_METADATA: usize = 1 << 16;

/// Reads the header of a file.
pub(crate) fn read(file: &WeightFile, options: &OpenOptions) -> Result<Header> {
    let length = header_length(file, options)?;
    let data_start = LENGTH + length;
    let mut reader = HeaderReader::new(file, LENGTH, data_start);
    let mut header = Header::default();
    json::parse(
        &mut reader,
        HeaderSeed {
            header: &mut header,
            data_start,
            data_len: file.len() - data_start,
        },
    )?;
    header.tensors.sort_unstable_by(|a, b| {
        let place = |tensor: &TensorInfo| (tensor.range().start, tensor.range().end);
        place(a).cmp(&place(b))
    });
    check_cover(file, data_start, &header.tensors)?;
    Ok(header)
}

/// The length that the file begins with, checked.
fn header_length(file: &WeightFile, options: &OpenOptions) -> Result<u64> {
    let Some(rest) = file.len().checked_sub(LENGTH) else {
        let message = format!(
            "a safetensors file begins with {LENGTH} bytes of header length, this file has {}",
            file.len()
        );
        return Err(format_error(file, 0, message));
    };
    let mut length = [0; 8];
    file.read_exact_at(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    if length > rest {
        let message = format!(
            "the header is said to be {length} bytes long, {rest} follow; was the file cut short?"
        );
        return Err(format_error(file, 0, message));
    }
    if length > options.header_limit {
        let message = format!(
            "the header is {length} bytes long, more than the limit of {}",
            options.header_limit
        );
        return Err(format_error(file, 0, message));
    }
    let mut first = [0];
    if length > 0 {
        file.read_exact_at(&mut first, LENGTH)?;
    }
    if first != *b"{" {
        let message = "a header begins with \"{\", this one does not";
        return Err(format_error(file, LENGTH, message));
    }
    Ok(length)
}

/// Checks that tensors, given by offset, follow one another from the header to the end of the file.
fn check_cover(file: &WeightFile, data_start: u64, tensors: &[TensorInfo]) -> Result<()> {
    let mut end = data_start;
    for tensor in tensors {
        let start = tensor.range().start;
        let name = Quoted(tensor.name());
        if start > end {
            let message = format!(
                "no tensor covers the {} bytes before {name}; a safetensors file has no holes",
                start - end
            );
            return Err(format_error(file, end, message));
        }
        if start < end {
            let message = format!("the tensor {name} overlaps the one before it");
            return Err(format_error(file, start, message));
        }
        end = tensor.range().end;
    }
    if end < file.len() {
        let message = format!(
            "{} bytes follow the last tensor; a safetensors file ends with it",
            file.len() - end
        );
        return Err(format_error(file, end, message));
    }
    Ok(())
}

/// The whole header: an object of tensors, and `__metadata__`.
struct HeaderSeed<'a> {
    header: &'a mut Header,
    data_start: u64,
    data_len: u64,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut metadata_seen = false;
        while let Some(name) = map.next_key_seed(json::Text)? {
            if &*name == "__metadata__" {
                if metadata_seen {
                    return Err(A::Error::custom("__metadata__ appears twice"));
                }
                metadata_seen = true;
                map.next_value_seed(Metadata(&mut self.header.metadata))?;
            } else {
                let tensor = map.next_value_seed(TensorSeed {
                    name,
                    data_start: self.data_start,
                    data_len: self.data_len,
                })?;
                self.header.tensors.push(tensor);
            }
        }
        Ok(())
    }
}

/// One tensor: its dtype, shape and offsets, from which its length follows twice.
struct TensorSeed {
    name: Box<str>,
    data_start: u64,
    data_len: u64,
}

impl TensorSeed {
    fn check(
        self,
        dtype: Dtype,
        shape: Box<[u64]>,
        begin: u64,
        end: u64,
    ) -> Result<TensorInfo, String> {
        let name = Quoted(&self.name);
        if begin > end {
            return Err(format!(
                "the tensor {name} is said to begin at {begin} and to end at {end}"
            ));
        }
        if end > self.data_len {
            return Err(format!(
                "the tensor {name} is said to end {end} bytes after the header, {} follow; was the file cut short?",
                self.data_len
            ));
        }
        let bytes = bytes_of(dtype, &shape).ok_or_else(|| {
            format!("{dtype} of shape {shape:?} does not fill a countable number of bytes (tensor {name})")
        })?;
        if bytes != end - begin {
            return Err(format!(
                "{dtype} of shape {shape:?} takes {bytes} bytes, the tensor {name} is said to have {}",
                end - begin
            ));
        }
        // Both ends lie within the file, so adding the start of the data cannot overflow.
        let range = self.data_start + begin..self.data_start + end;
        Ok(TensorInfo::new(self.name, dtype, shape, range))
    }
}

impl<'de> DeserializeSeed<'de> for TensorSeed {
    type Value = TensorInfo;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<TensorInfo, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TensorSeed {
    type Value = TensorInfo;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Quoted(&self.name);
        write!(
            f,
            "an object with dtype, shape and data_offsets (tensor {name})"
        )
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TensorInfo, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = map.next_key_seed(KeySeed)? {
            let again = match key {
                "dtype" => dtype.replace(map.next_value_seed(DtypeSeed)?).is_some(),
                "shape" => shape
                    .replace(map.next_value_seed(Numbers::<MOST_DIMENSIONS>)?)
                    .is_some(),
                "data_offsets" => offsets
                    .replace(map.next_value_seed(Numbers::<2>)?)
                    .is_some(),
                // The reference implementation passes over keys that it does not know.
                _ => {
                    map.next_value_seed(json::Skipped)?;
                    false
                }
            };
            if again {
                let name = Quoted(&self.name);
                return Err(A::Error::custom(format_args!(
                    "{key} appears twice (tensor {name})"
                )));
            }
        }
        let missing = |key| {
            let name = Quoted(&self.name);
            A::Error::custom(format_args!("{key} is missing (tensor {name})"))
        };
        let dtype = dtype.ok_or_else(|| missing("dtype"))?;
        let shape = shape.ok_or_else(|| missing("shape"))?;
        let offsets = offsets.ok_or_else(|| missing("data_offsets"))?;
        let [begin, end] = *offsets else {
            let name = Quoted(&self.name);
            let message = format!("data_offsets needs two numbers (tensor {name})");
            return Err(A::Error::custom(message));
        };
        self.check(dtype, shape, begin, end)
            .map_err(A::Error::custom)
    }
}

/// A key of a tensor; the empty one stands for those that are not known.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = &'static str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        let known = ["dtype", "shape", "data_offsets"];
        Ok(known
            .into_iter()
            .find(|name| *name == key)
            .unwrap_or_default())
    }
}

/// The name of a dtype.
struct DtypeSeed;

impl<'de> DeserializeSeed<'de> for DtypeSeed {
    type Value = Dtype;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Dtype, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for DtypeSeed {
    type Value = Dtype;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a dtype")
    }

    fn visit_str<E: serde_core::de::Error>(self, name: &str) -> Result<Dtype, E> {
        Dtype::from_safetensors(name)
            .ok_or_else(|| E::custom(format_args!("the dtype {} is not known", Quoted(name))))
    }
}

/// At most `MOST` numbers.
struct Numbers<const MOST: usize>;

impl<'de, const MOST: usize> DeserializeSeed<'de> for Numbers<MOST> {
    type Value = Box<[u64]>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, const MOST: usize> Visitor<'de> for Numbers<MOST> {
    type Value = Box<[u64]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MOST} whole numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = sequence.next_element()? {
            if numbers.len() == MOST {
                return Err(A::Error::custom(format_args!(
                    "more than {MOST} numbers in a list"
                )));
            }
            numbers.push(number);
        }
        Ok(numbers.into())
    }
}

/// `__metadata__`: an object of strings, or null.
struct Metadata<'a>(&'a mut BTreeMap<String, String>);

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings in __metadata__")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(json::Text)? {
            let value = map.next_value_seed(json::Text)?;
            if self.0.len() == MOST_METADATA {
                let message = format!("__metadata__ has more than {MOST_METADATA} entries");
                return Err(A::Error::custom(message));
            }
            let quoted = Quoted(&key).to_string();
            if self.0.insert(key.into(), value.into()).is_some() {
                let message = format!("__metadata__ has {quoted} twice");
                return Err(A::Error::custom(message));
            }
        }
        Ok(())
    }
}
