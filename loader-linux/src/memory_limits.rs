//! How much memory can be taken without swapping or being killed.
//!
//! Free memory is not all: a control group may allow less, at any level above the process, in
//! version 1, version 2 or both mounted side by side (documented in the kernel's
//! Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst). What the group's own page
//! cache holds can be reclaimed, so it does not count as taken.

use std::path::{Component, Path, PathBuf};

use crate::usage::kibibytes;

/// Reads a small file as text.
pub(crate) type ReadText<'r> = &'r dyn Fn(&Path) -> Option<String>;

/// The limit that a control group sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupLimit {
    /// Its folder.
    pub(crate) folder: PathBuf,
    /// The version of the interface: 1 or 2.
    pub(crate) version: u8,
    /// Bytes that its processes may use together.
    pub(crate) limit: u64,
    /// Bytes of them that are left, or could be made so by dropping clean pages.
    pub(crate) available: u64,
}

/// Bytes that this process can take: free and reclaimable memory, bounded by the tightest control
/// group and by `address_space`, the limit on this process's mappings.
pub(crate) fn available(read: ReadText<'_>, address_space: Option<u64>) -> Option<u64> {
    let free = read(Path::new("/proc/meminfo")).and_then(|text| kibibytes(&text, "MemAvailable"));
    let group = tightest_group(read).map(|group| group.available);
    let mapped = || {
        let status = read(Path::new("/proc/self/status"))?;
        kibibytes(&status, "VmSize")
    };
    let addresses = address_space.map(|limit| limit.saturating_sub(mapped().unwrap_or(0)));
    [free, group, addresses].into_iter().flatten().min()
}

/// The control group above this process, at whatever level, that leaves the least memory.
pub(crate) fn tightest_group(read: ReadText<'_>) -> Option<GroupLimit> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    let hierarchies = mounts
        .lines()
        .filter_map(|line| Hierarchy::of_mount(line, &groups));
    hierarchies
        .flat_map(|hierarchy| hierarchy.limits(read))
        .min_by_key(|group| group.available)
}

/// A tree of control groups that can limit memory, and where in it this process is.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    version: u8,
    mount: PathBuf,
    /// The group's folder below the mount point.
    group: PathBuf,
}

impl Hierarchy {
    /// The tree that a line of /proc/self/mountinfo mounts, if it is one; `groups` is the text of
    /// /proc/self/cgroup.
    fn of_mount(line: &str, groups: &str) -> Option<Self> {
        // "31 23 0:28 ROOT MOUNT OPTIONS [OPTIONAL...] - TYPE SOURCE OPTIONS", proc_pid_mountinfo(5).
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, mount) = (unescape(place.next()?), unescape(place.next()?));
        let mut kind = kind.split(' ');
        let version = match kind.next()? {
            "cgroup" if kind.nth(1)?.split(',').any(|option| option == "memory") => 1,
            "cgroup2" => 2,
            _ => return None,
        };
        let group = groups.lines().find_map(|line| {
            // "4:memory:/PATH" or "0::/PATH", cgroups(7).
            let mut parts = line.splitn(3, ':');
            let (number, mut controllers) = (parts.next()?, parts.next()?.split(','));
            let ours = match version {
                1 => controllers.any(|controller| controller == "memory"),
                _ => number == "0",
            };
            if ours { parts.next() } else { None }
        })?;
        // In a container the mount may show only a part of the tree, which the group's path may or
        // may not begin with; groups outside what is mounted cannot be read.
        let below = Path::new(group)
            .strip_prefix(&root)
            .unwrap_or(Path::new(""));
        let inside = below
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
        Some(Self {
            version,
            mount: mount.into(),
            group: if inside { below.into() } else { PathBuf::new() },
        })
    }

    /// The limits of the group and of all above it.
    fn limits(&self, read: ReadText<'_>) -> Vec<GroupLimit> {
        let levels = self.group.ancestors().map(|level| self.mount.join(level));
        levels
            .filter_map(|folder| match self.version {
                1 => limit_of_version_1(&folder, read),
                _ => limit_of_version_2(&folder, read),
            })
            .collect()
    }
}

/// Version 1 writes "no limit" as the largest multiple of the page that fits 63 bits.
const UNLIMITED: u64 = 1 << 62;

fn limit_of_version_1(folder: &Path, read: ReadText<'_>) -> Option<GroupLimit> {
    let limit = number(read, &folder.join("memory.limit_in_bytes"))?;
    let used = number(read, &folder.join("memory.usage_in_bytes"))?;
    let cached = ["total_inactive_file", "total_active_file"];
    (limit < UNLIMITED).then(|| group_limit(folder, 1, limit, used, cached, read))
}

fn limit_of_version_2(folder: &Path, read: ReadText<'_>) -> Option<GroupLimit> {
    // Over memory.high a group is slowed down to a crawl, over memory.max it is killed.
    let limits = ["memory.max", "memory.high"];
    let limit = limits
        .iter()
        .filter_map(|name| number(read, &folder.join(name)))
        .min()?;
    let used = number(read, &folder.join("memory.current"))?;
    let cached = ["inactive_file", "active_file"];
    Some(group_limit(folder, 2, limit, used, cached, read))
}

fn group_limit(
    folder: &Path,
    version: u8,
    limit: u64,
    used: u64,
    cached: [&str; 2],
    read: ReadText<'_>,
) -> GroupLimit {
    let statistics = read(&folder.join("memory.stat")).unwrap_or_default();
    let reclaimable: u64 = statistics
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| cached.contains(name))
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .fold(0, u64::saturating_add);
    GroupLimit {
        folder: folder.to_path_buf(),
        version,
        limit,
        available: limit.saturating_sub(used.saturating_sub(reclaimable)),
    }
}

/// The number that a file holds; `None` also for "max", which is no limit.
fn number(read: ReadText<'_>, path: &Path) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

/// Spaces, tabs, line ends and backslashes are written as octal numbers there.
fn unescape(path: &str) -> String {
    let escapes = [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n")];
    let plain = escapes
        .iter()
        .fold(path.to_owned(), |path, (escape, plain)| {
            path.replace(escape, plain)
        });
    plain.replace(r"\134", r"\")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// A machine of these files.
    fn machine(files: &[(&str, &str)]) -> impl Fn(&Path) -> Option<String> + use<> {
        let files: HashMap<PathBuf, String> = files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), (*text).to_owned()))
            .collect();
        move |path| files.get(path).cloned()
    }

    const MEMINFO: (&str, &str) = (
        "/proc/meminfo",
        "MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n",
    );
    const V2_MOUNT: (&str, &str) = (
        "/proc/self/mountinfo",
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
         30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
    );

    #[test]
    fn without_limits_free_memory_counts() {
        let read = machine(&[MEMINFO]);
        assert_eq!(available(&read, None), Some(8_000_000 * 1024));
        assert_eq!(available(&machine(&[]), None), None);
    }

    #[test]
    fn version_2_counts_the_tightest_ancestor() {
        let read = machine(&[
            MEMINFO,
            V2_MOUNT,
            (
                "/proc/self/cgroup",
                "0::/system.slice/model.service/worker\n",
            ),
            (
                "/sys/fs/cgroup/system.slice/model.service/worker/memory.max",
                "max\n",
            ),
            (
                "/sys/fs/cgroup/system.slice/model.service/worker/memory.high",
                "max\n",
            ),
            (
                "/sys/fs/cgroup/system.slice/model.service/worker/memory.current",
                "1\n",
            ),
            (
                "/sys/fs/cgroup/system.slice/model.service/memory.max",
                "1000000\n",
            ),
            (
                "/sys/fs/cgroup/system.slice/model.service/memory.high",
                "max\n",
            ),
            (
                "/sys/fs/cgroup/system.slice/model.service/memory.current",
                "900000\n",
            ),
            (
                "/sys/fs/cgroup/system.slice/model.service/memory.stat",
                "anon 500000\nfile 400000\nkernel 1\ninactive_anon 5\nactive_anon 6\n\
                 inactive_file 250000\nactive_file 50000\n",
            ),
            ("/sys/fs/cgroup/system.slice/memory.max", "2000000\n"),
            ("/sys/fs/cgroup/system.slice/memory.current", "950000\n"),
        ]);
        let group = tightest_group(&read).unwrap();
        assert_eq!(
            group,
            GroupLimit {
                folder: "/sys/fs/cgroup/system.slice/model.service".into(),
                version: 2,
                limit: 1_000_000,
                available: 400_000,
            }
        );
        assert_eq!(available(&read, None), Some(400_000));
    }

    #[test]
    fn throttling_limits_count_too() {
        let read = machine(&[
            V2_MOUNT,
            ("/proc/self/cgroup", "0::/\n"),
            ("/sys/fs/cgroup/memory.max", "5000\n"),
            ("/sys/fs/cgroup/memory.high", "3000\n"),
            ("/sys/fs/cgroup/memory.current", "4000\n"),
        ]);
        let group = tightest_group(&read).unwrap();
        assert_eq!((group.limit, group.available), (3000, 0));
    }

    /// Both versions mounted, memory under the first, as systemd's hybrid mode has it.
    #[test]
    fn version_1_beside_version_2() {
        let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let groups = "4:memory:/jobs/one\n1:cpu:/other\n0::/user.slice\n";
        let folder = "/sys/fs/cgroup/memory/jobs/one";
        let files = |limit| {
            machine(&[
                MEMINFO,
                ("/proc/self/mountinfo", mounts),
                ("/proc/self/cgroup", groups),
                (
                    "/sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes",
                    limit,
                ),
                (
                    "/sys/fs/cgroup/memory/jobs/one/memory.usage_in_bytes",
                    "3000\n",
                ),
                (
                    "/sys/fs/cgroup/memory/jobs/one/memory.stat",
                    "inactive_file 7\ntotal_inactive_file 500\ntotal_active_file 100\n",
                ),
                (
                    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                    "9223372036854771712\n",
                ),
                ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "3000\n"),
            ])
        };
        let group = tightest_group(&files("4000\n")).unwrap();
        assert_eq!(group.folder, Path::new(folder));
        assert_eq!(
            (group.version, group.limit, group.available),
            (1, 4000, 1600)
        );
        assert_eq!(tightest_group(&files("9223372036854771712\n")), None);
        // With pages of 64 KiB.
        assert_eq!(tightest_group(&files("9223372036854710272\n")), None);
    }

    /// A container's mount begins at its own group, whose full path it may still see.
    #[test]
    fn containers_see_a_part_of_the_tree() {
        let line = "50 49 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        let hierarchy = |group: &str| Hierarchy::of_mount(line, group).unwrap().group;
        assert_eq!(hierarchy("4:memory:/docker/abc\n"), Path::new(""));
        assert_eq!(hierarchy("4:memory:/docker/abc/job\n"), Path::new("job"));
        assert_eq!(hierarchy("4:memory:/elsewhere\n"), Path::new(""));
        assert_eq!(hierarchy("4:cpu,memory:/../../x\n"), Path::new(""));
        assert_eq!(Hierarchy::of_mount(line, "0::/\n"), None);
    }

    #[test]
    fn mount_points_are_unescaped() {
        let line = r"30 23 0:26 / /my\040group\134040s rw - cgroup2 cgroup2 rw";
        let hierarchy = Hierarchy::of_mount(line, "0::/a\n").unwrap();
        assert_eq!(hierarchy.mount, Path::new(r"/my group\040s"));
    }

    #[test]
    fn address_space_is_a_limit() {
        let read = machine(&[MEMINFO, ("/proc/self/status", "VmSize:\t    1000 kB\n")]);
        assert_eq!(
            available(&read, Some(1_500_000)),
            Some(1_500_000 - 1_024_000)
        );
        assert_eq!(available(&read, Some(10)), Some(0));
        assert_eq!(available(&read, Some(u64::MAX)), Some(8_000_000 * 1024));
    }

    #[test]
    fn nonsense_is_no_limit() {
        for line in [
            "",
            " - ",
            "a b c d e - cgroup",
            "a b c d e - cgroup2 x y",
            "1 2 3 / /m - ext4 x y",
        ] {
            assert_eq!(Hierarchy::of_mount(line, "4:memory\n\n:\n"), None, "{line}");
        }
    }
}
