//! One row as a process of this program. IMPURE: processes, threads, clock.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What a process ended with.
pub(super) struct Ended {
    /// Its status: whether what it measured was verified.
    pub(super) is_good: bool,
    /// The JSON that it printed last.
    pub(super) report: Value,
}

/// Runs this program with these arguments, and calls `tick` meanwhile.
///
/// # Errors
/// It did not start, ended without a report, or did not end.
pub(super) fn run(arguments: &[String], patience: Duration, tick: &dyn Fn()) -> Result<Ended, String> {
    let program = std::env::current_exe().map_err(|error| format!("finding this program: {error}"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("starting a process: {error}"))?;
    let (out, errors) = (child.stdout.take(), child.stderr.take());
    let (status, out, errors) = thread::scope(|scope| {
        let out = scope.spawn(|| read(out));
        let errors = scope.spawn(|| read(errors));
        let status = wait(&mut child, patience, tick);
        (status, out.join().unwrap_or_default(), errors.join().unwrap_or_default())
    });
    ended(status?, &out, &errors)
}

fn read(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What came before an error may still explain the process's end.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn wait(child: &mut Child, patience: Duration, tick: &dyn Fn()) -> Result<ExitStatus, String> {
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if started.elapsed() < patience => thread::sleep(LOOK),
            ended => {
                // It may have ended by itself meanwhile.
                let _gone = child.kill();
                let _status = child.wait();
                return Err(match ended {
                    Err(error) => format!("waiting for a process: {error}"),
                    Ok(_) => format!("given up after {} s", patience.as_secs()),
                });
            }
        }
        tick();
    }
}

fn ended(status: ExitStatus, out: &str, errors: &str) -> Result<Ended, String> {
    let last = out.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
    if let Some(report) = last.filter(Value::is_object) {
        return Ok(Ended { is_good: status.success(), report });
    }
    let why = errors.lines().rev().find(|line| !line.trim().is_empty());
    let why = why.map(|line| line.trim().trim_start_matches("raftwerk-bench: ").to_owned());
    Err(why.unwrap_or_else(|| format!("ended without a report, {status}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn last_line_is_the_report_and_the_status_the_verdict() {
        let good = ended(ExitStatus::from_raw(0), "table\n{\"writes\":3}\n", "").unwrap();
        assert!(good.is_good && good.report["writes"] == 3);
        assert!(!ended(ExitStatus::from_raw(256), "{}", "").unwrap().is_good);
    }

    #[test]
    fn process_without_a_report_is_explained_by_its_last_words() {
        let why = |out: &str, errors: &str| ended(ExitStatus::from_raw(256), out, errors).err().unwrap();
        assert_eq!(why("", "warning\nraftwerk-bench: node n1: no space\n\n"), "node n1: no space");
        assert!(why("a table\n", "").contains("without a report"));
        assert!(ended(ExitStatus::from_raw(9), "", "").err().unwrap().contains("signal: 9"));
    }
}
