//! IMPURE: mechanical mutants: conditions negated, comparisons shifted, statements left out, wherever the
//! sources have them.
//!
//! A sample of the places, drawn by a seed, is planted into one copy of the sources, each behind a switch; the copy is
//! built once. Then each is switched on and judged by the tests that reach it, and if they pass by lives. What nothing
//! notices is either equivalent, with a reason that is kept by hand, or missed. Next: `places` for what is changed, `rooms`
//! for where, `reach` for what comes by it, `judge` for what notices, `tests/sim/mutants/README.md` for how a score is
//! read. What is not here: bugs that were thought of (`catalogue`).

mod bench;
mod judge;
pub mod places;
pub mod plant;
mod program;
mod reach;
pub mod records;
pub mod rooms;
pub mod score;
pub mod sums;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use self::judge::{Court, Tried};
use self::places::Place;
use self::records::{Equivalent, Notice, Reached, Record, Records, Verdict, equivalents};
use self::rooms::{Mutant, ROOMS, Room, Survey};
use self::score::{Part, Score};
use self::sums::{Sums, sums};
use super::CatalogueError;
use super::workshop::Workshop;
use crate::Chance;
use crate::disk::held;

/// The verdicts that are given by hand, in the catalogue's folder.
pub(super) const EQUIVALENTS: &str = "equivalent.txt";

/// The score, in the same folder.
const SCORE: &str = "mechanical.json";

/// What is wanted of a run.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Only mutants of these rooms, or with this in their names; all if empty.
    pub only: Vec<String>,
    /// What draws the sample.
    pub draw: u64,
    /// How many places of each room, instead of the room's own number.
    pub sample: Option<usize>,
    /// How long lives may go on for one mutant.
    pub lives: Duration,
    /// How many mutants are tried at the same time.
    pub threads: usize,
}

/// Why there was no run.
#[derive(Debug, thiserror::Error)]
pub enum MechanicalError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program could not be run.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file is not Rust.
    #[error("{file}: {what}")]
    Syntax {
        /// Which.
        file: String,
        /// Why not.
        what: String,
    },
    /// The copy could not be made.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The copy could not be run.
    #[error(transparent)]
    Hunt(#[from] super::HuntError),
    /// The copy does not build, and no mutant can be blamed.
    #[error("the copy does not build:\n{0}")]
    Build(String),
    /// The verdicts given by hand cannot be used.
    #[error("equivalent.txt: {0}")]
    Equivalents(String),
}

impl MechanicalError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

/// The verdicts that are given by hand, in a checkout.
///
/// # Errors
/// If the file cannot be read or understood.
pub fn equivalents_of(root: &Path) -> Result<Vec<Equivalent>, MechanicalError> {
    let path = super::folder(root).join(EQUIVALENTS);
    equivalents(&fs::read_to_string(&path).map_err(MechanicalError::io(&path))?)
}

/// The score that is kept in a checkout; empty before the first run.
///
/// # Errors
/// If there is a file that cannot be read.
pub fn score_of(root: &Path) -> Result<Score, MechanicalError> {
    let path = super::folder(root).join(SCORE);
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Score::default()),
        json => json.map(|json| Score::read(&json)).map_err(MechanicalError::io(&path)),
    }
}

/// Tries the mutants. `tell` is given a line for people whenever there is news. Unless the size of the sample is another
/// than the rooms' own, the score of those that were run, whole ones, goes into the checkout.
///
/// # Errors
/// [`MechanicalError`] if there was no run; what was missed is in the [`Score`].
pub fn run_all(wanted: &Wanted, command: &str, tell: impl Fn(&str) + Sync) -> Result<Score, MechanicalError> {
    let root = super::checkout();
    let equivalents = equivalents_of(&root)?;
    let kept = super::folder(&root).join(SCORE);
    let before = score_of(&root)?;
    let mut run = Run::begin(wanted, root, &before)?;
    if !run.open(wanted).is_empty() {
        let court = run.build(wanted, &tell)?;
        run.try_open(wanted, &court, &tell)?;
    }
    let (command, draw, lives) = (command.to_owned(), wanted.draw, seconds(wanted));
    let like = Part { command, draw, lives, ..Part::default() };
    let score = Score::of(&run.survey, &run.records.by_name, &equivalents, (&run.sums, &like));
    if wanted.sample.is_some() {
        return Ok(score);
    }
    let was_run = |room: &str| wanted.only.is_empty() || wanted.only.iter().any(|only| only == room);
    // Another run may have ended meanwhile.
    let score = score.merged_into(score_of(&run.root)?, was_run);
    let json = score.json().map_err(io::Error::other)?;
    fs::write(&kept, json).map_err(MechanicalError::io(&kept))?;
    Ok(score)
}

/// What a run goes by.
struct Run {
    root: PathBuf,
    folder: PathBuf,
    survey: Survey,
    records: Records,
    /// What noticed a mutant the last time.
    hints: BTreeMap<String, Notice>,
    /// Of each room.
    sums: BTreeMap<&'static str, Sums>,
    /// Mutants that lives have not noticed, and would not if they were lived again: only tests have changed since.
    lived: BTreeSet<String>,
}

impl Run {
    fn begin(wanted: &Wanted, root: PathBuf, before: &Score) -> Result<Self, MechanicalError> {
        let survey = rooms::survey(&root, wanted.draw, wanted.sample)?;
        let folder = std::env::current_exe()?.with_file_name("mechanical");
        fs::create_dir_all(&folder).map_err(MechanicalError::io(&folder))?;
        let mut records = Records::open(&folder.join("records.jsonl"))?;
        let mut hints = before.hints();
        hints.extend(records.by_name.values().filter_map(|record| match &record.verdict {
            Verdict::Noticed(notice) => Some((record.name.clone(), notice.clone())),
            Verdict::Unnoticed | Verdict::Unbuildable => None,
        }));
        let sums = sums(&root, &survey)?;
        let room_of: BTreeMap<&str, &str> =
            survey.drawn.iter().map(|mutant| (mutant.place.name.as_str(), mutant.room.name)).collect();
        let sums_of = |name: &str| room_of.get(name).and_then(|room| sums.get(room));
        // What is known from another machine stands as long as the sources are those that it is of.
        for record in before.rooms.values().flat_map(Part::records) {
            let stands = |of: &Record| sums_of(&of.name).is_some_and(|sums| of.sources == sums.sources);
            let is_known = records.by_name.get(&record.name).is_some_and(&stands);
            if !is_known && stands(&record) {
                records.by_name.insert(record.name.clone(), record);
            }
        }
        let mut lived = BTreeSet::new();
        records.by_name.retain(|name, record| {
            let Some(sums) = sums_of(name) else { return false };
            let stands = record.sources == sums.sources;
            if record.verdict != Verdict::Unnoticed || !stands {
                return stands;
            }
            // Longer lives, or tests that were added since, may notice what was not noticed.
            let has_lived = record.simulator == sums.simulator && record.lives >= seconds(wanted);
            if has_lived {
                lived.insert(name.clone());
            }
            has_lived && record.judges == sums.judges
        });
        Ok(Self { root, folder, survey, records, hints, sums, lived })
    }

    /// What is to be tried.
    fn open(&self, wanted: &Wanted) -> Vec<&Mutant> {
        let is_open = |mutant: &&Mutant| {
            let name = &mutant.place.name;
            // A room's name may be a part of many others: "log" is.
            let is_room = |part: &str| ROOMS.iter().any(|room| room.name == part);
            let is_meant = |part: &String| {
                if is_room(part) { mutant.room.name == part } else { name.contains(part.as_str()) }
            };
            let is_wanted = wanted.only.is_empty() || wanted.only.iter().any(is_meant);
            is_wanted && !self.records.by_name.contains_key(name)
        };
        self.survey.drawn.iter().filter(is_open).collect()
    }

    fn add(
        &mut self,
        wanted: &Wanted,
        mutant: &Mutant,
        (verdict, reached): (Verdict, Reached),
    ) -> Result<(), MechanicalError> {
        let Sums { sources, judges, simulator } = self.sums[mutant.room.name];
        let (name, lives) = (mutant.place.name.clone(), seconds(wanted));
        self.records.add(Record { name, sources, judges, simulator, lives, reached, verdict })
    }

    /// Builds the copy, and the judges of the rooms in which there is something to try.
    fn build(&mut self, wanted: &Wanted, tell: &(dyn Fn(&str) + Sync)) -> Result<Court, MechanicalError> {
        let open = self.open(wanted);
        tell(&format!("{} mutants drawn, {} to try; building", self.survey.drawn.len(), open.len()));
        let has_open = |room: &&'static Room| open.iter().any(|mutant| mutant.room.name == room.name);
        let rooms: Vec<&'static Room> = ROOMS.iter().filter(has_open).collect();
        let unbuildable =
            self.records.by_name.values().filter(|record| record.verdict == Verdict::Unbuildable);
        let known: BTreeSet<String> = unbuildable.map(|record| record.name.clone()).collect();
        let workshop = Workshop::new(&self.folder);
        let built = bench::build(&workshop, &self.root, &self.survey, known, tell)?;
        let is_new = |mutant: &&Mutant| {
            let name = &mutant.place.name;
            built.unbuildable.contains(name) && !self.records.by_name.contains_key(name)
        };
        let unbuildable: Vec<Mutant> = self.survey.drawn.iter().filter(is_new).cloned().collect();
        for mutant in &unbuildable {
            self.add(wanted, mutant, (Verdict::Unbuildable, Reached::default()))?;
        }
        tell(&format!("built, without {} that do not compile", built.unbuildable.len()));
        Court::new(built, &self.folder, (&rooms, wanted.lives, wanted.threads), tell)
    }

    fn try_open(
        &mut self,
        wanted: &Wanted,
        court: &Court,
        tell: &(impl Fn(&str) + Sync),
    ) -> Result<(), MechanicalError> {
        let open: Vec<Mutant> = self.open(wanted).into_iter().cloned().collect();
        let (hints, lived) = (self.hints.clone(), self.lived.clone());
        let run = Mutex::new(self);
        try_all(&open, wanted.threads, |mutant| {
            let name = &mutant.place.name;
            let Tried { notice, reached } =
                court.try_mutant(mutant, hints.get(name), lived.contains(name))?;
            tell(&told(mutant, notice.as_ref(), reached));
            let verdict = notice.map_or(Verdict::Unnoticed, Verdict::Noticed);
            held(&run).add(wanted, mutant, (verdict, reached))
        })
    }
}

/// How long lives may go on for a mutant.
fn seconds(wanted: &Wanted) -> f64 {
    wanted.lives.as_secs_f64()
}

/// Several at a time; the first error ends it.
fn try_all<T: Sync>(
    open: &[T],
    threads: usize,
    try_one: impl Fn(&T) -> Result<(), MechanicalError> + Sync,
) -> Result<(), MechanicalError> {
    let next = AtomicUsize::new(0);
    let (next, try_one) = (&next, &try_one);
    std::thread::scope(|scope| {
        let work = move || {
            while let Some(mutant) = open.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = try_one(mutant) {
                    next.store(open.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
            Ok(())
        };
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the run panicked").into()))
        })
    })
}

fn told(mutant: &Mutant, notice: Option<&Notice>, reached: Reached) -> String {
    let name = &mutant.place.name;
    match notice {
        Some(Notice { judge, test, what, seed, seconds }) => {
            let shown_by = if judge.starts_with("life ") { format!("seed {seed}") } else { test.clone() };
            format!("noticed    {name}\n           {judge} {shown_by}: {what}, {seconds:.1} s")
        }
        None => {
            let Reached { tests, profiles } = reached;
            format!("UNNOTICED  {name}\n           {tests} tests and {profiles} profiles reach it")
        }
    }
}

/// The names of all places, for verdicts that are to be checked.
///
/// # Errors
/// If a file cannot be read or is not Rust.
pub fn names(root: &Path) -> Result<BTreeMap<String, &'static str>, MechanicalError> {
    let survey = rooms::survey(root, 0, Some(usize::MAX))?;
    Ok(survey.drawn.into_iter().map(|mutant| (mutant.place.name, mutant.room.name)).collect())
}
