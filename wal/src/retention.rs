//! What keeps a segment: counts of live frames and of groups' latest facts in it, and how much of the log is alive.
//!
//! A segment is freed when nothing live is in it, and strictly the oldest first, so that what is on the disk is always
//! the end of one history. What is not here: freeing (`lane_retention`).

use std::collections::VecDeque;

/// What may hold a segment. What is let go must be what was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pin {
    /// A frame with live entries.
    Frame {
        /// Its length.
        bytes: u32,
    },
    /// A group's latest hard state, or the record that sets its base. Can be written again elsewhere.
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

/// What a fact takes in the log, about: a header and a small configuration. Only for weighing what is alive.
const FACT_BYTES: u64 = 128;

/// Counts by segment, in order of sequence.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    segments: VecDeque<Count>,
    /// Bytes of live frames, and of facts that count.
    live_bytes: u64,
    /// Live frames, and entries.
    frames: u64,
    pub(crate) entries: u64,
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
        match pin {
            Pin::Frame { .. } => {
                count.frames += 1;
                self.frames += 1;
            }
            Pin::Fact => count.facts += 1,
        }
        self.live_bytes += pin.bytes();
    }

    pub(crate) fn unpin(&mut self, segment: u64, pin: Pin) {
        let at = self.at(segment).expect("what is let go was held");
        let count = &mut self.segments[at];
        match pin {
            Pin::Frame { .. } => {
                count.frames -= 1;
                self.frames -= 1;
            }
            Pin::Fact => count.facts -= 1,
        }
        self.live_bytes -= pin.bytes();
        if count.frames == 0 && count.facts == 0 {
            self.segments.remove(at);
        }
    }

    pub(crate) fn is_pinned(&self, segment: u64) -> bool {
        self.at(segment).is_ok()
    }

    /// Whether live entries lie in it.
    pub(crate) fn has_frames(&self, segment: u64) -> bool {
        self.at(segment).is_ok_and(|at| self.segments[at].frames > 0)
    }

    /// How many frames of the log are alive.
    pub(crate) const fn frames(&self) -> u64 {
        self.frames
    }

    /// About how many bytes of the log are alive.
    pub(crate) const fn live_bytes(&self) -> u64 {
        self.live_bytes
    }
}
