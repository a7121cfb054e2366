//! What kind of file system a log lies on, as far as its number tells: for warnings, since nothing of it can be tried out. IMPURE:
//! asks the system.

use std::io;
use std::path::Path;

/// What a synced write on a file system comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystemKind {
    /// It overwrites in place, on a disk of this machine; or is not known.
    InPlace,
    /// It writes elsewhere what is overwritten (btrfs, ZFS, bcachefs): reserved space is no promise, so a full disk may fail an
    /// append, after which the log takes no more until it is opened again; and a synced write costs more than its bytes.
    CopyOnWrite,
    /// Memory: nothing outlives the machine's next start.
    Memory,
    /// Another machine's disk, or a program's: a sync is worth what that makes of it.
    Elsewhere,
}

impl FileSystemKind {
    /// Of the file system that a folder lies on.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(folder: &Path) -> io::Result<Self> {
        // Negative numbers of some systems are 32 bits.
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

    /// What there is to warn of, in a sentence; `None` for [`FileSystemKind::InPlace`].
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
