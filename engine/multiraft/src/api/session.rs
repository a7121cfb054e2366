//! Per group, the positions that a client has read and written: the state behind [`Consistency::Monotonic`]
//! and [`Consistency::ReadMyWrites`], usable on any node.
//!
//! ```text
//! token = version u8 (1), varint count, count × { varint group, varint seen, varint written }, checksum u32
//! varint = LEB128 in its shortest form; groups in rising order, each but the first as its distance to the one before
//! ```
//! The checksum is the CRC32 of all before it, little-endian. A token is valid if and only if the checksum
//! matches, the groups rise, no written position exceeds the seen one, and nothing follows. Equal sessions
//! have equal tokens.
//!
//! What is not here: exactly-once, which is replicated ([`crate::exactly_once`]); a session is local to its
//! holder.
//!
//! [`Consistency::Monotonic`]: crate::Consistency::Monotonic
//! [`Consistency::ReadMyWrites`]: crate::Consistency::ReadMyWrites

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raftwerk_frame::{GroupId, Index};

use raftwerk_frame::codec::{DecodeError, Reader, write_varint};

const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;

/// A client's position in one group. Invariant: `written` ≤ `seen`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    seen: Index,
    written: Index,
}

/// A client's positions in the groups that it has read and written. Takes 24 bytes and a little more for each
/// group.
///
/// A handle: clones share one state, and may be used from any thread, many calls at once. An answer advances
/// the session when its caller takes it; dropping a call without taking its answer leaves the session
/// unchanged.
///
/// To continue elsewhere, pass [`Session::to_token`] to another process: what it reads there is never older
/// than what was read here. A token names indices of logs, so it is valid for as long as the groups exist.
/// ```
/// # use raftwerk_multiraft as raftwerk;
/// use raftwerk::{GroupId, Index, Session};
///
/// let here = Session::new();
/// here.wrote(GroupId(3), Index(41)); // done for you by Group::propose_in and the key-value store
/// let there = Session::from_token(&here.to_token())?;
/// assert_eq!(there.written(GroupId(3)), Index(41));
/// # Ok::<(), raftwerk::SessionError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Session(Arc<Mutex<BTreeMap<GroupId, Position>>>);

/// Why bytes are not a valid session token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The checksum does not match: the token is damaged or cut off, or never was one.
    #[error("the token's checksum does not match")]
    Checksum,
    /// The token was made by a later version.
    #[error("token version {0} is unknown")]
    Version(u8),
    /// A number in it is malformed.
    #[error("the token is malformed: {0}")]
    Malformed(#[from] DecodeError),
    /// Its groups do not rise, or a written position exceeds the seen one.
    #[error("the token's positions cannot be")]
    Order,
}

impl Session {
    /// A session that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records that an answer of this group, from this index, was seen.
    pub fn saw(&self, group: GroupId, index: Index) {
        let mut positions = self.held();
        let position = positions.entry(group).or_default();
        position.seen = position.seen.max(index);
    }

    /// Records that a write of the session's own was acknowledged there. It counts as seen, too, because its
    /// reply may reflect the state.
    pub fn wrote(&self, group: GroupId, index: Index) {
        let mut positions = self.held();
        let position = positions.entry(group).or_default();
        position.seen = position.seen.max(index);
        position.written = position.written.max(index);
    }

    /// The latest index of a group that was seen; 0 for none.
    #[must_use]
    pub fn seen(&self, group: GroupId) -> Index {
        self.held().get(&group).map_or(Index(0), |position| position.seen)
    }

    /// The latest index of a group that the session itself has written; 0 for none.
    #[must_use]
    pub fn written(&self, group: GroupId) -> Index {
        self.held().get(&group).map_or(Index(0), |position| position.written)
    }

    /// Merges the positions of another session into this one: later reads are older than neither.
    pub fn merge(&self, other: &Self) {
        let others = other.held().clone();
        let mut positions = self.held();
        for (group, theirs) in others {
            let position = positions.entry(group).or_default();
            position.seen = position.seen.max(theirs.seen);
            position.written = position.written.max(theirs.written);
        }
    }

    /// The session as bytes, for a file, a cookie, or another process: about seven for a group.
    #[must_use]
    pub fn to_token(&self) -> Vec<u8> {
        let positions = self.held();
        let mut out = vec![VERSION];
        write_varint(&mut out, positions.len() as u64);
        let mut before = 0;
        for (group, position) in &*positions {
            write_varint(&mut out, group.0 - before);
            write_varint(&mut out, position.seen.0);
            write_varint(&mut out, position.written.0);
            before = group.0;
        }
        let checksum = crc32fast::hash(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// The session that a token encodes. Takes memory for the positions that are really there, at most thirty
    /// times the token's length.
    ///
    /// # Errors
    /// [`SessionError`]. The checksum guards against accidents; a forged token makes reads wait for entries that never
    /// come, no longer than their callers allow, and no more of them than [`Config::reads_max`](crate::Config).
    pub fn from_token(token: &[u8]) -> Result<Self, SessionError> {
        let body = token.len().checked_sub(CHECKSUM_BYTES).ok_or(SessionError::Checksum)?;
        let (body, checksum) = token.split_at(body);
        if crc32fast::hash(body).to_le_bytes() != checksum {
            return Err(SessionError::Checksum);
        }
        let mut reader = Reader::new(body);
        match reader.byte()? {
            VERSION => {}
            other => return Err(SessionError::Version(other)),
        }
        let count = reader.varint()?;
        let mut positions = BTreeMap::new();
        let mut before: Option<u64> = None;
        for _ in 0..count {
            let distance = reader.varint()?;
            let group = match before {
                None => Some(distance),
                Some(before) => before.checked_add(distance).filter(|_| distance > 0),
            };
            let group = group.ok_or(SessionError::Order)?;
            let position = Position { seen: Index(reader.varint()?), written: Index(reader.varint()?) };
            if position.written > position.seen {
                return Err(SessionError::Order);
            }
            positions.insert(GroupId(group), position);
            before = Some(group);
        }
        reader.finish()?;
        Ok(Self(Arc::new(Mutex::new(positions))))
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<GroupId, Position>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Equal if they have the same positions.
impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.0, &other.0) {
            return true;
        }
        let others = other.held().clone();
        *self.held() == others
    }
}

impl Eq for Session {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session() -> impl Strategy<Value = Session> {
        let number = || prop_oneof![0..4u64, any::<u64>()];
        prop::collection::vec((number(), number(), any::<bool>()), 0..20).prop_map(|steps| {
            let session = Session::new();
            for (group, index, is_write) in steps {
                let (group, index) = (GroupId(group), Index(index));
                if is_write { session.wrote(group, index) } else { session.saw(group, index) }
            }
            session
        })
    }

    fn resealed(mut body: Vec<u8>) -> Vec<u8> {
        let checksum = crc32fast::hash(&body);
        body.extend_from_slice(&checksum.to_le_bytes());
        body
    }

    proptest! {
        #[test]
        fn a_token_is_the_session(session in session()) {
            let token = session.to_token();
            let again = Session::from_token(&token).unwrap();
            prop_assert_eq!(again.to_token(), token);
            prop_assert_eq!(again, session);
        }

        #[test]
        fn a_merged_session_is_behind_neither(one in session(), other in session(), group in 0..4u64) {
            let merged = Session::from_token(&one.to_token()).unwrap();
            merged.merge(&other);
            let group = GroupId(group);
            prop_assert_eq!(merged.seen(group), one.seen(group).max(other.seen(group)));
            prop_assert_eq!(merged.written(group), one.written(group).max(other.written(group)));
        }

        #[test]
        fn no_bytes_make_the_reader_panic_and_what_it_accepts_has_one_token(
            bytes in prop::collection::vec(prop_oneof![0..4u8, any::<u8>()], 0..40),
        ) {
            let token = resealed([&[VERSION], &bytes[..]].concat());
            if let Ok(session) = Session::from_token(&token) {
                prop_assert_eq!(session.to_token(), token);
            }
        }
    }

    #[test]
    fn a_flip_of_any_bit_and_a_cut_at_any_byte_is_noticed() {
        let session = Session::new();
        session.wrote(GroupId(7), Index(300));
        session.saw(GroupId(90), Index(5));
        let good = session.to_token();
        for at in 0..good.len() {
            assert!(Session::from_token(&good[..at]).is_err());
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(Session::from_token(&bad).is_err());
            }
        }
    }

    #[test]
    fn what_no_session_would_say_is_refused_with_the_reason() {
        let refusal = |body: &[u8]| Session::from_token(&resealed(body.to_vec())).unwrap_err();
        assert_eq!(refusal(&[2, 0]), SessionError::Version(2));
        assert_eq!(refusal(&[1, 1, 5, 3, 4]), SessionError::Order, "written, and not seen");
        assert_eq!(refusal(&[1, 2, 5, 3, 3, 0, 3, 3]), SessionError::Order, "a group twice");
        assert_eq!(refusal(&[1, 0, 9]), SessionError::Malformed(DecodeError::Trailing { bytes: 1 }));
        // A count without the positions that should follow it takes no memory to refuse.
        let endless = [&[1][..], &[0xFF; 9], &[1]].concat();
        assert_eq!(refusal(&endless), SessionError::Malformed(DecodeError::Short));
    }
}
