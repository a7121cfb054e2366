//! A look at snapshot files that nobody has asked for: whether the device still gives back what was written. A file that is not
//! looked at is found to be damaged when it is needed, which is when the node is started, or a follower is behind.
//!
//! It is read past the system's cache, where that can be done, a part at a time; the body's checksum is carried from part to part.
//! What does not match is read once more from the beginning, so that a slip on the way is not taken for damage. Runs where snapshot
//! files are worked on. What is not here: when (`Lane::scrub_snapshots`), and what follows from it.

use std::io;

use crc32fast::Hasher;
use raftwerk_frame::{EntryId, GroupId};

use crate::disk::{Access, Files};
use crate::pool::BufferPool;
use crate::shelf::{Kind, Shelf};
use crate::snapshot_file::{REFUSED, Room, STEP_BYTES, decode};

/// Where the pass goes on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CheckAt {
    /// The group that was looked at last, or is being.
    group: Option<GroupId>,
    /// The file that is looked at, if it was not read to its end.
    within: Option<Within>,
}

#[derive(Clone, Copy, Debug)]
struct Within {
    id: EntryId,
    /// A multiple of `STEP_BYTES`.
    offset: u64,
    /// Of the body before that.
    crc: u32,
    is_second_look: bool,
}

/// What was seen of the snapshot files.
#[derive(Clone, Debug)]
pub struct SnapshotsChecked {
    /// Bytes read.
    pub bytes: u64,
    /// The file that is not what was written, if one was met: then nothing after it was looked at.
    pub damaged: Option<DamagedSnapshot>,
    /// The last file was looked at: the next look begins with the first.
    pub is_pass_over: bool,
    pub(crate) next: CheckAt,
}

/// A snapshot file that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSnapshot {
    /// Whose it is.
    pub group: GroupId,
    /// The entry that it stands for.
    pub id: EntryId,
    /// The file, relative to the log directory.
    pub file: String,
    /// Where it was noticed.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
}

/// What came of a part of a file.
enum Part {
    /// So many bytes, and more to come.
    More(u64, Within),
    /// So many bytes, and all of the file is what it should be; or it is gone, and another has taken its place.
    Over(u64),
    Bad(u64, &'static str),
}

/// Looks at about so many bytes: whole files while they are short, at least a part of one.
///
/// # Errors
/// If the directory cannot be listed.
pub(crate) fn check<F: Files>(
    files: &F,
    lane: u16,
    shelf: &Shelf,
    at: CheckAt,
    bytes: u64,
) -> io::Result<SnapshotsChecked> {
    let mut seen = SnapshotsChecked { bytes: 0, damaged: None, is_pass_over: false, next: at };
    let mut pool = BufferPool::new(0);
    let mut window = pool.take(STEP_BYTES);
    while seen.bytes < bytes.max(1) {
        let (group, within) = match (seen.next.group, seen.next.within) {
            (Some(group), Some(within)) => (group, within),
            (group, _) => match shelf.after(files, &Room::of(files, lane, shelf, GroupId(0)).dir, group)? {
                Some((group, id)) => (group, Within { id, offset: 0, crc: 0, is_second_look: false }),
                None => {
                    (seen.next, seen.is_pass_over) = (CheckAt::default(), true);
                    break;
                }
            },
        };
        let room = Room::of(files, lane, shelf, group);
        let part = look(&room, within, &mut window[..STEP_BYTES]);
        seen.next = CheckAt { group: Some(group), within: None };
        match part {
            Part::Over(read) => seen.bytes += read.max(1),
            Part::More(read, within) => {
                seen.bytes += read;
                seen.next.within = Some(within);
            }
            Part::Bad(..) if !within.is_second_look => {
                seen.next.within = Some(Within { id: within.id, offset: 0, crc: 0, is_second_look: true });
            }
            Part::Bad(offset, what) => {
                let (id, file) = (within.id, room.path(within.id, Kind::Complete));
                seen.damaged = Some(DamagedSnapshot { group, id, file, offset, what });
                break;
            }
        }
    }
    Ok(seen)
}

fn look<F: Files>(room: &Room<'_, F>, within: Within, window: &mut [u8]) -> Part {
    let path = room.path(within.id, Kind::Complete);
    let opened = room.files.open(&path, Access::Scan).or_else(|_| room.files.open(&path, Access::Plain));
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Part::Over(0),
        Err(_) => return Part::Bad(0, REFUSED),
    };
    let Ok(length) = room.files.len(&file) else { return Part::Bad(0, REFUSED) };
    let wanted = length.saturating_sub(within.offset).min(STEP_BYTES as u64) as usize;
    // Past the cache whole pages are asked for; at the end of the file fewer bytes come.
    let Ok(read) = room.files.read_at(&file, within.offset, window) else {
        return Part::Bad(within.offset, REFUSED);
    };
    if read < wanted {
        return Part::Bad(within.offset + read as u64, "it is cut short");
    }
    let (mut crc, mut body_from) = (Hasher::new_with_initial(within.crc), 0);
    let end = within.offset + wanted as u64;
    let head = if within.offset == 0 { Some(&window[..wanted]) } else { None };
    // The head is read again for each part, but for the first, which has it.
    let mut again = vec![0; crate::segment::PAGE_BYTES];
    let head = match head {
        Some(head) => head,
        None => {
            let file = room.files.open(&path, Access::Plain);
            match file.and_then(|file| room.files.read_at(&file, 0, &mut again)) {
                Ok(read) => &again[..read],
                Err(_) => return Part::Bad(0, REFUSED),
            }
        }
    };
    let (meta, body_at) = match decode(head) {
        Ok(decoded) => decoded,
        Err((offset, what)) => return Part::Bad(offset, what),
    };
    if meta.bytes != length || meta.group != room.group || meta.id != within.id {
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
