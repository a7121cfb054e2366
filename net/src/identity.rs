//! The identity of a node: a certificate that names cluster and node, its key, and the authority that all
//! nodes of the cluster trust.
//!
//! A `ClusterAuthority` issues one [`Identity`] per node; both it and `write_cluster` need the cargo feature
//! `issue`, which a node that only *has* a certificate does without. Everything is PEM text at rest; `load`,
//! `save` and `write_cluster` are in `files.rs`. What is not here: revocation (replace the authority: an
//! identity may trust several roots at once while nodes are moved over), and the verification itself
//! (`tls.rs`).
pub(crate) mod certificate;
mod files;
#[cfg(feature = "issue")]
mod issue;
pub(crate) mod names;
pub(crate) mod tls;

use std::fmt;
use std::io;
use std::path::PathBuf;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::transport::PeerId;

#[cfg(feature = "issue")]
pub use self::files::write_cluster;
#[cfg(feature = "issue")]
pub use self::issue::{ClusterAuthority, Validity};

/// Why an identity or an authority cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not 1 to 63 characters from `a-z`, `0-9` and inner `-`.
    #[error("not a cluster name: {0:?}")]
    ClusterName(String),
    /// The text is not PEM, or holds no certificate or no key where one must be.
    #[error("{0}")]
    Malformed(&'static str),
    /// A well-formed certificate that does not name exactly one node (or one authority).
    #[error("the certificate names no node of a cluster")]
    Nameless,
    /// The library that makes certificates reported an error (feature `issue`).
    #[error("certificate: {0}")]
    Certificate(Box<dyn std::error::Error + Send + Sync>),
    /// The identity is of another node or another cluster than the one it is to replace.
    #[error("the identity is of {found}, and this node is {here}")]
    AnotherNode {
        /// The name in the new certificate.
        found: String,
        /// The name this node has.
        here: String,
    },
    /// A file could not be read, or exists already and was not overwritten.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// A node's certificate and key, and the roots that it trusts.
pub struct Identity {
    cluster: String,
    node: PeerId,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Vec<CertificateDer<'static>>,
    not_after: u64,
    pem: IdentityPem,
}

/// The three texts an identity consists of.
#[derive(Clone)]
struct IdentityPem {
    chain: String,
    key: String,
    roots: String,
}

impl Identity {
    /// An identity from PEM texts: the node's certificate (first, then any intermediates), its key, and one
    /// or more roots to trust. Whether key, certificate and roots match is checked when a transport starts.
    ///
    /// # Errors
    /// A text is malformed, or the certificate does not name one node of one cluster.
    pub fn from_pem(chain_pem: &str, key_pem: &str, roots_pem: &str) -> Result<Self, IdentityError> {
        let chain = certificates(chain_pem)?;
        let roots = certificates(roots_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| IdentityError::Malformed("no private key in PEM text"))?;
        let (cluster, node) = node_of(&chain[0])?;
        let not_after = certificate::not_after(&chain[0])
            .ok_or(IdentityError::Malformed("a certificate without a time at which it ends"))?;
        let pem =
            IdentityPem { chain: chain_pem.to_owned(), key: key_pem.to_owned(), roots: roots_pem.to_owned() };
        Ok(Self { cluster, node, chain, key, roots, not_after, pem })
    }

    /// The cluster the certificate names.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The node the certificate names.
    pub fn node(&self) -> PeerId {
        self.node
    }

    /// The last second at which the node's certificate is valid, since 1970. Other nodes refuse it from then
    /// on.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// The name in the certificate.
    pub(crate) fn name(&self) -> String {
        names::node_name(&self.cluster, self.node)
    }

    /// The node's certificate and any intermediates, as PEM; not secret.
    pub fn chain_pem(&self) -> &str {
        &self.pem.chain
    }

    /// The node's key as PEM; secret.
    pub fn key_pem(&self) -> &str {
        &self.pem.key
    }

    /// The trusted roots as PEM; not secret.
    pub fn roots_pem(&self) -> &str {
        &self.pem.roots
    }

    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    pub(crate) fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            cluster: self.cluster.clone(),
            node: self.node,
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            roots: self.roots.clone(),
            not_after: self.not_after,
            pem: self.pem.clone(),
        }
    }
}

impl fmt::Debug for Identity {
    /// Never prints the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Cluster and node named by a certificate. The certificate need not have been verified.
///
/// # Errors
/// [`IdentityError::Nameless`] unless it has exactly one DNS name and that is a node's.
pub(crate) fn node_of(certificate: &CertificateDer<'_>) -> Result<(String, PeerId), IdentityError> {
    let name = only_name(certificate)?;
    let (cluster, node) = names::parse_node_name(&name).ok_or(IdentityError::Nameless)?;
    Ok((cluster.to_owned(), node))
}

pub(crate) fn only_name(certificate: &CertificateDer<'_>) -> Result<String, IdentityError> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|_| IdentityError::Malformed("not an X.509 certificate"))?;
    let mut dns_names = parsed.valid_dns_names();
    match (dns_names.next(), dns_names.next()) {
        (Some(name), None) => Ok(name.to_owned()),
        _ => Err(IdentityError::Nameless),
    }
}

/// All certificates of a PEM text; at least one.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(list) if !list.is_empty() => Ok(list),
        _ => Err(IdentityError::Malformed("no certificate in PEM text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issued_identity_names_its_cluster_and_node() {
        let authority = ClusterAuthority::new("blue").unwrap();
        let identity = authority.issue(PeerId(42)).unwrap();
        assert_eq!((identity.cluster(), identity.node()), ("blue", PeerId(42)));
        assert_eq!(identity.roots_pem(), authority.certificate_pem());
    }

    #[test]
    fn malformed_texts_give_typed_errors() {
        let good = ClusterAuthority::new("blue").unwrap().issue(PeerId(1)).unwrap();
        let (chain, key, roots) = (good.chain_pem(), good.key_pem(), good.roots_pem());
        for (a, b, c) in [("", key, roots), (chain, "", roots), (chain, key, ""), ("x", "y", "z")] {
            assert!(matches!(Identity::from_pem(a, b, c), Err(IdentityError::Malformed(_))));
        }
        assert!(matches!(Identity::from_pem(roots, key, roots), Err(IdentityError::Nameless)));
        for name in ["", "UPPER", "a.b", "-a", &"x".repeat(64)] {
            assert!(matches!(ClusterAuthority::new(name), Err(IdentityError::ClusterName(_))), "{name}");
        }
    }

    #[test]
    fn debug_output_holds_no_key() {
        let identity = ClusterAuthority::new("blue").unwrap().issue(PeerId(1)).unwrap();
        assert!(!format!("{identity:?}").contains("PRIVATE"));
    }
}
