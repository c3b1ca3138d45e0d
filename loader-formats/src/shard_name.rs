//! The names of shards: `model-00002-of-00003.safetensors`.

use std::path::{Path, PathBuf};

/// A file name that ends in `-00002-of-00003` and an extension.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShardName {
    folder: PathBuf,
    prefix: String,
    extension: String,
    pub(crate) count: u32,
    /// From one.
    pub(crate) number: u32,
}

impl ShardName {
    /// Takes a path apart; `None` where it is not the name of a shard.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let stem = path.file_stem()?.to_str()?;
        let extension = path.extension()?.to_str()?;
        let (rest, count) = split_number(stem)?;
        let (prefix, number) = split_number(rest.strip_suffix("-of")?)?;
        (1..=count).contains(&number).then(|| Self {
            folder: path.parent().unwrap_or(Path::new("")).to_path_buf(),
            prefix: prefix.to_owned(),
            extension: extension.to_owned(),
            count,
            number,
        })
    }

    /// The path of the shard of that number, from one, of the same set.
    pub(crate) fn sibling(&self, number: u32) -> PathBuf {
        let Self {
            folder,
            prefix,
            extension,
            count,
            ..
        } = self;
        folder.join(format!("{prefix}-{number:05}-of-{count:05}.{extension}"))
    }

    /// Whether both are shards of the same set.
    pub(crate) fn is_sibling(&self, other: &Self) -> bool {
        Self {
            number: 0,
            ..self.clone()
        } == Self {
            number: 0,
            ..other.clone()
        }
    }
}

/// Splits `-` and exactly five digits off the end.
fn split_number(text: &str) -> Option<(&str, u32)> {
    let (rest, digits) = text.rsplit_once('-')?;
    let digits_only = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse().ok().filter(|_| digits_only)?;
    Some((rest, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_know_their_siblings() {
        let path = Path::new("folder/a-b-00002-of-00012.gguf");
        let name = ShardName::of(path).unwrap();
        assert_eq!((name.number, name.count), (2, 12));
        assert_eq!(name.sibling(2), path);
        let other = name.sibling(12);
        assert_eq!(other, Path::new("folder/a-b-00012-of-00012.gguf"));
        assert!(name.is_sibling(&ShardName::of(&other).unwrap()));
        let elsewhere = ShardName::of(Path::new("folder/a-b-00002-of-00013.gguf")).unwrap();
        assert!(!name.is_sibling(&elsewhere));
    }

    #[test]
    fn other_names_are_not_shards() {
        for name in [
            "",
            "model.gguf",
            "model-00001-of-00002",
            "model-00000-of-00002.gguf",
            "model-00003-of-00002.gguf",
            "model-1-of-2.gguf",
            "model-+0001-of-00002.gguf",
            "model-000001-of-00002.gguf",
            "model-00001of-00002.gguf",
            "00001-of-00002.gguf",
        ] {
            assert_eq!(ShardName::of(Path::new(name)), None, "{name}");
        }
    }
}
