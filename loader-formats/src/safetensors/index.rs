//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use loader_core::{Error, Result, WeightFile};
use serde_core::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use crate::checkpoint::Index;
use crate::error::{Quoted, whole_error};
use crate::header::HeaderReader;
use crate::{Checkpoint, OpenOptions, json};

/// The tensors that an index promises, by the name of their shard.
type Shards = BTreeMap<Box<str>, Vec<Box<str>>>;

/// Opens the shards that an index names and checks that they hold what it says.
///
/// Tensors that a shard holds beyond that are kept.
pub(crate) fn open_index(path: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    let file = WeightFile::open(path)?;
    let shards = read(&file, options)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files = Vec::new();
    for name in shards.keys() {
        check_name(&file, name)?;
        let shard = WeightFile::open(folder.join(&**name));
        files.push(shard.map_err(|error| missing(error, &file, name))?);
    }
    let checkpoint = Checkpoint::from(Index {
        shard_index: Some(path.to_path_buf()),
        ..super::read(files, options)?
    });
    for (number, (shard, tensors)) in shards.iter().enumerate() {
        for tensor in tensors {
            if !checkpoint
                .tensor(tensor)
                .is_ok_and(|found| found.file() == number)
            {
                let (tensor, shard) = (Quoted(tensor), Quoted(shard));
                let message = format!("the tensor {tensor} is said to be in {shard}, and is not");
                return Err(whole_error(file.path(), message));
            }
        }
    }
    Ok(checkpoint)
}

fn read(file: &WeightFile, options: &OpenOptions) -> Result<Shards> {
    if file.len() > options.header_limit {
        let message = format!(
            "the index is {} bytes long, more than the limit of {}",
            file.len(),
            options.header_limit
        );
        return Err(whole_error(file.path(), message));
    }
    let mut shards = None;
    let mut reader = HeaderReader::new(file, 0, file.len());
    json::parse(&mut reader, IndexSeed(&mut shards))?;
    let shards = shards.ok_or_else(|| {
        let message = "an index has a \"weight_map\", this one has none";
        whole_error(file.path(), message)
    })?;
    check_names(file, &shards)?;
    Ok(shards)
}

/// Checks that no tensor is promised twice, be it by one shard or by two.
fn check_names(file: &WeightFile, shards: &Shards) -> Result<()> {
    let mut names: Vec<&str> = shards.values().flatten().map(|name| &**name).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let message = format!("the tensor {} appears twice in weight_map", Quoted(pair[0]));
        return Err(whole_error(file.path(), message));
    }
    Ok(())
}

/// Refuses names that lead out of the folder of the index: an index from elsewhere must not make
/// us read other files.
fn check_name(index: &WeightFile, name: &str) -> Result<()> {
    let leads_elsewhere = name.contains(['/', '\\', ':', '\0']) || matches!(name, "" | "." | "..");
    if leads_elsewhere {
        let name = Quoted(name);
        let message =
            format!("{name} cannot be a shard: expected the name of a file in this folder");
        return Err(whole_error(index.path(), message));
    }
    Ok(())
}

/// Says who asked for a shard that is not there.
fn missing(error: Error, index: &WeightFile, name: &str) -> Error {
    match error {
        Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            let message = format!("the shard {} is not in this folder", Quoted(name));
            whole_error(index.path(), message)
        }
        other => other,
    }
}

/// The whole index: an object with a `weight_map`, and other things that do not matter here.
struct IndexSeed<'a>(&'a mut Option<Shards>);

impl<'de> DeserializeSeed<'de> for IndexSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for IndexSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(json::Text)? {
            if &*key == "weight_map" {
                let shards = map.next_value_seed(WeightMap(Shards::new()))?;
                if self.0.replace(shards).is_some() {
                    return Err(A::Error::custom("weight_map appears twice"));
                }
            } else {
                map.next_value_seed(json::Skipped)?;
            }
        }
        Ok(())
    }
}

/// `weight_map`: the shard of each tensor.
struct WeightMap(Shards);

impl<'de> DeserializeSeed<'de> for WeightMap {
    type Value = Shards;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shards, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMap {
    type Value = Shards;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from tensors to shards")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Shards, A::Error> {
        while let Some(tensor) = map.next_key_seed(json::Text)? {
            let shard = map.next_value_seed(json::Text)?;
            self.0.entry(shard).or_default().push(tensor);
        }
        Ok(self.0)
    }
}
