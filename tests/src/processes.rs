//! A cluster of real processes that can be killed, stopped and cut off from each other, spoken to by lines on their standard
//! streams. IMPURE: processes, threads, signals, and by way of relays sockets.
//!
//! The other side is the binary `node_process`. What it is told, and what it answers:
//! ```text
//! peer NODE ADDRESS        where another node is
//! create COUNT             groups 1 to COUNT, on nodes 1 to 3     created
//! put GROUP TOKEN          propose the token                      done TOKEN INDEX | not TOKEN WHY [HINT]
//! journal GROUP            read it, linearizably                  journal GROUP TOKEN@INDEX… | refused GROUP
//! digest GROUP             hash this replica                      digest GROUP APPLIED HASH
//! transfer GROUP NODE      ask for another leader
//! write TOKEN GROUP SESSION               as put, in a session    wrote TOKEN INDEX LINES SESSION
//!                                                                 | unwritten TOKEN not HINT | unwritten TOKEN unknown
//! look TOKEN GROUP LEVEL WAIT SESSION     read it in brief, at a level, and wait so many ms for that
//!                                                                 shown TOKEN INDEX LINES LAST HASH AGE SESSION
//!                                                                 | hidden TOKEN behind APPLIED WANTED | hidden TOKEN for now
//! keep TOKEN GROUP LEVEL WAIT SESSION     as look, and keep the state that answers
//! again TOKEN              ask the kept state once more           again TOKEN INDEX LINES LAST HASH
//! ```
//! A session is a token in hexadecimal, `-`, or several with `+` between them; an age is in nanoseconds, or `-`. The last
//! four kinds are answered when they can be, in any order.
//!
//! Its first line is `listening ADDRESS`. It ends when its standard input does, so none outlives a test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use raftwerk::PeerId;
use raftwerk::identity::ClusterAuthority;
use raftwerk_bench::relay::{Relay, Way};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::facts::{PATIENCE, until};

/// The rate of a clock that is right, in parts per million.
pub const RIGHT_RATE: u32 = 1_000_000;

/// A line that a process has printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// By which node.
    pub node: u64,
    /// In which of its lives, counted over the whole cluster.
    pub life: u64,
    /// What.
    pub line: String,
}

struct Process {
    child: Child,
    input: ChildStdin,
    life: u64,
    address: String,
}

/// Nodes 1 to 3, each a process or dead.
pub struct Processes {
    program: PathBuf,
    dir: TempDir,
    lives: u64,
    alive: BTreeMap<u64, Process>,
    said: Receiver<Said>,
    say: Sender<Said>,
    /// Lines that came while something else was waited for.
    early: Vec<Said>,
    /// What lies between two nodes, by who dials and who is dialled; nothing, if they are told of each other as they are.
    relays: BTreeMap<(u64, u64), Relay>,
    has_relays: bool,
    /// At which rates clocks run that are not right.
    rates: BTreeMap<u64, u32>,
}

impl Processes {
    /// Starts three nodes of `program`.
    ///
    /// # Panics
    /// If they do not start.
    #[must_use]
    pub fn start(program: &Path) -> Self {
        Self::begin(program, false, &[])
    }

    /// As [`Processes::start`]; what the nodes tell each other can be lost and delayed, and clocks run at these rates, in parts
    /// per million of the right one: those of nodes 1, 2, …
    ///
    /// # Panics
    /// If they do not start.
    #[must_use]
    pub fn start_apart(program: &Path, rates: &[u32]) -> Self {
        Self::begin(program, true, rates)
    }

    fn begin(program: &Path, has_relays: bool, rates: &[u32]) -> Self {
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let authority = ClusterAuthority::new("tests").expect("a name of letters will do");
        for node in 1..=3 {
            let identity = authority.issue(PeerId(node)).expect("certificates can be made");
            identity.save(&dir.path().join(format!("identity-{node}"))).expect("files can be written");
        }
        let (say, said) = mpsc::channel();
        let mut processes = Self {
            program: program.to_owned(),
            dir,
            lives: 0,
            alive: BTreeMap::new(),
            said,
            say,
            early: Vec::new(),
            relays: BTreeMap::new(),
            has_relays,
            rates: (1..).zip(rates.iter().copied()).collect(),
        };
        for node in 1..=3 {
            processes.revive(node);
        }
        processes
    }

    /// Starts a dead node on what its last life has left, and introduces it.
    ///
    /// # Panics
    /// If it does not start.
    pub fn revive(&mut self, node: u64) {
        self.lives += 1;
        let life = self.lives;
        let mut command = Command::new(&self.program);
        command.arg(node.to_string()).arg(self.dir.path().join(format!("data-{node}")));
        command.arg(self.dir.path().join(format!("identity-{node}")));
        command.arg(self.rate(node).to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the node's program starts");
        let input = child.stdin.take().expect("it was asked for");
        let output = child.stdout.take().expect("it was asked for");
        let say = self.say.clone();
        thread::spawn(move || {
            let (mut output, mut line) = (BufReader::new(output), String::new());
            // What is cut off by death is no line: half an index is another index.
            while output.read_line(&mut line).is_ok() && line.ends_with('\n') {
                let whole = std::mem::take(&mut line).trim_end().to_owned();
                if say.send(Said { node, life, line: whole }).is_err() {
                    break;
                }
            }
        });
        self.alive.insert(node, Process { child, input, life, address: String::new() });
        let heard = self.wait_for(node, "listening ");
        let address = heard.trim_start_matches("listening ").to_owned();
        self.alive.get_mut(&node).expect("it was just started").address.clone_from(&address);
        let others: Vec<(u64, String)> =
            self.alive.iter().map(|(other, process)| (*other, process.address.clone())).collect();
        for (other, theirs) in others.into_iter().filter(|(other, _)| *other != node) {
            let (way, way_back) = (self.way(other, node, &address), self.way(node, other, &theirs));
            self.tell(other, &format!("peer {node} {way}"));
            self.tell(node, &format!("peer {other} {way_back}"));
        }
    }

    /// Where one node finds another that listens there.
    fn way(&mut self, from: u64, to: u64, address: &str) -> String {
        if !self.has_relays {
            return address.to_owned();
        }
        let address: SocketAddr = address.parse().expect("nodes say where they listen");
        let start = || Relay::start(address).expect("there are sockets and threads");
        let relay = self.relays.entry((from, to)).or_insert_with(start);
        relay.point(address);
        relay.address().to_string()
    }

    fn on_the_way(&self, from: u64, to: u64, change: impl Fn(&Way)) {
        let relays =
            [self.relays.get(&(from, to)).map(Relay::there), self.relays.get(&(to, from)).map(Relay::back)];
        relays.into_iter().flatten().for_each(change);
    }

    /// Lets nothing pass from one node to another any more.
    pub fn cut(&self, from: u64, to: u64) {
        self.on_the_way(from, to, |way| way.cut(true));
    }

    /// Loses so many in a million of all packets.
    pub fn lose(&self, ppm: u32) {
        self.relays.values().flat_map(|relay| [relay.there(), relay.back()]).for_each(|way| way.lose(ppm));
    }

    /// Delays all packets from one node to another.
    pub fn lag(&self, from: u64, to: u64, by: Duration) {
        self.on_the_way(from, to, |way| way.lag(by));
    }

    /// Everything passes again, at once.
    pub fn mend(&self) {
        for way in self.relays.values().flat_map(|relay| [relay.there(), relay.back()]) {
            way.cut(false);
            way.lose(0);
            way.lag(Duration::ZERO);
        }
    }

    /// The rate of a node's clock, in parts per million of the right one.
    #[must_use]
    pub fn rate(&self, node: u64) -> u32 {
        self.rates.get(&node).copied().unwrap_or(RIGHT_RATE)
    }

    /// In its next life, a node's clock runs at this rate.
    pub fn set_rate(&mut self, node: u64, rate_ppm: u32) {
        self.rates.insert(node, rate_ppm);
    }

    /// SIGSTOP, or SIGCONT: the node does nothing, and does not know. What it is told meanwhile waits for it; not for too many
    /// lines, or whoever tells it waits, too.
    ///
    /// # Panics
    /// If the node is dead.
    pub fn pause(&mut self, node: u64, pause: bool) {
        let process = self.alive.get(&node).expect("only the living can be stopped");
        let signal = if pause { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(&process.child), signal).expect("a child can be sent a signal");
    }

    /// SIGKILL: no goodbye, nothing flushed.
    ///
    /// # Panics
    /// If the node is dead already.
    pub fn kill(&mut self, node: u64) {
        let mut process = self.alive.remove(&node).expect("only the living can be killed");
        process.child.kill().expect("it can be killed");
        process.child.wait().expect("and is dead then");
    }

    /// The nodes that are alive.
    #[must_use]
    pub fn alive(&self) -> Vec<u64> {
        self.alive.keys().copied().collect()
    }

    /// The life that a node is in; `None` if it is dead.
    #[must_use]
    pub fn life(&self, node: u64) -> Option<u64> {
        self.alive.get(&node).map(|process| process.life)
    }

    /// Tells a node something.
    ///
    /// # Panics
    /// If it has died of itself.
    pub fn tell(&mut self, node: u64, line: &str) {
        let process = self.alive.get_mut(&node).expect("only the living are spoken to");
        if let Err(error) = writeln!(process.input, "{line}") {
            panic!("node {node} died of itself: {error}");
        }
    }

    /// The next line of anyone, also of the dead.
    ///
    /// # Panics
    /// If nobody says anything for long.
    pub fn hear(&mut self) -> Said {
        if !self.early.is_empty() {
            return self.early.remove(0);
        }
        match self.said.recv_timeout(PATIENCE) {
            Ok(said) => said,
            Err(_) => panic!("nobody says anything"),
        }
    }

    /// The next line of anyone, also of the dead, if there is one soon enough.
    pub fn hear_within(&mut self, at_most: Duration) -> Option<Said> {
        if !self.early.is_empty() {
            return Some(self.early.remove(0));
        }
        match self.said.recv_timeout(at_most) {
            Ok(said) => Some(said),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => unreachable!("this end can be spoken to, too"),
        }
    }

    /// A group's journal, read linearizably wherever that works: tokens with their indices, in the order of the lines.
    ///
    /// # Panics
    /// If it works nowhere, or a line is twice there.
    pub fn journal(&mut self, group: u64) -> Vec<(u64, u64)> {
        let alive = self.alive();
        let journal = until("a linearizable read", || {
            alive.iter().find_map(|node| {
                self.tell(*node, &format!("journal {group}"));
                let said = self.wait_for_one_of(*node, &["journal ", "refused "]);
                said.strip_prefix(&format!("journal {group}")).map(str::to_owned)
            })
        });
        let line = |line: &str| {
            let (token, index) = line.split_once('@').expect("token and index");
            (token.parse().expect("a token"), index.parse().expect("an index"))
        };
        journal.split_whitespace().map(line).collect()
    }

    /// Waits until all living nodes have applied as much of a group.
    ///
    /// # Panics
    /// If that never happens, or they differ then.
    pub fn assert_equal(&mut self, group: u64) {
        let alive = self.alive();
        let digests = until("replicas that have applied as much", || {
            let digest = |node: &u64| {
                self.tell(*node, &format!("digest {group}"));
                self.wait_for_one_of(*node, &["digest "])
            };
            let digests: Vec<String> = alive.iter().map(digest).collect();
            let applied = |digest: &String| digest.split(' ').nth(2).map(str::to_owned);
            digests.iter().all(|digest| applied(digest) == applied(&digests[0])).then_some(digests)
        });
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    }

    /// The next line of a living node that begins so. Others are kept for [`Processes::hear`].
    ///
    /// # Panics
    /// If it does not come.
    pub fn wait_for(&mut self, node: u64, begin: &str) -> String {
        self.wait_for_one_of(node, &[begin])
    }

    /// The next line of a living node that begins in one of these ways. Others are kept for [`Processes::hear`].
    ///
    /// # Panics
    /// If it does not come.
    pub fn wait_for_one_of(&mut self, node: u64, begins: &[&str]) -> String {
        let life = self.life(node);
        let begin = |line: &String| begins.iter().any(|begin| line.starts_with(begin));
        let wanted = |said: &Said| Some(said.life) == life && begin(&said.line);
        if let Some(at) = self.early.iter().position(wanted) {
            return self.early.remove(at).line;
        }
        loop {
            match self.said.recv_timeout(PATIENCE) {
                Ok(said) if wanted(&said) => return said.line,
                Ok(said) => self.early.push(said),
                Err(_) => panic!("node {node} never says one of {begins:?}"),
            }
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in self.alive.values_mut() {
            // Whatever is wrong with it, the test is over.
            let _dead_already = process.child.kill();
            let _reaped = process.child.wait();
        }
    }
}
