//! The score of a ball game, on three nodes, and four readers: each at the level that suits it, none at a
//! stronger one than it needs. After D. Terry, "Replicated Data Consistency Explained Through Baseball"
//! (2011).
//!
//! What each level may show is checked after every run, at every node; the guarantees are printed.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

#[path = "cluster/mod.rs"]
mod cluster;

use std::error::Error;
use std::time::{Duration, Instant};

use raftwerk::kv::{Reader, Store, StoreError};
use raftwerk::{Consistency, ReadOptions, Session};

use cluster::Cluster;

const VISITORS: &[u8] = b"visitors";
const HOME: &[u8] = b"home";
/// The scoring team, run by run.
const GAME: [&[u8]; 12] =
    [VISITORS, HOME, HOME, VISITORS, VISITORS, HOME, HOME, HOME, VISITORS, HOME, VISITORS, HOME];
/// The reporter's bound.
const BOUND: Duration = Duration::from_millis(100);
/// How long a read waits for what a replica lacks.
const PATIENCE: Duration = Duration::from_secs(10);

/// Visitors and home.
type Score = (u64, u64);

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::start()?;
    let scorekeeper = Session::new();
    let mut radio = Session::new();
    let mut on_air: Score = (0, 0);
    // Every score of the game so far, and when its run was acknowledged.
    let mut scores: Vec<(Score, Instant)> = vec![((0, 0), Instant::now())];
    for team in GAME {
        score_run(&cluster, &scorekeeper, team)?;
        let last = scores[scores.len() - 1].0;
        let score = if team == HOME { (last.0, last.1 + 1) } else { (last.0 + 1, last.1) };
        scores.push((score, Instant::now()));
        for store in cluster.stores() {
            // The radio reporter's colleague takes over at another node, with the session of the first.
            radio = Session::from_token(&radio.to_token())?;
            let heard = at(&store, Consistency::Monotonic, &radio, read_score)?;
            assert!(heard.0 >= on_air.0 && heard.1 >= on_air.1, "the radio never goes back");
            on_air = heard;

            let called = Instant::now();
            let level = Consistency::BoundedStaleness(BOUND);
            let reported = at(&store, level, &Session::new(), read_score)?;
            let known = scores.iter().rfind(|(_, at)| *at + BOUND < called).map(|(score, _)| *score);
            let least = known.unwrap_or_default();
            assert!(reported.0 >= least.0 && reported.1 >= least.1, "the report is not too old");

            let seen = at(&store, Consistency::Eventual, &Session::new(), read_score)?;
            assert!(scores.iter().any(|(score, _)| *score == seen), "the fan sees a score that was");
        }
    }
    let end = scores[scores.len() - 1].0;
    for store in cluster.stores() {
        // After the game the statistician wants the final score, and nothing older.
        assert_eq!(at(&store, Consistency::Strong, &Session::new(), read_score)?, end);
    }
    println!(
        "The game has ended {} : {}, visitors to home. What each may have seen on the way:",
        end.0, end.1
    );
    println!("scorekeeper   read my writes     the score that he wrote himself: nobody else writes it");
    println!("              may not show       a score without one of his runs, at whichever node he reads");
    println!("radio         monotonic          an old score, perhaps, but never one older than was on air");
    println!("              may not show       a team that loses a run, also when another node takes over");
    println!("reporter      bounded, 100 ms    the score of a moment ago, at the node next to him");
    println!("              may not show       a score that was another 100 ms before he asked");
    println!("fan           eventual           any score that there was; the final one, in the end");
    println!("              may not show       a score that never was, such as half of a change");
    println!("statistician  strong             the score, as of now, at the price of asking the leader");
    Ok(())
}

/// The scorekeeper reads the score, adds a run and writes it. He is the only writer: to read his own writes
/// is enough, and he may do it at any node.
fn score_run(cluster: &Cluster, session: &Session, team: &[u8]) -> Result<(), StoreError> {
    let stores = cluster.stores();
    let store = stores.last().ok_or(StoreError::EmptyBatch)?;
    let (visitors, home) = at(store, Consistency::ReadMyWrites, session, read_score)?;
    let runs = 1 + if team == HOME { home } else { visitors };
    // Repeated, it writes the same.
    cluster.anywhere(|store| store.in_session(session).put(team, runs.to_string().as_bytes()).wait());
    Ok(())
}

fn at<T>(
    store: &Store,
    level: Consistency,
    session: &Session,
    read: impl Fn(Reader<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    read(store.at(ReadOptions::new(level).in_session(session).or_wait(PATIENCE)))
}

/// Both numbers, from one state.
fn read_score(reader: Reader<'_>) -> Result<Score, StoreError> {
    let found = reader.get_many(&[VISITORS, HOME]).wait()?;
    let runs = |at: usize| {
        let value = found.get(at).and_then(|read| read.value.as_ref());
        value.and_then(|found| String::from_utf8_lossy(&found.value).parse().ok()).unwrap_or(0)
    };
    Ok((runs(0), runs(1)))
}
