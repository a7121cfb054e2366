//! Pins: what keeps a segment from being freed. Counts live frames and groups' latest metadata frames per
//! segment, and live bytes.
//!
//! A segment is freed when it holds nothing live, strictly the oldest first, so that the files are always the
//! end of one history. Not here: freeing (`lane::retention`).

use std::collections::VecDeque;

/// A reason to keep a segment. Each unpin must match an earlier pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pin {
    /// A frame with live entries.
    Frame {
        /// Its length.
        bytes: u32,
    },
    /// A metadata frame in force: a group's hard state, base, floor or fence. Can be rewritten elsewhere.
    Fact,
}

impl Pin {
    const fn bytes(self) -> u64 {
        match self {
            Self::Frame { bytes } => bytes as u64,
            Self::Fact => FACT_BYTES,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    segment: u64,
    frames: u32,
    facts: u32,
}

/// Approximate length of a metadata frame: a header and a small configuration. Only for estimating live
/// bytes.
const FACT_BYTES: u64 = 128;

/// Counts by segment, in order of sequence.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    segments: VecDeque<Count>,
    /// Bytes of live frames, and of metadata frames in force.
    live_bytes: u64,
    /// Live frames.
    frames: u64,
    /// Entries of all groups.
    entries: u64,
}

impl Pins {
    fn at(&self, segment: u64) -> Result<usize, usize> {
        match self.segments.back() {
            Some(back) if back.segment == segment => Ok(self.segments.len() - 1),
            _ => self.segments.binary_search_by_key(&segment, |count| count.segment),
        }
    }

    pub(crate) fn pin(&mut self, segment: u64, pin: Pin) {
        let at = self.at(segment).unwrap_or_else(|at| {
            self.segments.insert(at, Count { segment, ..Count::default() });
            at
        });
        let count = &mut self.segments[at];
        assert!(count.segment == segment, "a pin is counted for its segment");
        match pin {
            Pin::Frame { .. } => {
                count.frames += 1;
                self.frames += 1;
            }
            Pin::Fact => count.facts += 1,
        }
        self.live_bytes += pin.bytes();
        assert!(self.frames <= self.live_bytes, "every live frame has bytes");
    }

    pub(crate) fn unpin(&mut self, segment: u64, pin: Pin) {
        let at = self.at(segment).expect("what is let go was held");
        let count = &mut self.segments[at];
        match pin {
            Pin::Frame { .. } => {
                assert!(count.frames > 0, "a frame is unpinned from where it was pinned");
                count.frames -= 1;
                self.frames -= 1;
            }
            Pin::Fact => {
                assert!(count.facts > 0, "a metadata frame is unpinned from where it was pinned");
                count.facts -= 1;
            }
        }
        assert!(self.live_bytes >= pin.bytes(), "live bytes are the sum of what is pinned");
        self.live_bytes -= pin.bytes();
        if count.frames == 0 && count.facts == 0 {
            self.segments.remove(at);
        }
        if self.segments.is_empty() {
            assert!(self.frames == 0 && self.live_bytes == 0, "without pins nothing is live");
        }
    }

    /// A group's log, which had `before` entries, now has `now`.
    pub(crate) fn count_entries(&mut self, before: u64, now: u64) {
        assert!(self.entries >= before, "the lane's entries are the sum of its groups' entries");
        self.entries = self.entries - before + now;
    }

    /// The number of entries in the log.
    pub(crate) const fn entries(&self) -> u64 {
        self.entries
    }

    pub(crate) fn is_pinned(&self, segment: u64) -> bool {
        self.at(segment).is_ok()
    }

    /// Whether the segment holds live entries.
    pub(crate) fn has_frames(&self, segment: u64) -> bool {
        self.at(segment).is_ok_and(|at| self.segments[at].frames > 0)
    }

    /// The number of live frames in the log.
    pub(crate) const fn frames(&self) -> u64 {
        self.frames
    }

    /// Approximate live bytes in the log.
    pub(crate) const fn live_bytes(&self) -> u64 {
        self.live_bytes
    }
}
