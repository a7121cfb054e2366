//! The table of a group's clients: which numbers of each were applied, and their answers.
//!
//! ```text
//! image  = magic "RWXO", version u32 (1), table bytes u64, table, checksum u32
//! table  = varint count, count × client
//! client = varint id, varint last used, varint floor, varint count, count × answer
//! answer = varint number, varint index, 0x00 (not kept) | 0x01 varint length, reply
//! ```
//! Integers are little-endian; the checksum is the CRC32 of all before it. A table is valid if and only if
//! the checksum matches, clients and numbers rise, no number is below its client's floor, and no bound is
//! exceeded. Equal tables have equal images. A clone shares whatever is not changed later: taking a
//! checkpoint costs time in proportion to the clients, not to their replies.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use raftwerk_frame::Index;

use raftwerk_frame::codec::{DecodeError, Reader, write_slice, write_varint};

/// The maximum of clients of a group. Part of the format: replicas with different values would diverge.
pub const CLIENTS_MAX: usize = 1024;
/// The maximum of unacknowledged answers of a client. Part of the format.
pub const REPLIES_MAX: usize = 64;
/// The maximum of bytes of these answers, between them; replies beyond it are not kept. Part of the format.
pub const REPLY_BYTES_MAX: usize = 16 << 10;

const MAGIC: [u8; 4] = *b"RWXO";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 16;
/// The maximum length of a valid table: four numbers a client, two and a reply an answer.
const TABLE_BYTES_MAX: u64 = (CLIENTS_MAX * (48 + REPLIES_MAX * 32 + REPLY_BYTES_MAX)) as u64;

/// The answer to one number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    index: Index,
    /// `None`: it was too long to keep.
    reply: Option<Bytes>,
}

/// The state of one client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Client {
    last_used: Index,
    /// The client has acknowledged the answers to all numbers below.
    floor: u64,
    answers: BTreeMap<u64, Answer>,
    reply_bytes: usize,
}

impl Client {
    fn acknowledge(&mut self, floor: u64) {
        if floor > self.floor {
            self.floor = floor;
            self.answers = self.answers.split_off(&floor);
            self.reply_bytes = self.answers.values().map(Answer::reply_bytes).sum();
        }
    }
}

impl Answer {
    fn reply_bytes(&self) -> usize {
        self.reply.as_ref().map_or(0, Bytes::len)
    }
}

/// The decision on a numbered payload.
pub(super) enum Verdict {
    /// Apply it, and keep the answer.
    New,
    /// It was applied before, at this index.
    Repeated { index: Index, reply: Option<Bytes> },
    /// The client is not registered, or no longer.
    Expired,
    /// The client has acknowledged the answer.
    Acknowledged,
    /// The client has too many unacknowledged answers.
    Full,
}

/// The clients of a group. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    clients: Arc<BTreeMap<u64, Arc<Client>>>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Registers a client, with the index of this entry as its id; in a full table it evicts the least
    /// recently used.
    pub(super) fn register(&mut self, index: Index) {
        let clients = Arc::make_mut(&mut self.clients);
        while clients.len() >= CLIENTS_MAX {
            let oldest = clients.iter().min_by_key(|(_, client)| client.last_used).map(|(id, _)| *id);
            oldest.and_then(|id| clients.remove(&id));
        }
        clients.insert(index.0, Arc::new(Client { last_used: index, ..Client::default() }));
    }

    /// Decides on a numbered payload, the entry at `index`.
    pub(super) fn admit(&mut self, index: Index, client: u64, number: u64, floor: u64) -> Verdict {
        if !self.clients.contains_key(&client) {
            return Verdict::Expired;
        }
        let Some(client) = Arc::make_mut(&mut self.clients).get_mut(&client) else { return Verdict::Expired };
        let client = Arc::make_mut(client);
        client.last_used = index;
        client.acknowledge(floor);
        if number < client.floor {
            Verdict::Acknowledged
        } else if let Some(answer) = client.answers.get(&number) {
            Verdict::Repeated { index: answer.index, reply: answer.reply.clone() }
        } else if client.answers.len() >= REPLIES_MAX {
            Verdict::Full
        } else {
            Verdict::New
        }
    }

    /// Stores the answer to a payload that was [`Verdict::New`].
    pub(super) fn keep(&mut self, client: u64, number: u64, index: Index, reply: Bytes) {
        let Some(client) = Arc::make_mut(&mut self.clients).get_mut(&client) else { return };
        let client = Arc::make_mut(client);
        let fits = client.reply_bytes + reply.len() <= REPLY_BYTES_MAX;
        // A copy of its own: the reply may be a small part of something large.
        let reply = fits.then(|| Bytes::copy_from_slice(&reply));
        let answer = Answer { index, reply };
        client.reply_bytes += answer.reply_bytes();
        client.answers.insert(number, answer);
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_varint(&mut out, self.clients.len() as u64);
        for (id, client) in &*self.clients {
            for number in [*id, client.last_used.0, client.floor, client.answers.len() as u64] {
                write_varint(&mut out, number);
            }
            for (number, answer) in &client.answers {
                write_varint(&mut out, *number);
                write_varint(&mut out, answer.index.0);
                out.push(u8::from(answer.reply.is_some()));
                if let Some(reply) = &answer.reply {
                    write_slice(&mut out, reply);
                }
            }
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let mut clients = BTreeMap::new();
        let count = reader.varint()?;
        if count > CLIENTS_MAX as u64 {
            return Err(DecodeError::Limit);
        }
        for _ in 0..count {
            let id = reader.varint()?;
            let client = Client::decode(&mut reader)?;
            if clients.last_key_value().is_some_and(|(before, _)| *before >= id) {
                return Err(DecodeError::Limit);
            }
            clients.insert(id, Arc::new(client));
        }
        reader.finish()?;
        Ok(Self { clients: Arc::new(clients) })
    }

    /// Writes the table's image.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let table = self.encode();
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&MAGIC);
        head[4..8].copy_from_slice(&VERSION.to_le_bytes());
        head[8..].copy_from_slice(&(table.len() as u64).to_le_bytes());
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&head);
        checksum.update(&table);
        out.write_all(&head)?;
        out.write_all(&table)?;
        out.write_all(&checksum.finalize().to_le_bytes())
    }

    /// Reads a table's image from the front of a stream. Memory grows with the bytes that arrive.
    pub(super) fn read(from: &mut dyn Read) -> io::Result<Self> {
        let wrong = |what: &'static str| io::Error::new(ErrorKind::InvalidData, what);
        let mut head = [0; HEAD_BYTES];
        from.read_exact(&mut head)?;
        let [m0, m1, m2, m3, v0, v1, v2, v3, length @ ..] = head;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(wrong("not an image of an exactly-once machine"));
        }
        if u32::from_le_bytes([v0, v1, v2, v3]) != VERSION {
            return Err(wrong("an unknown version of an exactly-once machine's image"));
        }
        let length = u64::from_le_bytes(length);
        if length > TABLE_BYTES_MAX {
            return Err(wrong("a table of clients of impossible length"));
        }
        let mut table = Vec::new();
        if from.take(length).read_to_end(&mut table)? as u64 != length {
            return Err(wrong("the table of clients is cut off"));
        }
        let mut stored = [0; 4];
        from.read_exact(&mut stored)?;
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&head);
        checksum.update(&table);
        if checksum.finalize().to_le_bytes() != stored {
            return Err(wrong("the checksum of the table of clients does not match"));
        }
        Self::decode(&table).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    }

    pub(super) fn hash(&self, hasher: &mut impl Hasher) {
        hasher.write(&self.encode());
    }
}

impl Client {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut client =
            Self { last_used: Index(reader.varint()?), floor: reader.varint()?, ..Self::default() };
        let count = reader.varint()?;
        if count > REPLIES_MAX as u64 {
            return Err(DecodeError::Limit);
        }
        let mut least = client.floor;
        for _ in 0..count {
            let (number, index) = (reader.varint()?, Index(reader.varint()?));
            let reply = if reader.flag()? { Some(Bytes::copy_from_slice(reader.slice()?)) } else { None };
            let answer = Answer { index, reply };
            client.reply_bytes += answer.reply_bytes();
            if number < least || client.reply_bytes > REPLY_BYTES_MAX {
                return Err(DecodeError::Limit);
            }
            least = number.checked_add(1).ok_or(DecodeError::Limit)?;
            client.answers.insert(number, answer);
        }
        Ok(client)
    }
}
