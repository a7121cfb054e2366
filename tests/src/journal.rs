//! A state machine that forgets nothing: the payloads it was given, in order, each with its index.
//!
//! So a test can ask of every replica which writes it has, how often, and where. Not for volumes: the whole journal is
//! one answer.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use raftwerk::{Checkpoint, Committed, Index, Replies, StateMachine};

/// One applied payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The entry's index.
    pub index: Index,
    /// What was proposed.
    pub payload: Bytes,
}

/// The state machine. Answers every entry with the number of lines so far, little-endian, and every query with the
/// whole journal, to be read by [`read`].
#[derive(Clone, Debug, Default)]
pub struct Journal {
    lines: Arc<Vec<Line>>,
}

impl StateMachine for Journal {
    fn apply(&mut self, entries: Committed<'_>, replies: &mut Replies) {
        // Copies the list if a checkpoint still holds it.
        let lines = Arc::make_mut(&mut self.lines);
        for entry in entries {
            lines.push(Line { index: entry.index, payload: Bytes::copy_from_slice(entry.payload) });
            replies.push(entry.index, Bytes::copy_from_slice(&(lines.len() as u64).to_le_bytes()));
        }
    }

    fn query(&self, _: &[u8]) -> Bytes {
        let mut image = Vec::new();
        write(&self.lines, &mut image).expect("memory takes everything");
        image.into()
    }

    fn checkpoint(&self) -> Checkpoint {
        let lines = Arc::clone(&self.lines);
        Box::new(move |image| write(&lines, image))
    }

    fn restore(&mut self, image: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        image.read_to_end(&mut bytes)?;
        self.lines = Arc::new(read(&bytes).ok_or(io::ErrorKind::InvalidData)?);
        Ok(())
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
        let journal = Journal { lines: Arc::new(vec![line(2, "a"), line(5, "")]) };
        let mut image = Vec::new();
        journal.checkpoint()(&mut image).unwrap();
        let mut again = Journal::default();
        again.restore(&mut image.as_slice()).unwrap();
        assert_eq!(again.lines, journal.lines);
        assert_eq!(read(&journal.query(b"")).unwrap(), *journal.lines);
        assert!(again.restore(&mut &image[..image.len() - 1]).is_err());
    }
}
