//! Which file lies behind mapped memory, as `/proc/self/maps` tells.

use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use loader_core::{Error, Mechanism, Result, WeightFile};

/// The file that is mapped at `address`, and which of its bytes the `len` bytes there are.
pub(crate) fn find(address: usize, len: usize) -> Result<(WeightFile, Vec<Range<u64>>)> {
    let maps = fs::read("/proc/self/maps")
        .map_err(|error| unsupported(format!("/proc/self/maps cannot be read: {error}")))?;
    let start = address as u64;
    let end = start
        .checked_add(len as u64)
        .ok_or_else(|| unsupported("the range reaches beyond all addresses".to_owned()))?;
    let Found {
        path,
        inode,
        ranges,
    } = look_up(&maps, start..end).map_err(unsupported)?;
    let file = WeightFile::open(&path).map_err(|error| unsupported(error.to_string()))?;
    match file.file().metadata() {
        Ok(metadata) if metadata.ino() == inode => Ok((file, ranges)),
        _ => Err(unsupported(format!(
            "{} is not the file any more that was mapped",
            path.display()
        ))),
    }
}

fn unsupported(reason: String) -> Error {
    Error::Unsupported {
        mechanism: Mechanism::new("mapped-file"),
        reason,
    }
}

/// What lies behind a range of addresses.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    path: PathBuf,
    inode: u64,
    ranges: Vec<Range<u64>>,
}

/// One mapping.
struct Entry<'m> {
    addresses: Range<u64>,
    /// Where in the file it begins.
    offset: u64,
    inode: u64,
    path: &'m [u8],
}

/// Finds the one file that is mapped at all of `wanted`.
fn look_up(maps: &[u8], wanted: Range<u64>) -> std::result::Result<Found, String> {
    let mut found: Option<Found> = None;
    let mut covered = wanted.start;
    for entry in maps.split(|byte| *byte == b'\n').filter_map(parse) {
        let start = entry.addresses.start.max(wanted.start);
        let end = entry.addresses.end.min(wanted.end);
        if start >= end {
            continue;
        }
        if start > covered {
            break;
        }
        if entry.inode == 0 {
            return Err(format!("no file is mapped at address {start:#x}"));
        }
        let first = entry.offset + (start - entry.addresses.start);
        let range = first..first + (end - start);
        match &mut found {
            None => {
                found = Some(Found {
                    path: unescaped(entry.path),
                    inode: entry.inode,
                    ranges: vec![range],
                });
            }
            Some(found) if found.inode == entry.inode && found.path == unescaped(entry.path) => {
                match found.ranges.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => found.ranges.push(range),
                }
            }
            Some(_) => return Err(format!("another file is mapped from {start:#x} on")),
        }
        covered = end;
    }
    match found {
        Some(found) if covered == wanted.end => Ok(found),
        _ => Err(format!("nothing is mapped at address {covered:#x}")),
    }
}

/// A line such as
/// `7f12e0a00000-7f12e0c00000 r--s 00001000 fe:00 131  /models/weights.bin`.
fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut rest = line;
    let mut field = || {
        let end = rest
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(rest.len());
        let (field, after) = rest.split_at(end);
        rest = after.strip_prefix(b" ").unwrap_or(after);
        std::str::from_utf8(field).ok()
    };
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = field()?.split_once('-')?;
    let _permissions = field()?;
    let offset = hexadecimal(field()?)?;
    let _device = field()?;
    let inode = field()?.parse().ok()?;
    Some(Entry {
        addresses: hexadecimal(start)?..hexadecimal(end)?,
        offset,
        inode,
        path: rest.trim_ascii_start(),
    })
}

/// The kernel writes line ends in paths as `\012`, and everything else as it is.
fn unescaped(path: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(br"\012") {
            bytes.push(b'\n');
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &[u8] = b"\
1000-3000 r--s 00000000 fe:00 131                        /models/a b.bin
3000-5000 rw-s 00002000 fe:00 131                        /models/a b.bin
5000-6000 r--s 00010000 fe:00 131                        /models/a b.bin
6000-7000 r--s 00000000 fe:00 132                        /models/other
7000-8000 rw-p 00000000 00:00 0                          [heap]
9000-a000 r--p 00000000 fe:00 133                        /models/two\\012lines
";

    #[test]
    fn ranges_of_one_file_are_found() {
        let found = look_up(MAPS, 0x1800..0x5800).unwrap();
        assert_eq!(found.path, PathBuf::from("/models/a b.bin"));
        assert_eq!(found.inode, 131);
        assert_eq!(found.ranges, [0x800..0x4000, 0x10000..0x10800]);
        let found = look_up(MAPS, 0x9000..0x9001).unwrap();
        assert_eq!(found.path, PathBuf::from("/models/two\nlines"));
    }

    #[test]
    fn anything_else_is_refused_with_its_address() {
        let refused = |range| look_up(MAPS, range).unwrap_err();
        assert!(refused(0x0..0x2000).contains("0x0"));
        assert!(refused(0x5000..0x6800).contains("0x6000"));
        assert!(refused(0x7000..0x7800).contains("0x7000"));
        assert!(refused(0x9000..0xb000).contains("0xa000"));
        assert!(refused(0x8000..0x8800).contains("0x8000"));
    }

    #[test]
    fn a_mapping_of_this_process_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mapped");
        fs::write(&path, [7; 20_000]).unwrap();
        let file = fs::File::open(&path).unwrap();
        // SAFETY: nobody changes the file.
        let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
        let (found, ranges) = find(map.as_ptr().addr() + 5000, 10_000).unwrap();
        assert_eq!(found.path(), path);
        assert_eq!(ranges.first(), Some(&(5000..15_000)));
        assert_eq!(ranges.len(), 1);

        let on_the_stack = [0_u8; 100];
        assert!(find(on_the_stack.as_ptr().addr(), 100).is_err());
        fs::remove_file(&path).unwrap();
        assert!(find(map.as_ptr().addr(), 100).is_err());
    }
}
