//! Rate limit of log lines that unknown senders, or peers in a loop, can cause: one per interval, with the
//! number suppressed.
//!
//! Pure: time is a number of nanoseconds. (A crate for rates, `governor`, would bring ten more and a clock of
//! its own.)

/// Nanoseconds between two lines of one kind.
const EVERY: u64 = 10_000_000_000;

/// One kind of line.
#[derive(Default, Debug)]
pub(crate) struct Throttle {
    next: u64,
    left_out: u64,
}

impl Throttle {
    /// Whether to write a line now, and how many were suppressed since the last.
    pub(crate) fn pass(&mut self, now: u64) -> Option<u64> {
        if now < self.next {
            self.left_out += 1;
            return None;
        }
        self.next = now + EVERY;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// A kind of log line.
#[derive(Clone, Copy)]
pub(crate) enum LogKind {
    /// An Initial packet was not answered.
    Ignored,
    /// A handshake failed.
    HandshakeFailed,
    /// A node of the cluster is not a known peer.
    UnknownPeer,
    /// A peer broke the stream protocol or made no progress.
    Violation,
}

/// The throttles of the log lines that unknown senders can cause.
#[derive(Default)]
pub(crate) struct LogThrottles {
    ignored: Throttle,
    handshake_failed: Throttle,
    unknown_peer: Throttle,
    violation: Throttle,
}

impl LogThrottles {
    /// Whether to write it now, and how many were suppressed.
    pub(crate) fn pass(&mut self, kind: LogKind, now: u64) -> Option<u64> {
        let throttle = match kind {
            LogKind::Ignored => &mut self.ignored,
            LogKind::HandshakeFailed => &mut self.handshake_failed,
            LogKind::UnknownPeer => &mut self.unknown_peer,
            LogKind::Violation => &mut self.violation,
        };
        throttle.pass(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttle_passes_one_line_in_ten_seconds_with_a_count() {
        let mut throttle = Throttle::default();
        let lines: Vec<u64> = (0..200_000).filter_map(|n| throttle.pass(n * 100_000)).collect();
        assert_eq!(lines, [0, 99_999]);
        assert_eq!(throttle.pass(u64::MAX - EVERY), Some(99_999));
    }
}
