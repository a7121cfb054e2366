//! IMPURE: whether a mutant is noticed: by test programs first, then by lives.
//!
//! A test notices it if it fails with the mutant, twice, and passes without; a life if a rule breaks in a seed that is
//! clean without; either also if it does not end. What is not here: which judges a room has (`rooms`), and what is kept
//! of a verdict (`score`).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use clap::ValueEnum as _;

use super::MechanicalError;
use super::bench::{Built, Program};
use super::rooms::{Judge, Mutant, ROOMS};
use super::score::Notice;
use crate::Profile;
use crate::mutants::workshop::SWITCH;
use crate::mutants::{is_clean, run};

/// A program may take so many times as much of a processor as it took time without a mutant …
const PATIENCE_TIMES: u32 = 5;
/// … and so much more.
const PATIENCE: Duration = Duration::from_secs(20);
/// By the clock it may take so many times longer than that: the machine may have much else to do.
const PATIENCE_BY_CLOCK: u32 = 10;
/// What ends a program that has used up its time on a processor.
const SIGXCPU: i32 = 24;
/// How long the first run of a program, without a mutant, may take.
const PATIENCE_FIRST: Duration = Duration::from_secs(900);
/// How much memory a program with a mutant may ask for: a loop that never ends may fill it.
const MEMORY_KIB_MAX: u32 = 12 << 20;

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    Passed,
    /// A test of it, if it names one.
    Failed(Option<String>),
    TooLate,
}

/// A program, and how long it takes without a mutant.
#[derive(Debug)]
struct Tried {
    program: Program,
    limit: Duration,
}

/// All judges.
#[derive(Debug)]
pub(super) struct Court {
    programs: BTreeMap<Judge, Tried>,
    simulator: PathBuf,
    /// How long lives may go on, over all profiles.
    lives: Duration,
}

impl Court {
    /// Runs every program once without a mutant: one that fails then judges nothing.
    pub(super) fn new(
        built: Built,
        folder: &Path,
        lives: Duration,
        tell: &dyn Fn(&str),
    ) -> Result<Self, MechanicalError> {
        // What runs in it has no more memory than this.
        let simulator = folder.join("bounded-simulator");
        let script =
            format!("#!/bin/sh\nulimit -v {MEMORY_KIB_MAX}\nexec '{}' \"$@\"\n", built.simulator.display());
        fs::write(&simulator, script)?;
        fs::set_permissions(&simulator, fs::Permissions::from_mode(0o755))?;
        let mut programs = BTreeMap::new();
        for judge in ROOMS.iter().flat_map(|room| room.programs) {
            let Some(program) = built.programs.get(&(judge.0.to_owned(), judge.1.to_owned())) else {
                continue;
            };
            let began = Instant::now();
            let ended = try_program(program, &arguments(judge), 0, PATIENCE_FIRST)?;
            let took = began.elapsed();
            let (name, seconds) = (name_of(judge), took.as_secs_f64());
            if ended == Ended::Passed {
                tell(&format!("{name}: {seconds:.1} s without a mutant"));
                let limit = took * PATIENCE_TIMES + PATIENCE;
                programs.insert(*judge, Tried { program: program.clone(), limit });
            } else {
                tell(&format!("{name}: no judge, {ended:?} without a mutant"));
            }
        }
        Ok(Self { programs, simulator, lives })
    }

    /// Tries a mutant: what noticed it before comes first, if that is known. `has_lived`: lives are known not to notice it.
    pub(super) fn try_mutant(
        &self,
        mutant: &Mutant,
        hint: Option<&Notice>,
        has_lived: bool,
    ) -> Result<Option<Notice>, MechanicalError> {
        let began = Instant::now();
        let mut notice = None;
        if let Some(hint) = hint {
            notice = self.as_before(mutant, hint)?;
        }
        let mut programs = mutant.room.programs.iter();
        while let Some(judge) = programs.next().filter(|_| notice.is_none()) {
            notice = self.by_program(mutant.number, judge)?;
        }
        if notice.is_none() && !has_lived {
            notice = self.by_lives(mutant)?;
        }
        Ok(notice.map(|notice| Notice { seconds: began.elapsed().as_secs_f64(), ..notice }))
    }

    fn as_before(&self, mutant: &Mutant, hint: &Notice) -> Result<Option<Notice>, MechanicalError> {
        let judge = hint.judge.as_str();
        if let Some(profile) = judge.strip_prefix("life ") {
            let Ok(profile) = Profile::from_str(profile, false) else { return Ok(None) };
            let seeds = format!("{}..{}", hint.seed, hint.seed + 1);
            let said =
                run(&self.simulator, mutant.number, profile, (hint.seed, None), &["--seeds", &seeds], 1)?;
            let Some(found) = said.first.filter(|found| found.seed == hint.seed) else { return Ok(None) };
            let is_clean = is_clean(&self.simulator, profile, hint.seed)?;
            return Ok(is_clean.then(|| Notice { what: found.invariant, ..hint.clone() }));
        }
        let known = self.programs.iter().find(|(known, _)| name_of(known) == judge);
        let Some((_, tried)) = known.filter(|_| !hint.test.is_empty()) else { return Ok(None) };
        let ended = try_program(&tried.program, &["--exact", &hint.test], mutant.number, tried.limit)?;
        let fails = ended != Ended::Passed && self.confirm(tried, &hint.test, mutant.number)?;
        Ok(fails.then(|| hint.clone()))
    }

    fn by_program(&self, number: u32, judge: &Judge) -> Result<Option<Notice>, MechanicalError> {
        let Some(tried) = self.programs.get(judge) else { return Ok(None) };
        let (test, what) = match try_program(&tried.program, &arguments(judge), number, tried.limit)? {
            Ended::Passed => return Ok(None),
            Ended::TooLate => (String::new(), "it does not end".to_owned()),
            Ended::Failed(Some(test)) if self.confirm(tried, &test, number)? => (test, "it fails".to_owned()),
            // One program, one test; or it died.
            Ended::Failed(None) if self.confirm(tried, "", number)? => (String::new(), "it fails".to_owned()),
            Ended::Failed(_) => return Ok(None),
        };
        Ok(Some(Notice { judge: name_of(judge), test, what, seed: 0, seconds: 0.0 }))
    }

    /// Whether a test fails with the mutant once more, and passes without.
    fn confirm(&self, tried: &Tried, test: &str, number: u32) -> Result<bool, MechanicalError> {
        let only: &[&str] = if test.is_empty() { &[] } else { &["--exact", test] };
        let with = try_program(&tried.program, only, number, tried.limit)?;
        Ok(with != Ended::Passed && try_program(&tried.program, only, 0, tried.limit)? == Ended::Passed)
    }

    /// Lives in the room's profiles, in turns of the same length.
    fn by_lives(&self, mutant: &Mutant) -> Result<Option<Notice>, MechanicalError> {
        let profiles = mutant.room.profiles;
        let slice = self.lives / profiles.len() as u32;
        for &profile in profiles {
            let began = Instant::now();
            let mut from = 0;
            while let Some(left) = slice.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
                let said = run(&self.simulator, mutant.number, profile, (from, Some(left)), &[], 1)?;
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

/// As it stands in a notice.
fn name_of((package, program, _): &Judge) -> String {
    format!("{package}/{program}")
}

/// What chooses its tests of the program's.
fn arguments((_, _, only): &Judge) -> Vec<&'static str> {
    if only.is_empty() { Vec::new() } else { vec![only] }
}

/// Runs a program with a mutant switched on, until a test fails.
fn try_program(program: &Program, arguments: &[&str], number: u32, limit: Duration) -> io::Result<Ended> {
    let bounded =
        format!("ulimit -v {MEMORY_KIB_MAX}; ulimit -S -t {}; exec \"$0\" \"$@\"", limit.as_secs().max(1));
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &bounded]).arg(&program.path).args(arguments);
    let mut child = command
        .current_dir(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder)
        .env("RUST_TEST_THREADS", "1")
        // What a panic prints is thrown away, and takes longer than most tests.
        .env("RUST_BACKTRACE", "0")
        // What fails need not be made short.
        .env("PROPTEST_MAX_SHRINK_ITERS", "0")
        .env(SWITCH, number.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // So that what it has started can be ended with it.
        .process_group(0)
        .spawn()?;
    let ended = watch(&mut child, limit * PATIENCE_BY_CLOCK);
    end_group(&mut child)?;
    ended
}

fn watch(child: &mut Child, limit: Duration) -> io::Result<Ended> {
    let deadline = Instant::now() + limit;
    let (tell, told) = mpsc::channel();
    let out = child.stdout.take();
    std::thread::spawn(move || {
        for line in out.into_iter().flat_map(|out| BufReader::new(out).lines()) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    loop {
        match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                // What is not text is no verdict either.
                if let Some(test) = line.ok().as_deref().and_then(failed) {
                    return Ok(Ended::Failed(Some(test.to_owned())));
                }
            }
            Err(RecvTimeoutError::Timeout) => return Ok(Ended::TooLate),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait()?;
    Ok(match status.signal() {
        Some(SIGXCPU) => Ended::TooLate,
        _ if status.success() => Ended::Passed,
        _ => Ended::Failed(None),
    })
}

/// The test that a line says has failed.
fn failed(line: &str) -> Option<&str> {
    let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    Some(name.split(" - ").next().unwrap_or(name))
}

fn end_group(child: &mut Child) -> io::Result<()> {
    if child.try_wait()?.is_none() {
        let group = format!("-{}", child.id());
        Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status()?;
    }
    child.wait().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_test_is_found_in_what_a_program_prints() {
        assert_eq!(failed("test rest::tests::wakes ... FAILED"), Some("rest::tests::wakes"));
        assert_eq!(failed("test panics - should panic ... FAILED"), Some("panics"));
        assert_eq!(failed("test rest::tests::wakes ... ok"), None);
        assert_eq!(failed("test result: FAILED. 3 passed; 1 failed"), None);
    }

    #[test]
    fn a_program_passes_fails_or_does_not_end() {
        let shell = |script: &str, limit| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("program");
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            let program = Program { path, folder: folder.path().to_owned() };
            try_program(&program, &[], 7, Duration::from_secs(limit)).unwrap()
        };
        assert_eq!(shell("exit 0", 60), Ended::Passed);
        assert_eq!(shell("test \"$RAFTWERK_PLANTED\" != 7", 60), Ended::Failed(None));
        // It is ended with all that it began as soon as it has failed.
        let fails = "echo 'test a::b ... FAILED'; tail -f /dev/null";
        assert_eq!(shell(fails, 60), Ended::Failed(Some("a::b".to_owned())));
        assert_eq!(shell("tail -f /dev/null", 0), Ended::TooLate);
        assert_eq!(shell("while :; do :; done", 1), Ended::TooLate);
    }
}
