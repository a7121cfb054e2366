//! `certs`: the authority and certificates of a new cluster, as files. IMPURE: files.

use raftwerk_net::PeerId;
use raftwerk_net::identity::{IdentityError, write_cluster};

use crate::cli::CertsOptions;

/// Writes them.
///
/// # Errors
/// A name that cannot stand in a certificate, or an error of the file system.
pub fn run(options: &CertsOptions) -> Result<(), IdentityError> {
    let nodes: Vec<PeerId> = (1..=options.nodes).map(PeerId).collect();
    write_cluster(&options.folder, &options.cluster, &nodes)
}
