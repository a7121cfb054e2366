//! IMPURE: which mutants each test comes by, and each profile's lives, and what it costs.
//!
//! A test that never evaluates a mutant's switch cannot notice it. So every test of every judge runs once, alone, with no
//! mutant on and the copy's switches noting; after that a mutant is judged only by what reaches it, the cheapest first. A
//! test that reaches a mutant by chance may be left out so: that errs to the safe side, since a mutant then counts as
//! unnoticed. What is not here: the judging (`judge`), and the copy's module of switches (`bench`).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::ValueEnum as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::program::{Ended, Program};
use super::rooms::{Judge, Mutant};
use super::{MechanicalError, try_all};
use crate::Profile;
use crate::disk::held;
use crate::mutants::workshop::Switch;

/// What a test may use of a processor without a mutant.
pub(super) const PATIENCE_FIRST: Duration = Duration::from_secs(900);
/// What a process costs, whatever it does.
const PROCESS: Duration = Duration::from_millis(10);
/// What the first batch of tests may cost; each of the others as much as all before it.
const FIRST_BATCH: Duration = Duration::from_millis(300);

/// A test: what it reaches, and what it costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Case {
    /// Its name; empty if the program is one test.
    pub(super) test: String,
    /// Of a processor, without a mutant.
    pub(super) took: Duration,
    /// The numbers of the mutants that it comes by.
    pub(super) reached: BTreeSet<u32>,
}

/// What is recorded of a room.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Tests, the cheapest first.
    pub(super) cases: Vec<(Judge, Case)>,
    /// Lives.
    pub(super) lives: Vec<(Profile, BTreeSet<u32>)>,
}

/// What reaches a mutant.
pub(super) struct Reaching<'a> {
    pub(super) cases: Vec<(Judge, &'a Case)>,
    pub(super) profiles: Vec<Profile>,
}

impl Reach {
    /// Takes in the tests of a judge.
    pub(super) fn add(&mut self, judge: Judge, cases: Vec<Case>) {
        self.cases.extend(cases.into_iter().map(|case| (judge, case)));
        self.cases.sort_by_key(|(_, case)| case.took);
    }

    pub(super) fn of(&self, mutant: &Mutant) -> Reaching<'_> {
        let reaches = |reached: &BTreeSet<u32>| reached.contains(&mutant.number);
        let cases = self.cases.iter().filter(|(_, case)| reaches(&case.reached));
        let profiles = self.lives.iter().filter(|(_, reached)| reaches(reached));
        Reaching {
            cases: cases.map(|(judge, case)| (*judge, case)).collect(),
            profiles: profiles.map(|(profile, _)| *profile).collect(),
        }
    }
}

/// Cuts tests, the cheapest first, into batches, each of which costs about as much as all before it: so what the first
/// that fails does not wait for is worth less than what it has cost.
pub(super) fn batches<'a>(cases: &[(Judge, &'a Case)]) -> Vec<Vec<(Judge, &'a Case)>> {
    let (mut batches, mut batch, mut cost, mut before) =
        (Vec::new(), Vec::new(), Duration::ZERO, FIRST_BATCH);
    for (judge, case) in cases {
        batch.push((*judge, *case));
        cost += case.took;
        if cost >= before {
            batches.push(std::mem::take(&mut batch));
            before += std::mem::take(&mut cost);
        }
    }
    batches.push(batch);
    batches.retain(|batch| !batch.is_empty());
    batches
}

/// Records what is reached, and keeps it: as long as a program is the same, so is what it reaches.
pub(super) struct Recorder<'a> {
    folder: PathBuf,
    threads: usize,
    tell: &'a (dyn Fn(&str) + Sync),
    /// Numbers the files of notes.
    next: AtomicU32,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(
        folder: &Path,
        threads: usize,
        tell: &'a (dyn Fn(&str) + Sync),
    ) -> Result<Self, MechanicalError> {
        let folder = folder.join("reached");
        fs::create_dir_all(&folder).map_err(MechanicalError::io(&folder))?;
        Ok(Self { folder, threads, tell, next: AtomicU32::new(0) })
    }

    /// The tests of a judge. One that fails without a mutant judges nothing.
    pub(super) fn cases(&self, judge: &Judge, program: &Program) -> Result<Vec<Case>, MechanicalError> {
        let (package, name, only) = judge;
        let sum = sum_of(&program.path)?;
        let kept = self.folder.join(format!("{package}-{name}-{}.json", only.replace(':', "_")));
        if let Some(cases) = read(&kept, sum) {
            return Ok(cases);
        }
        let mut tests = program.tests(only, PATIENCE_FIRST)?;
        if tests.is_empty() {
            tests.push(String::new());
        }
        let cases = Mutex::new(Vec::new());
        let failed = Mutex::new(Vec::new());
        try_all(&tests, self.threads, |test| {
            match self.case(program, test)? {
                Ok(case) => held(&cases).push(case),
                Err(ended) => held(&failed).push(format!("{test} {ended:?}")),
            }
            Ok(())
        })?;
        let (cases, failed) = (std::mem::take(&mut *held(&cases)), std::mem::take(&mut *held(&failed)));
        let cost: Duration = cases.iter().map(|case: &Case| case.took).sum();
        let many = cases.len();
        (self.tell)(&format!("{package}/{name}: {many} tests, {:.1} s without a mutant", cost.as_secs_f64()));
        for test in failed {
            (self.tell)(&format!("{package}/{name}: no judge without a mutant: {test}"));
        }
        write(&kept, sum, &cases)?;
        Ok(cases)
    }

    /// One that fails while it notes is run once more without: noting takes its time.
    fn case(&self, program: &Program, test: &str) -> Result<Result<Case, Ended>, MechanicalError> {
        let notes = self.notes();
        let arguments = exactly(&[test]);
        let mut ran = program.run(&arguments, Switch::Noting(&notes), PATIENCE_FIRST)?;
        if ran.ended != Ended::Passed {
            ran = program.run(&arguments, Switch::On(0), PATIENCE_FIRST)?;
        }
        let reached = noted(&notes)?;
        let case = Case { test: test.to_owned(), took: ran.took.max(PROCESS), reached };
        Ok(if ran.ended == Ended::Passed { Ok(case) } else { Err(ran.ended) })
    }

    /// What a profile's lives reach; `live` lives them with notes into a file.
    pub(super) fn lives(
        &self,
        profile: Profile,
        (simulator, seconds): (&Path, u64),
        live: impl FnOnce(&Path) -> Result<(), MechanicalError>,
    ) -> Result<BTreeSet<u32>, MechanicalError> {
        let sum = sum_of(simulator)?;
        let name = profile.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let kept = self.folder.join(format!("life-{name}-{seconds}.json"));
        if let Some(reached) = read(&kept, sum) {
            return Ok(reached);
        }
        let notes = self.notes();
        live(&notes)?;
        let reached = noted(&notes)?;
        (self.tell)(&format!("life {name}: {} mutants reached", reached.len()));
        write(&kept, sum, &reached)?;
        Ok(reached)
    }

    fn notes(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("notes-{}-{number}", std::process::id()))
    }
}

/// What chooses these tests of a program's, and no others; all of it if it is one test.
pub(super) fn exactly<'a>(tests: &[&'a str]) -> Vec<&'a str> {
    if tests == [""] {
        return Vec::new();
    }
    let mut arguments = vec!["--exact"];
    arguments.extend(tests);
    arguments
}

/// Reads notes, and takes their file away. There is none if nothing was reached.
fn noted(path: &Path) -> Result<BTreeSet<u32>, MechanicalError> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        text => text.map_err(MechanicalError::io(path))?,
    };
    fs::remove_file(path).map_err(MechanicalError::io(path))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// What is kept, and the checksum of the program that it is of.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    sum: u32,
    what: T,
}

fn read<T: DeserializeOwned>(path: &Path, sum: u32) -> Option<T> {
    // What cannot be read is recorded anew.
    let kept: Kept<T> = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    (kept.sum == sum).then_some(kept.what)
}

fn write<T: Serialize>(path: &Path, sum: u32, what: &T) -> Result<(), MechanicalError> {
    let text = serde_json::to_string(&Kept { sum, what }).map_err(io::Error::other)?;
    fs::write(path, text).map_err(MechanicalError::io(path))
}

fn sum_of(program: &Path) -> Result<u32, MechanicalError> {
    Ok(crc32fast::hash(&fs::read(program).map_err(MechanicalError::io(program))?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn case(test: &str, millis: u64) -> Case {
        Case { test: test.to_owned(), took: Duration::from_millis(millis), reached: BTreeSet::new() }
    }

    #[test]
    fn a_batch_costs_about_as_much_as_all_before_it() {
        let judge: Judge = ("package", "program", "");
        let costs = [10, 10, 200, 200, 300, 500, 4_000, 4_000];
        let cases: Vec<Case> = costs.iter().map(|cost| case("", *cost)).collect();
        let all: Vec<(Judge, &Case)> = cases.iter().map(|case| (judge, case)).collect();
        let cut = batches(&all);
        assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), [4, 2, 1, 1]);
        assert_eq!(cut.concat(), all);
        assert!(batches(&[]).is_empty());
    }

    #[test]
    fn tests_are_chosen_by_their_whole_names() {
        assert_eq!(exactly(&["a", "b"]), ["--exact", "a", "b"]);
        assert!(exactly(&[""]).is_empty());
    }

    #[test]
    fn what_a_test_reaches_is_recorded_once_for_each_program() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let program = Program { path: path.clone(), folder: folder.path().to_owned() };
        let is = |script: &str| {
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let list = "if test \"$1\" = --list; then echo 'a: test'; echo 'b: test'; exit; fi";
        let reach = "case $2 in a) echo 3 >>\"$RAFTWERK_REACHED\";; b) test -z \"$RAFTWERK_REACHED\";; esac";
        is(&format!("{list}; echo run >>runs; {reach}"));
        let tell = |_: &str| {};
        let recorder = Recorder::new(folder.path(), 1, &tell).unwrap();
        let judge: Judge = ("package", "program", "");
        let mut cases = recorder.cases(&judge, &program).unwrap();
        cases.sort_by(|a, b| a.test.cmp(&b.test));
        let reached: Vec<(&str, Vec<u32>)> =
            cases.iter().map(|case| (case.test.as_str(), case.reached.iter().copied().collect())).collect();
        assert_eq!(reached, [("a", vec![3]), ("b", vec![])]);
        assert!(cases.iter().all(|case| case.took >= PROCESS));
        // The second was run once more without notes; nothing is run again.
        let runs = || fs::read_to_string(folder.path().join("runs")).unwrap().lines().count();
        assert_eq!(runs(), 3);
        assert_eq!(recorder.cases(&judge, &program).unwrap().len(), 2);
        assert_eq!(runs(), 3);
        is(&format!("{list}; echo run >>runs; test \"$2\" = a"));
        assert_eq!(recorder.cases(&judge, &program).unwrap().len(), 1);
        assert_eq!(runs(), 6);
    }
}
