//! One node as a process: an engine, a socket for one client at a time, and questions on standard input. IMPURE:
//! sockets, threads and standard streams.
//!
//! The parent's side is [`cluster::child`](crate::cluster::child); the bytes on the socket are
//! [`protocol`](crate::protocol)'s.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use raftwerk::{Completion, Engine, NodeId, Outcome, Pipeline};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cluster::child::{Answer, Question, to_hex};
use crate::cluster::control::{self, NodeSettings, NodeUsage};
use crate::protocol::{OperationKind, read_operation, write_completion};
use crate::usage::{own_cpu_nanos, own_resident_bytes};

const READ_BYTES: usize = 256 << 10;
/// Bytes of completions that may wait for a client that does not read; beyond it no more operations are taken.
const OUTGOING_BYTES_MAX: usize = 8 << 20;
/// How long completions are waited for before the socket is looked at again.
const PIPELINE_WAIT: Duration = Duration::from_micros(100);

/// Runs a node until its parent sends `stop` or is gone.
///
/// # Errors
/// Why it did not start, or lost its parent's pipes.
pub fn run(settings: &str) -> Result<(), String> {
    let settings: NodeSettings = serde_json::from_str(settings).map_err(|error| error.to_string())?;
    let engine = settings.open(None)?;
    match std::fs::remove_file(&settings.socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.to_string()),
        _ => {}
    }
    let listener = UnixListener::bind(&settings.socket).map_err(|error| error.to_string())?;
    let serving = engine.clone();
    let in_flight_max = settings.in_flight_max;
    let serve_all = move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let pipeline = serving.pipeline(in_flight_max);
            // A client that went away is no failure of the node.
            let _ended = Service::new(stream, pipeline).and_then(Service::run);
        }
    };
    std::thread::Builder::new().name("client".into()).spawn(serve_all).map_err(|error| error.to_string())?;
    let ended = answer_questions(&engine).map_err(|error| error.to_string());
    engine.shutdown().wait().map_err(|error| error.to_string())?;
    ended
}

fn answer_questions(engine: &Engine) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut say = |answer: &Answer| -> io::Result<()> {
        let mut line = serde_json::to_string(answer)?;
        line.push('\n');
        out.write_all(line.as_bytes())?;
        out.flush()
    };
    say(&Answer::Ready(engine.local_addr()))?;
    for line in io::stdin().lock().lines() {
        let question: Question = serde_json::from_str(&line?)?;
        if question == Question::Stop {
            return say(&Answer::Done);
        }
        say(&answer(engine, question).unwrap_or_else(Answer::Failed))?;
    }
    Ok(())
}

fn answer(engine: &Engine, question: Question) -> Result<Answer, String> {
    Ok(match question {
        Question::SetAddress(node, address) => {
            engine.set_address(NodeId(node), address);
            Answer::Done
        }
        Question::CreateGroups(count, voters) => {
            control::create_groups(engine, count, voters)?;
            Answer::Done
        }
        Question::Applied(count) => Answer::Applied(control::applied(engine, count)?),
        Question::Digests(count) => Answer::Digests(control::digests(engine, count)?),
        Question::Query(group, query) => Answer::Bytes(to_hex(&control::query(engine, group, &query)?)),
        Question::Usage => {
            let mut usage = NodeUsage::of(engine);
            (usage.cpu_nanos, usage.resident_bytes) = (own_cpu_nanos(), own_resident_bytes());
            Answer::Usage(usage)
        }
        Question::Stop => Answer::Done,
    })
}

/// One client's connection.
struct Service {
    stream: UnixStream,
    pipeline: Pipeline,
    incoming: Vec<u8>,
    filled: usize,
    outgoing: Vec<u8>,
    sent: usize,
    done: Vec<Completion>,
}

impl Service {
    fn new(stream: UnixStream, pipeline: Pipeline) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let incoming = vec![0; READ_BYTES];
        Ok(Self { stream, pipeline, incoming, filled: 0, outgoing: Vec::new(), sent: 0, done: Vec::new() })
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            let was_read = self.outgoing.len() - self.sent < OUTGOING_BYTES_MAX && self.receive()?;
            self.pipeline.flush();
            let taken = self.pipeline.take(&mut self.done);
            for completion in self.done.drain(..) {
                write_completion(&mut self.outgoing, &completion);
            }
            self.send()?;
            if was_read || taken > 0 {
                continue;
            }
            if self.pipeline.in_flight() > 0 {
                self.pipeline.wait(PIPELINE_WAIT);
            } else {
                self.wait_for_socket()?;
            }
        }
    }

    /// Takes in what has arrived; `false` if nothing has.
    fn receive(&mut self) -> io::Result<bool> {
        if self.incoming.len() - self.filled < READ_BYTES {
            self.incoming.resize(self.filled + READ_BYTES, 0);
        }
        match self.stream.read(&mut self.incoming[self.filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => self.filled += bytes,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        let mut at = 0;
        while let Some(operation) =
            read_operation(&self.incoming[..self.filled], &mut at).map_err(io::Error::other)?
        {
            let token = operation.token;
            let taken = match operation.kind {
                OperationKind::Propose => {
                    let proposed = self.pipeline.propose(operation.group, token, operation.bytes);
                    proposed.map_err(|error| Outcome::Proposal(Err(error)))
                }
                OperationKind::Read(demand) => {
                    let session = demand.session(operation.group);
                    let options = demand.options(&session);
                    let read = self.pipeline.query(operation.group, token, operation.bytes, options);
                    read.map_err(|error| Outcome::Read(Err(error)))
                }
            };
            if let Err(outcome) = taken {
                write_completion(&mut self.outgoing, &Completion { token, outcome });
            }
        }
        self.incoming.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(true)
    }

    fn send(&mut self) -> io::Result<()> {
        while self.sent < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.sent..]) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Ok(())
    }

    fn wait_for_socket(&self) -> io::Result<()> {
        let unsent = if self.sent < self.outgoing.len() { PollFlags::OUT } else { PollFlags::empty() };
        let mut socket = [PollFd::new(&self.stream, PollFlags::IN | unsent)];
        let timeout = Timespec { tv_sec: 1, tv_nsec: 0 };
        match poll(&mut socket, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
