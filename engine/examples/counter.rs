//! A custom state machine: a counter that adds the proposed numbers, on one node, durable across a restart.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::io::{self, Read, Write};

use bytes::Bytes;
use raftwerk::identity::ClusterAuthority;
use raftwerk::{Checkpoint, Committed, Config, Engine, GroupId, NodeId, Replies, StateMachine};

/// The sum of everything that was proposed.
#[derive(Default)]
struct Counter {
    sum: u64,
}

impl StateMachine for Counter {
    fn apply(&mut self, entries: Committed<'_>, replies: &mut Replies) {
        for entry in entries {
            // A payload that is not a number counts as 0, on every node alike.
            let number = entry.payload.try_into().map_or(0, u64::from_le_bytes);
            self.sum = self.sum.wrapping_add(number);
            replies.push(entry.index, Bytes::copy_from_slice(&self.sum.to_le_bytes()));
        }
    }

    fn query(&self, _: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.sum.to_le_bytes())
    }

    fn checkpoint(&self) -> Checkpoint {
        let sum = self.sum;
        Box::new(move |image: &mut dyn Write| image.write_all(&sum.to_le_bytes()))
    }

    fn restore(&mut self, image: &mut dyn Read) -> io::Result<()> {
        let mut sum = [0; 8];
        image.read_exact(&mut sum)?;
        self.sum = u64::from_le_bytes(sum);
        Ok(())
    }
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let identity = ClusterAuthority::new("example")?.issue(raftwerk::PeerId(1))?;
    let config = Config::new(NodeId(1), dir.path(), identity);
    let group = GroupId(1);

    let engine = Engine::open(config.clone(), |_| Counter::default()).wait()?;
    let counter = engine.create_group(group, &[NodeId(1)]).wait()?;
    for number in 1..=10u64 {
        // A new group has no leader for a moment.
        while counter.propose(number.to_le_bytes().to_vec()).wait().is_err() {
            std::thread::yield_now();
        }
    }
    engine.shutdown().wait()?;
    drop((counter, engine));

    let engine = Engine::open(config, |_| Counter::default()).wait()?;
    let counter = engine.group(group);
    let sum = loop {
        match counter.read("").wait() {
            Ok(sum) => break u64::from_le_bytes(sum.reply.as_ref().try_into()?),
            Err(_) => std::thread::yield_now(),
        }
    };
    assert_eq!(sum, 55);
    println!("the sum survived: {sum}");
    Ok(())
}
