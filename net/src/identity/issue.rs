//! IMPURE: the issuer of certificates: one authority per cluster, one certificate per node. Reads the clock
//! for the usual validity.
//!
//! Behind the cargo feature `issue`, since making certificates takes many more crates than reading them; a
//! program that runs a node gets its identity as text. What is not here: texts and files (`identity.rs`,
//! `files.rs`).
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, PublicKeyData as _, SerialNumber,
};

use crate::identity::certificate;
use crate::identity::names;
use crate::identity::{Identity, IdentityError, certificates, only_name};
use crate::transport::PeerId;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// 9999-12-31 23:59:59, the last second that a certificate can name.
const LAST: u64 = 253_402_300_799;

/// From when to when a certificate is valid, in seconds since 1970, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// The first second; at most year 9999.
    pub not_before: u64,
    /// The last second; at most year 9999.
    pub not_after: u64,
}

impl Validity {
    /// The default validity of nodes' certificates: a year.
    pub const NODE: Duration = Duration::from_secs(365 * DAY.as_secs());
    /// The default validity of authorities' certificates: ten years.
    pub const AUTHORITY: Duration = Duration::from_secs(3652 * DAY.as_secs());

    /// Valid for `length` from now. It begins a day ago, for nodes with clocks that are behind.
    pub fn from_now(length: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let not_before = now.saturating_sub(DAY).as_secs();
        Self { not_before, not_after: now.saturating_add(length).as_secs() }
    }

    fn apply(self, params: &mut CertificateParams) {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds.min(LAST));
        params.not_before = at(self.not_before).into();
        params.not_after = at(self.not_after).into();
    }
}

/// Signs the certificates of one cluster's nodes. Its key is needed only when a node joins or its certificate
/// is renewed: keep it off the nodes.
pub struct ClusterAuthority {
    cluster: String,
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    not_after: u64,
}

impl ClusterAuthority {
    /// A new authority with a new key, for [`Validity::AUTHORITY`]: ten years.
    ///
    /// # Errors
    /// [`IdentityError::ClusterName`], or the certificate library's.
    pub fn new(cluster: &str) -> Result<Self, IdentityError> {
        Self::new_for(cluster, Validity::from_now(Validity::AUTHORITY))
    }

    /// A new authority with a new key. Once its certificate has expired, no node accepts another on its
    /// authority.
    ///
    /// # Errors
    /// [`IdentityError::ClusterName`], or the certificate library's.
    pub fn new_for(cluster: &str, validity: Validity) -> Result<Self, IdentityError> {
        if !names::is_cluster_name(cluster) {
            return Err(IdentityError::ClusterName(cluster.to_owned()));
        }
        Self::with_key(cluster, KeyPair::generate_for(&PKCS_ED25519).map_err(refused)?, validity)
    }

    /// The same authority and key with another certificate, to be made before the old one ends: the
    /// certificates issued so far stay valid for nodes that trust the new one. To retire a key, make a new
    /// authority instead.
    ///
    /// # Errors
    /// The certificate library's.
    pub fn renew(&self, validity: Validity) -> Result<Self, IdentityError> {
        Self::with_key(&self.cluster, KeyPair::from_pem(&self.key_pem()).map_err(refused)?, validity)
    }

    fn with_key(cluster: &str, key: KeyPair, validity: Validity) -> Result<Self, IdentityError> {
        let mut params = CertificateParams::new(vec![names::authority_name(cluster)]).map_err(refused)?;
        params.distinguished_name.push(DnType::CommonName, names::authority_name(cluster));
        params.serial_number = Some(serial(&key, validity));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity.apply(&mut params);
        let certificate_pem = params.self_signed(&key).map_err(refused)?.pem();
        let not_after = validity.not_after.min(LAST);
        Ok(Self { cluster: cluster.to_owned(), issuer: Issuer::new(params, key), certificate_pem, not_after })
    }

    /// The authority from the texts of [`ClusterAuthority::certificate_pem`] and
    /// [`ClusterAuthority::key_pem`].
    ///
    /// # Errors
    /// The text is not the certificate and key of an authority.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let der = certificates(certificate_pem)?.swap_remove(0);
        let name = only_name(&der)?;
        let cluster = names::parse_authority_name(&name).ok_or(IdentityError::Nameless)?.to_owned();
        let not_after = certificate::not_after(&der)
            .ok_or(IdentityError::Malformed("a certificate without a time at which it ends"))?;
        let key = KeyPair::from_pem(key_pem).map_err(refused)?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(refused)?;
        Ok(Self { cluster, issuer, certificate_pem: certificate_pem.to_owned(), not_after })
    }

    /// A new certificate and key for a node, for [`Validity::NODE`]: a year. Issuing again for the same node
    /// gives a second identity of the same name, which replaces the first without a restart
    /// ([`crate::QuicTransport::set_identity`]); the first stays valid until its own end.
    ///
    /// # Errors
    /// The certificate library's.
    pub fn issue(&self, node: PeerId) -> Result<Identity, IdentityError> {
        self.issue_for(node, Validity::from_now(Validity::NODE))
    }

    /// The same with a given validity, limited by the end of the authority's own certificate.
    ///
    /// # Errors
    /// The certificate library's.
    pub fn issue_for(&self, node: PeerId, validity: Validity) -> Result<Identity, IdentityError> {
        if self.not_after < validity.not_before {
            return Err(IdentityError::Malformed("the authority's certificate ends before this one begins"));
        }
        let name = names::node_name(&self.cluster, node);
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(refused)?;
        let mut params = CertificateParams::new(vec![name.clone()]).map_err(refused)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(serial(&key, validity));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Validity { not_after: validity.not_after.min(self.not_after), ..validity }.apply(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).map_err(refused)?;
        Identity::from_pem(&certificate.pem(), &key.serialize_pem(), &self.certificate_pem)
    }

    /// The cluster of this authority.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The certificate every node must trust; not secret.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The last second at which the authority's certificate is valid, since 1970.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// The signing key; secret.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

fn refused(error: rcgen::Error) -> IdentityError {
    IdentityError::Certificate(error.into())
}

/// A serial number for a certificate, from its key and its end. Keys, signatures and serial numbers are of
/// one length each, so that all handshakes have the same length.
fn serial(key: &KeyPair, validity: Validity) -> SerialNumber {
    let named = [key.der_bytes(), &validity.not_after.to_be_bytes()].concat();
    let hash = ring::digest::digest(&ring::digest::SHA256, &named);
    let mut number = hash.as_ref()[..16].to_vec();
    number[0] = number[0] & 0x3f | 0x40;
    SerialNumber::from(number)
}

impl fmt::Debug for ClusterAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterAuthority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_survives_its_pem_form_and_still_issues() {
        let authority = ClusterAuthority::new("blue").unwrap();
        let again = ClusterAuthority::from_pem(authority.certificate_pem(), &authority.key_pem()).unwrap();
        assert_eq!(again.cluster(), "blue");
        let identity = again.issue(PeerId(1)).unwrap();
        crate::identity::tls::server(&identity, &crate::environment::WallClock::system()).unwrap();
        assert_eq!(identity.roots_pem(), authority.certificate_pem());
    }

    #[test]
    fn certificates_end_as_issued_and_never_after_their_authority() {
        let authority =
            ClusterAuthority::new_for("blue", Validity { not_before: 1_000, not_after: 50_000 }).unwrap();
        let issue = |not_after| {
            authority.issue_for(PeerId(1), Validity { not_before: 2_000, not_after }).unwrap().not_after()
        };
        assert_eq!((issue(40_000), issue(60_000)), (40_000, 50_000));
        let again = ClusterAuthority::from_pem(authority.certificate_pem(), &authority.key_pem()).unwrap();
        assert_eq!(again.not_after(), 50_000);
        let for_ever = Validity { not_before: 0, not_after: u64::MAX };
        assert_eq!(ClusterAuthority::new_for("blue", for_ever).unwrap().not_after(), LAST);
    }

    #[test]
    fn by_default_a_node_has_a_year_and_an_authority_ten() {
        let authority = ClusterAuthority::new("blue").unwrap();
        let node = authority.issue(PeerId(1)).unwrap();
        let between = authority.not_after() - node.not_after();
        let nine_years = Validity::AUTHORITY.as_secs() - Validity::NODE.as_secs();
        // The clock advances between the two.
        assert!(between <= nine_years && between > nine_years - DAY.as_secs());
        let usual = Validity::from_now(Validity::NODE);
        assert_eq!(usual.not_after - usual.not_before, 366 * DAY.as_secs());
    }
}
