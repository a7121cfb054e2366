//! IMPURE: mutants by reading, not by knowing: conditions negated, comparisons shifted, statements left out, wherever the
//! sources have them.
//!
//! A sample of the places, drawn by a seed, is planted into one copy of the sources, each behind a switch; the copy is
//! built once. Then each is switched on and judged by tests, and if they pass by lives. What nothing notices is either
//! equivalent, with a reason that is kept by hand, or missed. Next: `places` for what is changed, `rooms` for where,
//! `judge` for what notices, `tests/sim/mutants/README.md` for how a score is read. What is not here: bugs that were
//! thought of (`catalogue`).

mod bench;
mod judge;
pub mod places;
pub mod plant;
pub mod rooms;
pub mod score;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use self::judge::Court;
use self::places::Place;
use self::rooms::{Mutant, ROOMS, Room, Survey};
use self::score::{Equivalent, Notice, Record, Records, Score, Verdict};
use super::CatalogueError;
use super::workshop::{Workshop, files_of};
use crate::Chance;

/// The verdicts that are given by hand, in the catalogue's folder.
pub(super) const EQUIVALENTS: &str = "equivalent.txt";

/// Where a file's own tests begin, if it has any: they are no part of what is mutated.
const OWN_TESTS: &str = "#[cfg(test)]\nmod tests {";

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
    score::equivalents(&fs::read_to_string(&path).map_err(MechanicalError::io(&path))?)
}

/// Tries the mutants. `tell` is given a line for people whenever there is news. A run of all writes the score into the
/// checkout.
///
/// # Errors
/// [`MechanicalError`] if there was no run; what was missed is in the [`Score`].
pub fn run_all(wanted: &Wanted, command: &str, tell: impl Fn(&str) + Sync) -> Result<Score, MechanicalError> {
    let root = super::checkout();
    let equivalents = equivalents_of(&root)?;
    let kept = super::folder(&root).join("mechanical.json");
    let mut run = Run::begin(wanted, root, &kept)?;
    let court = run.build(wanted, &tell)?;
    run.try_open(wanted, &court, &tell)?;
    let score = Score::of(&run.survey, &run.records.by_name, &equivalents);
    if wanted.only.is_empty() {
        fs::write(&kept, score.json(command, wanted.draw)).map_err(MechanicalError::io(&kept))?;
    }
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

/// Checksums of what a verdict depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sums {
    /// The sources of the room.
    sources: u32,
    /// Its tests and stories.
    tests: u32,
    /// The simulator's rules and faults.
    simulator: u32,
}

impl Run {
    fn begin(wanted: &Wanted, root: PathBuf, kept: &Path) -> Result<Self, MechanicalError> {
        let survey = rooms::survey(&root, wanted.draw, wanted.sample)?;
        let folder = std::env::current_exe()?.with_file_name("mechanical");
        fs::create_dir_all(&folder).map_err(MechanicalError::io(&folder))?;
        let mut records = Records::open(&folder.join("records.jsonl"))?;
        // There is none before the first run.
        let mut hints = fs::read_to_string(kept).map(|json| score::hints(&json)).unwrap_or_default();
        hints.extend(records.by_name.values().filter_map(|record| match &record.verdict {
            Verdict::Noticed(notice) => Some((record.name.clone(), notice.clone())),
            Verdict::Unnoticed | Verdict::Unbuildable => None,
        }));
        let sums = sums(&root, &survey)?;
        let room_of: BTreeMap<&str, &str> =
            survey.drawn.iter().map(|mutant| (mutant.place.name.as_str(), mutant.room.name)).collect();
        let mut lived = BTreeSet::new();
        records.by_name.retain(|name, record| {
            let Some(sums) = room_of.get(name.as_str()).and_then(|room| sums.get(room)) else { return false };
            let stands = record.sources == sums.sources;
            if record.verdict != Verdict::Unnoticed || !stands {
                return stands;
            }
            // Longer lives, or tests that were added since, may notice what was not noticed.
            let has_lived = record.simulator == sums.simulator && record.lives >= seconds(wanted);
            if has_lived {
                lived.insert(name.clone());
            }
            has_lived && record.judges == sums.tests
        });
        Ok(Self { root, folder, survey, records, hints, sums, lived })
    }

    /// What is to be tried.
    fn open(&self, wanted: &Wanted) -> Vec<&Mutant> {
        let is_open = |mutant: &&Mutant| {
            let name = &mutant.place.name;
            let is_wanted = wanted.only.is_empty()
                || wanted.only.iter().any(|part| mutant.room.name == part || name.contains(part));
            is_wanted && !self.records.by_name.contains_key(name)
        };
        self.survey.drawn.iter().filter(is_open).collect()
    }

    fn add(&mut self, wanted: &Wanted, mutant: &Mutant, verdict: Verdict) -> Result<(), MechanicalError> {
        let Sums { sources, tests, simulator } = self.sums[mutant.room.name];
        let (name, lives) = (mutant.place.name.clone(), seconds(wanted));
        self.records.add(Record { name, sources, judges: tests, simulator, lives, verdict })
    }

    /// Builds the copy, and the judges of the rooms in which there is something to try.
    fn build(&mut self, wanted: &Wanted, tell: &dyn Fn(&str)) -> Result<Court, MechanicalError> {
        let open = self.open(wanted);
        tell(&format!("{} mutants drawn, {} to try; building", self.survey.drawn.len(), open.len()));
        let has_open = |room: &&Room| open.iter().any(|mutant| mutant.room.name == room.name);
        let rooms: Vec<&Room> = ROOMS.iter().filter(has_open).collect();
        let unbuildable =
            self.records.by_name.values().filter(|record| record.verdict == Verdict::Unbuildable);
        let known: BTreeSet<String> = unbuildable.map(|record| record.name.clone()).collect();
        let workshop = Workshop::new(&self.folder);
        let built = bench::build(&workshop, &self.root, &self.survey, (known, &rooms), tell)?;
        let is_new = |mutant: &&Mutant| {
            let name = &mutant.place.name;
            built.unbuildable.contains(name) && !self.records.by_name.contains_key(name)
        };
        let unbuildable: Vec<Mutant> = self.survey.drawn.iter().filter(is_new).cloned().collect();
        for mutant in &unbuildable {
            self.add(wanted, mutant, Verdict::Unbuildable)?;
        }
        tell(&format!("built, without {} that do not compile", built.unbuildable.len()));
        Court::new(built, &self.folder, wanted.lives, tell)
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
            let notice = court.try_mutant(mutant, hints.get(name), lived.contains(name))?;
            tell(&told(mutant, notice.as_ref()));
            let verdict = notice.map_or(Verdict::Unnoticed, Verdict::Noticed);
            run.lock().unwrap_or_else(PoisonError::into_inner).add(wanted, mutant, verdict)
        })
    }
}

/// How long lives may go on for a mutant.
fn seconds(wanted: &Wanted) -> f64 {
    wanted.lives.as_secs_f64()
}

/// Several at a time; the first error ends it.
fn try_all(
    open: &[Mutant],
    threads: usize,
    try_one: impl Fn(&Mutant) -> Result<(), MechanicalError> + Sync,
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

fn told(mutant: &Mutant, notice: Option<&Notice>) -> String {
    let name = &mutant.place.name;
    match notice {
        Some(Notice { judge, test, what, seed, seconds }) => {
            let shown_by = if judge.starts_with("life ") { format!("seed {seed}") } else { test.clone() };
            format!("noticed    {name}\n           {judge} {shown_by}: {what}, {seconds:.1} s")
        }
        None => format!("UNNOTICED  {name}"),
    }
}

/// For people: the score, and what was missed.
#[must_use]
pub fn summary(score: &Score) -> String {
    let mut lines = Vec::new();
    let total = score.total();
    for (name, counts) in score.rooms.iter().map(|(name, counts)| (*name, counts)).chain([("all", &total)]) {
        lines.push(format!(
            "{name:<7} {:>5} places · {:>4} tried ({} do not compile) · {:>4} noticed ({} by tests, {} by lives) · {} \
             equivalent · {} missed",
            counts.places,
            counts.tried,
            counts.unbuildable,
            counts.noticed,
            counts.noticed_by_tests,
            counts.noticed_by_lives,
            counts.equivalent,
            counts.missed
        ));
    }
    lines.extend(score.missed.iter().map(|name| format!("MISSED: {name}")));
    if score.open > 0 {
        lines.push(format!("{} were drawn and not tried", score.open));
    }
    lines.join("\n")
}

/// The checksums of every room. A room's tests are all that is in the packages of its judges.
fn sums(root: &Path, survey: &Survey) -> Result<BTreeMap<&'static str, Sums>, MechanicalError> {
    let mutated = |room: &Room, file: &str| room.of.iter().any(|of| is_in(file, of));
    let mut hashers: BTreeMap<&'static str, [crc32fast::Hasher; 3]> =
        ROOMS.iter().map(|room| (room.name, Default::default())).collect();
    for file in files_of(root)? {
        if !file.ends_with(".rs") && !is_in(&file, "tests/scripts") {
            continue;
        }
        let path = root.join(&file);
        let text = fs::read_to_string(&path).map_err(MechanicalError::io(&path))?;
        for room in &ROOMS {
            let Some([sources, tests, simulator]) = hashers.get_mut(room.name) else { continue };
            let is_mutated = survey.texts.contains_key(&file) && mutated(room, &file);
            let is_simulator = is_in(&file, "tests/sim") && !is_in(&file, "tests/sim/src/mutants");
            let of_judges = |(package, ..): &rooms::Judge| is_in(&file, rooms::folder_of(package));
            let is_test = !is_in(&file, "tests/sim") && room.programs.iter().any(of_judges);
            if is_mutated {
                let own_tests = text.find(OWN_TESTS).unwrap_or(text.len());
                add(sources, &file, &text[..own_tests]);
                add(tests, &file, &text[own_tests..]);
            } else if is_simulator {
                add(simulator, &file, &text);
            } else if is_test {
                add(tests, &file, &text);
            }
        }
    }
    let sums = hashers.into_iter().map(|(room, hashers)| {
        let [sources, tests, simulator] = hashers.map(crc32fast::Hasher::finalize);
        (room, Sums { sources, tests, simulator })
    });
    Ok(sums.collect())
}

fn add(hasher: &mut crc32fast::Hasher, file: &str, text: &str) {
    hasher.update(file.as_bytes());
    hasher.update(text.as_bytes());
}

/// Whether a file is that one, or below that folder.
fn is_in(file: &str, folder: &str) -> bool {
    file.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The names of all places, for verdicts that are to be checked.
///
/// # Errors
/// If a file cannot be read or is not Rust.
pub fn names(root: &Path) -> Result<BTreeMap<String, &'static str>, MechanicalError> {
    let survey = rooms::survey(root, 0, Some(usize::MAX))?;
    Ok(survey.drawn.into_iter().map(|mutant| (mutant.place.name, mutant.room.name)).collect())
}
