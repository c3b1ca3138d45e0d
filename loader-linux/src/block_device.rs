//! The block device under a file, as sysfs describes it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockDevice {
    /// Its name: "nvme0n1".
    pub(crate) name: String,
    /// Bytes that the kernel reads ahead at most.
    pub(crate) readahead: u64,
    /// Bytes of one request to the device at most.
    pub(crate) largest_request: u64,
    /// Whether it says of itself that it has to move its heads; many virtual ones do.
    pub(crate) rotational: bool,
}

/// The device under `file`; `None` where the filesystem has none of its own (network, memory,
/// overlay, several devices as one).
pub(crate) fn under(file: &File) -> Option<BlockDevice> {
    let device = file.metadata().ok()?.dev();
    let numbers = format!("{}:{}", major(device), minor(device));
    described(&Path::new("/sys/dev/block").join(numbers))
}

/// The device at a folder of sysfs. A partition has no queue of its own but lies in its disk's
/// folder.
fn described(folder: &Path) -> Option<BlockDevice> {
    let folder = fs::canonicalize(folder).ok()?;
    let disk = [Some(folder.as_path()), folder.parent()]
        .into_iter()
        .flatten()
        .find(|folder| folder.join("queue").is_dir())?;
    let queue = disk.join("queue");
    Some(BlockDevice {
        name: folder.file_name()?.to_string_lossy().into_owned(),
        readahead: kibibytes(queue.join("read_ahead_kb"))?,
        largest_request: kibibytes(queue.join("max_sectors_kb"))?,
        rotational: number(queue.join("rotational"))? != 0,
    })
}

impl BlockDevice {
    /// The most bytes that the kernel reads for one piece of advice, whatever it is asked for
    /// (`force_page_cache_ra`, mm/readahead.c): the larger of the readahead window and of one
    /// request to the device (`io_pages`).
    pub(crate) fn advice_window(&self) -> u64 {
        self.readahead.max(self.largest_request)
    }
}

fn kibibytes(path: PathBuf) -> Option<u64> {
    number(path)?.checked_mul(1024)
}

fn number(path: PathBuf) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_have_the_queue_of_their_disk() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("sda");
        fs::create_dir_all(disk.join("queue")).unwrap();
        fs::create_dir_all(disk.join("sda1")).unwrap();
        for (name, value) in [
            ("read_ahead_kb", 128),
            ("max_sectors_kb", 1280),
            ("rotational", 0),
        ] {
            fs::write(disk.join("queue").join(name), format!("{value}\n")).unwrap();
        }
        let whole = described(&disk).unwrap();
        let partition = described(&disk.join("sda1")).unwrap();
        assert_eq!((whole.name.as_str(), whole.readahead), ("sda", 128 << 10));
        assert_eq!(
            partition,
            BlockDevice {
                name: "sda1".into(),
                ..whole.clone()
            }
        );
        assert_eq!(whole.advice_window(), 1280 << 10);
        assert_eq!(described(dir.path()), None);
    }

    #[test]
    fn files_in_memory_have_none() {
        let file = rustix::fs::memfd_create("weights", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(under(&File::from(file)), None);
    }
}
