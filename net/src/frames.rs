//! The bytes of one stream: a hello of two bytes, then messages, each behind its length.
//!
//! ```text
//! hello    version: u8 = 1, slot of the channel: u8 (0 control, 1..=4 append, 5 bulk)
//! message  length: u32 little-endian, then that many bytes
//! ```
//! A stream is valid if it starts with the hello of this version and a channel that exists, and no length exceeds
//! the channel's limit. The length is judged before memory is taken for the message. What is not here: streams
//! themselves (`quic_session.rs`), how outgoing messages are laid out (`coalesce.rs`).
use bytes::{Bytes, BytesMut};

use crate::transport::Channel;

/// Bytes of a hello.
pub(crate) const HELLO_BYTES: usize = 2;
/// Bytes of the length before each message.
pub(crate) const LENGTH_BYTES: usize = 4;
const VERSION: u8 = 1;

/// A peer broke the stream protocol; its connection must be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The stream starts with another version's hello.
    #[error("stream protocol version {0}")]
    Version(u8),
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
pub(crate) fn hello(slot: usize) -> [u8; HELLO_BYTES] {
    assert!(slot < Channel::COUNT, "slot of a channel");
    [VERSION, slot as u8]
}

/// The slot a hello names.
pub(crate) fn parse_hello(hello: [u8; HELLO_BYTES]) -> Result<usize, FrameError> {
    match hello {
        [VERSION, slot] if usize::from(slot) < Channel::COUNT => Ok(usize::from(slot)),
        [VERSION, slot] => Err(FrameError::Slot(slot)),
        [version, _] => Err(FrameError::Version(version)),
    }
}

/// Cuts a stream's bytes, arriving in pieces of any size, into messages that own their memory.
pub(crate) struct Decoder {
    limit: usize,
    header: [u8; LENGTH_BYTES],
    header_len: usize,
    body: Option<Body>,
}

struct Body {
    bytes: BytesMut,
    missing: usize,
}

impl Decoder {
    /// A decoder at the start of a message; no message may exceed `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, header: [0; LENGTH_BYTES], header_len: 0, body: None }
    }

    /// Takes bytes off the front of `input` until a message is complete (`Some`) or the input is used up (`None`).
    /// Each byte is copied once; each message costs one allocation of exactly its length.
    ///
    /// # Errors
    /// [`FrameError::TooLong`]; the stream cannot be read on after that.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, FrameError> {
        if self.body.is_none() {
            let Some(length) = self.length(input)? else { return Ok(None) };
            if let Some((whole, rest)) = input.split_at_checked(length) {
                *input = rest;
                return Ok(Some(Bytes::copy_from_slice(whole)));
            }
            self.body = Some(Body { bytes: BytesMut::with_capacity(length), missing: length });
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
        body.bytes.extend_from_slice(now);
        body.missing -= now.len();
        *input = rest;
        if body.missing == 0 {
            return Some(body.bytes.freeze());
        }
        self.body = Some(body);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(decoder: &mut Decoder, mut input: &[u8]) -> Result<Vec<Bytes>, FrameError> {
        let mut found = Vec::new();
        while let Some(message) = decoder.next(&mut input)? {
            found.push(message);
        }
        assert!(input.is_empty(), "a decoder that wants more has taken everything");
        Ok(found)
    }

    #[test]
    fn a_hello_names_its_channel() {
        for slot in 0..Channel::COUNT {
            assert_eq!(parse_hello(hello(slot)), Ok(slot));
        }
        assert_eq!(parse_hello([1, 6]), Err(FrameError::Slot(6)));
        assert_eq!(parse_hello([2, 0]), Err(FrameError::Version(2)));
    }

    #[test]
    fn a_length_over_the_limit_takes_no_memory() {
        let mut decoder = Decoder::new(1000);
        let refused = decoder.next(&mut u32::MAX.to_le_bytes().as_slice());
        assert_eq!(refused, Err(FrameError::TooLong { length: u32::MAX as usize, limit: 1000 }));
        assert!(decoder.body.is_none());
        let mut decoder = Decoder::new(1000);
        assert!(decoder.next(&mut 1001u32.to_le_bytes().as_slice()).is_err());
        let mut decoder = Decoder::new(1000);
        assert_eq!(decoder.next(&mut 1000u32.to_le_bytes().as_slice()), Ok(None));
    }

    #[test]
    fn a_message_owns_exactly_its_bytes() {
        let mut stream = 3u32.to_le_bytes().to_vec();
        stream.extend_from_slice(b"abcdefghijkl");
        let message = Decoder::new(10).next(&mut stream.as_slice()).unwrap().unwrap();
        assert_eq!(message, "abc");
        assert!(message.is_unique());
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
            let mut decoder = Decoder::new(300);
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
            let mut decoder = Decoder::new(64);
            for piece in pieces {
                match decode(&mut decoder, &piece) {
                    Ok(found) => prop_assert!(found.iter().all(|message| message.len() <= 64)),
                    Err(_) => break,
                }
            }
        }
    }
}
