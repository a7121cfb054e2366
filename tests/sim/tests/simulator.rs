//! The simulator itself: it repeats, it is clean on the engine as it is, and it is not blind.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use clap::ValueEnum as _;
use raftwerk::{Checkpoint, Committed, GroupId, Replies, StateMachine};
use raftwerk_sim::{
    Chance, FaultKind, FaultSet, KeyValueSubject, Operation, Options, Profile, Quarry, Subject, hunt, run,
};

fn key_value() -> Arc<dyn Subject> {
    Arc::new(KeyValueSubject::default())
}

fn quarry(from: u64, to: u64) -> Quarry {
    Quarry { from, to: Some(to), at_most: None, threads: 2, violations_max: usize::MAX }
}

#[test]
fn same_seed_gives_same_events_traced_or_not() {
    repeats(Profile::Swarm);
    repeats(Profile::Quic);
}

fn repeats(profile: Profile) {
    let silent = Options { profile, seconds: Some(5), ..Options::default() };
    let watched = Options { trace: Some(|_| ()), ..silent.clone() };
    let (mut hashes, mut answered, mut lived) = (Vec::new(), 0, 0);
    for seed in 0..8 {
        let [one, other] = [&silent, &watched].map(|options| run(seed, options, &key_value()));
        assert_eq!((one.hash, one.events), (other.hash, other.events), "seed {seed}");
        lived += one.events;
        answered += one.answered;
        hashes.push(one.hash);
    }
    assert!(answered > 0 && lived > 1_000, "some of them long enough to be of use: {lived} events");
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 8, "other seeds are other lives");
}

/// Keys, connection ids and hash tables are other ones in every process.
#[test]
fn another_process_sees_the_same_events() {
    for profile in ["swarm", "quic"] {
        let lived = || {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_raftwerk-sim"));
            command.args([
                "--seeds",
                "0..4",
                "--seconds",
                "4",
                "--threads",
                "1",
                "--json",
                "--profile",
                profile,
            ]);
            let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
            let report: serde_json::Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
            assert!(report["events"].as_u64().unwrap() > 1_000, "{report}");
            report["hash"].clone()
        };
        assert_eq!(lived(), lived(), "{profile}");
    }
}

#[test]
fn a_few_seeds_of_every_profile_break_no_rule() {
    for profile in Profile::value_variants().iter().copied() {
        let options = Options { profile, seconds: Some(8), ..Options::default() };
        let found = hunt(quarry(0, 12), &options, &key_value(), |_| ());
        assert_eq!(found.violations, [], "{profile:?}");
        assert!(found.answered > 100, "{profile:?}: {found:?}");
    }
}

#[test]
fn every_kind_of_fault_strikes() {
    let hunted = |profile| {
        let options = Options { profile, seconds: Some(20), ..Options::default() };
        hunt(quarry(0, 12), &options, &key_value(), |_| ())
    };
    let (hostile, churn) = (hunted(Profile::Hostile), hunted(Profile::Churn));
    let mut struck = hostile.faults;
    struck.merge(&churn.faults);
    struck.merge(&hunted(Profile::Quic).faults);
    struck.merge(&hunted(Profile::Leases).faults);
    let never: Vec<&str> =
        struck.iter().filter(|(_, count)| *count == 0).map(|(kind, _)| kind.name()).collect();
    assert_eq!(never, [""; 0]);
    assert!(hostile.loud_stops > 0, "damage is refused loudly");
}

/// Seeds that once failed, each with its options; see the file's head.
#[test]
fn corpus_seeds_break_no_rule() {
    let corpus = include_str!("../corpus.txt");
    let mut lived = 0;
    for line in corpus.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [seed, profile, ..] = words[..] else { panic!("{line}: a seed and a profile") };
        let profile = Profile::from_str(profile, false).unwrap();
        let seed = seed.parse().unwrap();
        let report = run(seed, &Options { profile, ..Options::default() }, &key_value());
        assert_eq!(report.violation, None, "{line}");
        lived += 1;
    }
    assert!(lived > 5, "{lived} seeds");
}

/// A register that gives each replica's own count to whoever asks, and each machine a digest of its own.
struct Broken {
    made: u64,
    applied: u64,
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    DigestOfItsOwn,
    ForgetsItsCheckpoint,
}

impl StateMachine for Broken {
    fn apply(&mut self, entries: Committed<'_>, _: &mut Replies) {
        self.applied += entries.count() as u64;
    }

    fn query(&self, _: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn checkpoint(&self) -> Checkpoint {
        let applied = self.applied;
        Box::new(move |out| out.write_all(&applied.to_le_bytes()))
    }

    fn restore(&mut self, image: &mut dyn Read) -> io::Result<()> {
        let mut applied = [0; 8];
        image.read_exact(&mut applied)?;
        if matches!(self.how, How::DigestOfItsOwn) {
            self.applied = u64::from_le_bytes(applied);
        }
        Ok(())
    }

    fn digest(&self) -> u64 {
        match self.how {
            How::DigestOfItsOwn => self.applied ^ self.made << 32,
            How::ForgetsItsCheckpoint => self.applied,
        }
    }
}

struct BrokenSubject(AtomicU64, How);

impl Subject for BrokenSubject {
    fn machine(&self, _: GroupId) -> Box<dyn StateMachine> {
        Box::new(Broken { made: self.0.fetch_add(1, Ordering::Relaxed), applied: 0, how: self.1 })
    }

    fn operation(&self, _: &mut Chance, unique: u64) -> Operation {
        Operation::Write(unique.to_le_bytes().to_vec().into())
    }
}

#[test]
fn a_state_machine_that_is_not_deterministic_is_caught() {
    for how in [How::DigestOfItsOwn, How::ForgetsItsCheckpoint] {
        let subject: Arc<dyn Subject> = Arc::new(BrokenSubject(AtomicU64::new(0), how));
        let quiet = FaultSet::of(|kind| kind != FaultKind::Kill);
        let options = Options { nodes: Some(3), without: quiet, ..Options::default() };
        let enough = Quarry { violations_max: 1, ..quarry(0, 60) };
        let found = hunt(enough, &options, &subject, |_| ());
        let (_, violation) = found.violations.first().expect("some seed shows it");
        assert_eq!(violation.invariant, "equal states");
    }
}
