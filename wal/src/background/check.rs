//! Scrubbing snapshot files: whether the device still returns the bytes written. Without it, damage to a file
//! is found only when the file is needed: when the node starts, or a follower is behind.
//!
//! Files are read past the page cache, where possible, a part at a time; the body's checksum is continued
//! from part to part. A mismatch is read once more from the beginning, so that a transient error is not taken
//! for damage. Runs on the snapshot thread. Not here: when (`Lane::scrub_snapshots`), and the consequences.

use std::io;

use crc32fast::Hasher;
use raftwerk_frame::{EntryId, GroupId};

use crate::background::catalog::{Kind, SnapshotCatalog};
use crate::background::snapshots::{GroupSnapshots, REFUSED, STEP_BYTES};
use crate::disk::files::{Access, Files};
use crate::format::segment::PAGE_BYTES;
use crate::format::snapshot::{HEAD_BYTES_MAX, decode};
use crate::pool::BufferPool;

const _: () = assert!(STEP_BYTES.is_multiple_of(PAGE_BYTES), "a part is of whole pages");
const _: () = assert!(HEAD_BYTES_MAX <= PAGE_BYTES, "a file's first page holds its header");

/// Where the pass continues.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CheckAt {
    /// The group checked last, or in progress.
    group: Option<GroupId>,
    /// The file in progress, if it was not read to its end.
    within: Option<Within>,
}

#[derive(Clone, Copy, Debug)]
struct Within {
    id: EntryId,
    /// A multiple of `STEP_BYTES`.
    offset: u64,
    /// CRC of the body before `offset`.
    crc: u32,
    is_retry: bool,
}

/// The result of a scrub of snapshot files.
#[derive(Clone, Debug)]
pub struct SnapshotsChecked {
    /// Bytes read.
    pub bytes: u64,
    /// The damaged file, if one was found: then nothing after it was checked.
    pub damaged: Option<DamagedSnapshot>,
    /// The last file was checked: the next call begins with the first.
    pub is_pass_over: bool,
    pub(crate) next: CheckAt,
}

/// A damaged snapshot file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSnapshot {
    /// Its group.
    pub group: GroupId,
    /// The last entry it covers.
    pub id: EntryId,
    /// The file, relative to the log directory.
    pub file: String,
    /// Where the damage was noticed.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
}

/// The result of checking a part of a file.
enum Part {
    /// Bytes read, and where to continue.
    More(u64, Within),
    /// Bytes read; the whole file is good, or it is gone, replaced by a newer one.
    Over(u64),
    Bad(u64, &'static str),
}

/// Checks about `bytes` bytes: whole files while they are short, at least a part of one.
///
/// # Errors
/// If the directory cannot be listed.
pub(crate) fn check<F: Files>(
    files: &F,
    lane: u16,
    catalog: &SnapshotCatalog,
    at: CheckAt,
    bytes: u64,
) -> io::Result<SnapshotsChecked> {
    let mut seen = SnapshotsChecked { bytes: 0, damaged: None, is_pass_over: false, next: at };
    let mut pool = BufferPool::new(0);
    let mut window = pool.take(STEP_BYTES);
    while seen.bytes < bytes.max(1) {
        let (group, within) = match (seen.next.group, seen.next.within) {
            (Some(group), Some(within)) => (group, within),
            (group, _) => match catalog.after(
                files,
                &GroupSnapshots::of(files, lane, catalog, GroupId(0)).dir,
                group,
            )? {
                Some((group, id)) => (group, Within { id, offset: 0, crc: 0, is_retry: false }),
                None => {
                    (seen.next, seen.is_pass_over) = (CheckAt::default(), true);
                    break;
                }
            },
        };
        let snapshots = GroupSnapshots::of(files, lane, catalog, group);
        let part = verify_part(&snapshots, within, &mut window[..STEP_BYTES]);
        seen.next = CheckAt { group: Some(group), within: None };
        match part {
            Part::Over(read) => seen.bytes += read.max(1),
            Part::More(read, within) => {
                assert!(read > 0 && within.offset >= read, "a part moves the check forward");
                seen.bytes += read;
                seen.next.within = Some(within);
            }
            Part::Bad(..) if !within.is_retry => {
                seen.next.within = Some(Within { id: within.id, offset: 0, crc: 0, is_retry: true });
            }
            Part::Bad(offset, what) => {
                let (id, file) = (within.id, snapshots.path(within.id, Kind::Complete));
                seen.damaged = Some(DamagedSnapshot { group, id, file, offset, what });
                break;
            }
        }
    }
    Ok(seen)
}

fn verify_part<F: Files>(snapshots: &GroupSnapshots<'_, F>, within: Within, window: &mut [u8]) -> Part {
    assert!(within.offset.is_multiple_of(STEP_BYTES as u64), "parts of a file are of one length");
    assert_eq!(window.len(), STEP_BYTES, "the window holds a part");
    let path = snapshots.path(within.id, Kind::Complete);
    let opened =
        snapshots.files.open(&path, Access::Scan).or_else(|_| snapshots.files.open(&path, Access::Plain));
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Part::Over(0),
        Err(_) => return Part::Bad(0, REFUSED),
    };
    let Ok(length) = snapshots.files.len(&file) else { return Part::Bad(0, REFUSED) };
    let wanted = length.saturating_sub(within.offset).min(STEP_BYTES as u64) as usize;
    // Direct reads request whole pages; the end of the file returns fewer bytes.
    let Ok(read) = snapshots.files.read_at(&file, within.offset, window) else {
        return Part::Bad(within.offset, REFUSED);
    };
    if read < wanted {
        return Part::Bad(within.offset + read as u64, "it is cut short");
    }
    assert!(wanted <= read && read <= window.len(), "the window holds what is checked");
    let (mut crc, mut body_from) = (Hasher::new_with_initial(within.crc), 0);
    let end = within.offset + wanted as u64;
    let head = if within.offset == 0 { Some(&window[..wanted]) } else { None };
    // The head is read again for each part except the first, which contains it.
    let mut again = vec![0; PAGE_BYTES];
    let head = match head {
        Some(head) => head,
        None => {
            let file = snapshots.files.open(&path, Access::Plain);
            match file.and_then(|file| snapshots.files.read_at(&file, 0, &mut again)) {
                Ok(read) => &again[..read],
                Err(_) => return Part::Bad(0, REFUSED),
            }
        }
    };
    let (meta, body_at) = match decode(head) {
        Ok(decoded) => decoded,
        Err((offset, what)) => return Part::Bad(offset, what),
    };
    if meta.bytes != length || meta.group != snapshots.group || meta.id != within.id {
        return Part::Bad(0, "it is another one, or of another length");
    }
    if within.offset == 0 {
        body_from = body_at as usize;
    }
    crc.update(&window[body_from.min(wanted)..wanted]);
    let crc = crc.finalize();
    match end < length {
        true => Part::More(wanted as u64, Within { offset: end, crc, ..within }),
        false if crc == meta.crc => Part::Over(wanted as u64),
        false => Part::Bad(body_at, "the body's checksum does not match"),
    }
}
