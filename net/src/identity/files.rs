//! IMPURE: identities and authorities as PEM files in folders.
//!
//! A node's folder holds `node.pem` (certificate), `node.key` (secret, readable by its owner only) and
//! `ca.pem` (roots to trust). An authority's folder holds `ca.pem` and `ca.key`. Existing files are never
//! overwritten. What is not here: the texts themselves (`identity.rs`).
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

#[cfg(feature = "issue")]
use crate::identity::ClusterAuthority;
use crate::identity::{Identity, IdentityError};
#[cfg(feature = "issue")]
use crate::transport::PeerId;

const CHAIN: &str = "node.pem";
const KEY: &str = "node.key";
const ROOTS: &str = "ca.pem";
#[cfg(feature = "issue")]
const AUTHORITY_KEY: &str = "ca.key";

impl Identity {
    /// Reads the files that [`Identity::save`] wrote.
    ///
    /// # Errors
    /// A file is missing, unreadable or malformed.
    pub fn load(folder: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(&read(folder, CHAIN)?, &read(folder, KEY)?, &read(folder, ROOTS)?)
    }

    /// Writes three PEM files into a folder, creating it if necessary.
    ///
    /// # Errors
    /// The folder cannot be written, or holds one of the files already.
    pub fn save(&self, folder: &Path) -> Result<(), IdentityError> {
        make(folder)?;
        write(folder, KEY, self.key_pem())?;
        write(folder, CHAIN, self.chain_pem())?;
        write(folder, ROOTS, self.roots_pem())
    }
}

#[cfg(feature = "issue")]
impl ClusterAuthority {
    /// Reads the files that [`ClusterAuthority::save`] wrote.
    ///
    /// # Errors
    /// A file is missing, unreadable or malformed.
    pub fn load(folder: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(&read(folder, ROOTS)?, &read(folder, AUTHORITY_KEY)?)
    }

    /// Writes certificate and key into a folder, creating it if necessary.
    ///
    /// # Errors
    /// The folder cannot be written, or holds one of the files already.
    pub fn save(&self, folder: &Path) -> Result<(), IdentityError> {
        make(folder)?;
        write(folder, AUTHORITY_KEY, &self.key_pem())?;
        write(folder, ROOTS, self.certificate_pem())
    }
}

/// Makes a whole cluster's certificates: `folder/ca` for the authority and `folder/n<id>` for each node,
/// ready for [`Identity::load`].
///
/// # Errors
/// The name is no cluster name, or a file cannot be written or is there already.
#[cfg(feature = "issue")]
pub fn write_cluster(folder: &Path, cluster: &str, nodes: &[PeerId]) -> Result<(), IdentityError> {
    let authority = ClusterAuthority::new(cluster)?;
    authority.save(&folder.join("ca"))?;
    for node in nodes {
        authority.issue(*node)?.save(&folder.join(node.to_string()))?;
    }
    Ok(())
}

fn make(folder: &Path) -> Result<(), IdentityError> {
    fs::create_dir_all(folder).map_err(|source| at(folder, source))
}

fn read(folder: &Path, name: &str) -> Result<String, IdentityError> {
    let path = folder.join(name);
    fs::read_to_string(&path).map_err(|source| at(&path, source))
}

/// Keys get their restrictive permissions when the file is created, not afterwards.
fn write(folder: &Path, name: &str, text: &str) -> Result<(), IdentityError> {
    let path = folder.join(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(if name.ends_with(".key") { 0o600 } else { 0o644 });
    }
    let mut file = options.open(&path).map_err(|source| at(&path, source))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|source| at(&path, source))
}

fn at(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_cluster_loads_and_its_keys_are_private() {
        let folder = tempfile::tempdir().unwrap();
        write_cluster(folder.path(), "green", &[PeerId(1), PeerId(2)]).unwrap();
        for id in [1, 2] {
            let node = folder.path().join(format!("n{id}"));
            let identity = Identity::load(&node).unwrap();
            assert_eq!((identity.cluster(), identity.node()), ("green", PeerId(id)));
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt as _;
                let mode = fs::metadata(node.join(KEY)).unwrap().permissions().mode();
                assert_eq!(mode & 0o077, 0);
            }
        }
        let authority = ClusterAuthority::load(&folder.path().join("ca")).unwrap();
        let late = authority.issue(PeerId(3)).unwrap();
        assert_eq!(late.roots_pem(), Identity::load(&folder.path().join("n1")).unwrap().roots_pem());
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_missing_is_invented() {
        let folder = tempfile::tempdir().unwrap();
        write_cluster(folder.path(), "green", &[PeerId(1)]).unwrap();
        let before = fs::read(folder.path().join("n1").join(KEY)).unwrap();
        assert!(matches!(
            write_cluster(folder.path(), "green", &[PeerId(1)]),
            Err(IdentityError::File { .. })
        ));
        assert_eq!(fs::read(folder.path().join("n1").join(KEY)).unwrap(), before);
        assert!(matches!(Identity::load(&folder.path().join("n9")), Err(IdentityError::File { .. })));
    }
}
