//! The TLS side of a connection: version 1.3 only, certificates both ways, nothing resumed, nothing early.
//!
//! Both directions check that the other's certificate chains to a root of ours and names a node of our cluster; the
//! dialling side also that it is the node it meant to reach. What is not here: whether that node is a known peer
//! (`quic_endpoint.rs`), and who issues certificates (`identity.rs`).
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme, version,
};

use crate::error::NetError;
use crate::identity::{Identity, node_of};

/// Names protocol and version; a node that speaks another version gets nowhere.
pub(crate) const ALPN: &[u8] = b"raftwerk/1";

/// The accepting side.
///
/// # Errors
/// Key, certificate and roots do not fit each other.
pub(crate) fn server(identity: &Identity) -> Result<QuicServerConfig, NetError> {
    let inner = WebPkiClientVerifier::builder_with_provider(roots(identity)?, provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let verifier = Arc::new(ClusterVerifier { inner, cluster: identity.cluster().to_owned() });
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain().to_vec(), identity.key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(|error| rustls::Error::General(error.to_string()).into())
}

/// The dialling side. The name to expect is given with each dial.
///
/// # Errors
/// Key, certificate and roots do not fit each other.
pub(crate) fn client(identity: &Identity) -> Result<QuicClientConfig, NetError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(roots(identity)?)
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

fn roots(identity: &Identity) -> Result<Arc<RootCertStore>, NetError> {
    let mut store = RootCertStore::empty();
    for root in identity.roots() {
        store.add(root.clone())?;
    }
    Ok(Arc::new(store))
}

/// The standard verification plus our rule about names, so that a certificate of another cluster fails within the
/// handshake even when both clusters trust the same root.
#[derive(Debug)]
struct ClusterVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    cluster: String,
}

impl ClientCertVerifier for ClusterVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        match node_of(end_entity) {
            Ok((cluster, _)) if cluster == self.cluster => Ok(verified),
            _ => Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ClusterAuthority;
    use crate::transport::PeerId;

    #[test]
    fn a_key_that_does_not_fit_the_certificate_is_refused() {
        let authority = ClusterAuthority::new("blue").unwrap();
        let (one, two) = (authority.issue(PeerId(1)).unwrap(), authority.issue(PeerId(2)).unwrap());
        let mixed = Identity::from_pem(one.chain_pem(), two.key_pem(), one.roots_pem()).unwrap();
        assert!(matches!(server(&mixed), Err(NetError::Tls(_))));
        assert!(matches!(client(&mixed), Err(NetError::Tls(_))));
    }

    #[test]
    fn one_authority_vouching_for_two_clusters_does_not_join_them() {
        // An authority whose key was copied to a second cluster: the chain verifies, the name must not.
        let blue = ClusterAuthority::new("blue").unwrap();
        let green = ClusterAuthority::new("green").unwrap();
        let foreign = green.issue(PeerId(1)).unwrap();
        let mut store = RootCertStore::empty();
        store.add(blue.issue(PeerId(1)).unwrap().roots()[0].clone()).unwrap();
        store.add(foreign.roots()[0].clone()).unwrap();
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider()).build().unwrap();
        inner.verify_client_cert(&foreign.chain()[0], &[], UnixTime::now()).unwrap();
        let verifier = ClusterVerifier { inner, cluster: "blue".to_owned() };
        let refusal = verifier.verify_client_cert(&foreign.chain()[0], &[], UnixTime::now()).unwrap_err();
        assert_eq!(refusal, rustls::Error::InvalidCertificate(CertificateError::NotValidForName));
    }
}
