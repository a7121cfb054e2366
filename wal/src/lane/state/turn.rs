//! The bytes of a turn, and of the usual one.

/// The bytes sealed in this turn, submitted or not, and those of recent turns.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    bytes: usize,
    /// The usual bytes of recent turns, to size a turn's first buffer.
    usual_bytes: usize,
}

impl Turn {
    /// Bytes sealed in this turn.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The estimate for the turn's next buffer.
    pub(crate) fn likely_bytes(&self) -> usize {
        self.usual_bytes.max(2 * self.bytes)
    }

    /// A batch of `bytes` bytes, padding included, is sealed.
    pub(crate) const fn on_sealed(&mut self, bytes: usize) {
        assert!(bytes > 0, "a batch has a header at least");
        self.bytes += bytes;
    }

    /// The turn ends, and the next one begins.
    pub(crate) fn end(&mut self) {
        self.usual_bytes = self.bytes.max(self.usual_bytes - self.usual_bytes / 8);
        self.bytes = 0;
    }
}
