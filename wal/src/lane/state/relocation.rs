//! The progress of relocation: a scan over all groups, a part per turn.
//!
//! Not here: what is relocated, and when (`lane::retention`).

/// The progress of the scan.
#[derive(Debug, Default)]
pub(crate) struct Relocation {
    next_slot: usize,
    /// The newest segment when every group was last scanned …
    scanned_at: u64,
    /// … and the oldest.
    scanned_for: u64,
}

impl Relocation {
    /// The next slot to scan.
    pub(crate) const fn next_slot(&self) -> usize {
        self.next_slot
    }

    pub(crate) const fn on_slot_scanned(&mut self) {
        self.next_slot += 1;
    }

    /// The scan begins at the first slot again.
    pub(crate) const fn rewind(&mut self) {
        self.next_slot = 0;
    }

    /// Every group was scanned for entries while `newest` was the newest segment.
    pub(crate) const fn on_all_scanned(&mut self, newest: u64) {
        assert!(self.scanned_for <= newest, "the oldest segment is not behind the newest");
        self.scanned_at = newest;
    }

    /// Every group is to be scanned again, though there is no new segment.
    pub(crate) const fn forget_scan(&mut self) {
        self.scanned_at = 0;
    }

    /// The scan is for `oldest`: begins anew if it was for another segment.
    pub(crate) const fn scan_for(&mut self, oldest: u64) {
        assert!(self.scanned_for <= oldest, "the oldest segment only rises");
        if self.scanned_for != oldest {
            (self.scanned_for, self.next_slot, self.scanned_at) = (oldest, 0, 0);
        }
    }

    /// Whether every group was scanned since there is this newest segment.
    pub(crate) const fn is_scanned_at(&self, newest: u64) -> bool {
        self.scanned_at == newest
    }

    /// Whether the latest scan was for this oldest segment.
    pub(crate) const fn is_for(&self, oldest: u64) -> bool {
        self.scanned_for == oldest
    }
}
