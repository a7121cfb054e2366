//! Your own state machine through the simulator: a counter that only grows. `cargo run -p raftwerk-sim --example own_machine`

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use raftwerk::{Checkpoint, Committed, GroupId, Replies, StateMachine};
use raftwerk_sim::{Chance, Operation, Options, Seen, Subject, run};

#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, entries: Committed<'_>, replies: &mut Replies) {
        for entry in entries {
            self.0 += 1;
            replies.push(entry.index, self.0.to_le_bytes().to_vec());
        }
    }
    fn query(&self, _: &[u8]) -> Bytes {
        self.0.to_le_bytes().to_vec().into()
    }
    fn checkpoint(&self) -> Checkpoint {
        let count = self.0;
        Box::new(move |out| out.write_all(&count.to_le_bytes()))
    }
    fn restore(&mut self, image: &mut dyn Read) -> io::Result<()> {
        let mut count = [0; 8];
        image.read_exact(&mut count)?;
        self.0 = u64::from_le_bytes(count);
        Ok(())
    }
}

struct Counting;

impl Subject for Counting {
    fn machine(&self, _: GroupId) -> Box<dyn StateMachine> {
        Box::new(Counter::default())
    }
    fn operation(&self, chance: &mut Chance, unique: u64) -> Operation {
        let bytes = unique.to_le_bytes().to_vec().into();
        if chance.below(2) == 0 { Operation::Write(bytes) } else { Operation::Read(bytes) }
    }
    /// Whoever called later must not see less.
    fn judge(&self, _: GroupId, calls: &[Seen]) -> Result<(), String> {
        let counts = calls.iter().filter_map(|call| {
            let (at, reply) = call.returned.as_ref()?;
            Some((call.called, *at, u64::from_le_bytes(reply[..].try_into().ok()?)))
        });
        let mut counts: Vec<_> = counts.collect();
        counts.sort_unstable();
        let mut ended: Vec<_> = counts.iter().map(|&(_, at, count)| (at, count)).collect();
        ended.sort_unstable();
        let (mut next, mut floor) = (ended.into_iter().peekable(), 0);
        for (called, _, count) in counts {
            while let Some((_, seen)) = next.next_if(|(at, _)| *at < called) {
                floor = floor.max(seen);
            }
            if count < floor {
                return Err(format!("{count} was seen after {floor}"));
            }
        }
        Ok(())
    }
}

fn main() {
    let subject: Arc<dyn Subject> = Arc::new(Counting);
    for seed in 0..20 {
        let report = run(seed, &Options::default(), &subject);
        assert_eq!(report.violation, None, "seed {seed}");
    }
}
