//! A state machine that forgets nothing: the payloads it was given, in order, each with its index.
//!
//! So a test can ask of every replica which writes it has, how often, and where. Not for volumes: the whole journal is
//! one answer. Whoever reads often asks in [`BRIEF`]: that tells one state from every other, in a few bytes.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use raftwerk::{Checkpoint, Committed, Frozen, Index, Replies, StateMachine};

/// One applied payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The entry's index.
    pub index: Index,
    /// What was proposed.
    pub payload: Bytes,
}

/// The query that is answered with a [`Brief`].
pub const BRIEF: &[u8] = b"brief";

/// A journal in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Brief {
    /// How many lines it has.
    pub count: u64,
    /// The first eight bytes of the last payload, little-endian; 0 if there is none.
    pub last: u64,
    /// A hash of all lines, in order.
    pub hash: u64,
}

impl Brief {
    /// The same with one line more.
    #[must_use]
    pub fn and(self, line: &Line) -> Self {
        let mut first = [0; 8];
        let length = line.payload.len().min(first.len());
        first[..length].copy_from_slice(&line.payload[..length]);
        let mixed = self.hash.rotate_left(7) ^ line.index.0 ^ u64::from(crc32fast::hash(&line.payload)) << 32;
        let hash = mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self { count: self.count + 1, last: u64::from_le_bytes(first), hash }
    }

    /// Of so many lines.
    #[must_use]
    pub fn of(lines: &[Line]) -> Self {
        lines.iter().fold(Self::default(), Self::and)
    }

    /// As the answer to a query.
    #[must_use]
    pub fn encode(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        for (to, number) in bytes.chunks_exact_mut(8).zip([self.count, self.last, self.hash]) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// From the answer to a query. `None` if the bytes are none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let numbers: [[u8; 8]; 3] = bytes.as_chunks().0.try_into().ok().filter(|_| bytes.len() == 24)?;
        let [count, last, hash] = numbers.map(u64::from_le_bytes);
        Some(Self { count, last, hash })
    }
}

/// The state machine. Answers every entry with the number of lines so far, little-endian, and every query but [`BRIEF`] with
/// the whole journal, to be read by [`read`].
#[derive(Clone, Debug, Default)]
pub struct Journal {
    lines: Arc<Vec<Line>>,
    brief: Brief,
}

impl Journal {
    fn answer(&self, query: &[u8]) -> Bytes {
        if query == BRIEF {
            return Bytes::copy_from_slice(&self.brief.encode());
        }
        let mut image = Vec::new();
        write(&self.lines, &mut image).expect("memory takes everything");
        image.into()
    }
}

impl StateMachine for Journal {
    fn apply(&mut self, entries: Committed<'_>, replies: &mut Replies) {
        // Copies the list if a checkpoint, or a frozen state, still holds it.
        let lines = Arc::make_mut(&mut self.lines);
        for entry in entries {
            let line = Line { index: entry.index, payload: Bytes::copy_from_slice(entry.payload) };
            self.brief = self.brief.and(&line);
            lines.push(line);
            replies.push(entry.index, Bytes::copy_from_slice(&self.brief.count.to_le_bytes()));
        }
    }

    fn query(&self, query: &[u8]) -> Bytes {
        self.answer(query)
    }

    fn checkpoint(&self) -> Checkpoint {
        let lines = Arc::clone(&self.lines);
        Box::new(move |image| write(&lines, image))
    }

    fn restore(&mut self, image: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        image.read_to_end(&mut bytes)?;
        self.lines = Arc::new(read(&bytes).ok_or(io::ErrorKind::InvalidData)?);
        self.brief = Brief::of(&self.lines);
        Ok(())
    }

    fn freeze(&self) -> Option<Box<dyn Frozen>> {
        Some(Box::new(self.clone()))
    }
}

impl Frozen for Journal {
    fn query(&self, query: &[u8]) -> Bytes {
        self.answer(query)
    }
}

/// Lines as bytes: index u64, length u32, payload, little-endian.
fn write(lines: &[Line], image: &mut dyn Write) -> io::Result<()> {
    for line in lines {
        image.write_all(&line.index.0.to_le_bytes())?;
        image.write_all(&(line.payload.len() as u32).to_le_bytes())?;
        image.write_all(&line.payload)?;
    }
    Ok(())
}

/// A journal from the answer to a query. `None` if the bytes are none.
#[must_use]
pub fn read(mut bytes: &[u8]) -> Option<Vec<Line>> {
    let mut lines = Vec::new();
    while !bytes.is_empty() {
        let (index, rest) = bytes.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (payload, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        let index = Index(u64::from_le_bytes(*index));
        lines.push(Line { index, payload: Bytes::copy_from_slice(payload) });
        bytes = rest;
    }
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_survives_its_checkpoint_and_a_cut_one_is_refused() {
        let line = |index, payload: &'static str| Line { index: Index(index), payload: payload.into() };
        let lines = vec![line(2, "a"), line(5, "")];
        let journal = Journal { brief: Brief::of(&lines), lines: Arc::new(lines) };
        let mut image = Vec::new();
        journal.checkpoint()(&mut image).unwrap();
        let mut again = Journal::default();
        again.restore(&mut image.as_slice()).unwrap();
        assert_eq!(again.lines, journal.lines);
        assert_eq!(read(&StateMachine::query(&journal, b"")).unwrap(), *journal.lines);
        assert_eq!(Brief::decode(&StateMachine::query(&again, BRIEF)), Some(journal.brief));
        assert!(again.restore(&mut &image[..image.len() - 1]).is_err());
    }

    #[test]
    fn no_two_of_these_journals_have_the_same_brief() {
        let line = |index, payload: &'static str| Line { index: Index(index), payload: payload.into() };
        let journals: [&[Line]; 6] = [
            &[],
            &[line(2, "a")],
            &[line(3, "a")],
            &[line(2, "b")],
            &[line(2, "a"), line(3, "b")],
            &[line(2, "b"), line(3, "a")],
        ];
        let briefs = journals.map(Brief::of);
        for (at, brief) in briefs.iter().enumerate() {
            assert!(!briefs[..at].contains(brief));
            assert_eq!(Brief::decode(&brief.encode()), Some(*brief));
        }
        assert_eq!(Brief::decode(&[0; 23]), None);
    }
}
