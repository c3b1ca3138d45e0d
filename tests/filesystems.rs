//! Real filesystems of this machine, mounted for the test: which mechanism serves on each, and that
//! the bytes are right whichever does. Takes root, and the programs that make them.

#![cfg(all(target_os = "linux", feature = "io-uring"))]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use loader_core::testing::{Guarded, Sample, Watchdog};
use tempfile::TempDir;
use weightloader::{CachePolicy, Error, Loader, Operation, Report, Strategy};

const LEN: usize = 9_000_001;

/// A filesystem mounted in a folder of its own, until dropped.
struct Mounted {
    name: &'static str,
    at: PathBuf,
    _folder: TempDir,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, so that a test that fails with a file open leaves nothing mounted.
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// Runs a program; an error says what it said.
fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{program} {}: {}",
        arguments.join(" "),
        said.trim()
    ))
}

fn mount(
    name: &'static str,
    arrange: impl FnOnce(&Path, &str) -> Result<(), String>,
) -> Option<Mounted> {
    // SAFETY: it has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: {name}: only root can mount");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("mounted");
    fs::create_dir(&at).unwrap();
    if let Err(reason) = arrange(folder.path(), at.to_str().unwrap()) {
        println!("skipped: {name}: {reason}");
        return None;
    }
    Some(Mounted {
        name,
        at,
        _folder: folder,
    })
}

/// Makes a filesystem in a file and mounts it.
fn on_image(name: &'static str, make: &str, options: &[&str], mounted: &str) -> Option<Mounted> {
    mount(name, |folder, at| {
        let image = folder.join("image");
        let file = fs::File::create(&image).unwrap();
        file.set_len(512 << 20).unwrap();
        let image = image.to_str().unwrap();
        run(make, &[options, &[image]].concat())?;
        run("mount", &["-o", mounted, image, at])
    })
}

/// Reads a file in every way, cold and warm, and gives the report of the automatic cold read.
fn read_in_every_way(mounted: &Mounted) -> Report {
    let _watchdog = Watchdog::over(mounted.name);
    let sample = Sample::new(&mounted.at, "weights.bin", LEN);
    sample.sync().unwrap();
    let file = sample.open();
    let expected = fs::read(sample.path()).unwrap();
    let mut automatic = None;
    for strategy in [Strategy::Auto, Strategy::Buffered, Strategy::Direct] {
        for cold in [true, false] {
            let loader = Loader::builder().strategy(strategy).build().unwrap();
            if cold {
                // Filesystems in memory have nowhere to evict to.
                let _ = loader.evict(&file, ..);
            } else {
                let kept = Loader::builder().cache(CachePolicy::Keep).build().unwrap();
                let mut memory = vec![0; LEN];
                kept.read_into(&file, .., &mut memory, Operation::new())
                    .unwrap();
            }
            // Congruent with the file and not.
            for shift in [0, 13] {
                let what = format!("{} {strategy}, cold {cold}, shift {shift}", mounted.name);
                let mut memory = Guarded::new(&expected, shift);
                match loader.read_into(&file, .., memory.destination(), Operation::new()) {
                    Ok(report) => {
                        memory.check_complete(&what);
                        assert_eq!(report.bytes, LEN as u64, "{what}");
                        if strategy == Strategy::Auto && cold && shift == 0 {
                            automatic = Some(report);
                        }
                    }
                    // A forced mechanism says that it cannot, or which read was refused.
                    Err(Error::Unsupported { .. } | Error::Read { .. })
                        if strategy == Strategy::Direct => {}
                    Err(error) => panic!("{what}: {error}"),
                }
            }
        }
    }
    let ahead = Loader::new().unwrap().prefetch(&file, ..).unwrap();
    let outcome = ahead.wait(Operation::new()).unwrap();
    assert_eq!(outcome.failed, 0, "{}: {outcome:?}", mounted.name);
    let report = automatic.unwrap();
    println!(
        "{}: {:?}, {:?}",
        mounted.name, report.chunks, report.fallbacks
    );
    report
}

fn is_direct(report: &Report) -> bool {
    report
        .chunks
        .keys()
        .any(|mechanism| mechanism.name().contains("direct"))
}

fn says(report: &Report, what: &str) -> bool {
    report
        .fallbacks
        .iter()
        .any(|refusal| refusal.reason.contains(what))
}

/// Where direct reads do not serve, the report says why.
fn check_explained(name: &str, report: &Report) {
    assert_eq!(
        is_direct(report),
        report.fallbacks.is_empty(),
        "{name}: {report:?}"
    );
}

#[test]
fn ext4() {
    let Some(mounted) = on_image("ext4", "mkfs.ext4", &["-q", "-F"], "loop") else {
        return;
    };
    assert!(is_direct(&read_in_every_way(&mounted)));
}

#[test]
fn xfs() {
    let Some(mounted) = on_image("xfs", "mkfs.xfs", &["-q", "-f"], "loop") else {
        return;
    };
    assert!(is_direct(&read_in_every_way(&mounted)));
}

#[test]
fn btrfs_plain_and_compressed() {
    for (name, options) in [
        ("btrfs", "loop"),
        ("btrfs, compressed", "loop,compress-force=zstd"),
        ("btrfs, no checksums", "loop,nodatasum"),
    ] {
        let Some(mounted) = on_image(name, "mkfs.btrfs", &["-q", "-f"], options) else {
            return;
        };
        check_explained(name, &read_in_every_way(&mounted));
    }
}

#[test]
fn tmpfs() {
    let mounted = mount("tmpfs", |_, at| run("mount", &["-t", "tmpfs", "none", at]));
    let Some(mounted) = mounted else { return };
    let report = read_in_every_way(&mounted);
    assert!(!is_direct(&report) && says(&report, "tmpfs"), "{report:?}");
}

/// Mounts an overlay whose layers lie in `below`.
fn overlay(below: &Path, at: &str) -> Result<(), String> {
    let layer = |name: &str| {
        let path = below.join(name);
        fs::create_dir(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (lower, upper, work) = (layer("lower"), layer("upper"), layer("work"));
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    run("mount", &["-t", "overlay", "none", "-o", &options, at])
}

#[test]
fn overlayfs_in_memory() {
    let name = "overlayfs on tmpfs";
    let mounted = mount(name, |folder, at| {
        // Whatever lies below, overlay itself does not nest.
        let below = folder.join("below");
        fs::create_dir(&below).unwrap();
        run("mount", &["-t", "tmpfs", "none", below.to_str().unwrap()])?;
        let outcome = overlay(&below, at);
        // Stays as long as the overlay needs it.
        run("umount", &["-l", below.to_str().unwrap()])?;
        outcome
    });
    let Some(mounted) = mounted else { return };
    check_explained(name, &read_in_every_way(&mounted));
}

/// As containers have it.
#[test]
fn overlayfs_on_disk() {
    let name = "overlayfs on ext4";
    let Some(below) = on_image("ext4", "mkfs.ext4", &["-q", "-F"], "loop") else {
        return;
    };
    let Some(mounted) = mount(name, |_, at| overlay(&below.at, at)) else {
        return;
    };
    assert!(is_direct(&read_in_every_way(&mounted)));
}

#[test]
fn fuse() {
    let mounted = mount("FUSE", |folder, at| {
        let behind = folder.join("behind");
        fs::create_dir(&behind).unwrap();
        run("bindfs", &[behind.to_str().unwrap(), at])
    });
    let Some(mounted) = mounted else { return };
    let report = read_in_every_way(&mounted);
    assert!(!is_direct(&report) && says(&report, "fuse"), "{report:?}");
}
