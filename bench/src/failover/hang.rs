//! A disk that can be made to hang: a file system of its own in a file, frozen by the kernel. IMPURE: files and commands.
//! Needs root, and the commands `mkfs.ext4`, `mount`, `umount` and `fsfreeze`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes of the file system; the file is sparse.
const BYTES: u64 = 2 << 30;

/// A mounted file system; thawed and unmounted when dropped.
pub(super) struct FrozenDisk {
    image: PathBuf,
    path: PathBuf,
}

impl FrozenDisk {
    /// Makes one within `folder`.
    pub(super) fn mount(folder: &Path) -> Result<Self, String> {
        let sentence = |error: std::io::Error| format!("making a file system: {error}");
        let disk = Self { image: folder.join("hang.img"), path: folder.join("hang") };
        fs::create_dir_all(&disk.path).map_err(sentence)?;
        fs::File::create(&disk.image).and_then(|file| file.set_len(BYTES)).map_err(sentence)?;
        run("mkfs.ext4", &["-q", "-F"], &[&disk.image])?;
        run("mount", &["-o", "loop"], &[&disk.image, &disk.path])?;
        Ok(disk)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets writes wait, or go on.
    pub(super) fn freeze(&self, freeze: bool) -> Result<(), String> {
        run("fsfreeze", &[if freeze { "--freeze" } else { "--unfreeze" }], &[&self.path])
    }
}

impl Drop for FrozenDisk {
    fn drop(&mut self) {
        // It may not be frozen; and a node that still uses it keeps it mounted until it ends.
        let _thawed = self.freeze(false);
        let _gone = run("umount", &["--lazy"], &[&self.path]);
        let _removed = fs::remove_file(&self.image);
    }
}

fn run(program: &str, options: &[&str], paths: &[&Path]) -> Result<(), String> {
    let ended = Command::new(program).args(options).args(paths).stdin(Stdio::null()).output();
    match ended {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "a disk that hangs needs root and a loop device: {program} says {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("a disk that hangs needs {program}: {error}")),
    }
}
