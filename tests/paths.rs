//! Files whose paths are unusual: spaces, letters of any script, very long, verbatim, on a share.

#![allow(clippy::unwrap_used, reason = "these are tests")]

#[allow(dead_code, reason = "shards are for other tests")]
mod checkpoints;

use std::fs;
use std::path::{Path, PathBuf};

use checkpoints::Written;
use loader_core::testing::Watchdog;
use weightloader::{Error, Loader, Operation, Strategy, WeightFile};

/// Loads a checkpoint from `path` by every strategy, and prefetches, reads and maps its file.
fn use_every_way(path: &Path) {
    let what = path.display();
    let _watchdog = Watchdog::over(format!("a file at {what}"));
    let written = Written::single(&[1_100_001, 5, 300_000]);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy(&written.path, path).unwrap();
    for strategy in [Strategy::Auto, Strategy::Direct, Strategy::Buffered] {
        let loader = Loader::builder().strategy(strategy).build().unwrap();
        let checkpoint = loader
            .open(path)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let model = match loader.load(&checkpoint, Operation::new()) {
            Err(Error::Unsupported { reason, .. }) if strategy == Strategy::Direct => {
                println!("skipped: {reason}");
                continue;
            }
            outcome => outcome.unwrap_or_else(|error| panic!("{what}: {error}")),
        };
        for (name, bytes) in &written.tensors {
            assert!(
                model.tensor(name).unwrap().bytes() == bytes,
                "{what}: {name}"
            );
        }
    }
    let file = WeightFile::open(path).unwrap();
    let expected = fs::read(path).unwrap();
    let ahead = weightloader::prefetch(&file, ..).unwrap();
    ahead.wait(Operation::new()).unwrap();
    let mut found = vec![0; expected.len()];
    weightloader::read_into(&file, .., &mut found).unwrap();
    assert!(found == expected, "{what}");
    // SAFETY: nobody changes or truncates the file, which is this test's own.
    let mapping = unsafe { weightloader::map(&file, ..) }.unwrap();
    assert!(*mapping == *expected, "{what}");
}

/// A path of more than 260 characters, which is what Windows once allowed.
fn long(folder: &Path) -> PathBuf {
    let mut path = folder.to_path_buf();
    while path.as_os_str().len() < 300 {
        path.push("a folder of a name that is neither short nor very long");
    }
    path.join("model.safetensors")
}

#[test]
fn with_spaces() {
    let folder = tempfile::tempdir().unwrap();
    use_every_way(
        &folder
            .path()
            .join(" two  spaces")
            .join("the model .safetensors"),
    );
}

#[test]
fn in_any_script() {
    let folder = tempfile::tempdir().unwrap();
    use_every_way(
        &folder
            .path()
            .join("веса")
            .join("重み 🦀 e\u{301}.safetensors"),
    );
}

#[test]
fn of_more_than_260_characters() {
    let folder = tempfile::tempdir().unwrap();
    use_every_way(&long(folder.path()));
}

#[cfg(windows)]
#[test]
fn with_slashes_of_either_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b").join("model.safetensors");
    use_every_way(Path::new(&path.to_str().unwrap().replace('\\', "/")));
}

#[cfg(windows)]
#[test]
fn verbatim() {
    let folder = tempfile::tempdir().unwrap();
    let verbatim = fs::canonicalize(folder.path()).unwrap();
    assert!(
        verbatim.to_str().unwrap().starts_with(r"\\?\"),
        "{verbatim:?}"
    );
    use_every_way(&verbatim.join("model.safetensors"));
    use_every_way(&long(&verbatim));
}

/// By the share of each drive that administrators may use, or one that stands in for it.
#[cfg(windows)]
#[test]
fn on_a_share() {
    let folder = tempfile::tempdir().unwrap();
    let local = fs::canonicalize(folder.path()).unwrap();
    let local = local.to_str().unwrap().strip_prefix(r"\\?\").unwrap();
    let (drive, rest) = local.split_once(':').unwrap();
    for share in [r"\\localhost\", r"\\?\UNC\localhost\"] {
        let shared = PathBuf::from(format!("{share}{drive}${rest}"));
        if let Err(error) = fs::read_dir(&shared) {
            println!("skipped: {} cannot be read: {error}", shared.display());
            return;
        }
        use_every_way(&shared.join("model.safetensors"));
        use_every_way(&long(&shared));
    }
}
