//! What the data of a run lies on. IMPURE: asks the system.

use std::path::Path;

use rustix::fs::statfs;

/// File systems by their magic numbers (statfs(2)), and whether a sync there reaches a disk of this machine.
const KNOWN: [(u64, &str, bool); 10] = [
    (0xEF53, "ext4", true),
    (0x5846_5342, "xfs", true),
    (0x9123_683E, "btrfs", true),
    (0x2FC1_2FC1, "zfs", true),
    (0xF2F5_2010, "f2fs", true),
    (0x794C_7630, "overlayfs", true),
    (0x0102_1994, "tmpfs: memory, no disk", false),
    (0x8584_58F6, "ramfs: memory, no disk", false),
    (0x6969, "nfs: another machine's disk", false),
    (0x6573_5546, "fuse: whatever a program makes of it", false),
];

/// The file system of a folder: its name, and whether a sync there reaches a disk of this machine, as far as its name shows.
///
/// # Errors
/// An error of the system.
pub fn of(path: &Path) -> std::io::Result<(String, bool)> {
    let magic = statfs(path)?.f_type as u64 & 0xFFFF_FFFF;
    let known = KNOWN.iter().find(|(of, ..)| *of == magic);
    Ok(known.map_or((format!("file system {magic:#x}"), true), |(_, name, is_disk)| {
        ((*name).to_owned(), *is_disk)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_from_a_disk() {
        let (name, is_disk) = of(Path::new("/dev/shm")).expect("it is there on every Linux");
        assert!(name.starts_with("tmpfs") && !is_disk, "{name}");
        assert!(of(Path::new("/nowhere")).is_err());
    }
}
