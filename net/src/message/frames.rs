//! The bytes of one stream: a hello of four bytes, then messages, each behind its length.
//!
//! ```text
//! hello    version of streams: u8 = 2, slot of the channel: u8 (0 control, 1..=4 append, 5 bulk),
//!          version of messages: u16 little-endian ([`crate::QuicConfig::messages_version`])
//! message  length: u32 little-endian, then that many bytes
//! ```
//! A stream is valid if it starts with the hello of these versions and a channel that exists, and no length
//! exceeds the channel's limit. The length is checked before memory is allocated for the message. The first
//! byte of a hello is the version of streams in every version, and is checked before anything behind it is
//! read: version 1 had hellos of two bytes. What is not here: streams themselves (`session.rs`), the
//! layout of outgoing messages (`coalesce.rs`).
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::message::slabs::{LONG_BYTES, Slab, Slabs};
use crate::transport::Channel;

/// Bytes of a hello up to the slot; these two are at the same place in every version.
pub(crate) const HELLO_START_BYTES: usize = 2;
/// Bytes of the rest of a hello of this version.
pub(crate) const HELLO_REST_BYTES: usize = 2;
/// Bytes of the length before each message.
pub(crate) const LENGTH_BYTES: usize = 4;
/// The version of streams of this crate.
pub(crate) const STREAMS_VERSION: u8 = 2;

/// The wire version of one end of a connection. Only equal versions interoperate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WireVersion {
    /// The framing of messages in a stream: this crate's part.
    pub streams: u8,
    /// The content of messages: the caller's part ([`crate::QuicConfig::messages_version`]). 0 if it was not
    /// received, because the version of streams differs already.
    pub messages: u16,
}

impl WireVersion {
    /// This crate's streams, with messages of that version.
    pub(crate) const fn with_messages(messages: u16) -> Self {
        Self { streams: STREAMS_VERSION, messages }
    }

    /// Parses the output of [`fmt::Display`].
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let (streams, messages) = std::str::from_utf8(text).ok()?.split_once('.')?;
        Some(Self { streams: streams.parse().ok()?, messages: messages.parse().ok()? })
    }
}

impl fmt::Display for WireVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.streams, self.messages)
    }
}

/// A peer broke the stream protocol; its connection must be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The stream starts with another version's hello.
    #[error("version {0}")]
    Version(WireVersion),
    /// The hello names a channel that does not exist, or one that is open already.
    #[error("channel slot {0} unknown or in use")]
    Slot(u8),
    /// A message announces more bytes than its channel admits.
    #[error("message of {length} bytes announced, {limit} admitted")]
    TooLong {
        /// The announced length.
        length: usize,
        /// The channel's limit.
        limit: usize,
    },
}

/// The hello of a channel, given by its slot.
pub(crate) fn hello(slot: usize, messages: u16) -> [u8; HELLO_START_BYTES + HELLO_REST_BYTES] {
    assert!(slot < Channel::COUNT, "slot of a channel");
    let [low, high] = messages.to_le_bytes();
    [STREAMS_VERSION, slot as u8, low, high]
}

/// The slot that a hello's start names. To be checked before the rest is read.
pub(crate) fn parse_hello_start(start: [u8; HELLO_START_BYTES]) -> Result<usize, FrameError> {
    match start {
        [STREAMS_VERSION, slot] if usize::from(slot) < Channel::COUNT => Ok(usize::from(slot)),
        [STREAMS_VERSION, slot] => Err(FrameError::Slot(slot)),
        [streams, _] => Err(FrameError::Version(WireVersion { streams, messages: 0 })),
    }
}

/// Whether the rest of a hello has this node's version of messages.
pub(crate) fn parse_hello_rest(rest: [u8; HELLO_REST_BYTES], messages: u16) -> Result<(), FrameError> {
    match u16::from_le_bytes(rest) {
        theirs if theirs == messages => Ok(()),
        theirs => Err(FrameError::Version(WireVersion::with_messages(theirs))),
    }
}

/// Splits a stream's bytes, arriving in parts of any size, into messages that own their memory.
pub(crate) struct Decoder {
    limit: usize,
    slabs: Arc<Slabs>,
    header: [u8; LENGTH_BYTES],
    header_len: usize,
    body: Option<Body>,
}

/// A message of which some bytes are missing.
struct Body {
    memory: Memory,
    missing: usize,
}

enum Memory {
    Own(BytesMut),
    Slab(Slab),
}

impl Decoder {
    /// A decoder at the start of a message; no message may exceed `limit` bytes. Long ones use the memory of
    /// `slabs`.
    pub(crate) fn new(limit: usize, slabs: Arc<Slabs>) -> Self {
        Self { limit, slabs, header: [0; LENGTH_BYTES], header_len: 0, body: None }
    }

    /// Consumes bytes from the front of `input` until a message is complete (`Some`) or the input is used up
    /// (`None`). Each byte is copied once; a message costs one allocation, of exactly its length unless it has a
    /// slab.
    ///
    /// # Errors
    /// [`FrameError::TooLong`]; the stream cannot be decoded any further.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, FrameError> {
        if self.body.is_none() {
            let Some(length) = self.length(input)? else { return Ok(None) };
            if let Some((whole, rest)) = input.split_at_checked(length) {
                *input = rest;
                return Ok(Some(Bytes::copy_from_slice(whole)));
            }
            let memory = if length < LONG_BYTES {
                Memory::Own(BytesMut::with_capacity(length))
            } else {
                Memory::Slab(self.slabs.take(length))
            };
            self.body = Some(Body { memory, missing: length });
        }
        Ok(self.continue_body(input))
    }

    /// The length of the next message once all its bytes are there and found to be within the limit.
    fn length(&mut self, input: &mut &[u8]) -> Result<Option<usize>, FrameError> {
        let taken = (LENGTH_BYTES - self.header_len).min(input.len());
        let (now, rest) = input.split_at(taken);
        self.header[self.header_len..self.header_len + taken].copy_from_slice(now);
        self.header_len += taken;
        *input = rest;
        if self.header_len < LENGTH_BYTES {
            return Ok(None);
        }
        self.header_len = 0;
        let length = u32::from_le_bytes(self.header) as usize;
        if length > self.limit {
            return Err(FrameError::TooLong { length, limit: self.limit });
        }
        Ok(Some(length))
    }

    fn continue_body(&mut self, input: &mut &[u8]) -> Option<Bytes> {
        let mut body = self.body.take()?;
        let (now, rest) = input.split_at(body.missing.min(input.len()));
        match &mut body.memory {
            Memory::Own(bytes) => bytes.extend_from_slice(now),
            Memory::Slab(slab) => slab.extend(now),
        }
        body.missing -= now.len();
        *input = rest;
        if body.missing == 0 {
            return Some(match body.memory {
                Memory::Own(bytes) => bytes.freeze(),
                Memory::Slab(slab) => slab.freeze(),
            });
        }
        self.body = Some(body);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoder_up_to(limit: usize) -> Decoder {
        Decoder::new(limit, Arc::default())
    }

    fn decode(decoder: &mut Decoder, mut input: &[u8]) -> Result<Vec<Bytes>, FrameError> {
        let mut found = Vec::new();
        while let Some(message) = decoder.next(&mut input)? {
            found.push(message);
        }
        assert!(input.is_empty(), "a decoder that wants more has taken everything");
        Ok(found)
    }

    #[test]
    fn a_hello_names_versions_and_channel() {
        for slot in 0..Channel::COUNT {
            let [streams, named, low, high] = hello(slot, 0x0302);
            assert_eq!(parse_hello_start([streams, named]), Ok(slot));
            assert_eq!(parse_hello_rest([low, high], 0x0302), Ok(()));
        }
        assert_eq!(parse_hello_start([2, 6]), Err(FrameError::Slot(6)));
        let other = WireVersion { streams: 1, messages: 0 };
        assert_eq!(parse_hello_start([1, 0]), Err(FrameError::Version(other)));
        let newer = WireVersion { streams: 2, messages: 4 };
        assert_eq!(parse_hello_rest([4, 0], 3), Err(FrameError::Version(newer)));
        assert_eq!(WireVersion::parse(newer.to_string().as_bytes()), Some(newer));
        assert_eq!(WireVersion::parse(b"2"), None);
    }

    #[test]
    fn a_length_over_the_limit_takes_no_memory() {
        let mut decoder = decoder_up_to(1000);
        let refused = decoder.next(&mut u32::MAX.to_le_bytes().as_slice());
        assert_eq!(refused, Err(FrameError::TooLong { length: u32::MAX as usize, limit: 1000 }));
        assert!(decoder.body.is_none());
        let mut decoder = decoder_up_to(1000);
        assert!(decoder.next(&mut 1001u32.to_le_bytes().as_slice()).is_err());
        let mut decoder = decoder_up_to(1000);
        assert_eq!(decoder.next(&mut 1000u32.to_le_bytes().as_slice()), Ok(None));
    }

    #[test]
    fn a_message_owns_exactly_its_bytes() {
        let mut stream = 3u32.to_le_bytes().to_vec();
        stream.extend_from_slice(b"abcdefghijkl");
        let message = decoder_up_to(10).next(&mut stream.as_slice()).unwrap().unwrap();
        assert_eq!(message, "abc");
        assert!(message.is_unique());
    }

    #[test]
    fn a_long_message_is_whole_however_it_arrives_and_its_memory_is_used_again() {
        let slabs = Arc::<Slabs>::default();
        let mut decoder = Decoder::new(1 << 20, Arc::clone(&slabs));
        let mut places = Vec::new();
        for (length, cut) in [(LONG_BYTES, 1), (70_000, 6_400), (100_000, 99_999)] {
            let message: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let stream = [&(length as u32).to_le_bytes()[..], &message].concat();
            let mut found = Vec::new();
            stream.chunks(cut).for_each(|part| found.extend(decode(&mut decoder, part).unwrap()));
            assert!(found.len() == 1 && found[0] == message, "{length} bytes in parts of {cut}");
            places.push(found[0].as_ptr());
        }
        // A slab of 64 KiB is too short for the second.
        assert!(places[1] != places[0] && places[2] == places[1], "{places:?}");
    }

    proptest! {
        #[test]
        fn any_cutting_of_the_stream_gives_the_same_messages(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            cuts in prop::collection::vec(1usize..200, 1..40),
        ) {
            let mut stream = Vec::new();
            for message in &messages {
                stream.extend_from_slice(&(message.len() as u32).to_le_bytes());
                stream.extend_from_slice(message);
            }
            let mut decoder = decoder_up_to(300);
            let mut found = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                found.extend(decode(&mut decoder, now).unwrap());
                rest = later;
            }
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_never_exceed_the_limit(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20),
        ) {
            let mut decoder = decoder_up_to(64);
            for piece in pieces {
                match decode(&mut decoder, &piece) {
                    Ok(found) => prop_assert!(found.iter().all(|message| message.len() <= 64)),
                    Err(_) => break,
                }
            }
        }
    }
}
