//! How long a certificate is valid, and when the wall clock is checked again to see whether it still is.
//!
//! Pure: time is a number of seconds since 1970. What is not here: reading the clock (`environment.rs`),
//! closing a connection with an expired certificate (`quic/session.rs`).
use rustls::pki_types::{CertificateDer, UnixTime};
use std::time::Duration;

/// The check interval, however far off the end of a certificate is: a wall clock may be set.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The last second at which a certificate is valid; `None` if it cannot be read. The certificate need not
/// have been verified.
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Option<u64> {
    // The verifying library reports it when it verifies for the end of all times: validity is checked before
    // anything else. With one reader of certificates, this and the verdict in a handshake cannot differ.
    let never = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    let usage = webpki::KeyUsage::client_auth();
    match parsed.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[], &[], never, usage, None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after.as_secs()),
        _ => None,
    }
}

/// How long a certificate may be relied on before the clock is checked again; `None` once it has expired.
pub(crate) fn next_check(now: u64, not_after: u64) -> Option<Duration> {
    // Valid through its last second.
    let left = not_after.checked_sub(now)?.saturating_add(1);
    Some(Duration::from_secs(left).min(CHECK_INTERVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_holds_through_its_last_second() {
        assert_eq!(next_check(100, 100), Some(Duration::from_secs(1)));
        assert_eq!(next_check(101, 100), None);
        assert_eq!(next_check(90, 100), Some(Duration::from_secs(11)));
        assert_eq!(next_check(0, u64::MAX), Some(CHECK_INTERVAL));
    }

    #[test]
    fn malformed_certificate_has_no_end() {
        assert_eq!(not_after(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
