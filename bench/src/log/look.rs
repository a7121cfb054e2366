//! `log inspect` and `log verify`: what is in a log, and whether it is whole. Only reads.

use std::io::{self, Write};
use std::path::Path;

use raftwerk_wal::OsFiles;
use raftwerk_wal::inspect::{Inspection, LaneInspection, Verdict, inspect};

use super::Look;

/// How a command ends; its number is the process's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All that was durable is there.
    Whole = 0,
    /// Something is damaged.
    Damaged = 1,
    /// There is no log, or none that this build can read.
    Unreadable = 2,
}

pub(super) fn run(look: &Look, out: &mut dyn Write) -> io::Result<Ending> {
    let (Look::Inspect { dir, .. } | Look::Verify { dir }) = look;
    let seen = match inspect(&OsFiles::read_only(dir)) {
        Ok(seen) => seen,
        Err(error) => {
            writeln!(out, "{}: no log that can be read: {error}", dir.display())?;
            return Ok(Ending::Unreadable);
        }
    };
    match look {
        Look::Inspect { groups, .. } => list(dir, &seen, *groups, out)?,
        Look::Verify { .. } => {
            for lane in &seen.lanes {
                tell(lane, out)?;
            }
        }
    }
    Ok(ending(&seen))
}

fn ending(seen: &Inspection) -> Ending {
    let is_unreadable = |lane: &LaneInspection| matches!(lane.verdict, Verdict::Unreadable(_));
    if seen.lanes.iter().any(is_unreadable) {
        Ending::Unreadable
    } else if seen.lanes.iter().all(|lane| lane.verdict.is_whole()) {
        Ending::Whole
    } else {
        Ending::Damaged
    }
}

fn tell(lane: &LaneInspection, out: &mut dyn Write) -> io::Result<()> {
    let number = lane.lane;
    match &lane.verdict {
        Verdict::Clean => writeln!(out, "lane {number}: whole, up to {}", lane.last),
        Verdict::Torn(torn) => writeln!(
            out,
            "lane {number}: whole, up to {}; an unfinished batch, never called durable, begins at byte {} of {}",
            lane.last, torn.offset, torn.file
        ),
        Verdict::Unreadable(error) => writeln!(out, "lane {number}: UNREADABLE: {error}"),
        Verdict::Damaged(all) => {
            writeln!(out, "lane {number}: DAMAGED")?;
            for damage in all {
                let groups: Vec<String> = damage.groups.iter().map(ToString::to_string).collect();
                let of = if groups.is_empty() { "any group".to_owned() } else { groups.join(", ") };
                writeln!(out, "  {} at byte {}: {}; of {of}", damage.file, damage.offset, damage.what)?;
            }
            Ok(())
        }
    }
}

fn list(dir: &Path, seen: &Inspection, all: bool, out: &mut dyn Write) -> io::Result<()> {
    let lanes = seen.lanes.len();
    writeln!(out, "{}: format {}, log {:016x}, {lanes} lanes", dir.display(), seen.version, seen.log_id)?;
    for lane in &seen.lanes {
        tell(lane, out)?;
        for segment in &lane.segments {
            let batches =
                segment.batches.map_or_else(String::new, |(first, last)| format!("{first} to {last}"));
            writeln!(
                out,
                "  {} {:>11} bytes, {:>7} batches {batches}, {} broken; {} frames of {} groups, {} bytes",
                segment.file,
                segment.bytes,
                segment.batch_count,
                segment.broken,
                segment.frames,
                segment.groups,
                segment.frame_bytes
            )?;
        }
        writeln!(
            out,
            "  {} spares, {} unfinished, {} groups; index {} bytes, {:.1} per entry of {}",
            lane.spares,
            lane.unfinished,
            lane.groups.len(),
            lane.index_bytes,
            lane.index_bytes as f64 / lane.entries.max(1) as f64,
            lane.entries
        )?;
        for group in lane.groups.iter().filter(|group| all || group.fence.is_some()) {
            let vote = group.hard_state.vote.map_or_else(|| "nobody".to_owned(), |node| node.to_string());
            write!(
                out,
                "  {}: {} to {}, {} bytes; term {}, voted for {vote}",
                group.group, group.compacted, group.last, group.live_bytes, group.hard_state.term
            )?;
            match group.fence {
                Some(fence) => writeln!(out, "; HAS LOST SOMETHING in terms up to {fence}")?,
                None => writeln!(out)?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(look: &Look) -> (Ending, String) {
        let mut out = Vec::new();
        let ending = run(look, &mut out).unwrap();
        (ending, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_log_is_whole_then_damaged_then_none_at_all_and_is_never_changed() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let dir = folder.path().join("log");
        let verify = Look::Verify { dir: dir.clone() };
        assert_eq!(looked(&verify).0, Ending::Unreadable);
        assert!(!dir.exists(), "looking made a folder");
        let options = super::super::LogOptions {
            look: None,
            seconds: 0.01,
            groups: vec![],
            record: vec![],
            batch: vec![],
            writers: vec![],
            synced: None,
            relaxed: false,
            mode: super::super::Mode::Direct,
            own_thread: false,
            poll_us: 0,
            dir: None,
            json: false,
        };
        let mut rig = super::super::lane::Rig::open(&dir, &options, true).unwrap();
        let cell = super::super::Cell { groups: 3, record_bytes: 100, batch: 2, writers: 2, synced: true };
        assert!(rig.run(cell, &options).unwrap().records > 0);
        drop(rig);
        let (ending, text) = looked(&verify);
        assert_eq!(ending, Ending::Whole, "{text}");
        let first = std::fs::read_dir(dir.join("lane-0")).unwrap().map(|entry| entry.unwrap().path());
        let first = first.filter(|path| path.extension().is_some_and(|ext| ext == "log")).min().unwrap();
        let mut bytes = std::fs::read(&first).unwrap();
        bytes[4096 + 70] ^= 4;
        std::fs::write(&first, &bytes).unwrap();
        let (ending, text) = looked(&verify);
        assert_eq!(ending, Ending::Damaged, "{text}");
        assert!(text.contains("at byte 4096"), "{text}");
        let (ending, text) = looked(&Look::Inspect { dir, groups: true });
        assert_eq!(ending, Ending::Damaged, "{text}");
        assert_eq!(std::fs::read(&first).unwrap(), bytes);
    }
}
