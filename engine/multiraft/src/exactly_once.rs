//! Exactly once: a proposal that may be sent any number of times, and is applied at most once (thesis,
//! section 6.3).
//!
//! A proposal with the outcome [`Unknown`](crate::ProposeError::Unknown) may yet be applied; sent again, it
//! would be applied twice. So clients register in the replicated state, number their proposals, and
//! acknowledge the answers that they have. The machine in [`ExactlyOnce`] stores its answers by client and
//! number: a repetition gets the stored answer, and changes nothing. The table is part of every checkpoint,
//! so it survives whatever the state survives.
//!
//! ```text
//! payload  = 0xEE 0x01                                              register
//!          | 0xEE 0x02 varint client, varint number, varint floor, payload of the machine      once
//!          | 0xEE 0x00 payload of the machine                       plain: for one that begins with 0xEE itself
//!          | payload of the machine                                 plain
//! reply    = (to a plain one) the machine's
//!          | 0x00 u64 index, reply     registered, or applied now   | 0x01 u64 index, reply     applied before
//!          | 0x02 the client is unknown                             | 0x03 its answer was acknowledged
//!          | 0x04 too many unacknowledged answers                   | 0x05 u64 index            applied before, reply not kept
//!          | 0xFF malformed
//! ```
//! A client's id is the index of the entry that registered it. `floor`: it has the answers to all numbers below.
//!
//! **Bounds**, the same on every replica: [`CLIENTS_MAX`] clients, of which the least recently used is
//! evicted for a new one; [`REPLIES_MAX`] unacknowledged answers of a client, with at most
//! [`REPLY_BYTES_MAX`] bytes between them. No clock is involved: a client expires by the activity of others.
//! The proposals of an expired client are answered with an error, and not applied.
//!
//! Next: `raftwerk_kv::Client` for the key-value store; `table` for the stored answers.

mod client;
mod table;

use std::fmt;
use std::hash::Hasher;
use std::io::{self, Read};

use bytes::{BufMut, Bytes, BytesMut};
use raftwerk_frame::Index;

pub use self::client::{Numbered, OnceApplied, OnceError, OnceSession, outcome, plain, register};
pub use self::table::{CLIENTS_MAX, REPLIES_MAX, REPLY_BYTES_MAX};
use self::table::{Table, Verdict};
use crate::api::state_machine::{
    Caller, Checkpoint, Committed, CommittedEntry, Frozen, Replies, StateMachine,
};
use raftwerk_frame::codec::Reader;

const MARK: u8 = 0xEE;
const PLAIN: u8 = 0;
const REGISTER: u8 = 1;
const ONCE: u8 = 2;

const APPLIED: u8 = 0;
const REPEATED: u8 = 1;
const EXPIRED: u8 = 2;
const ACKNOWLEDGED: u8 = 3;
const FULL: u8 = 4;
const REPLY_GONE: u8 = 5;
const MALFORMED: u8 = 0xFF;

/// A state machine that detects repeated proposals of registered clients.
///
/// Plain payloads are passed to the inner machine unchanged: a group of such machines also serves clients
/// that do not register. All replicas of a group must use it, from the beginning.
/// ```no_run
/// # use raftwerk_multiraft as raftwerk;
/// # fn example<Machine: raftwerk::StateMachine + Default>(config: raftwerk::Config) -> Result<(), raftwerk::OpenError> {
/// use raftwerk::exactly_once::ExactlyOnce;
///
/// let engine = raftwerk::Engine::open(config, |_group| ExactlyOnce::new(Machine::default())).wait()?;
/// # Ok(()) }
/// ```
#[derive(Default)]
pub struct ExactlyOnce<M> {
    inner: M,
    table: Table,
    /// The inner machine's replies to one entry.
    replies: Replies,
}

impl<M> ExactlyOnce<M> {
    /// A machine without registered clients.
    #[must_use]
    pub fn new(inner: M) -> Self {
        Self { inner, table: Table::default(), replies: Replies::default() }
    }

    /// The machine inside.
    #[must_use]
    pub const fn inner(&self) -> &M {
        &self.inner
    }

    /// The number of registered clients.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.table.len()
    }
}

impl<M> fmt::Debug for ExactlyOnce<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExactlyOnce").field("clients", &self.clients()).finish_non_exhaustive()
    }
}

/// The decoded form of a payload.
enum Envelope<'a> {
    Plain(&'a [u8]),
    Register,
    Once { client: u64, number: u64, floor: u64, payload: &'a [u8] },
    Malformed,
}

impl<'a> Envelope<'a> {
    fn open(payload: &'a [u8]) -> Self {
        match payload {
            [MARK, PLAIN, inner @ ..] => Self::Plain(inner),
            [MARK, REGISTER] => Self::Register,
            [MARK, ONCE, rest @ ..] => {
                let mut reader = Reader::new(rest);
                match (reader.varint(), reader.varint(), reader.varint()) {
                    (Ok(client), Ok(number), Ok(floor)) if number >= floor => {
                        Self::Once { client, number, floor, payload: reader.rest() }
                    }
                    _ => Self::Malformed,
                }
            }
            [MARK, ..] => Self::Malformed,
            plain => Self::Plain(plain),
        }
    }
}

fn reply(status: u8, index: Index, inner: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(9 + inner.len());
    out.put_u8(status);
    out.put_u64_le(index.0);
    out.put_slice(inner);
    out.freeze()
}

impl<M: StateMachine> ExactlyOnce<M> {
    fn apply_one(&mut self, entry: CommittedEntry<'_>, replies: &mut Replies) {
        let index = entry.index;
        match Envelope::open(entry.payload) {
            Envelope::Plain(payload) => {
                self.inner.apply(Committed::one(CommittedEntry { index, payload }), replies);
            }
            Envelope::Register => {
                self.table.register(index);
                replies.push(index, reply(APPLIED, index, &[]));
            }
            Envelope::Once { client, number, floor, payload } => {
                let answer = match self.table.admit(index, client, number, floor) {
                    Verdict::New => {
                        self.replies.reset(Caller::Waits);
                        let entry = CommittedEntry { index, payload };
                        self.inner.apply(Committed::one(entry), &mut self.replies);
                        let inner = self.replies.drain().next().map(|(_, reply)| reply).unwrap_or_default();
                        let answer = reply(APPLIED, index, &inner);
                        self.table.keep(client, number, index, inner);
                        answer
                    }
                    Verdict::Repeated { index, reply: Some(kept) } => reply(REPEATED, index, &kept),
                    Verdict::Repeated { index, reply: None } => reply(REPLY_GONE, index, &[]),
                    Verdict::Expired => Bytes::from_static(&[EXPIRED]),
                    Verdict::Acknowledged => Bytes::from_static(&[ACKNOWLEDGED]),
                    Verdict::Full => Bytes::from_static(&[FULL]),
                };
                replies.push(index, answer);
            }
            Envelope::Malformed => replies.push(index, Bytes::from_static(&[MALFORMED])),
        }
    }
}

impl<M: StateMachine> StateMachine for ExactlyOnce<M> {
    fn apply(&mut self, entries: Committed<'_>, replies: &mut Replies) {
        // The usual run of plain payloads costs a check of each one's first byte.
        if entries.clone().all(|entry| entry.payload.first() != Some(&MARK)) {
            return self.inner.apply(entries, replies);
        }
        for entry in entries {
            self.apply_one(entry, replies);
        }
    }

    fn query(&self, query: &[u8]) -> Bytes {
        self.inner.query(query)
    }

    /// The table, then the inner machine's image.
    fn checkpoint(&self) -> Checkpoint {
        let (table, inner) = (self.table.clone(), self.inner.checkpoint());
        Box::new(move |out| {
            table.write(out)?;
            inner(out)
        })
    }

    fn restore(&mut self, image: &mut dyn Read) -> io::Result<()> {
        let table = Table::read(image)?;
        self.inner.restore(image)?;
        self.table = table;
        Ok(())
    }

    fn freeze(&self) -> Option<Box<dyn Frozen>> {
        self.inner.freeze()
    }

    fn digest(&self) -> u64 {
        let mut hasher = rustc_hash::FxHasher::default();
        self.table.hash(&mut hasher);
        hasher.write_u64(self.inner.digest());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests;
