//! A client and a server built from quinn alone, which can break any rule of the transport.
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use raftwerk_net::Identity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme, version};
use tokio::runtime::Runtime;

use crate::cluster::loopback;

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Trusts every server.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn pem(identity: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(identity.chain_pem().as_bytes()).map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_slice(identity.key_pem().as_bytes()).unwrap())
}

/// A client that trusts every server and presents this identity, or none, with this protocol name. To be
/// called inside a runtime.
pub(crate) fn client(identity: Option<&Identity>, alpn: &[u8]) -> quinn::Endpoint {
    let provider = Arc::new(ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(provider)));
    let mut tls = match identity {
        Some(identity) => {
            let (chain, key) = pem(identity);
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let mut endpoint = quinn::Endpoint::client(loopback()).unwrap();
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    endpoint
}

/// A server that accepts every client, with this identity and small windows. To be called inside a runtime.
pub(crate) fn server(identity: &Identity) -> quinn::Endpoint {
    let (chain, key) = pem(identity);
    server_of(chain, key)
}

/// The same, with a certificate that need not be an identity.
pub(crate) fn server_of(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> quinn::Endpoint {
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![b"raftwerk/1".to_vec()];
    let crypto = QuicServerConfig::try_from(tls).unwrap();
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(16_384u32.into());
    config.transport_config(Arc::new(transport));
    quinn::Endpoint::server(config, loopback()).unwrap()
}

/// The reason the other side gave for closing.
pub(crate) async fn close_code(connection: &quinn::Connection) -> Option<u64> {
    match connection.closed().await {
        quinn::ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
        _ => None,
    }
}

/// Opens all six streams as an honest node does.
pub(crate) async fn greet(connection: &quinn::Connection) -> Vec<quinn::SendStream> {
    let mut streams = Vec::new();
    for slot in 0..6 {
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&[2, slot, 0, 0]).await.unwrap();
        streams.push(stream);
    }
    streams
}
