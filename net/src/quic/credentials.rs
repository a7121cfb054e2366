//! The certificates that a transport presents and trusts: an identity and the TLS settings made from it.
//! Replaced as a whole when the identity is.
//!
//! What is not here: issuing (`issue.rs`), verifying (`tls.rs`), closing connections that no longer hold
//! (`quic.rs`).
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use crate::config::QuicConfig;
use crate::environment::WallClock;
use crate::error::NetError;
use crate::identity::certificate;
use crate::identity::tls::{self, ClusterVerifier};
use crate::identity::{Identity, IdentityError};
use crate::quic::settings;

/// An identity in use.
pub(crate) struct Credentials {
    client: quinn::ClientConfig,
    not_after: u64,
    verifier: ClusterVerifier,
}

impl Credentials {
    /// Returned with quinn's settings for the accepting side, which the endpoint keeps.
    ///
    /// # Errors
    /// The identity is of another node than the configuration's, or its parts do not match.
    pub(crate) fn new(
        config: &QuicConfig,
        identity: &Identity,
    ) -> Result<(Self, quinn::ServerConfig), NetError> {
        let (found, here) = (identity.name(), config.identity.name());
        if found != here {
            return Err(IdentityError::AnotherNode { found, here }.into());
        }
        let server = settings::server_config(config, tls::server(identity, &config.wall_clock)?);
        let client = settings::client_config(config, tls::client(identity, &config.wall_clock)?);
        let verifier = ClusterVerifier::new(identity)?;
        Ok((Self { client, not_after: identity.not_after(), verifier }, server))
    }

    /// quinn's settings for dialled connections.
    pub(crate) fn client(&self) -> quinn::ClientConfig {
        self.client.clone()
    }

    /// Seconds until our own certificate has expired; negative once it has.
    pub(crate) fn seconds_left(&self, wall: &WallClock) -> i64 {
        self.not_after.saturating_add(1) as i64 - wall.now().as_secs() as i64
    }

    /// Whether the certificates of a live connection would be accepted now.
    ///
    /// # Errors
    /// The reason why not.
    pub(crate) fn verify_again(
        &self,
        connection: &quinn::Connection,
        wall: &WallClock,
    ) -> Result<(), rustls::Error> {
        let chain = chain(connection).ok_or(rustls::Error::NoCertificatesPresented)?;
        self.verifier.verify_again(&chain, wall.now())
    }
}

/// From this time before its end on, the transport warns about a certificate each day.
pub(crate) const RENEW_WITHIN_SECONDS: i64 = 30 * DAY_SECONDS;
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// When to check again a certificate that ends in `left` seconds: in a day, or when it comes within the
/// period of warnings, or ends.
pub(crate) fn next_expiry_check(left: i64) -> Duration {
    let change = match left {
        RENEW_WITHIN_SECONDS.. => left - RENEW_WITHIN_SECONDS + 1,
        1.. => left,
        _ => DAY_SECONDS,
    };
    Duration::from_secs(change.min(DAY_SECONDS).unsigned_abs())
}

/// The certificate chain that the other end of a connection has authenticated with.
pub(crate) fn chain(connection: &quinn::Connection) -> Option<Vec<CertificateDer<'static>>> {
    connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok().map(|chain| *chain)
}

/// The last second at which the certificate at the other end is valid.
pub(crate) fn not_after(connection: &quinn::Connection) -> Option<u64> {
    certificate::not_after(chain(connection)?.first()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reminder_comes_daily_and_when_the_certificate_becomes_short_or_ends() {
        let wait = |left| next_expiry_check(left).as_secs() as i64;
        let month = RENEW_WITHIN_SECONDS;
        for (left, wanted) in [
            (365 * DAY_SECONDS, DAY_SECONDS),
            (month + DAY_SECONDS, DAY_SECONDS),
            (month + 5, 6),
            (month, 1),
            (month - 1, DAY_SECONDS),
            (DAY_SECONDS + 1, DAY_SECONDS),
            (7, 7),
            (1, 1),
            (0, DAY_SECONDS),
            (-1_000_000, DAY_SECONDS),
            (i64::MIN, DAY_SECONDS),
            (i64::MAX, DAY_SECONDS),
        ] {
            assert_eq!(wait(left), wanted, "{left}");
        }
    }
}
