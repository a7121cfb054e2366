//! IMPURE: a test program of the copy, run until a test of it fails, until it has passed, or until it has used up its time.
//!
//! Time is a processor's, not the clock's: a busy machine ends no program, nor does a program end that was stopped and
//! goes on later. What is not here: which tests are run (`reach`), and what comes of it (`judge`).

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::mutants::workshop::Switch;

/// How much memory a program with a mutant may ask for: a loop that never ends may fill it.
pub(super) const MEMORY_KIB_MAX: u32 = 12 << 20;
/// How often a program is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// One that has used no processor for so many looks waits for what never comes.
const IDLE_LOOKS_MAX: u32 = 30;
/// One that hardly uses any may be looked at so many times for each second that it may use.
const LOOKS_PER_SECOND: u64 = 10;
/// How long what a program has printed may take to arrive after its end.
const DRAIN: Duration = Duration::from_secs(5);
/// What ends a program that has used up its time on a processor.
const SIGXCPU: i32 = 24;
/// A tick of the kernel's account of processor time, on every Linux of today.
const TICK: Duration = Duration::from_millis(10);

/// A test program of the copy.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// Where cargo would run it.
    pub(super) folder: PathBuf,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Passed,
    /// The test that failed, or that was running when the program died, if it names one.
    Failed(Option<String>),
    /// The test that was running, if it names one.
    TooLate(Option<String>),
}

/// A run of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ran {
    pub(super) ended: Ended,
    /// What it used of processors, with its children.
    pub(super) took: Duration,
}

impl Program {
    /// Runs it with these arguments until a test fails; it may use so much of a processor.
    pub(super) fn run(&self, arguments: &[&str], switch: Switch<'_>, limit: Duration) -> io::Result<Ran> {
        let mut child = self.command(arguments, switch, limit).spawn()?;
        let ran = watch(&mut child, limit);
        end_group(&mut child)?;
        ran
    }

    /// The names of its tests with this in their names; none if it has a main function of its own.
    pub(super) fn tests(&self, only: &str, limit: Duration) -> io::Result<Vec<String>> {
        let mut arguments = vec!["--list", "--format", "terse"];
        arguments.extend(Some(only).filter(|only| !only.is_empty()));
        let output = self.command(&arguments, Switch::On(0), limit).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        Ok(said.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    fn command(&self, arguments: &[&str], switch: Switch<'_>, limit: Duration) -> Command {
        let seconds = limit.as_secs().max(1);
        let bounded = format!("ulimit -v {MEMORY_KIB_MAX}; ulimit -S -t {seconds}; exec \"$0\" \"$@\"");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &bounded]).arg(&self.path).args(arguments);
        switch
            .set(&mut command)
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder)
            // So that a test is named before it runs, too.
            .env("RUST_TEST_THREADS", "1")
            // What a panic prints is thrown away, and takes longer than most tests.
            .env("RUST_BACKTRACE", "0")
            // What fails need not be made short.
            .env("PROPTEST_MAX_SHRINK_ITERS", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // So that what it has started can be ended with it.
            .process_group(0);
        command
    }
}

fn watch(child: &mut Child, limit: Duration) -> io::Result<Ran> {
    let lines = lines_of(child);
    let (mut last, mut looks, mut idle) = (None, 0, 0);
    let mut used = used_by(child.id());
    let is_too_late = loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => {
                if let Some(test) = failed(&line) {
                    let ended = Ended::Failed(Some(test.to_owned()));
                    return Ok(Ran { ended, took: used_by(child.id()).took });
                }
                last = Some(line);
            }
            Err(RecvTimeoutError::Disconnected) => break false,
            Err(RecvTimeoutError::Timeout) => {
                let now = used_by(child.id());
                if !now.is_stopped {
                    looks += 1;
                    idle = if now.is_known && now.took == used.took { idle + 1 } else { 0 };
                }
                used = now;
                if idle >= IDLE_LOOKS_MAX || looks >= (limit.as_secs() + 1) * LOOKS_PER_SECOND {
                    break true;
                }
            }
        }
    };
    if is_too_late {
        end_group(child)?;
        while let Ok(line) = lines.recv_timeout(DRAIN) {
            last = Some(line);
        }
    }
    // What has ended and is not waited for is still in the account.
    used = at_end(child.id(), used);
    let running = last.as_deref().and_then(running).map(str::to_owned);
    let status = child.wait()?;
    let ended = match status.signal() {
        _ if is_too_late => Ended::TooLate(running),
        Some(SIGXCPU) => Ended::TooLate(running),
        _ if status.success() => Ended::Passed,
        _ => Ended::Failed(running),
    };
    Ok(Ran { ended, took: used.took })
}

/// What a process prints, line by line; the last may be a part of one. What is not text is no verdict.
fn lines_of(child: &mut Child) -> Receiver<String> {
    let (tell, told) = mpsc::channel();
    let out = child.stdout.take();
    std::thread::spawn(move || {
        for line in out.into_iter().flat_map(|out| BufReader::new(out).lines()) {
            if tell.send(line.unwrap_or_default()).is_err() {
                return;
            }
        }
    });
    told
}

/// The test that a line reports as failed.
fn failed(line: &str) -> Option<&str> {
    named(line.strip_suffix(" ... FAILED")?)
}

/// The test that a line reports as begun, without how it ended.
fn running(line: &str) -> Option<&str> {
    named(line.strip_suffix(" ... ")?)
}

fn named(line: &str) -> Option<&str> {
    let name = line.strip_prefix("test ")?;
    Some(name.split(" - ").next().unwrap_or(name))
}

/// What a group of processes has used of processors.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    took: Duration,
    is_stopped: bool,
    /// Whether every one of them has ended.
    is_over: bool,
    /// Whether there is such an account at all.
    is_known: bool,
}

/// Looks at every process of a group in `/proc`.
fn used_by(group: u32) -> Used {
    let mut used = Used { is_over: true, ..Used::default() };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_process = entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit);
        if !is_process {
            continue;
        }
        // It may have ended since it was listed.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some((state, ticks)) = account(&stat, group) {
            used.took += TICK * ticks;
            used.is_stopped |= matches!(state, "T" | "t");
            used.is_over &= state == "Z";
            used.is_known = true;
        }
    }
    used
}

/// State and ticks, its own and those of the children it has waited for, if the process is of that group.
fn account(stat: &str, group: u32) -> Option<(&str, u32)> {
    // A program's name may hold anything; it ends with the last bracket.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    if fields.get(2)?.parse() != Ok(group) {
        return None;
    }
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u32>().ok()).sum();
    Some((fields[0], ticks))
}

/// The account once all processes have ended, which they are about to.
fn at_end(group: u32, mut used: Used) -> Used {
    for _ in 0..50 {
        let now = used_by(group);
        if now.is_known {
            used = now;
        }
        if now.is_over {
            break;
        }
        std::thread::yield_now();
    }
    used
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
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Runs a script as a program with a processor's time of so many seconds.
    fn shell(script: &str, switch: Switch<'_>, seconds: u64) -> Ran {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let program = Program { path, folder: folder.path().to_owned() };
        program.run(&[], switch, Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn a_failed_or_running_test_is_found_in_what_a_program_prints() {
        assert_eq!(failed("test rest::tests::wakes ... FAILED"), Some("rest::tests::wakes"));
        assert_eq!(failed("test panics - should panic ... FAILED"), Some("panics"));
        assert_eq!(failed("test rest::tests::wakes ... ok"), None);
        assert_eq!(failed("test result: FAILED. 3 passed; 1 failed"), None);
        assert_eq!(running("test rest::tests::wakes ... "), Some("rest::tests::wakes"));
        assert_eq!(running("test rest::tests::wakes ... ok"), None);
    }

    #[test]
    fn a_program_passes_fails_or_does_not_end() {
        let ended = |script, seconds| shell(script, Switch::On(7), seconds).ended;
        assert_eq!(ended("exit 0", 60), Ended::Passed);
        assert_eq!(ended("test \"$RAFTWERK_PLANTED\" != 7", 60), Ended::Failed(None));
        // It is ended with all that it began as soon as it has failed.
        let fails = "echo 'test a::b ... FAILED'; tail -f /dev/null";
        assert_eq!(ended(fails, 60), Ended::Failed(Some("a::b".to_owned())));
        let dies = "echo 'test a ... ok'; printf 'test b ... '; kill -ABRT $$";
        assert_eq!(ended(dies, 60), Ended::Failed(Some("b".to_owned())));
        let spins = "printf 'test c ... '; while :; do :; done";
        assert_eq!(ended(spins, 1), Ended::TooLate(Some("c".to_owned())));
        let waits = "printf 'test d ... '; tail -f /dev/null";
        assert_eq!(ended(waits, 0), Ended::TooLate(Some("d".to_owned())));
    }

    #[test]
    fn a_program_that_notes_has_no_mutant_switched_on() {
        let folder = tempfile::tempdir().unwrap();
        let notes = folder.path().join("notes");
        let script = "test -z \"$RAFTWERK_PLANTED\" && echo 12 >>\"$RAFTWERK_REACHED\"";
        assert_eq!(shell(script, Switch::Noting(&notes), 60).ended, Ended::Passed);
        assert_eq!(fs::read_to_string(notes).unwrap(), "12\n");
    }

    #[test]
    fn what_a_program_and_its_children_use_of_a_processor_is_counted() {
        let spins = "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done";
        assert!(shell(spins, Switch::On(0), 600).took > Duration::ZERO);
        assert!(shell(&format!("( {spins} )"), Switch::On(0), 600).took > Duration::ZERO);
        let stat = "12 (a) b) S 1 77 77 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0";
        assert_eq!(account(stat, 77), Some(("S", 100)));
        assert_eq!(account(stat, 12), None);
    }
}
