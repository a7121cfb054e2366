//! Who a node is: a certificate that names cluster and node, its key, and the authority all nodes of the cluster
//! trust.
//!
//! A [`ClusterAuthority`] issues one [`Identity`] per node. Everything is PEM text at rest; `load`, `save` and
//! [`write_cluster`] are in `identity_files.rs`. What is not here: revocation (replace the authority: an identity
//! may trust several roots at once while nodes are moved over), and the verification itself (`tls.rs`).
use std::fmt;
use std::io;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, PublicKeyData as _, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::names;
use crate::transport::PeerId;

pub use crate::identity_files::write_cluster;

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
    /// The certificate library refused.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A file could not be read, or is there already and was not overwritten.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Signs the certificates of one cluster's nodes. Its key is needed only when a node joins: keep it off the nodes.
pub struct ClusterAuthority {
    cluster: String,
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

impl ClusterAuthority {
    /// A new authority with a new key.
    ///
    /// # Errors
    /// [`IdentityError::ClusterName`], or the certificate library's.
    pub fn new(cluster: &str) -> Result<Self, IdentityError> {
        if !names::is_cluster_name(cluster) {
            return Err(IdentityError::ClusterName(cluster.to_owned()));
        }
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::new(vec![names::authority_name(cluster)])?;
        params.distinguished_name.push(DnType::CommonName, names::authority_name(cluster));
        params.serial_number = Some(serial(&key));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { cluster: cluster.to_owned(), issuer: Issuer::new(params, key), certificate_pem })
    }

    /// The authority that [`ClusterAuthority::certificate_pem`] and [`ClusterAuthority::key_pem`] gave.
    ///
    /// # Errors
    /// The text is not the certificate and key of an authority.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let der = certificates(certificate_pem)?.swap_remove(0);
        let name = only_name(&der)?;
        let cluster = names::parse_authority_name(&name).ok_or(IdentityError::Nameless)?.to_owned();
        let issuer = Issuer::from_ca_cert_der(&der, KeyPair::from_pem(key_pem)?)?;
        Ok(Self { cluster, issuer, certificate_pem: certificate_pem.to_owned() })
    }

    /// A new certificate and key for a node. Issuing again for the same node gives a second identity of the same
    /// name: the first stays valid.
    ///
    /// # Errors
    /// The certificate library's.
    pub fn issue(&self, node: PeerId) -> Result<Identity, IdentityError> {
        let name = names::node_name(&self.cluster, node);
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::new(vec![name.clone()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(serial(&key));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Identity::from_pem(&certificate.pem(), &key.serialize_pem(), &self.certificate_pem)
    }

    /// The cluster this authority speaks for.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The certificate every node must trust; not secret.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The signing key; secret.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

/// A number for a certificate, from its key. Keys, signatures and these are of one length each, so that all handshakes
/// are as long as each other.
fn serial(key: &KeyPair) -> SerialNumber {
    let hash = ring::digest::digest(&ring::digest::SHA256, key.der_bytes());
    let mut number = hash.as_ref()[..16].to_vec();
    number[0] = number[0] & 0x3f | 0x40;
    SerialNumber::from(number)
}

impl fmt::Debug for ClusterAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterAuthority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// A node's proof of who it is, and what it accepts as proof from others.
pub struct Identity {
    cluster: String,
    node: PeerId,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Vec<CertificateDer<'static>>,
    pem: IdentityPem,
}

/// The three texts an identity consists of.
#[derive(Clone)]
pub(crate) struct IdentityPem {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) roots: String,
}

impl Identity {
    /// An identity from PEM texts: the node's certificate (first, then any intermediates), its key, and one or more
    /// roots to trust. Whether key, certificate and roots fit each other shows when a transport starts.
    ///
    /// # Errors
    /// A text is malformed, or the certificate does not name one node of one cluster.
    pub fn from_pem(chain_pem: &str, key_pem: &str, roots_pem: &str) -> Result<Self, IdentityError> {
        let chain = certificates(chain_pem)?;
        let roots = certificates(roots_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| IdentityError::Malformed("no private key in PEM text"))?;
        let (cluster, node) = node_of(&chain[0])?;
        let pem =
            IdentityPem { chain: chain_pem.to_owned(), key: key_pem.to_owned(), roots: roots_pem.to_owned() };
        Ok(Self { cluster, node, chain, key, roots, pem })
    }

    /// The cluster the certificate names.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The node the certificate names.
    pub fn node(&self) -> PeerId {
        self.node
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

fn only_name(certificate: &CertificateDer<'_>) -> Result<String, IdentityError> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|_| IdentityError::Malformed("not an X.509 certificate"))?;
    let mut dns_names = parsed.valid_dns_names();
    match (dns_names.next(), dns_names.next()) {
        (Some(name), None) => Ok(name.to_owned()),
        _ => Err(IdentityError::Nameless),
    }
}

/// All certificates of a PEM text; at least one.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
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
    fn an_authority_survives_its_pem_form_and_still_issues() {
        let authority = ClusterAuthority::new("blue").unwrap();
        let again = ClusterAuthority::from_pem(authority.certificate_pem(), &authority.key_pem()).unwrap();
        assert_eq!(again.cluster(), "blue");
        let identity = again.issue(PeerId(1)).unwrap();
        crate::tls::server(&identity).unwrap();
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
