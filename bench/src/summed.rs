//! A state machine with sums beside it: what it does itself, and what a [`HashMachine`] would tell of the same entries.
//!
//! A map alone shows the last write of each key: one that vanished is not missed if another covers it. What it costs: a wide
//! multiplication for each 16 bytes of a payload.

use std::io::{self, Read};

use bytes::Bytes;
use raftwerk::{Caller, Checkpoint, Committed, Frozen, Replies, StateMachine};

use crate::hash_machine::{COUNT_QUERY, HashMachine, SUMS_QUERY};
use crate::rng::mix;

/// A machine, and the sums of what it has applied. The queries of the sums are theirs, all others the machine's.
#[derive(Debug, Default)]
pub struct Summed<M> {
    sums: HashMachine,
    inner: M,
}

impl<M: StateMachine> StateMachine for Summed<M> {
    fn apply(&mut self, entries: Committed<'_>, replies: &mut Replies) {
        self.sums.apply(entries.clone(), &mut Replies::new(Caller::Absent));
        self.inner.apply(entries, replies);
    }

    fn query(&self, query: &[u8]) -> Bytes {
        match query {
            COUNT_QUERY | SUMS_QUERY => self.sums.query(query),
            _ => self.inner.query(query),
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        let (sums, inner) = (self.sums.checkpoint(), self.inner.checkpoint());
        Box::new(move |out| {
            sums(out)?;
            inner(out)
        })
    }

    fn restore(&mut self, image: &mut dyn Read) -> io::Result<()> {
        self.sums.restore(image)?;
        self.inner.restore(image)
    }

    fn freeze(&self) -> Option<Box<dyn Frozen>> {
        self.inner.freeze()
    }

    fn digest(&self) -> u64 {
        mix(self.sums.digest()) ^ self.inner.digest()
    }
}

#[cfg(test)]
mod tests {
    use raftwerk::kv::KvMachine;

    use super::*;
    use crate::hash_machine::SUMS_BYTES;

    #[test]
    fn both_are_asked_and_both_are_in_the_image() {
        let machine = Summed::<KvMachine>::default();
        assert_eq!(machine.query(SUMS_QUERY).len(), SUMS_BYTES);
        let mut image = Vec::new();
        machine.checkpoint()(&mut image).unwrap();
        let mut restored = Summed::<KvMachine>::default();
        restored.restore(&mut &image[..]).unwrap();
        assert_eq!(restored.digest(), machine.digest());
        for at in [0, 8, image.len() - 1] {
            assert!(Summed::<KvMachine>::default().restore(&mut &image[..at]).is_err(), "cut at {at}");
        }
    }
}
