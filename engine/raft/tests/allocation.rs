//! Steady state costs no allocation: propose, send appends, accept, acknowledge, commit, apply, heartbeats
//! and reads, on three replicas, counted by a global allocator of this test's own. Allocations at a change of
//! leader are not counted. The allocator is an unsafe trait, so there is unsafe code in this file.

#![expect(unsafe_code, reason = "a global allocator is an unsafe trait; this one only counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use raftwerk_frame::{Configuration, EntryId, GroupId, Index, LogId, Message, NodeId, Run, Time};
use raftwerk_raft::{Append, Config, Effects, Group, Input, Opening, Restored};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches only a thread-local number that
// needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's guarantees are passed on, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's guarantees are passed on, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MS: u64 = 1_000_000;

fn replica(node: u64) -> Group {
    let config = Config {
        node: NodeId(node),
        log: LogId(0),
        group: GroupId(1),
        seed: 1,
        election_timeout: Duration::from_millis(100),
        heartbeat_interval: Duration::from_millis(10),
        first_timeout: None,
        window_bytes: 1 << 20,
        window_messages: 64,
        append_bytes_max: 1 << 16,
        uncommitted_bytes_max: 1 << 20,
        commit_delay: Duration::ZERO,
        retirement: Duration::from_millis(100),
        abstention: Duration::ZERO,
        opening: Opening::Core,
        pre_vote: true,
        check_quorum: true,
    };
    let configuration = Configuration::of_voters([1, 2, 3].map(NodeId));
    Group::new(config, Restored { configuration, ..Restored::default() }, Time(0))
}

/// Three replicas with disks that sync at once and a network that loses nothing. It allocates only to grow.
struct Trio {
    groups: [Group; 3],
    effects: Effects,
    network: Vec<(NodeId, NodeId, Message, Option<Run>)>,
    arriving: Vec<(NodeId, NodeId, Message, Option<Run>)>,
    now: Time,
    reads: u64,
}

impl Trio {
    fn step(&mut self, at: usize, input: Input<'_>) {
        self.effects.clear();
        self.groups[at].step(self.now, input, &mut self.effects);
        self.perform(at);
    }

    fn perform(&mut self, at: usize) {
        let from = NodeId(at as u64 + 1);
        let sent = self.effects.send.iter().chain(&self.effects.send_durable);
        self.network.extend(sent.map(|&(to, message)| (from, to, message, None)));
        self.reads += self.effects.reads.len() as u64;
        let (append, commit) = (self.effects.append, self.effects.commit);
        if let Some((_, index)) = commit {
            self.step(at, Input::Applied { index });
        }
        if let Some(append) = append {
            let id = match append {
                Append::Own { id, count, .. } => {
                    EntryId::new(id.term, Index(id.index.0 + u64::from(count) - 1))
                }
                Append::Accept { .. } => self.groups[at].last(),
            };
            self.step(at, Input::Durable { id });
        }
    }

    /// The end of a turn: flush, and appends.
    fn finish(&mut self, at: usize) {
        self.effects.clear();
        self.groups[at].flush(self.now, &mut self.effects);
        self.perform(at);
        let from = NodeId(at as u64 + 1);
        for to in [1, 2, 3].map(NodeId) {
            while let Some(append_plan) = self.groups[at].next_append(to) {
                let last = append_plan.last.max(append_plan.prev.index);
                let count = last.0 - append_plan.prev.index.0;
                self.groups[at].note_sent(to, last, count * 16);
                let message = Message::Append {
                    term: append_plan.term,
                    prev: append_plan.prev,
                    commit: append_plan.commit,
                    progress_epoch: append_plan.progress_epoch,
                };
                let run = (count > 0).then_some(Run { term: self.groups[at].last().term, count });
                self.network.push((from, to, message, run));
            }
        }
    }

    fn settle(&mut self) {
        while !self.network.is_empty() {
            std::mem::swap(&mut self.network, &mut self.arriving);
            for at in 0..self.arriving.len() {
                let (from, to, message, run) = self.arriving[at];
                let to = to.0 as usize - 1;
                self.step(to, Input::Message { from, message, runs: run.as_slice() });
                self.finish(to);
            }
            self.arriving.clear();
        }
    }

    /// One millisecond of work at the leader, the first replica.
    fn cycle(&mut self) {
        self.now = Time(self.now.0 + MS);
        for at in 0..3 {
            if self.groups[at].next_deadline() <= self.now {
                self.step(at, Input::Timeout);
            }
        }
        for _ in 0..4 {
            self.step(0, Input::Propose { count: 10, bytes: 160 });
            self.step(0, Input::Read { token: 1 });
            self.finish(0);
        }
        self.settle();
        for at in 0..3 {
            let to = Index(self.groups[at].applied().0.saturating_sub(100));
            self.step(at, Input::Compacted { to });
        }
    }
}

#[test]
fn a_steady_leader_and_its_followers_allocate_nothing() {
    let mut trio = Trio {
        groups: [1, 2, 3].map(replica),
        effects: Effects::default(),
        network: Vec::new(),
        arriving: Vec::new(),
        now: Time(0),
        reads: 0,
    };
    trio.step(0, Input::Campaign);
    trio.finish(0);
    trio.settle();
    assert!(trio.groups[0].is_leader());
    for _ in 0..300 {
        trio.cycle();
    }
    let (before, commit, reads) = (COUNT.get(), trio.groups[0].commit(), trio.reads);
    for _ in 0..1000 {
        trio.cycle();
    }
    let allocations = COUNT.get() - before;
    let (committed, reads) = (trio.groups[0].commit().0 - commit.0, trio.reads - reads);
    assert_eq!((committed, reads, allocations), (40_000, 4_000, 0));
    assert!(trio.groups[1].commit().0 > 40_000, "followers keep up");
    assert!(trio.groups[0].compacted().index.0 > 40_000, "logs are compacted on the way");
}
