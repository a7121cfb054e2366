//! The kind of file system a log lies on, by its magic number: for warnings, since its guarantees cannot be
//! tested. IMPURE: calls the system.

use std::io;
use std::path::Path;

/// What a synced write is worth on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystemKind {
    /// Overwrites in place, on a local disk; or unknown.
    InPlace,
    /// Copy-on-write (btrfs, ZFS, bcachefs): reserved space guarantees nothing, so a full disk may fail an
    /// append, after which the log accepts no more until it is reopened; and a synced write costs more than
    /// its bytes.
    CopyOnWrite,
    /// Memory: nothing survives a reboot.
    Memory,
    /// A network file system or FUSE: a sync is as durable as the remote end makes it.
    Elsewhere,
}

impl FileSystemKind {
    /// The kind of file system that `folder` lies on.
    ///
    /// # Errors
    /// The system's error.
    pub fn of(folder: &Path) -> io::Result<Self> {
        // On some file systems the number is a negative 32-bit integer.
        Ok(Self::of_number(rustix::fs::statfs(folder)?.f_type as u64 & 0xFFFF_FFFF))
    }

    /// By the numbers of statfs(2).
    const fn of_number(number: u64) -> Self {
        match number {
            0x9123_683E | 0x2FC1_2FC1 | 0xCA45_1A4E => Self::CopyOnWrite,
            0x0102_1994 | 0x8584_58F6 => Self::Memory,
            0x6969 | 0xFF53_4D42 | 0xFE53_4D42 | 0x6573_5546 | 0x0102_1997 => Self::Elsewhere,
            _ => Self::InPlace,
        }
    }

    /// The warning to log, one sentence; `None` for [`FileSystemKind::InPlace`].
    #[must_use]
    pub const fn warning(self) -> Option<&'static str> {
        match self {
            Self::InPlace => None,
            Self::CopyOnWrite => Some(
                "the log lies on a copy-on-write file system: a full disk may fail the log instead of refusing writes, and syncs \
                 cost more; a folder without copy-on-write (on btrfs: chattr +C, before the first start) has neither",
            ),
            Self::Memory => Some("the log lies in memory: nothing of it outlives the machine's next start"),
            Self::Elsewhere => Some(
                "the log lies on a file system of another machine or of a program, and is as durable as that makes it",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_from_a_disk_and_a_copier_from_both() {
        assert_eq!(FileSystemKind::of(Path::new("/dev/shm")).unwrap(), FileSystemKind::Memory);
        assert!(FileSystemKind::of(Path::new("/nowhere")).is_err());
        for (number, kind) in [
            (0x9123_683E, FileSystemKind::CopyOnWrite),
            (0x6969, FileSystemKind::Elsewhere),
            (0xEF53, FileSystemKind::InPlace),
        ] {
            assert_eq!(FileSystemKind::of_number(number), kind);
            assert_eq!(kind.warning().is_none(), kind == FileSystemKind::InPlace);
        }
    }
}
