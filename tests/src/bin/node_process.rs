//! `node_process NODE DATA IDENTITY CLOCK_RATE_PPM`: one engine as a process of its own, for tests that kill it. The lines it
//! speaks are described at the head of `raftwerk_tests::processes`.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{BufRead, stdin};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;
use std::{env, thread};

use raftwerk::identity::Identity;
use raftwerk::{Applied, Config, Engine, GroupId, NodeId, Outcome, Pipeline, ProposeError};
use raftwerk_tests::calls::{Calls, say};
use raftwerk_tests::journal::{self, Journal};

/// Proposals under way in this node; more are refused as busy.
const IN_FLIGHT_MAX: usize = 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [node, data, identity, clock_rate_ppm] = &words[..] else {
        return Err("usage: node_process NODE DATA IDENTITY CLOCK_RATE_PPM".into());
    };
    let mut config = Config::new(NodeId(node.parse()?), data, Identity::load(Path::new(identity))?);
    config.workers = 2;
    config.clock_rate_ppm = clock_rate_ppm.parse()?;
    config.segment_bytes = 1 << 20;
    config.payload_bytes_max = 64 << 10;
    // Small, so that nodes die in the middle of checkpoints too.
    config.checkpoint_log_bytes = 64 << 10;
    let engine = Engine::open(config, |_| Journal::default()).wait()?;
    say(&format!("listening {}\n", engine.local_addr()))?;

    let (read, lines) = mpsc::channel();
    let calls = Calls::start(&engine);
    thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            if !calls.take(&line) && read.send(line).is_err() {
                break;
            }
        }
    });
    let mut pipeline = engine.pipeline(IN_FLIGHT_MAX);
    let mut done = Vec::new();
    loop {
        let mut answer = String::new();
        if pipeline.in_flight() == 0 {
            // Nothing else can happen. The end of the input is the end.
            let Ok(line) = lines.recv() else { return Ok(()) };
            obey(&engine, &mut pipeline, &line, &mut answer)?;
        }
        for line in lines.try_iter() {
            obey(&engine, &mut pipeline, &line, &mut answer)?;
        }
        pipeline.flush();
        pipeline.wait(Duration::from_millis(1));
        pipeline.take(&mut done);
        for completion in done.drain(..) {
            if let Outcome::Proposal(result) = &completion.outcome {
                tell(completion.token, result, &mut answer)?;
            }
        }
        say(&answer)?;
    }
}

fn obey(
    engine: &Engine,
    pipeline: &mut Pipeline,
    line: &str,
    answer: &mut String,
) -> Result<(), Box<dyn Error>> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["peer", node, address] => engine.set_address(NodeId(node.parse()?), address.parse()?),
        ["create", count] => {
            let groups: Vec<GroupId> = (1..=count.parse()?).map(GroupId).collect();
            engine.create_groups(&groups, &[1, 2, 3].map(NodeId)).wait()?;
            writeln!(answer, "created")?;
        }
        ["put", group, token] => {
            let (group, token) = (GroupId(group.parse()?), token.parse::<u64>()?);
            if let Err(error) = pipeline.propose(group, token, &token.to_le_bytes()) {
                tell(token, &Err(error), answer)?;
            }
        }
        ["journal", group] => match engine.group(GroupId(group.parse()?)).read("").wait() {
            Ok(image) => {
                write!(answer, "journal {group}")?;
                for line in journal::read(&image.reply).ok_or("the journal answers with itself")? {
                    write!(answer, " {}@{}", u64::from_le_bytes(line.payload[..].try_into()?), line.index)?;
                }
                writeln!(answer)?;
            }
            Err(_) => writeln!(answer, "refused {group}")?,
        },
        ["digest", group] => {
            let digest = engine.group(GroupId(group.parse()?)).digest().wait();
            let (applied, hash) = digest.map_or((0, 0), |(applied, hash)| (applied.0, hash));
            writeln!(answer, "digest {group} {applied} {hash}")?;
        }
        _ => return Err(format!("what is {line:?}?").into()),
    }
    Ok(())
}

fn tell(token: u64, result: &Result<Applied, ProposeError>, answer: &mut String) -> std::fmt::Result {
    match result {
        Ok(applied) => writeln!(answer, "done {token} {}", applied.id.index),
        Err(ProposeError::NotLeader { hint: Some(node) }) => {
            writeln!(answer, "not {token} leader {}", node.0)
        }
        Err(ProposeError::NotLeader { hint: None }) => writeln!(answer, "not {token} leader"),
        Err(ProposeError::Busy) => writeln!(answer, "not {token} busy"),
        Err(ProposeError::Unknown) => writeln!(answer, "not {token} unknown"),
        Err(error) => writeln!(answer, "not {token} error {error}"),
    }
}
