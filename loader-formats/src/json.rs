//! Parsing JSON as it is read, with errors that say where.

use std::fmt;

use loader_core::Result;
use serde_core::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::header::HeaderReader;

/// Up to this length JSON is read as a whole and then parsed, which is three times as fast.
const SHORT: u64 = 4 << 20;

/// Parses all that `reader` has left as one JSON value, nested 128 deep at most (serde_json's own
/// limit).
pub(crate) fn parse<T>(reader: &mut HeaderReader<'_>, seed: T) -> Result<()>
where
    T: for<'de> DeserializeSeed<'de, Value = ()>,
{
    if reader.remaining() <= SHORT {
        parse_whole(reader, seed)
    } else {
        parse_as_read(reader, seed)
    }
}

fn parse_as_read<T>(reader: &mut HeaderReader<'_>, seed: T) -> Result<()>
where
    T: for<'de> DeserializeSeed<'de, Value = ()>,
{
    let mut deserializer = serde_json::Deserializer::from_reader(&mut *reader);
    let parsed = seed
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end());
    parsed.map_err(|error| match reader.take_failure() {
        Some(failure) => failure,
        None => reader.error(Complaint(&error)),
    })
}

fn parse_whole<T>(reader: &mut HeaderReader<'_>, seed: T) -> Result<()>
where
    T: for<'de> DeserializeSeed<'de, Value = ()>,
{
    let start = reader.position();
    let text = reader.bytes(reader.remaining())?;
    let mut deserializer = serde_json::Deserializer::from_slice(&text);
    let parsed = seed
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end());
    parsed.map_err(|error| {
        let place = start + place_of(&error, &text) as u64;
        reader.error_at(place, Complaint(&error))
    })
}

/// How many bytes the parser had passed: it tells lines, and bytes passed within one.
fn place_of(error: &serde_json::Error, text: &[u8]) -> usize {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines
        .take(error.line().saturating_sub(1))
        .map(<[u8]>::len)
        .sum();
    (before + error.column()).min(text.len())
}

/// What the parser says, without its line and column, which the offset replaces, and cut where it
/// quotes too much of a hostile header.
struct Complaint<'a>(&'a serde_json::Error);

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 400;
        let message = self.0.to_string();
        let place = format!(" at line {} column {}", self.0.line(), self.0.column());
        let message = message.strip_suffix(&place).unwrap_or(&message);
        if self.0.is_syntax() || self.0.is_eof() {
            f.write_str("the header is not valid JSON: ")?;
        }
        match message.char_indices().nth(LONGEST) {
            None => f.write_str(message),
            Some((cut, _)) => write!(f, "{}…", &message[..cut]),
        }
    }
}

/// A string, taken as it is.
pub(crate) struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Box<str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Box<str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Text {
    type Value = Box<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<Box<str>, E> {
        Ok(text.into())
    }
}

/// A value that is passed over. serde's own way of doing so follows any depth of nesting.
#[derive(Clone, Copy)]
pub(crate) struct Skipped;

impl<'de> DeserializeSeed<'de> for Skipped {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Skipped {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while sequence.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(self)?.is_some() {
            map.next_value_seed(self)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loader_core::{Error, WeightFile};

    #[test]
    fn both_ways_of_parsing_complain_alike() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("header");
        let nested = "[".repeat(200);
        for text in [
            "{}",
            " {\"a\": [1, 2.5, null, true, \"\\u00e9\"]} \n ",
            "",
            "{",
            "{\"a\"",
            "{\"a\": 1,}",
            "{\"a\": 1} x",
            "{\n\n\"a\": 1\n \"b\": 2}",
            "{\"a\": tru}",
            "{\"a\": \"\\x\"}",
            "{\"a\": 1e999}",
            &nested,
        ] {
            std::fs::write(&path, text).unwrap();
            let file = WeightFile::open(&path).unwrap();
            let reader = || HeaderReader::new(&file, 0, file.len());
            let complaint = |parsed| match parsed {
                Err(Error::Format {
                    offset: Some(offset),
                    message,
                    ..
                }) => Some((message, offset)),
                other => {
                    assert!(other.is_ok(), "{other:?}");
                    None
                }
            };
            let whole = complaint(parse_whole(&mut reader(), Skipped));
            let as_read = complaint(parse_as_read(&mut reader(), Skipped));
            match (whole, as_read) {
                (None, None) => {}
                // Whether a byte that is wrong has been passed is told either way.
                (Some((whole, at)), Some((as_read, near))) => {
                    assert_eq!(whole, as_read, "{text}");
                    assert!(at.abs_diff(near) <= 1, "{text}: {at} and {near}");
                }
                differ => panic!("{text}: {differ:?}"),
            }
        }
    }
}
