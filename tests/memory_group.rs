//! Models larger than the memory that a control group allows. The tests start themselves again
//! inside such a group, which takes root and a group whose memory may be limited.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[allow(dead_code, reason = "other tests need more of it")]
mod checkpoints;

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use checkpoints::Written;
use loader_core::testing::Watchdog;
use weightloader::{Loader, Operation, StreamOrder, WeightFile};

/// The file that a test reads when it has been started again, and the group that it then enters.
const FILE: &str = "WEIGHTLOADER_TEST_FILE";
const GROUP: &str = "WEIGHTLOADER_TEST_GROUP";

const LIMIT: u64 = 64 << 20;
const TENSORS: [usize; 24] = [8 << 20; 24];

/// A control group with a limit of memory, below that of this process, until dropped.
struct Group(PathBuf);

impl Group {
    /// Makes one in whichever version of the interface controls memory here.
    fn new(name: &str) -> Result<Self, String> {
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let first = groups.lines().find_map(|line| {
            let (_, line) = line.split_once(':')?;
            let (controllers, group) = line.split_once(':')?;
            let (mount, limit) = match controllers {
                "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                "" if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() => {
                    ("/sys/fs/cgroup", "memory.max")
                }
                _ => return None,
            };
            Some((format!("{mount}{group}"), limit))
        });
        let (parent, limit) = first.ok_or("no control group controls memory here")?;
        let folder = Path::new(&parent).join(format!("weightloader-{}-{name}", process::id()));
        let said = |error: io::Error| format!("{}: {error}", folder.display());
        fs::create_dir(&folder).map_err(said)?;
        let group = Self(folder.clone());
        fs::write(folder.join(limit), LIMIT.to_string()).map_err(said)?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Whether this is the child, which has then entered the group; otherwise runs `test` again in one,
/// on a cold file that is larger than its memory.
fn is_in_group(test: &str) -> bool {
    if let Some(group) = env::var_os(GROUP) {
        let processes = Path::new(&group).join("cgroup.procs");
        fs::write(processes, process::id().to_string()).unwrap();
        return true;
    }
    if ["ASAN_OPTIONS", "TSAN_OPTIONS"]
        .iter()
        .any(|name| env::var_os(name).is_some())
    {
        println!("skipped: a sanitizer needs more memory than the group has");
        return false;
    }
    let group = match Group::new(test) {
        Ok(group) => group,
        Err(reason) => {
            println!("skipped: no group with a limit can be made: {reason}");
            return false;
        }
    };
    let written = Written::single(&TENSORS);
    File::open(&written.path).unwrap().sync_all().unwrap();
    let file = WeightFile::open(&written.path).unwrap();
    Loader::new().unwrap().evict(&file, ..).unwrap();
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .envs([
            (FILE, written.path.as_os_str()),
            (GROUP, OsStr::new(&group.0)),
        ])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "in the group:\n{told}\n{complained}"
    );
    assert!(told.contains("1 passed"), "the test did not run:\n{told}");
    for line in told.lines().filter(|line| line.starts_with("skipped")) {
        println!("{line}");
    }
    false
}

/// What this process has had the devices read, in bytes: proc(5).
fn read_from_devices() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes: "));
    line.unwrap().parse().unwrap()
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn a_stream_brings_each_byte_once() {
    if !is_in_group("a_stream_brings_each_byte_once") {
        return;
    }
    let _watchdog = Watchdog::over("a stream in a small group");
    let path = PathBuf::from(env::var_os(FILE).unwrap());
    let mut digests = HashMap::new();
    for order in [StreamOrder::Asked, StreamOrder::Landed] {
        let loader = Loader::builder().stream_order(order).build().unwrap();
        let checkpoint = loader.open(&path).unwrap();
        loader.evict(&checkpoint.files()[0], ..).unwrap();
        let before = read_from_devices();
        for tensor in loader.stream(&checkpoint).unwrap() {
            let tensor = tensor.unwrap();
            digests.insert(tensor.name().to_owned(), digest(tensor.bytes()));
        }
        let read = read_from_devices() - before;
        let bytes = checkpoint.bytes();
        assert!(
            read <= bytes + bytes / 50,
            "{read} bytes were read for {bytes}"
        );
        if read < bytes / 2 {
            println!("skipped: this filesystem does not count what it reads: {read} of {bytes}");
        }
        let reference = File::open(&path).unwrap();
        for tensor in checkpoint.tensors() {
            let mut expected = vec![0; usize::try_from(tensor.bytes()).unwrap()];
            reference
                .read_exact_at(&mut expected, tensor.range().start)
                .unwrap();
            assert_eq!(digests.remove(tensor.name()), Some(digest(&expected)));
        }
        assert!(digests.is_empty());
    }
}

#[test]
fn a_prefetch_brings_what_there_is_room_for() {
    if !is_in_group("a_prefetch_brings_what_there_is_room_for") {
        return;
    }
    let _watchdog = Watchdog::over("a prefetch in a small group");
    let file = WeightFile::open(PathBuf::from(env::var_os(FILE).unwrap())).unwrap();
    let loader = Loader::new().unwrap();
    let outcome = loader
        .prefetch(&file, ..)
        .unwrap()
        .wait(Operation::new())
        .unwrap();
    assert!(
        outcome.brought > 0 && outcome.brought < LIMIT,
        "{outcome:?}"
    );
    assert_eq!(outcome.brought + outcome.skipped, file.len(), "{outcome:?}");
    let map = loader.residency(&file, .., 1 << 20).unwrap();
    if let Some(resident) = map.resident_bytes() {
        assert!(resident <= LIMIT, "{resident}");
    }
}
