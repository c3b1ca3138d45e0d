//! The program, run as people run it, and small checkpoints for it.
#![allow(dead_code, reason = "not every test file needs everything")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A folder for one test, which is also the user's home.
pub(crate) struct Place {
    folder: TempDir,
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of these bytes.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Where sample checkpoints go.
    pub(crate) fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    /// The program, at home here and with no settings in its environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weightloader"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WEIGHTLOADER_") {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", self.folder.path())
            .env("XDG_CACHE_HOME", self.cache())
            .current_dir(self.folder.path());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.command().args(arguments).output().unwrap().into()
    }

    /// Runs the program with `--json`, which must succeed; its object.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
        ended.last_line()
    }

    /// Runs the program, which must fail with one line for people and the same for programs; that
    /// line.
    pub(crate) fn error(&self, arguments: &[&str]) -> String {
        let ended = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(ended.code, Some(1), "{arguments:?}: {ended:?}");
        let message = ended.last_line()["error"].as_str().unwrap().to_owned();
        assert_eq!(ended.stderr, format!("error: {message}\n"));
        message
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The object on the last line of standard output.
    pub(crate) fn last_line(&self) -> Value {
        let line = self.text().lines().last().unwrap_or_default();
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| {
            panic!("{error}: {line:?}");
        });
        assert!(value.is_object());
        value
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that are not alike anywhere near one another.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// A safetensors file of U8 tensors, in this order.
pub(crate) fn safetensors(tensors: &[(&str, &[u8])]) -> Vec<u8> {
    let mut header = Map::new();
    let mut at = 0;
    for (name, bytes) in tensors {
        let end = at + bytes.len();
        let entry = json!({ "dtype": "U8", "shape": [bytes.len()], "data_offsets": [at, end] });
        header.insert((*name).to_owned(), entry);
        at = end;
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    tensors.iter().for_each(|(_, bytes)| file.extend(*bytes));
    file
}

/// Three tensors: `a.weight`, `a.bias`, `b.weight`, of lengths that are no multiple of anything.
pub(crate) struct Model {
    pub(crate) path: PathBuf,
    pub(crate) tensors: Vec<(&'static str, Vec<u8>)>,
}

impl Model {
    pub(crate) fn new(place: &Place) -> Self {
        let tensors = vec![
            ("a.weight", noise(2_100_003, 1)),
            ("a.bias", noise(513, 2)),
            ("b.weight", noise(3_000_001, 3)),
        ];
        let slices: Vec<(&str, &[u8])> = tensors
            .iter()
            .map(|(name, bytes)| (*name, bytes.as_slice()))
            .collect();
        let path = place.file("model.safetensors", &safetensors(&slices));
        Self { path, tensors }
    }

    /// The same in a folder of two shards and their index.
    pub(crate) fn sharded(place: &Place) -> Self {
        let whole = Self::new(place);
        let folder = place.path("sharded");
        fs::create_dir(&folder).unwrap();
        let shards = ["one.safetensors", "two.safetensors"];
        let mut weight_map = Map::new();
        for (index, shard) in shards.into_iter().enumerate() {
            let tensors = if index == 0 {
                &whole.tensors[..2]
            } else {
                &whole.tensors[2..]
            };
            let slices: Vec<(&str, &[u8])> = tensors
                .iter()
                .map(|(name, bytes)| (*name, bytes.as_slice()))
                .collect();
            fs::write(folder.join(shard), safetensors(&slices)).unwrap();
            for (name, _) in tensors {
                weight_map.insert((*name).to_owned(), shard.into());
            }
        }
        let index = json!({ "weight_map": weight_map }).to_string();
        fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
        Self {
            path: folder,
            tensors: whole.tensors,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.tensors
            .iter()
            .map(|(_, bytes)| bytes.len() as u64)
            .sum()
    }
}
