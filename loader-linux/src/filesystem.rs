//! Which filesystem a file lies on, and what that means for reading it.

use std::fs::File;

use rustix::fs::fstatfs;

/// What a filesystem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilesystemKind {
    /// As mount(8) calls it.
    pub(crate) name: &'static str,
    /// Whether files lie in memory alone, so that there is nothing to bring in.
    pub(crate) in_memory: bool,
    /// Whether another machine or a process brings the bytes, each with a cache and a readahead
    /// of its own.
    pub(crate) network_or_fuse: bool,
}

/// The filesystem of `file`.
pub(crate) fn kind(file: &File) -> FilesystemKind {
    // The type of the field differs between architectures; every magic number has 32 bits.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "magic numbers have 32 bits"
    )]
    fstatfs(file).map_or(UNKNOWN, |stat| of_magic(stat.f_type as u32))
}

const UNKNOWN: FilesystemKind = local("an unknown filesystem");

const fn local(name: &'static str) -> FilesystemKind {
    FilesystemKind {
        name,
        in_memory: false,
        network_or_fuse: false,
    }
}

const fn in_memory(name: &'static str) -> FilesystemKind {
    FilesystemKind {
        in_memory: true,
        ..local(name)
    }
}

const fn remote(name: &'static str) -> FilesystemKind {
    FilesystemKind {
        network_or_fuse: true,
        ..local(name)
    }
}

/// Magic numbers of include/uapi/linux/magic.h, statfs(2) and, where they are not part of the
/// kernel, the filesystem's own sources.
fn of_magic(magic: u32) -> FilesystemKind {
    match magic {
        // ext2, ext3 and ext4 share it, and the ext4 driver serves all three.
        0xef53 => local("ext4"),
        0x5846_5342 => local("xfs"),
        0x9123_683e => local("btrfs"),
        0x2fc1_2fc1 => local("zfs"),
        0xf2f5_2010 => local("f2fs"),
        0xca45_1a4e => local("bcachefs"),
        0x794c_7630 => local("overlay"),
        0x7371_7368 => local("squashfs"),
        0xe0f5_e1e2 => local("erofs"),
        0x4d44 => local("vfat"),
        0x2011_bab0 => local("exfat"),
        0x5346_544e | 0x7366_746e => local("ntfs"),
        0x9660 => local("iso9660"),
        0x0102_1994 => in_memory("tmpfs"),
        0x8584_58f6 => in_memory("ramfs"),
        0x9584_58f6 => in_memory("hugetlbfs"),
        0x6573_5546 => remote("fuse"),
        0x6969 => remote("nfs"),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => remote("cifs"),
        0x0102_1997 => remote("9p"),
        0x00c3_6400 => remote("ceph"),
        0x0bd0_0bd0 => remote("lustre"),
        0x4750_4653 => remote("gpfs"),
        0x1983_0326 => remote("beegfs"),
        0x7461_636f => remote("ocfs2"),
        0x0116_1970 => remote("gfs2"),
        0x5346_414f => remote("afs"),
        0x786f_4256 => remote("vboxsf"),
        0xbacb_acbc => remote("vmhgfs"),
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(of_magic(0xef53), local("ext4"));
        assert!(of_magic(0x0102_1994).in_memory);
        assert!(of_magic(0x6969).network_or_fuse);
        assert_eq!(of_magic(0), UNKNOWN);
    }

    #[test]
    fn memory_files_lie_in_memory() {
        let file = rustix::fs::memfd_create("weights", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(kind(&File::from(file)).name, "tmpfs");
    }

    #[test]
    fn procfs_is_none_of_those_for_weights() {
        assert_eq!(kind(&File::open("/proc/self/status").unwrap()), UNKNOWN);
    }
}
