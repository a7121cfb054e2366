//! What keeps a segment: counts of live frames and of groups' latest facts in it.
//!
//! A segment is freed when nothing live is in it, and strictly the oldest first, so that what is on the disk is always
//! the end of one history. What is not here: freeing (`lane_retention`).

use std::collections::VecDeque;

/// What may hold a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pin {
    /// A frame with live entries.
    Frame,
    /// A group's latest hard state, or the record that sets its base. Can be written again elsewhere.
    Fact,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    segment: u64,
    frames: u32,
    facts: u32,
}

/// Counts by segment, in order of sequence.
#[derive(Debug, Default)]
pub(crate) struct Pins(VecDeque<Count>);

impl Pins {
    fn at(&self, segment: u64) -> Result<usize, usize> {
        match self.0.back() {
            Some(back) if back.segment == segment => Ok(self.0.len() - 1),
            _ => self.0.binary_search_by_key(&segment, |count| count.segment),
        }
    }

    pub(crate) fn pin(&mut self, segment: u64, pin: Pin) {
        let at = self.at(segment).unwrap_or_else(|at| {
            self.0.insert(at, Count { segment, ..Count::default() });
            at
        });
        let count = &mut self.0[at];
        match pin {
            Pin::Frame => count.frames += 1,
            Pin::Fact => count.facts += 1,
        }
    }

    pub(crate) fn unpin(&mut self, segment: u64, pin: Pin) {
        let at = self.at(segment).expect("what is let go was held");
        let count = &mut self.0[at];
        match pin {
            Pin::Frame => count.frames -= 1,
            Pin::Fact => count.facts -= 1,
        }
        if count.frames == 0 && count.facts == 0 {
            self.0.remove(at);
        }
    }

    pub(crate) fn is_pinned(&self, segment: u64) -> bool {
        self.at(segment).is_ok()
    }

    /// Whether live entries lie in it.
    pub(crate) fn has_frames(&self, segment: u64) -> bool {
        self.at(segment).is_ok_and(|at| self.0[at].frames > 0)
    }
}
