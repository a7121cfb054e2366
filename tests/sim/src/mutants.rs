//! IMPURE: the hunt for planted bugs: a simulator that misses one is not finished.
//!
//! The bugs of the catalogue are planted, all at once and all switched off, into a copy of the sources; the simulator is
//! built there once, and run with one bug switched on at a time until a rule breaks. A catch counts only if the same seed
//! is clean with the bug switched off. Next: [`catalogue`] for what an entry is, `workshop` for the copy,
//! `tests/sim/mutants/README.md` for how to add one.

pub mod catalogue;
mod check;
mod compiler;
pub mod mechanical;
mod workshop;

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

pub use self::catalogue::{CatalogueError, Edit, Mutant, Test};
pub use self::check::check;
use self::workshop::{Switch, Workshop};
use crate::Profile;

/// Seeds on which the copy, with nothing switched on, must do exactly what the original does.
const SEEDS_COMPARED: u64 = 24;
/// The profiles that a bug is hunted in, in turns, unless its entry names one.
const PROFILES: [Profile; 3] = [Profile::Swarm, Profile::Hostile, Profile::Churn];
/// How long a turn lasts.
const SLICE: Duration = Duration::from_secs(12);
/// The time that a run may take over its limit before it is stopped: its last seeds may be long ones.
const GRACE: Duration = Duration::from_secs(120);
/// How much is kept of what was seen: a history that is not linearizable may fill pages.
const WHAT_CHARS_MAX: usize = 300;
/// How much of a test's name is shown in a table.
const TEST_CHARS_MAX: usize = 36;

/// What is wanted of a hunt.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Only these, by name; all if empty.
    pub names: Vec<String>,
    /// The most time for one bug, over all profiles.
    pub at_most: Duration,
    /// Threads of a run.
    pub threads: usize,
}

/// What became of one bug.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// Its number …
    pub number: u32,
    /// … and name.
    pub name: String,
    /// The rule that broke; `None` if it escaped.
    pub caught_by: Option<String>,
    /// What was seen.
    pub what: String,
    /// In which profile.
    pub profile: String,
    /// The seed that shows it.
    pub seed: u64,
    /// Seeds lived through until then.
    pub seeds: u64,
    /// Seconds until then, on the wall.
    pub seconds: f64,
}

/// Why a hunt did not take place.
#[derive(Debug, thiserror::Error)]
pub enum HuntError {
    /// The catalogue does not fit.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The copy could not be built or run.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Planted bugs do not compile: the entries, and the compiler's messages.
    #[error("{0}")]
    DoesNotCompile(String),
    /// There is no such bug.
    #[error("there is no planted bug of the name {0:?}")]
    NoSuch(String),
    /// A run said something that cannot be understood.
    #[error("a run's last line is not what it should be: {0:?}")]
    Said(String),
    /// The bugs show although none is switched on.
    #[error("with nothing switched on the copy differs from the original: {copy}, not {original}")]
    Differs {
        /// What the copy did.
        copy: String,
        /// What the original did.
        original: String,
    },
}

/// The checkout that this simulator was built from.
#[must_use]
pub fn checkout() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// The catalogue's folder in a checkout.
#[must_use]
pub fn folder(checkout: &Path) -> PathBuf {
    checkout.join("tests/sim/mutants")
}

/// What a hunt begins with.
struct Prepared {
    root: PathBuf,
    /// The whole catalogue.
    mutants: Vec<Mutant>,
    /// This program.
    original: PathBuf,
    /// The copy, beside this program.
    workshop: Workshop,
}

impl Prepared {
    /// Reads the catalogue; all of `names` are in it.
    fn open(names: &[String]) -> Result<Self, HuntError> {
        let root = checkout();
        let mutants = catalogue::read(&folder(&root))?;
        if let Some(name) = names.iter().find(|name| mutants.iter().all(|mutant| mutant.name != **name)) {
            return Err(HuntError::NoSuch(name.clone()));
        }
        let original = std::env::current_exe()?;
        let workshop = Workshop::new(&original.with_file_name("mutants"));
        Ok(Self { root, mutants, original, workshop })
    }
}

/// Hunts the bugs of the catalogue, one after another. `tell` is given a line for people whenever there is news.
///
/// # Errors
/// [`HuntError`] if there was no hunt; a bug that escaped is an [`Outcome`].
pub fn hunt_all(wanted: &Wanted, tell: impl Fn(&str)) -> Result<Vec<Outcome>, HuntError> {
    let Prepared { root, mutants, original, workshop } = Prepared::open(&wanted.names)?;
    workshop.plant(&root, &mutants)?;
    tell(&format!("{} bugs planted; building", mutants.len()));
    let copy = workshop.build(|line| {
        if line.trim_start().starts_with("Compiling raftwerk") {
            tell(line.trim());
        }
    })?;
    compare(&original, &copy, wanted.threads)?;
    tell(&format!("with none switched on, {SEEDS_COMPARED} seeds are the same as ever"));
    tell(&row("bug", "caught by", "profile", "seeds", "seconds"));
    let chosen =
        mutants.iter().filter(|mutant| wanted.names.is_empty() || wanted.names.contains(&mutant.name));
    let mut outcomes = Vec::new();
    for mutant in chosen {
        let outcome = match &mutant.test {
            Some(test) => run_test(&workshop, mutant, test)?,
            None => hunt_one(&copy, mutant, wanted)?,
        };
        tell(&told(&outcome));
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

fn row(bug: &str, caught_by: &str, profile: &str, seeds: &str, seconds: &str) -> String {
    format!("{bug:<38} {caught_by:<36} {profile:<8} {seeds:>7} {seconds:>8}")
}

fn told(outcome: &Outcome) -> String {
    let bug = format!("{:>2} {}", outcome.number, outcome.name);
    let caught_by = outcome.caught_by.as_deref().unwrap_or("ESCAPED");
    row(&bug, caught_by, &outcome.profile, &outcome.seeds.to_string(), &format!("{:.1}", outcome.seconds))
}

/// What machines read: one line.
#[must_use]
pub fn json(outcomes: &[Outcome]) -> String {
    let escaped = outcomes.iter().filter(|outcome| outcome.caught_by.is_none()).count();
    serde_json::json!({ "caught": outcomes.len() - escaped, "escaped": escaped, "bugs": outcomes })
        .to_string()
}

/// For people: how many were caught, and how soon.
#[must_use]
pub fn summary(outcomes: &[Outcome]) -> String {
    let caught: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.caught_by.is_some()).collect();
    let within = |seconds: f64| caught.iter().filter(|outcome| outcome.seconds <= seconds).count();
    let mut text = format!(
        "{} of {} caught, {} within 10 s, {} within 2 min",
        caught.len(),
        outcomes.len(),
        within(10.0),
        within(120.0)
    );
    for escaped in outcomes.iter().filter(|outcome| outcome.caught_by.is_none()) {
        let _ = write!(text, "\nESCAPED: {} {}", escaped.name, escaped.what);
    }
    text
}

/// The same seeds must give the same hash, or the copy is not the simulator it is a copy of.
fn compare(original: &Path, copy: &Path, threads: usize) -> Result<(), HuntError> {
    let hash_of = |binary: &Path| {
        let to = SEEDS_COMPARED.to_string();
        let said = run(
            binary,
            Switch::On(0),
            Profile::Swarm,
            (0, None),
            &["--seeds", &format!("0..{to}")],
            threads,
        )?;
        Ok::<_, HuntError>(format!("hash {} of {} seeds", said.hash, said.seeds))
    };
    let (original, copy) = (hash_of(original)?, hash_of(copy)?);
    if original == copy { Ok(()) } else { Err(HuntError::Differs { copy, original }) }
}

impl Outcome {
    fn of(mutant: &Mutant) -> Self {
        Self {
            number: mutant.number,
            name: mutant.name.clone(),
            caught_by: None,
            what: String::new(),
            profile: String::new(),
            seed: 0,
            seeds: 0,
            seconds: 0.0,
        }
    }
}

/// A test catches a bug if it fails with it and passes without.
fn run_test(workshop: &Workshop, mutant: &Mutant, test: &Test) -> Result<Outcome, HuntError> {
    let mut outcome = Outcome { profile: "test".to_owned(), ..Outcome::of(mutant) };
    let (is_clean, said) = workshop.test(test, 0)?;
    if !is_clean {
        outcome.what = format!("({} fails with every bug switched off, too): {said}", test.name);
        return Ok(outcome);
    }
    let began = Instant::now();
    let (passes, said) = workshop.test(test, mutant.number)?;
    outcome.seconds = began.elapsed().as_secs_f64();
    if !passes {
        let name = test.name.rsplit("::").next().unwrap_or_default();
        outcome.caught_by = Some(name.chars().take(TEST_CHARS_MAX).collect());
        outcome.what = said.chars().take(WHAT_CHARS_MAX).collect();
    }
    Ok(outcome)
}

fn hunt_one(copy: &Path, mutant: &Mutant, wanted: &Wanted) -> Result<Outcome, HuntError> {
    let mut outcome = Outcome::of(mutant);
    let began = Instant::now();
    let profiles: Vec<Profile> = mutant.profile.map_or_else(|| PROFILES.to_vec(), |only| vec![only]);
    let slice = SLICE.min(wanted.at_most / profiles.len() as u32);
    // Where each profile goes on when its turn comes again.
    let mut nexts: Vec<(Profile, u64)> = profiles.into_iter().map(|profile| (profile, 0)).collect();
    for turn in 0.. {
        let turns = nexts.len();
        let (profile, next) = &mut nexts[turn % turns];
        let profile = *profile;
        let until = began.elapsed() + slice;
        let until = until.min(wanted.at_most);
        while let Some(left) = until.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
            outcome.profile = format!("{profile:?}").to_lowercase();
            let said =
                run(copy, Switch::On(mutant.number), profile, (*next, Some(left)), &[], wanted.threads)?;
            outcome.seeds += said.seeds;
            outcome.seconds = began.elapsed().as_secs_f64();
            *next += said.seeds;
            let Some(found) = said.first else { break };
            (outcome.seed, outcome.what) = (found.seed, found.what);
            if is_clean(copy, profile, found.seed)? {
                outcome.caught_by = Some(found.invariant);
                return Ok(outcome);
            }
            // The seed fails without the bug, too: that is another bug's doing, and proves nothing about this one.
            outcome.what = format!("(seed {} fails with every bug switched off, too)", found.seed);
            *next = found.seed + 1;
        }
        if began.elapsed() >= wanted.at_most {
            break;
        }
    }
    Ok(outcome)
}

fn is_clean(copy: &Path, profile: Profile, seed: u64) -> Result<bool, HuntError> {
    let seeds = format!("{seed}..{}", seed + 1);
    Ok(run(copy, Switch::On(0), profile, (seed, None), &["--seeds", &seeds], 1)?.first.is_none())
}

/// What a run said.
struct Said {
    /// Seeds lived through; up to the first violation, if there was one.
    seeds: u64,
    hash: String,
    first: Option<Found>,
}

/// A violation as it is printed.
struct Found {
    seed: u64,
    invariant: String,
    what: String,
}

/// Runs a simulator to its first violation, or for so long.
fn run(
    binary: &Path,
    switch: Switch<'_>,
    profile: Profile,
    (from, at_most): (u64, Option<Duration>),
    more: &[&str],
    threads: usize,
) -> Result<Said, HuntError> {
    let mut command = Command::new(binary);
    switch
        .set(&mut command)
        .args(["--json", "--violations", "1", "--threads", &threads.to_string()])
        .args(["--profile", &format!("{profile:?}").to_lowercase()])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(at_most) = at_most {
        let minutes = at_most.as_secs_f64() / 60.0;
        command.args(["--seeds", &format!("{from}..{}", u64::MAX), "--minutes", &minutes.to_string()]);
    }
    let mut child = command.spawn()?;
    let said = listen(&mut child, from, at_most.map(|at_most| at_most + GRACE));
    // Other threads may be in the middle of a seed, and their results are not needed.
    child.kill()?;
    child.wait()?;
    said
}

/// Reads what a process prints, up to its first violation or its end.
fn listen(child: &mut Child, from: u64, patience: Option<Duration>) -> Result<Said, HuntError> {
    let deadline = patience.map(|patience| Instant::now() + patience);
    let (tell, told) = std::sync::mpsc::channel();
    let out = child.stdout.take();
    std::thread::spawn(move || {
        for line in out.into_iter().flat_map(|out| BufReader::new(out).lines()) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    let mut found: Option<Found> = None;
    loop {
        let line = match deadline {
            None => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => told.recv_timeout(deadline.saturating_duration_since(Instant::now())),
        };
        let line = match line {
            Ok(line) => line?,
            // One that never ends has not been caught.
            Err(RecvTimeoutError::Timeout) => {
                return Ok(Said { seeds: 0, hash: String::new(), first: None });
            }
            // One that ends without a word was torn down by the bug.
            Err(RecvTimeoutError::Disconnected) => {
                let (invariant, what) = ("no panic".to_owned(), "the process died".to_owned());
                let first = Some(Found { seed: from, invariant, what });
                return Ok(Said { seeds: 1, hash: String::new(), first });
            }
        };
        if let Some(mut found) = found.take() {
            found.what = line.trim().chars().take(WHAT_CHARS_MAX).collect();
            let seeds = found.seed - from + 1;
            return Ok(Said { seeds, hash: String::new(), first: Some(found) });
        }
        found = violation(&line);
        if line.starts_with('{') {
            return summed_up(&line).ok_or(HuntError::Said(line));
        }
    }
}

/// The first of the two lines that a violation is printed in.
fn violation(line: &str) -> Option<Found> {
    let (seed, invariant) = line.strip_prefix("VIOLATION in seed ")?.split_once(": ")?;
    Some(Found { seed: seed.parse().ok()?, invariant: invariant.to_owned(), what: String::new() })
}

/// The last line: there was no violation.
fn summed_up(line: &str) -> Option<Said> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let hash = value.get("hash")?.as_str()?.to_owned();
    Some(Said { seeds: value.get("seeds")?.as_u64()?, hash, first: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_says_is_understood() {
        let found = violation("VIOLATION in seed 17: one leader per term").unwrap();
        assert_eq!((found.seed, found.invariant.as_str()), (17, "one leader per term"));
        assert!(violation("20 seeds, 0 violations").is_none());
        let said = summed_up(r#"{"hash":"00ff","seeds":24,"violations":[]}"#).unwrap();
        assert_eq!((said.seeds, said.hash.as_str()), (24, "00ff"));
        assert!(said.first.is_none());
        assert!(summed_up("{}").is_none());
    }
}
