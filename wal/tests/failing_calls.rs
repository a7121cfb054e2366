//! The system fails one call, the first, the second and so on, in every append mode: after a failed sync
//! nothing is acknowledged, and everything acknowledged is there when the log is opened again.
//!
//! The failures are injected by `strace`, so that real calls on the real disk fail: `pwritev2`, `fdatasync`,
//! `msync`, `fsync` and `fallocate`, with EIO, and with ENOSPC where space is allocated. Where strace is
//! missing or may not trace, the test prints so and is skipped. `SHOW_TRACE=1` prints the trace. Run it with
//! `cargo test -p raftwerk-wal --test failing_calls`; it has a `main` of its own, since the traced program is
//! the same one. Not here: the same on the simulated disk, `wal/src/tests/damage.rs`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which speaks to its parent by lines")]

use std::collections::BTreeMap;
use std::env;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::task::Waker;
use std::time::{Duration, Instant};

use raftwerk_frame::frame::{self, Entries, EntryKind};
use raftwerk_frame::{EntryId, GroupId, Index, Term};
use raftwerk_wal::{
    AppendMode, Directory, GroupSlot, Lane, LaneOptions, OpenError, OsDisk, OsDiskOptions, OsFiles,
};

/// Entries that the traced program appends: they fill some segments, which are reused.
const ENTRIES: u64 = 12;
/// Longer than anything here takes. It bounds a test that hangs; nothing else depends on it.
const PATIENCE: Duration = Duration::from_secs(60);

fn payload(index: u64) -> Vec<u8> {
    format!("entry {index} ").repeat(20).into_bytes()
}

fn open(path: &Path, mode: AppendMode) -> Result<Lane<OsDisk>, OpenError> {
    let io = |source| OpenError::Io { file: String::new(), source };
    let directory = Directory::open(OsFiles::new(path, mode).map_err(io)?, 1, 7)?;
    let options = OsDiskOptions { retry_pause: Duration::from_millis(1), ..OsDiskOptions::default() };
    let disk = OsDisk::open(&directory, &options, Waker::noop().clone()).map_err(io)?;
    let options = LaneOptions { segment_bytes: 16 << 10, frame_bytes_max: 4 << 10, ..LaneOptions::default() };
    Ok(Lane::open(disk, options)?.0)
}

/// One write at a time, each printed once it is durable. Continues after any failure.
fn child(path: &Path, mode: AppendMode) {
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).unwrap();
    };
    let mut lane = match open(path, mode) {
        Ok(lane) => lane,
        Err(error) => return say(format!("not opened: {error}\n")),
    };
    say(format!("opened {}\n", lane.stats().mode.name()));
    let slot = lane.attach(GroupId(1));
    for index in 1..=ENTRIES {
        if append(&mut lane, slot, index).is_err() {
            say(format!("refused {index}\n"));
            continue;
        }
        say(format!("ack {index}\n"));
        if index % 4 == 0 {
            lane.compact(slot, EntryId::new(Term(1), Index(index - 2)));
        }
    }
}

fn append(lane: &mut Lane<OsDisk>, slot: GroupSlot, index: u64) -> Result<(), String> {
    let sentence = |error: &dyn std::fmt::Display| error.to_string();
    let since = Instant::now();
    // A full disk is a state, which ends.
    let mut frame = loop {
        lane.poll().map_err(|error| sentence(&error))?;
        if lane.turn_budget() > 0 {
            break lane
                .begin_frame(slot, EntryId::new(Term(1), Index(index)), 400)
                .map_err(|e| sentence(&e))?;
        }
        assert!(since.elapsed() < PATIENCE, "there is never room again");
        std::thread::yield_now();
    };
    assert!(frame.push(EntryKind::Payload, &payload(index)) && frame.finish().is_some());
    let last = lane.submit().map_err(|error| sentence(&error))?.unwrap();
    while lane.poll().map_err(|error| sentence(&error))?.durable < last {
        assert!(since.elapsed() < PATIENCE, "entry {index} is never durable");
        std::thread::yield_now();
    }
    Ok(())
}

/// The result of a traced run.
#[derive(Default)]
struct Run {
    was_injected: bool,
    /// The failed call was an append's.
    hit_an_append: bool,
    acknowledged: Vec<u64>,
    acknowledged_after: Vec<u64>,
    was_refused: bool,
}

fn traced(dir: &Path, mode: AppendMode, call: &str, error: &str, when: u32) -> Result<Run, String> {
    let (log, trace) = (dir.join("log"), dir.join("trace"));
    let output = Command::new("strace")
        .args(["-f", "-qq", "-y", "-s", "64", "-e", "trace=write,pwritev2,fdatasync,msync,fsync,fallocate"])
        .arg("-e")
        .arg(format!("inject={call}:error={error}:when={when}"))
        .arg("-o")
        .arg(&trace)
        .arg(env::current_exe().unwrap())
        .arg("traced")
        .arg(&log)
        .arg(mode.name())
        .output()
        .map_err(|error| format!("strace: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || !text.contains("opened") {
        return Err(format!("{}, {text}, {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    let (mut run, mut is_open, mut unfinished) = (Run::default(), false, BTreeMap::new());
    for line in std::fs::read_to_string(&trace).unwrap().lines() {
        // The child's output, in order with the failed calls. Calls of other threads may stand in between.
        let said =
            line.split_once(" write(1").and_then(|(_, rest)| rest.split_once('"')).map(|(_, said)| said);
        is_open |= said.is_some_and(|said| said.starts_with("opened"));
        run.was_refused |= said.is_some_and(|said| said.starts_with("refused"));
        if let Some(index) = said.and_then(|said| said.strip_prefix("ack ")) {
            let index = index.split('\\').next().and_then(|index| index.parse().ok()).unwrap();
            run.acknowledged.push(index);
            if run.hit_an_append {
                run.acknowledged_after.push(index);
            }
        }
        let thread = line.split(' ').next().unwrap_or_default();
        if line.contains("<unfinished ...>") {
            unfinished.insert(thread, line);
        }
        if line.contains("(INJECTED)") {
            run.was_injected = true;
            let began = unfinished.remove(thread).filter(|_| line.contains(" resumed>"));
            let line = began.unwrap_or(line);
            // A segment gets its name only when it is READY: from then on, all writes to it are batches.
            run.hit_an_append |= is_open && (line.contains("/seg-") || line.contains(" msync("));
        }
    }
    if mode.name() != text.lines().next().unwrap_or_default().trim_start_matches("opened ")
        && text.starts_with("opened")
    {
        eprintln!("{} is refused here", mode.name());
    }
    Ok(run)
}

/// Every acknowledged entry is there, and every entry found is as written.
fn check(dir: &Path, mode: AppendMode, run: &Run, context: &str) {
    let mut lane = open(&dir.join("log"), mode).unwrap_or_else(|error| panic!("{context}: {error}"));
    let slot = lane.attach(GroupId(1));
    let (first, last) = (lane.first(slot), lane.last(slot));
    let reached = run.acknowledged.last().copied().unwrap_or_default();
    assert!(last.0 >= reached, "{context}: {reached} was acknowledged, and {last} is left");
    let mut next = first;
    while next <= last {
        let found = lane.read(slot, next, last, 1).unwrap()[0];
        let bytes = lane.bytes(found.place).unwrap();
        let (header, body) = frame::parse(&bytes).unwrap();
        for entry in Entries::new(&header, body) {
            assert_eq!(entry.payload, payload(entry.id.index.0), "{context}");
        }
        next = found.last.next();
    }
    // If the lane missed the failure, it would continue to acknowledge.
    assert!(
        run.acknowledged_after.is_empty(),
        "{context}: acknowledged after it: {:?}",
        run.acknowledged_after
    );
    assert_eq!(run.was_refused, run.hit_an_append, "{context}");
    if !run.hit_an_append && !run.acknowledged.is_empty() {
        assert_eq!(run.acknowledged.len() as u64, ENTRIES, "{context}: a failed preparation is made again");
    }
}

fn main() {
    let words: Vec<String> = env::args().collect();
    if let [_, role, path, mode] = &words[..]
        && role == "traced"
    {
        let mode = AppendMode::ALL.into_iter().find(|known| known.name() == mode).unwrap();
        return child(Path::new(path), mode);
    }
    if words.iter().any(|word| word == "--list") {
        return println!("every_call_fails_once: test");
    }
    let calls = [
        ("pwritev2", "EIO"),
        ("fdatasync", "EIO"),
        ("msync", "EIO"),
        ("fsync", "EIO"),
        ("pwritev2", "ENOSPC"),
        ("fallocate", "ENOSPC"),
    ];
    let (mut failed, mut of_appends) = (0, 0);
    for mode in AppendMode::ALL {
        let mut in_mode = 0;
        for (call, error) in calls {
            for when in 1.. {
                let dir = tempfile::tempdir().unwrap();
                let context = format!("{}: {call} no. {when} fails with {error}", mode.name());
                let run = match traced(dir.path(), mode, call, error, when) {
                    Ok(run) => run,
                    Err(why) if failed == 0 => return println!("SKIPPED, nothing can be traced: {why}"),
                    Err(why) => panic!("{context}: {why}"),
                };
                if !run.was_injected {
                    assert_eq!(run.acknowledged.len() as u64, ENTRIES, "{context}");
                    break;
                }
                if env::var_os("SHOW_TRACE").is_some() {
                    println!("{context}\n{}", std::fs::read_to_string(dir.path().join("trace")).unwrap());
                }
                check(dir.path(), mode, &run, &context);
                (failed, in_mode) = (failed + 1, in_mode + u32::from(run.hit_an_append));
            }
        }
        println!("{}: {in_mode} appends failed", mode.name());
        assert!(in_mode >= ENTRIES as u32, "{}: too few appends failed", mode.name());
        of_appends += in_mode;
    }
    println!("every_call_fails_once ... ok: {failed} calls, {of_appends} of them of appends");
}
