//! A node in another process: a Unix-domain socket that carries [`protocol`](crate::protocol). IMPURE: sockets.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use raftwerk::{Completion, GroupId, ReadOptions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{NodePort, Refused};
use crate::protocol::{OperationKind, OperationRecord, ReadDemand, read_completion, write_operation};

/// Bytes that may wait to be sent; beyond it submissions are refused as busy.
const OUTGOING_BYTES_MAX: usize = 8 << 20;
/// Bytes that one read from the socket asks for.
const READ_BYTES: usize = 256 << 10;

/// The client's end of the socket.
pub struct RemotePort {
    stream: UnixStream,
    outgoing: Vec<u8>,
    sent: usize,
    incoming: Vec<u8>,
    filled: usize,
    in_flight: usize,
    in_flight_max: usize,
    open: bool,
}

impl RemotePort {
    /// Connects to the node that listens at `path`; at most `in_flight_max` operations may be under way.
    ///
    /// # Errors
    /// An error of connecting.
    pub fn connect(path: &Path, in_flight_max: usize) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            outgoing: Vec::new(),
            sent: 0,
            incoming: vec![0; READ_BYTES],
            filled: 0,
            in_flight: 0,
            in_flight_max,
            open: true,
        })
    }

    fn queue(
        &mut self,
        kind: OperationKind,
        group: GroupId,
        token: u64,
        bytes: &[u8],
    ) -> Result<(), Refused> {
        if !self.open {
            return Err(Refused::Closed);
        }
        if self.in_flight == self.in_flight_max || self.outgoing.len() - self.sent > OUTGOING_BYTES_MAX {
            return Err(Refused::Busy);
        }
        write_operation(&mut self.outgoing, &OperationRecord { kind, group, token, bytes });
        self.in_flight += 1;
        Ok(())
    }

    /// Reads once; `true` if there may be more.
    fn fill(&mut self) -> bool {
        if self.incoming.len() - self.filled < READ_BYTES {
            self.incoming.resize(self.filled + READ_BYTES, 0);
        }
        match self.stream.read(&mut self.incoming[self.filled..]) {
            Ok(0) => self.open = false,
            Ok(bytes) => {
                self.filled += bytes;
                return bytes == READ_BYTES;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.open = false,
        }
        false
    }
}

impl NodePort for RemotePort {
    fn submit(&mut self, group: GroupId, token: u64, payload: &[u8]) -> Result<(), Refused> {
        self.queue(OperationKind::Propose, group, token, payload)
    }

    fn read(
        &mut self,
        group: GroupId,
        token: u64,
        query: &[u8],
        options: ReadOptions<'_>,
    ) -> Result<(), Refused> {
        self.queue(OperationKind::Read(ReadDemand::of(&options, group)), group, token, query)
    }

    fn flush(&mut self) {
        while self.sent < self.outgoing.len() && self.open {
            match self.stream.write(&self.outgoing[self.sent..]) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.open = false,
            }
        }
        self.outgoing.clear();
        self.sent = 0;
    }

    fn take(&mut self, out: &mut Vec<Completion>) -> usize {
        while self.open && self.fill() {}
        let (mut at, before) = (0, out.len());
        loop {
            match read_completion(&self.incoming[..self.filled], &mut at) {
                Ok(Some(completion)) => out.push(completion),
                Ok(None) => break,
                Err(_) => {
                    self.open = false;
                    break;
                }
            }
        }
        self.incoming.copy_within(at..self.filled, 0);
        self.filled -= at;
        let taken = out.len() - before;
        self.in_flight = self.in_flight.saturating_sub(taken);
        taken
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn is_open(&self) -> bool {
        self.open
    }

    fn wait_any(ports: &mut [Option<Self>], at_most: Duration) {
        let mut waiting: Vec<PollFd<'_>> = Vec::with_capacity(ports.len());
        for port in ports.iter().flatten().filter(|port| port.open) {
            let unsent = if port.sent < port.outgoing.len() { PollFlags::OUT } else { PollFlags::empty() };
            waiting.push(PollFd::new(&port.stream, PollFlags::IN | unsent));
        }
        let timeout =
            Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
        // An error is an interruption or a socket gone: either shows at the next take.
        let _ready = poll(&mut waiting, Some(&timeout));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use raftwerk::{Applied, EntryId, Index, Outcome, ReadError, Term};

    use super::*;
    use crate::protocol::{read_operation, write_completion};

    #[test]
    fn operations_go_out_and_completions_come_back_until_the_node_dies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut port = RemotePort::connect(&path, 2).unwrap();
        let (mut node, _) = listener.accept().unwrap();
        port.submit(GroupId(3), 7, b"payload").unwrap();
        port.read(GroupId(4), 8, b"query", ReadOptions::default()).unwrap();
        assert_eq!(port.submit(GroupId(3), 9, b"payload"), Err(Refused::Busy));
        port.flush();

        let mut bytes = [0; 71];
        node.read_exact(&mut bytes).unwrap();
        let mut at = 0;
        let proposal = read_operation(&bytes, &mut at).unwrap().unwrap();
        assert_eq!((proposal.kind, proposal.group, proposal.token), (OperationKind::Propose, GroupId(3), 7));
        assert_eq!(read_operation(&bytes, &mut at).unwrap().unwrap().bytes, b"query");

        let ok = Applied { id: EntryId::new(Term(1), Index(2)), reply: "r".into() };
        let answers = [
            Completion { token: 7, outcome: Outcome::Proposal(Ok(ok)) },
            Completion { token: 8, outcome: Outcome::Read(Err(ReadError::Closed)) },
        ];
        let mut bytes = Vec::new();
        answers.iter().for_each(|answer| write_completion(&mut bytes, answer));
        node.write_all(&bytes).unwrap();
        let mut ports = [Some(port)];
        RemotePort::wait_any(&mut ports, Duration::from_secs(30));
        let [Some(mut port)] = ports else { unreachable!() };
        let mut done = Vec::new();
        assert_eq!(port.take(&mut done), 2);
        assert_eq!(done, answers);
        assert_eq!((port.in_flight(), port.is_open()), (0, true));

        drop(node);
        assert_eq!(port.take(&mut done), 0);
        assert!(!port.is_open());
        assert_eq!(port.submit(GroupId(3), 9, b""), Err(Refused::Closed));
    }
}
