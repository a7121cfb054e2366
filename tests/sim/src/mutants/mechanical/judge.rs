//! IMPURE: whether a mutant is noticed: by the tests that reach it first, the cheapest before the others, then by lives
//! of the profiles that reach it.
//!
//! A test notices it if it fails with the mutant, twice, and passes without; a life if a rule breaks in a seed that is
//! clean without; either also if it does not end. What is not here: what reaches a mutant (`reach`), which judges a room
//! has (`rooms`), and what is kept of a verdict (`score`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum as _;

use super::MechanicalError;
use super::bench::Built;
use super::program::{Ended, MEMORY_KIB_MAX, Program};
use super::reach::{Case, PATIENCE_FIRST, Reach, Reaching, Recorder, batches, exactly};
use super::records::{Notice, Reached};
use super::rooms::{Judge, Mutant, Room};
use crate::Profile;
use crate::mutants::workshop::Switch;
use crate::mutants::{is_clean, run};

/// Tests may take so many times as much of a processor as they took without a mutant …
const PATIENCE_TIMES: u32 = 5;
/// … and so much more.
const PATIENCE: Duration = Duration::from_secs(10);

/// A mutant that was tried.
#[derive(Debug)]
pub(super) struct Tried {
    /// What noticed it, if anything did.
    pub(super) notice: Option<Notice>,
    /// How many tests and profiles come by it.
    pub(super) reached: Reached,
}

/// All judges.
#[derive(Debug, Default)]
pub(super) struct Court {
    programs: BTreeMap<Judge, Program>,
    /// By room.
    reach: BTreeMap<&'static str, Reach>,
    simulator: PathBuf,
    /// How long lives may go on, over all profiles.
    lives: Duration,
}

impl Court {
    /// Records what the judges of these rooms reach. A test that fails without a mutant judges nothing.
    pub(super) fn new(
        built: Built,
        folder: &Path,
        (rooms, lives, threads): (&[&'static Room], Duration, usize),
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Self, MechanicalError> {
        let mut court = Self { simulator: bounded(&built.simulator, folder)?, lives, ..Self::default() };
        let recorder = Recorder::new(folder, threads, tell)?;
        for room in rooms {
            let mut reach = Reach::default();
            for judge in room.programs {
                let Some(program) = built.programs.get(&(judge.0.to_owned(), judge.1.to_owned())) else {
                    continue;
                };
                reach.add(*judge, recorder.cases(judge, program)?);
                court.programs.insert(*judge, program.clone());
            }
            for &profile in room.profiles.iter().filter(|_| !lives.is_zero()) {
                // Twice as long as such lives are judged by: what is slower then reaches no more.
                let long = court.slice(room) * 2;
                let live = |notes: &Path| {
                    run(&court.simulator, Switch::Noting(notes), profile, (0, Some(long)), &[], 1)?;
                    Ok(())
                };
                let reached = recorder.lives(profile, (&built.simulator, long.as_secs()), live)?;
                reach.lives.push((profile, reached));
            }
            court.reach.insert(room.name, reach);
        }
        Ok(court)
    }

    /// Tries a mutant: what noticed it before comes first, if that is known. `has_lived`: lives are known not to notice it.
    pub(super) fn try_mutant(
        &self,
        mutant: &Mutant,
        hint: Option<&Notice>,
        has_lived: bool,
    ) -> Result<Tried, MechanicalError> {
        let began = Instant::now();
        let none = Reach::default();
        let Reaching { cases, profiles } = self.reach.get(mutant.room.name).unwrap_or(&none).of(mutant);
        let reached = Reached { tests: cases.len(), profiles: profiles.len() };
        let mut notice = match hint {
            Some(hint) => self.as_before(mutant, hint)?,
            None => None,
        };
        for batch in batches(&cases) {
            if notice.is_none() {
                notice = self.by_batch(mutant.number, &batch)?;
            }
        }
        if notice.is_none() && !has_lived {
            notice = self.by_lives(mutant, &profiles)?;
        }
        let notice = notice.map(|notice| Notice { seconds: began.elapsed().as_secs_f64(), ..notice });
        Ok(Tried { notice, reached })
    }

    fn as_before(&self, mutant: &Mutant, hint: &Notice) -> Result<Option<Notice>, MechanicalError> {
        let judge = hint.judge.as_str();
        if let Some(profile) = judge.strip_prefix("life ") {
            let Ok(profile) = Profile::from_str(profile, false) else { return Ok(None) };
            let (seeds, on) = (format!("{}..{}", hint.seed, hint.seed + 1), Switch::On(mutant.number));
            let said = run(&self.simulator, on, profile, (hint.seed, None), &["--seeds", &seeds], 1)?;
            let Some(found) = said.first.filter(|found| found.seed == hint.seed) else { return Ok(None) };
            let is_clean = is_clean(&self.simulator, profile, hint.seed)?;
            return Ok(is_clean.then(|| Notice { what: found.invariant, ..hint.clone() }));
        }
        let Some(reach) = self.reach.get(mutant.room.name) else { return Ok(None) };
        let mut cases = reach.cases.iter();
        let case = cases.find(|(known, case)| name_of(known) == judge && case.test == hint.test);
        case.map_or(Ok(None), |(judge, case)| self.by_tests(mutant.number, judge, vec![case]))
    }

    fn by_batch(&self, number: u32, batch: &[(Judge, &Case)]) -> Result<Option<Notice>, MechanicalError> {
        let judges: BTreeSet<&Judge> = batch.iter().map(|(judge, _)| judge).collect();
        for judge in judges {
            let its_own = batch.iter().filter(|(of, _)| of == judge);
            let notice = self.by_tests(number, judge, its_own.map(|(_, case)| *case).collect())?;
            if notice.is_some() {
                return Ok(notice);
            }
        }
        Ok(None)
    }

    /// By tests of one program, in one process. One that fails and does not prove it is left out, and the others go on.
    fn by_tests(
        &self,
        number: u32,
        judge: &Judge,
        mut cases: Vec<&Case>,
    ) -> Result<Option<Notice>, MechanicalError> {
        let Some(program) = self.programs.get(judge) else { return Ok(None) };
        while !cases.is_empty() {
            let named = match ended(program, &cases, number)? {
                Ended::Passed => return Ok(None),
                Ended::Failed(named) | Ended::TooLate(named) => named,
            };
            let named = named.and_then(|name| cases.iter().position(|case| case.test == name));
            // A process that died without a word is to say it of each test.
            let suspects = named.map_or(0..cases.len(), |at| at..at + 1);
            for case in cases.drain(suspects) {
                if let Some(what) = confirm(program, case, number)? {
                    let (judge, test) = (name_of(judge), case.test.clone());
                    return Ok(Some(Notice { judge, test, what: what.to_owned(), seed: 0, seconds: 0.0 }));
                }
            }
        }
        Ok(None)
    }

    /// How long lives of one profile may go on.
    fn slice(&self, room: &Room) -> Duration {
        self.lives / room.profiles.len() as u32
    }

    /// Lives in these of the room's profiles, in turns of the same length.
    fn by_lives(&self, mutant: &Mutant, profiles: &[Profile]) -> Result<Option<Notice>, MechanicalError> {
        let slice = self.slice(mutant.room);
        for &profile in profiles {
            let began = Instant::now();
            let mut from = 0;
            while let Some(left) = slice.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
                let on = Switch::On(mutant.number);
                let said = run(&self.simulator, on, profile, (from, Some(left)), &[], 1)?;
                let judge = format!("life {}", format!("{profile:?}").to_lowercase());
                let (test, seconds) = (String::new(), 0.0);
                let Some(found) = said.first else {
                    if said.hash.is_empty() {
                        let what = "it does not end".to_owned();
                        return Ok(Some(Notice { judge, test, what, seed: from, seconds }));
                    }
                    break;
                };
                if is_clean(&self.simulator, profile, found.seed)? {
                    let what = found.invariant;
                    return Ok(Some(Notice { judge, test, what, seed: found.seed, seconds }));
                }
                from = found.seed + 1;
            }
        }
        Ok(None)
    }
}

/// The simulator, with a bound to its memory.
fn bounded(simulator: &Path, folder: &Path) -> Result<PathBuf, MechanicalError> {
    let path = folder.join("bounded-simulator");
    let script = format!("#!/bin/sh\nulimit -v {MEMORY_KIB_MAX}\nexec '{}' \"$@\"\n", simulator.display());
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// As it stands in a notice.
fn name_of((package, program, _): &Judge) -> String {
    format!("{package}/{program}")
}

/// How these tests end, in one process.
fn ended(program: &Program, cases: &[&Case], number: u32) -> Result<Ended, MechanicalError> {
    let cost: Duration = cases.iter().map(|case| case.took).sum();
    let tests: Vec<&str> = cases.iter().map(|case| case.test.as_str()).collect();
    let limit = if number == 0 { PATIENCE_FIRST } else { cost * PATIENCE_TIMES + PATIENCE };
    Ok(program.run(&exactly(&tests), Switch::On(number), limit)?.ended)
}

/// What a test does, alone, with the mutant, if it passes without.
fn confirm(program: &Program, case: &Case, number: u32) -> Result<Option<&'static str>, MechanicalError> {
    let what = match ended(program, &[case], number)? {
        Ended::Passed => return Ok(None),
        Ended::Failed(_) => "it fails",
        Ended::TooLate(_) => "it does not end",
    };
    Ok((ended(program, &[case], 0)? == Ended::Passed).then_some(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUDGE: Judge = ("package", "program", "");

    /// A court with a script for its only program, which is given the tests' names after `--exact`, and the mutant's number.
    fn court(folder: &Path, script: &str) -> Court {
        let path = folder.join("program");
        let head =
            "#!/bin/sh\non=$RAFTWERK_PLANTED; shift; for test in \"$@\"; do printf \"test $test ... \"\n";
        fs::write(&path, format!("{head}{script}\necho ok; done\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let program = Program { path, folder: folder.to_owned() };
        Court { programs: [(JUDGE, program)].into(), ..Court::default() }
    }

    fn case(test: &str) -> Case {
        Case { test: test.to_owned(), took: Duration::from_millis(10), reached: BTreeSet::new() }
    }

    #[test]
    fn a_test_that_fails_with_the_mutant_alone_notices_it() {
        let folder = tempfile::tempdir().unwrap();
        let script = "if test $test$on = b7; then echo FAILED; exit 1; fi; echo $test$on >>ran";
        let court = court(folder.path(), script);
        let cases = ["a", "b", "c"].map(case);
        let notice = |number| court.by_tests(number, &JUDGE, cases.iter().collect()).unwrap();
        let found = notice(7).unwrap();
        assert_eq!((found.judge.as_str(), found.test.as_str()), ("package/program", "b"));
        // All up to the first that fails, and that once more with the mutant and once without.
        assert_eq!(fs::read_to_string(folder.path().join("ran")).unwrap(), "a7\nb0\n");
        assert_eq!(notice(8), None);
    }

    #[test]
    fn a_test_that_fails_without_the_mutant_or_once_only_notices_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let fails = "if test $test = a; then echo FAILED; exit 1; fi";
        let once = "if test $test = b && ! test -e once; then touch once; echo FAILED; exit 1; fi";
        let court = court(folder.path(), &format!("{fails}; {once}; echo $test$on >>ran"));
        let cases = ["a", "b", "c"].map(case);
        assert_eq!(court.by_tests(7, &JUDGE, cases.iter().collect()).unwrap(), None);
        // The others were run all the same.
        assert_eq!(fs::read_to_string(folder.path().join("ran")).unwrap(), "b7\nc7\n");
    }

    #[test]
    fn a_test_that_tears_its_process_down_notices() {
        let folder = tempfile::tempdir().unwrap();
        let court = court(folder.path(), "if test $test$on = b7; then kill -ABRT $$; fi");
        let cases = ["a", "b"].map(case);
        let found = court.by_tests(7, &JUDGE, cases.iter().collect()).unwrap().unwrap();
        assert_eq!((found.test.as_str(), found.what.as_str()), ("b", "it fails"));
    }
}
