//! The TLS side of a connection: version 1.3 only, certificates both ways, no resumption, no early data.
//!
//! Both directions check that the other's certificate chains to a trusted root, that both are valid now, and
//! that it names a node of this cluster; the dialling side also that it is the node it dialled. What is not
//! here: whether that node is a known peer (`quic/endpoint.rs`), and issuing of certificates (`issue.rs`).
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::ring::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::{self, CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme, version,
};

use crate::environment::WallClock;
use crate::error::NetError;
use crate::identity::certificate;
use crate::identity::{Identity, IdentityError, node_of};

/// The name of the protocol, without a version: versions are compared after authentication, when both sides
/// can report to their operators which two met (`frames.rs`).
pub(crate) const ALPN: &[u8] = b"raftwerk/1";

/// The settings of the accepting side.
///
/// # Errors
/// Key, certificate and roots do not match.
pub(crate) fn server(identity: &Identity, wall: &WallClock) -> Result<QuicServerConfig, NetError> {
    let verifier = Arc::new(ClusterVerifier::new(identity)?);
    let mut config = ServerConfig::builder_with_details(provider(), wall.provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain().to_vec(), identity.key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(|error| rustls::Error::General(error.to_string()).into())
}

/// The settings of the dialling side. The expected name is given with each dial.
///
/// # Errors
/// Key, certificate and roots do not match.
pub(crate) fn client(identity: &Identity, wall: &WallClock) -> Result<QuicClientConfig, NetError> {
    let verifier = Arc::new(ClusterVerifier::new(identity)?);
    let mut config = ClientConfig::builder_with_details(provider(), wall.provider())
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous() // the verifier is the standard one, applied root by root
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(identity.chain().to_vec(), identity.key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    QuicClientConfig::try_from(config).map_err(|error| rustls::Error::General(error.to_string()).into())
}

/// ring, cheapest cipher first: packets are many and AES-128 is strong enough for all of them.
fn provider() -> Arc<CryptoProvider> {
    let cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..ring::default_provider() })
}

/// One root, and the standard verifiers that trust it alone.
#[derive(Debug)]
struct Root {
    /// The last second at which it is trusted. The standard verifiers take a root for valid for ever.
    not_after: u64,
    of_clients: Arc<dyn ClientCertVerifier>,
    of_servers: Arc<WebPkiServerVerifier>,
}

impl Root {
    fn new(certificate: &CertificateDer<'static>) -> Result<Self, NetError> {
        let mut store = RootCertStore::empty();
        store.add(certificate.clone())?;
        let store = Arc::new(store);
        let general = |error: VerifierBuilderError| rustls::Error::General(error.to_string());
        Ok(Self {
            not_after: certificate::not_after(certificate)
                .ok_or(IdentityError::Malformed("a root without a time at which it ends"))?,
            of_clients: WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), provider())
                .build()
                .map_err(general)?,
            of_servers: WebPkiServerVerifier::builder_with_provider(store, provider())
                .build()
                .map_err(general)?,
        })
    }
}

/// The standard verification by any root that has not expired, plus the rule about names, so that a
/// certificate of another cluster fails within the handshake even when both clusters trust the same root.
#[derive(Debug)]
pub(crate) struct ClusterVerifier {
    roots: Vec<Root>,
    cluster: String,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClusterVerifier {
    /// Trusts the roots of an identity.
    ///
    /// # Errors
    /// A root is no certificate.
    pub(crate) fn new(identity: &Identity) -> Result<Self, NetError> {
        let roots = identity.roots().iter().map(Root::new).collect::<Result<Vec<_>, _>>()?;
        let algorithms = provider().signature_verification_algorithms;
        Ok(Self { roots, cluster: identity.cluster().to_owned(), algorithms })
    }

    /// Whether a chain that was accepted once would be accepted now.
    ///
    /// # Errors
    /// The reason why not.
    pub(crate) fn verify_again(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let (first, rest) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        self.verify_client_cert(first, rest, now).map(drop)
    }

    /// The result of the first root that accepts, if the certificate names a node of this cluster; else the
    /// error of the last root.
    fn verify<T>(
        &self,
        end_entity: &CertificateDer<'_>,
        now: UnixTime,
        by: impl Fn(&Root) -> Result<T, rustls::Error>,
    ) -> Result<T, rustls::Error> {
        let verified = self.by_any_root(now, by)?;
        self.check_name(end_entity).map(|()| verified)
    }

    fn by_any_root<T>(
        &self,
        now: UnixTime,
        verify: impl Fn(&Root) -> Result<T, rustls::Error>,
    ) -> Result<T, rustls::Error> {
        let mut result = Err(CertificateError::UnknownIssuer.into());
        for root in &self.roots {
            result = verify(root);
            if result.is_ok() && now.as_secs() > root.not_after {
                let not_after = UnixTime::since_unix_epoch(Duration::from_secs(root.not_after));
                result = Err(CertificateError::ExpiredContext { time: now, not_after }.into());
            }
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// The rule about names: the certificate names a node of this cluster.
    fn check_name(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        match node_of(certificate) {
            Ok((cluster, _)) if cluster == self.cluster => Ok(()),
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }
}

/// The methods that both traits of a verifier have: signatures by the key of a certificate, of any root.
macro_rules! verify_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

impl ClientCertVerifier for ClusterVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, now, |root| {
            root.of_clients.verify_client_cert(end_entity, intermediates, now)
        })
    }

    verify_signatures!();
}

impl ServerCertVerifier for ClusterVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, now, |root| {
            root.of_servers.verify_server_cert(end_entity, intermediates, name, ocsp, now)
        })
    }

    verify_signatures!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{ClusterAuthority, Validity};
    use crate::transport::PeerId;

    const ISSUED: u64 = 1_000_000;
    const ENDS: u64 = 2_000_000;
    const DURING: Validity = Validity { not_before: ISSUED, not_after: ENDS };

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    /// The verdicts of both directions on a node's certificate at a time.
    fn verdicts(verifier: &ClusterVerifier, of: &Identity, now: UnixTime) -> [Result<(), rustls::Error>; 2] {
        let name = ServerName::try_from(of.name()).unwrap();
        let certificate = &of.chain()[0];
        [
            verifier.verify_client_cert(certificate, &[], now).map(drop),
            verifier.verify_server_cert(certificate, &[], &name, &[], now).map(drop),
        ]
    }

    fn is_expired(decision: Result<(), rustls::Error>) -> bool {
        let expired = decision.unwrap_err();
        expired.to_string().contains("certificate expired")
            && matches!(expired, rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. }))
    }

    #[test]
    fn key_that_does_not_fit_the_certificate_is_refused() {
        let authority = ClusterAuthority::new("blue").unwrap();
        let (one, two) = (authority.issue(PeerId(1)).unwrap(), authority.issue(PeerId(2)).unwrap());
        let mixed = Identity::from_pem(one.chain_pem(), two.key_pem(), one.roots_pem()).unwrap();
        let wall = WallClock::system();
        assert!(matches!(server(&mixed, &wall), Err(NetError::Tls(_))));
        assert!(matches!(client(&mixed, &wall), Err(NetError::Tls(_))));
    }

    #[test]
    fn one_authority_vouching_for_two_clusters_does_not_join_them() {
        // An authority whose key was copied to a second cluster: the chain verifies, the name must not.
        let ours = ClusterAuthority::new("blue").unwrap().issue(PeerId(1)).unwrap();
        let foreign = ClusterAuthority::new("green").unwrap().issue(PeerId(1)).unwrap();
        let roots = format!("{}{}", ours.roots_pem(), foreign.roots_pem());
        let both = Identity::from_pem(ours.chain_pem(), ours.key_pem(), &roots).unwrap();
        let mut verifier = ClusterVerifier::new(&both).unwrap();
        let refusal = rustls::Error::InvalidCertificate(CertificateError::NotValidForName);
        for decision in verdicts(&verifier, &foreign, UnixTime::now()) {
            assert_eq!(decision.unwrap_err(), refusal);
        }
        assert!(verdicts(&verifier, &ours, UnixTime::now()).iter().all(Result::is_ok));
        verifier.cluster = "green".to_owned();
        assert!(verdicts(&verifier, &foreign, UnixTime::now()).iter().all(Result::is_ok));
    }

    #[test]
    fn certificate_is_refused_before_its_first_and_after_its_last_second() {
        let node = ClusterAuthority::new("blue").unwrap().issue_for(PeerId(1), DURING).unwrap();
        assert_eq!(node.not_after(), ENDS);
        let verifier = ClusterVerifier::new(&node).unwrap();
        for now in [ISSUED, ENDS] {
            assert!(verdicts(&verifier, &node, at(now)).iter().all(Result::is_ok));
        }
        assert!(verdicts(&verifier, &node, at(ISSUED - 1)).iter().all(Result::is_err));
        assert!(verdicts(&verifier, &node, at(ENDS + 1)).into_iter().all(is_expired));
        assert!(is_expired(verifier.verify_again(node.chain(), at(ENDS + 1))));
    }

    #[test]
    fn expired_authority_is_trusted_no_more_and_its_successor_is() {
        let long = Validity { not_after: 2 * ENDS, ..DURING };
        let authority = ClusterAuthority::new_for("blue", long).unwrap();
        let node = authority.issue_for(PeerId(1), long).unwrap();
        let trusting = |roots: &str| {
            let node = Identity::from_pem(node.chain_pem(), node.key_pem(), roots).unwrap();
            ClusterVerifier::new(&node).unwrap()
        };
        // The node's own certificate outlives that of its authority.
        let short = authority.renew(DURING).unwrap();
        let verifier = trusting(short.certificate_pem());
        assert!(verdicts(&verifier, &node, at(ENDS)).iter().all(Result::is_ok));
        assert!(verdicts(&verifier, &node, at(ENDS + 1)).into_iter().all(is_expired));
        for roots in [[&short, &authority], [&authority, &short]] {
            let roots = roots.map(ClusterAuthority::certificate_pem).concat();
            assert!(verdicts(&trusting(&roots), &node, at(ENDS + 1)).iter().all(Result::is_ok));
        }
    }
}
