//! A file system that is too small: an image of 64 MiB, mounted while a test runs. Needs root, `mkfs.ext4`
//! and a loop device; where they are missing, `mount` prints the reason, and the test (`small_disk.rs`) is
//! skipped.

use std::path::PathBuf;
use std::process::Command;

/// The size of the file system's image; slightly less is available for files.
pub(crate) const DISK_BYTES: u64 = 64 << 20;

/// A small file system; unmounted on drop.
pub(crate) struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    /// Creates and mounts one. Where that is not possible it prints the reason, and that the test is skipped.
    pub(crate) fn mount() -> Option<Self> {
        let mounted = Self::try_mount();
        if let Err(why) = &mounted {
            eprintln!("SKIPPED, no small disk can be had: {why}");
        }
        mounted.ok()
    }

    fn try_mount() -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (image, point) = (dir.path().join("image"), dir.path().join("point"));
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(DISK_BYTES).map_err(|error| error.to_string())?;
        std::fs::create_dir(&point).map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&point))?;
        Ok(Self { dir })
    }

    /// The mount point.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("point")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(self.path()));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}
