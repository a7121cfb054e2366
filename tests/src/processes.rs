//! A cluster of real processes that can be killed, spoken to by lines on their standard streams.
//!
//! The other side is the binary `node_process`. What it is told, and what it answers:
//! ```text
//! peer NODE ADDRESS        where another node is
//! create COUNT             groups 1 to COUNT, on nodes 1 to 3     created
//! put GROUP TOKEN          propose the token                      done TOKEN INDEX | not TOKEN WHY [HINT]
//! journal GROUP            read it, linearizably                  journal GROUP TOKEN@INDEX… | refused GROUP
//! digest GROUP             hash this replica                      digest GROUP APPLIED HASH
//! ```
//! Its first line is `listening ADDRESS`. It ends when its standard input does, so none outlives a test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use raftwerk::PeerId;
use raftwerk::identity::ClusterAuthority;
use tempfile::TempDir;

use crate::facts::PATIENCE;

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
}

impl Processes {
    /// Starts three nodes of `program`.
    ///
    /// # Panics
    /// If they do not start.
    #[must_use]
    pub fn start(program: &Path) -> Self {
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let authority = ClusterAuthority::new("tests").expect("a name of letters will do");
        for node in 1..=3 {
            let identity = authority.issue(PeerId(node)).expect("certificates can be made");
            identity.save(&dir.path().join(format!("identity-{node}"))).expect("files can be written");
        }
        let (say, said) = mpsc::channel();
        let (program, alive) = (program.to_owned(), BTreeMap::new());
        let mut processes = Self { program, dir, lives: 0, alive, said, say, early: Vec::new() };
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
            self.tell(other, &format!("peer {node} {address}"));
            self.tell(node, &format!("peer {other} {theirs}"));
        }
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
