//! Values of GGUF metadata.

use loader_core::Result;

use crate::error::Quoted;
use crate::header::HeaderReader;

/// How deep arrays may lie in arrays. The specification allows any depth; files have none.
const DEEPEST: u32 = 4;

const U8: u32 = 0;
const I8: u32 = 1;
const U16: u32 = 2;
const I16: u32 = 3;
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;
const I64: u32 = 11;
const F64: u32 = 12;

/// A value that is not an array.
#[derive(Debug)]
pub(super) enum Value {
    Natural(u64),
    Integer(i64),
    Single(f32),
    Double(f64),
    Bool(bool),
    Text(String),
}

impl Value {
    /// The value as a number of things, if it can be one.
    pub(super) fn count(&self) -> Option<u64> {
        match *self {
            Self::Natural(number) => Some(number),
            Self::Integer(number) => u64::try_from(number).ok(),
            _ => None,
        }
    }

    pub(super) fn into_text(self) -> String {
        match self {
            Self::Natural(number) => number.to_string(),
            Self::Integer(number) => number.to_string(),
            Self::Single(number) => number.to_string(),
            Self::Double(number) => number.to_string(),
            Self::Bool(truth) => truth.to_string(),
            Self::Text(text) => text,
        }
    }
}

/// Reads a value with its type; `None` for an array, which is passed over.
pub(super) fn read(reader: &mut HeaderReader<'_>, key: &str) -> Result<Option<Value>> {
    let kind = natural(reader)?;
    Ok(Some(match kind {
        U8 => Value::Natural(u8::from_le_bytes(reader.array()?).into()),
        U16 => Value::Natural(u16::from_le_bytes(reader.array()?).into()),
        U32 => Value::Natural(natural(reader)?.into()),
        U64 => Value::Natural(long(reader)?),
        I8 => Value::Integer(i8::from_le_bytes(reader.array()?).into()),
        I16 => Value::Integer(i16::from_le_bytes(reader.array()?).into()),
        I32 => Value::Integer(i32::from_le_bytes(reader.array()?).into()),
        I64 => Value::Integer(i64::from_le_bytes(reader.array()?)),
        F32 => Value::Single(f32::from_le_bytes(reader.array()?)),
        F64 => Value::Double(f64::from_le_bytes(reader.array()?)),
        BOOL => match reader.array()? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [other] => {
                let key = Quoted(key);
                return Err(reader.error(format_args!("{other} is not a boolean (key {key})")));
            }
        },
        STRING => Value::Text(text(reader)?),
        ARRAY => {
            skip_array(reader, key, DEEPEST)?;
            return Ok(None);
        }
        _ => return Err(unknown(reader, key, kind)),
    }))
}

/// Reads a string: its length, then so many bytes of UTF-8.
pub(super) fn text(reader: &mut HeaderReader<'_>) -> Result<String> {
    let len = long(reader)?;
    let start = reader.position();
    let bytes = reader.bytes(len)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        reader.error_at(start + valid as u64, "a string is not UTF-8")
    })
}

pub(super) fn natural(reader: &mut HeaderReader<'_>) -> Result<u32> {
    reader.array().map(u32::from_le_bytes)
}

pub(super) fn long(reader: &mut HeaderReader<'_>) -> Result<u64> {
    reader.array().map(u64::from_le_bytes)
}

/// Goes past an array: vocabularies, which are most of a header and of no use here.
fn skip_array(reader: &mut HeaderReader<'_>, key: &str, deepest: u32) -> Result<()> {
    let kind = natural(reader)?;
    let len = long(reader)?;
    let smallest = match kind {
        U8 | I8 | BOOL => 1,
        U16 | I16 => 2,
        U32 | I32 | F32 => 4,
        U64 | I64 | F64 | STRING => 8,
        // A type and a length.
        ARRAY => 12,
        _ => return Err(unknown(reader, key, kind)),
    };
    let bytes = len.saturating_mul(smallest);
    if bytes > reader.remaining() {
        let key = Quoted(key);
        let message = format!(
            "an array is said to have {len} elements, there is room for {} (key {key})",
            reader.remaining() / smallest
        );
        return Err(reader.error(message));
    }
    match kind {
        STRING => {
            for _ in 0..len {
                let bytes = long(reader)?;
                reader.skip(bytes)?;
            }
        }
        ARRAY => {
            let Some(deepest) = deepest.checked_sub(1) else {
                let key = Quoted(key);
                let message = format!("arrays lie more than {DEEPEST} deep (key {key})");
                return Err(reader.error(message));
            };
            for _ in 0..len {
                skip_array(reader, key, deepest)?;
            }
        }
        _ => reader.skip(bytes)?,
    }
    Ok(())
}

fn unknown(reader: &HeaderReader<'_>, key: &str, kind: u32) -> loader_core::Error {
    let key = Quoted(key);
    reader.error(format_args!(
        "the type {kind} of a value is not known (key {key})"
    ))
}
