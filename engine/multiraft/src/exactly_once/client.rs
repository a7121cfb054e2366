//! The client's side: numbers for its proposals, the payloads that carry them, and decoding of the replies.
//!
//! Pure: sending is left to the caller. `raftwerk_kv::Client` is such a caller.

use std::collections::BTreeSet;

use bytes::Bytes;
use raftwerk_frame::Index;

use super::{
    ACKNOWLEDGED, APPLIED, EXPIRED, FULL, MARK, ONCE, PLAIN, REGISTER, REPEATED, REPLIES_MAX, REPLY_GONE,
};
use raftwerk_frame::codec::write_varint;

/// The payload that registers a client. Its entry's index is the client's id: [`OnceSession::new`]. After an
/// unknown outcome, register again: an unused client is evicted in time.
#[must_use]
pub fn register() -> Bytes {
    Bytes::from_static(&[MARK, REGISTER])
}

/// A payload of the inner machine that is not repeated, as an [`ExactlyOnce`](super::ExactlyOnce) machine
/// accepts it: unchanged, unless its first byte is the mark of an envelope.
#[must_use]
pub fn plain(payload: Bytes) -> Bytes {
    if payload.first() == Some(&MARK) { [&[MARK, PLAIN], &payload[..]].concat().into() } else { payload }
}

/// The state of a registered client of one group. Not shared between threads; use a lock for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnceSession {
    client: u64,
    next: u64,
    open: BTreeSet<u64>,
}

/// The number of a proposal, in use until [`OnceSession::end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Numbered(u64);

impl OnceSession {
    /// The client registered by the entry at this index.
    #[must_use]
    pub const fn new(registered: Index) -> Self {
        Self { client: registered.0, next: 0, open: BTreeSet::new() }
    }

    /// A number for another proposal; `None` if so many are in use that the group would refuse it.
    pub fn begin(&mut self) -> Option<Numbered> {
        // All numbers from the oldest one in use to the newest count as unacknowledged answers.
        if self.next - self.floor() >= REPLIES_MAX as u64 {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.open.insert(number);
        Some(Numbered(number))
    }

    /// The payload that carries an inner machine's payload under its number. Equal however often it is made,
    /// but for the floor, which rises as numbers end.
    #[must_use]
    pub fn payload(&self, number: Numbered, payload: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(2 + 3 * 10 + payload.len());
        out.extend_from_slice(&[MARK, ONCE]);
        write_varint(&mut out, self.client);
        write_varint(&mut out, number.0);
        write_varint(&mut out, self.floor().min(number.0));
        out.extend_from_slice(payload);
        out.into()
    }

    /// Ends the use of a number: the answer was received, or is not wanted, and the proposal is not sent
    /// again. One that was not applied by then may still be applied, once, until the client's next proposal
    /// is.
    pub fn end(&mut self, number: Numbered) {
        self.open.remove(&number.0);
    }

    /// The client's id, unique in its group.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.client
    }

    fn floor(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.next)
    }
}

/// The outcome of a numbered proposal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnceApplied {
    /// The index at which it was applied: the same for every repetition.
    pub index: Index,
    /// The inner machine's reply at that time.
    pub reply: Bytes,
    /// Whether it had been applied before the entry that carried this answer.
    pub is_repeat: bool,
}

/// Why a numbered proposal has no such answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OnceError {
    /// The client is not registered with the group, or was evicted in favour of others. The proposal was not
    /// applied by this attempt; whether an earlier one was can be determined by reading only.
    #[error("the client is not registered, or has expired")]
    Expired,
    /// The client has already acknowledged the answer. Nothing happened now.
    #[error("the answer was acknowledged before")]
    Acknowledged,
    /// Too many answers of the client are not acknowledged. Nothing happened; it may be sent again.
    #[error("too many answers are not acknowledged")]
    Full,
    /// It was applied, once, at this index; its reply was too long to be kept for a repetition.
    #[error("applied before, at {0}; the reply was not kept")]
    ReplyGone(Index),
    /// The group's machine is not an [`ExactlyOnce`](super::ExactlyOnce) one, or is of another version.
    #[error("the state machine does not remember its clients")]
    Unsupported,
}

/// Decodes the reply to a numbered proposal, or to a registration.
///
/// # Errors
/// [`OnceError`].
pub fn outcome(reply: &Bytes) -> Result<OnceApplied, OnceError> {
    let (status, rest) = reply.split_first().ok_or(OnceError::Unsupported)?;
    let index = || {
        let (index, rest) = rest.split_first_chunk::<8>().ok_or(OnceError::Unsupported)?;
        Ok::<_, OnceError>((Index(u64::from_le_bytes(*index)), rest))
    };
    match *status {
        APPLIED | REPEATED => {
            let (index, rest) = index()?;
            Ok(OnceApplied { index, reply: reply.slice_ref(rest), is_repeat: *status == REPEATED })
        }
        EXPIRED if rest.is_empty() => Err(OnceError::Expired),
        ACKNOWLEDGED if rest.is_empty() => Err(OnceError::Acknowledged),
        FULL if rest.is_empty() => Err(OnceError::Full),
        REPLY_GONE => Err(OnceError::ReplyGone(index()?.0)),
        _ => Err(OnceError::Unsupported),
    }
}
