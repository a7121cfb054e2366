//! A node in a process of its own, killed by SIGKILL. IMPURE: processes and pipes.
//!
//! Questions go down its standard input as lines of JSON and answers come up its standard output; operations take the
//! socket. A child ends when its standard input does, because its parent is gone.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::control::{NodeControl, NodeSettings, NodeUsage};
use crate::hash_machine::STALL_QUERY;
use crate::port::RemotePort;
use crate::usage::cpu_nanos_of;

/// What a parent asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Another node is there.
    SetAddress(u64, SocketAddr),
    /// Make groups `0..count` with voters `1..=voters`.
    CreateGroups(u32, u64),
    /// The applied indices of groups `0..count`.
    Applied(u32),
    /// Applied indices and hashes of groups `0..count`.
    Digests(u32),
    /// What a replica answers as it is.
    Query(u32, Vec<u8>),
    /// What the process has used.
    Usage,
    /// End properly.
    Stop,
}

/// What a child answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Before any question: the node runs and is reached there.
    Ready(SocketAddr),
    /// It is done.
    Done,
    /// To `Applied`.
    Applied(Vec<u64>),
    /// To `Digests`.
    Digests(Vec<(u64, u64)>),
    /// To `Query`: hexadecimal bytes.
    Bytes(String),
    /// To `Usage`.
    Usage(NodeUsage),
    /// It could not be done.
    Failed(String),
}

struct Life {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    address: SocketAddr,
}

/// A child and what it takes to start it again.
pub struct ChildNode {
    settings: NodeSettings,
    life: Option<Life>,
    others: Vec<(u64, SocketAddr)>,
    earlier: NodeUsage,
}

impl Life {
    fn start(settings: &NodeSettings) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| format!("finding this program: {error}"))?;
        let settings = serde_json::to_string(settings).map_err(|error| error.to_string())?;
        let mut process = Command::new(program)
            .args(["node", &settings])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("starting a node: {error}"))?;
        let (Some(questions), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("a node started without its pipes".into());
        };
        let address = SocketAddr::from(([0; 4], 0));
        let mut life = Self { process, questions, answers: BufReader::new(answers), address };
        match life.answer()? {
            Answer::Ready(address) => life.address = address,
            other => return Err(unexpected(&other)),
        }
        Ok(life)
    }

    fn answer(&mut self) -> Result<Answer, String> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err("a node's process ended".into()),
            Ok(_) => {
                serde_json::from_str(&line).map_err(|error| format!("a node answered nonsense: {error}"))
            }
            Err(error) => Err(format!("a node's answers: {error}")),
        }
    }

    fn begin(&mut self, question: &Question) -> Result<(), String> {
        let mut line = serde_json::to_string(question).map_err(|error| error.to_string())?;
        line.push('\n');
        self.questions.write_all(line.as_bytes()).map_err(|error| format!("a node's questions: {error}"))
    }

    fn ask(&mut self, question: &Question) -> Result<Answer, String> {
        self.begin(question)?;
        match self.answer()? {
            Answer::Failed(why) => Err(why),
            answer => Ok(answer),
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // It has ended by itself, or must not outlive its parent.
        let _gone = self.process.kill();
        let _status = self.process.wait();
    }
}

impl ChildNode {
    /// Stops the process where it is, or lets it go on.
    ///
    /// # Errors
    /// The node is down, or cannot be stopped.
    pub fn freeze(&mut self, freeze: bool) -> Result<(), String> {
        let node = self.settings.node;
        let life = self.life.as_ref().ok_or_else(|| format!("node n{node} is down"))?;
        let signal = if freeze { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(&life.process), signal)
            .map_err(|error| format!("stopping node n{node}: {error}"))
    }

    /// The worker of a group is stuck from now on, for so long: in its state machine, which must be the hash machine. The node
    /// can be asked nothing else before [`ChildNode::end_stall`].
    ///
    /// # Errors
    /// The node is down.
    pub fn begin_stall(&mut self, group: u32, span: Duration) -> Result<(), String> {
        let node = self.settings.node;
        let query = [STALL_QUERY, &(span.as_millis() as u64).to_le_bytes()].concat();
        let life = self.life.as_mut().ok_or_else(|| format!("node n{node} is down"))?;
        life.begin(&Question::Query(group, query)).map_err(|error| format!("node n{node}: {error}"))
    }

    /// Waits until the worker is stuck no longer.
    ///
    /// # Errors
    /// The node is gone.
    pub fn end_stall(&mut self) -> Result<(), String> {
        let node = self.settings.node;
        let life = self.life.as_mut().ok_or_else(|| format!("node n{node} is down"))?;
        life.answer().map(drop).map_err(|error| format!("node n{node}: {error}"))
    }

    fn ask(&mut self, question: &Question) -> Result<Answer, String> {
        let node = self.settings.node;
        let life = self.life.as_mut().ok_or_else(|| format!("node n{node} is down"))?;
        life.ask(question).map_err(|error| format!("node n{node}: {error}"))
    }
}

impl NodeControl for ChildNode {
    type Port = RemotePort;

    fn start(settings: NodeSettings) -> Result<Self, String> {
        let life = Some(Life::start(&settings)?);
        Ok(Self { settings, life, others: Vec::new(), earlier: NodeUsage::default() })
    }

    fn address(&self) -> SocketAddr {
        self.life.as_ref().map_or_else(|| SocketAddr::from(([0; 4], 0)), |life| life.address)
    }

    fn set_address(&mut self, node: u64, address: SocketAddr) -> Result<(), String> {
        self.others.retain(|(other, _)| *other != node);
        self.others.push((node, address));
        self.ask(&Question::SetAddress(node, address)).map(drop)
    }

    fn create_groups(&mut self, count: u32, voters: u64) -> Result<(), String> {
        self.ask(&Question::CreateGroups(count, voters)).map(drop)
    }

    fn port(&mut self) -> Result<RemotePort, String> {
        RemotePort::connect(&self.settings.socket, self.settings.in_flight_max)
            .map_err(|error| format!("connecting to node n{}: {error}", self.settings.node))
    }

    fn applied(&mut self, count: u32) -> Result<Vec<u64>, String> {
        match self.ask(&Question::Applied(count))? {
            Answer::Applied(applied) => Ok(applied),
            other => Err(unexpected(&other)),
        }
    }

    fn digests(&mut self, count: u32) -> Result<Vec<(u64, u64)>, String> {
        match self.ask(&Question::Digests(count))? {
            Answer::Digests(digests) => Ok(digests),
            other => Err(unexpected(&other)),
        }
    }

    fn query(&mut self, group: u32, query: &[u8]) -> Result<Bytes, String> {
        match self.ask(&Question::Query(group, query.to_vec()))? {
            Answer::Bytes(hex) => from_hex(&hex).ok_or_else(|| "a node answered half a byte".into()),
            other => Err(unexpected(&other)),
        }
    }

    fn usage(&mut self) -> Result<NodeUsage, String> {
        match self.ask(&Question::Usage)? {
            Answer::Usage(usage) => Ok(usage.plus(&self.earlier)),
            other => Err(unexpected(&other)),
        }
    }

    fn kill(&mut self) -> Result<(), String> {
        let mut usage = self.usage()?;
        if let Some(mut life) = self.life.take() {
            let cpu = cpu_nanos_of(life.process.id()) + self.earlier.cpu_nanos;
            usage.cpu_nanos = usage.cpu_nanos.max(cpu);
            life.process.kill().map_err(|error| format!("killing node n{}: {error}", self.settings.node))?;
        }
        self.earlier = usage;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), String> {
        self.life = Some(Life::start(&self.settings)?);
        for (node, address) in self.others.clone() {
            self.ask(&Question::SetAddress(node, address))?;
        }
        Ok(())
    }

    fn stop(mut self) {
        // A child that no longer answers is ended by force when it is dropped.
        let _answer = self.ask(&Question::Stop);
    }
}

fn unexpected(answer: &Answer) -> String {
    format!("a node answered another question: {answer:?}")
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let digits =
        bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    digits.map(char::from).collect()
}

/// The reverse; `None` if they are not pairs of such digits.
#[must_use]
pub fn from_hex(text: &str) -> Option<Bytes> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect::<Option<Vec<u8>>>()
        .map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_hexadecimal() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&to_hex(&bytes)).as_deref(), Some(&bytes[..]));
        assert_eq!((from_hex("abc"), from_hex("xy")), (None, None));
    }

    #[test]
    fn questions_and_answers_are_single_lines_that_read_back() {
        let question = Question::Query(3, b"a\nb".to_vec());
        let line = serde_json::to_string(&question).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Question>(&line).unwrap(), question);
        let answer = Answer::Digests(vec![(1, u64::MAX)]);
        let line = serde_json::to_string(&answer).unwrap();
        assert_eq!(serde_json::from_str::<Answer>(&line).unwrap(), answer);
    }
}
