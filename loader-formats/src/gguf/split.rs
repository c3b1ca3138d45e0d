//! GGUF files in parts: `model-00001-of-00003.gguf` and so on.

use std::path::PathBuf;

use loader_core::{Error, Result, WeightFile};

use super::header::{self, Part};
use crate::error::whole_error;
use crate::join::{Header, join};
use crate::shard_name::ShardName;
use crate::{Checkpoint, Format, OpenOptions};

/// Opens a file and, where it is a part of a split one, the other parts beside it.
pub(crate) fn open_split(file: WeightFile, options: &OpenOptions) -> Result<Checkpoint> {
    let (header, part) = header::read(&file, options)?;
    let Some(part) = part else {
        return join(Format::Gguf, vec![(file, header)]).map(Checkpoint::from);
    };
    let name = ShardName::of(file.path())
        .filter(|name| (name.number.into(), name.count.into()) == (part.number, part.count))
        .ok_or_else(|| {
            let message = format!(
                "this is part {number} of {count}, but is not named so (…-{number:05}-of-{count:05}.gguf)",
                number = part.number,
                count = part.count
            );
            whole_error(file.path(), message)
        })?;
    let mut given = Some((file, header));
    let mut parts = Vec::new();
    for number in 1..=name.count {
        if number == name.number {
            parts.extend(given.take());
        } else {
            parts.push(open_part(name.sibling(number), number, part, options)?);
        }
    }
    check_sum(&parts, part)?;
    join(Format::Gguf, parts).map(Checkpoint::from)
}

/// Opens another part than the one given and checks that both are parts of the same.
fn open_part(
    path: PathBuf,
    number: u32,
    given: Part,
    options: &OpenOptions,
) -> Result<(WeightFile, Header)> {
    let file = WeightFile::open(&path).map_err(|error| match error {
        Error::Io { path, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            whole_error(
                &path,
                format_args!("this part of {} is missing", given.count),
            )
        }
        other => other,
    })?;
    let (header, part) = header::read(&file, options)?;
    let expected = Part {
        number: number.into(),
        ..given
    };
    if part != Some(expected) {
        let found = part.map_or_else(|| "no part".to_owned(), |part| part.to_string());
        let message = format!("expected {expected}, found {found}");
        return Err(whole_error(file.path(), message));
    }
    Ok((file, header))
}

/// Checks that the parts have as many tensors as they say.
fn check_sum(parts: &[(WeightFile, Header)], part: Part) -> Result<()> {
    let found: u64 = parts
        .iter()
        .map(|(_, header)| header.tensors.len() as u64)
        .sum();
    match part.tensors {
        Some(expected) if expected != found => {
            let message = format!(
                "split.tensors.count is {expected}, the {} parts have {found} tensors",
                part.count
            );
            Err(whole_error(parts[0].0.path(), message))
        }
        _ => Ok(()),
    }
}
