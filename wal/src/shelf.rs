//! Which snapshot files a lane has, so that nobody has to list their directory: that costs as much as there are groups.
//!
//! The directory is listed once, by the first job that asks; from then on each job on snapshot files notes what it makes and what
//! it removes. The lane owns the directory, so nobody else does. About 60 bytes a group. The lock is held for a look, or for the
//! first listing, by jobs, which run one after another, and while a lane is opened: never in a turn.
//!
//! What is not here: what is in the files (`snapshot_file`).

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use raftwerk_frame::{EntryId, GroupId, Index, Term};
use smallvec::SmallVec;

use crate::disk::Files;

/// What a file's name says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whole and durable.
    Complete,
    /// Of a transfer that is under way.
    Incoming,
    /// Being written.
    Unfinished,
    /// It was complete, and is damaged: set aside for whoever may want to see it, until there is another one.
    Damaged,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Complete, Self::Incoming, Self::Unfinished, Self::Damaged];

    const fn ending(self) -> &'static str {
        match self {
            Self::Complete => "snap",
            Self::Incoming => "part",
            Self::Unfinished => "tmp",
            Self::Damaged => "damaged",
        }
    }
}

/// A file of a group.
pub(crate) type Kept = (EntryId, Kind);
/// Those of one group: nearly always one.
pub(crate) type OfGroup = SmallVec<[Kept; 1]>;

/// The files of all groups of a lane; `None` before the directory was listed.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<Option<BTreeMap<GroupId, OfGroup>>>);

impl Shelf {
    fn with<F: Files, T>(
        &self,
        files: &F,
        dir: &str,
        look: impl FnOnce(&mut BTreeMap<GroupId, OfGroup>) -> T,
    ) -> io::Result<T> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let groups = match &mut *known {
            Some(groups) => groups,
            unlisted => unlisted.insert(listed(files, dir)?),
        };
        Ok(look(groups))
    }

    /// The files of a group.
    pub(crate) fn of<F: Files>(&self, files: &F, dir: &str, group: GroupId) -> io::Result<OfGroup> {
        self.with(files, dir, |groups| groups.get(&group).cloned().unwrap_or_default())
    }

    /// The newest complete one of a group.
    pub(crate) fn newest<F: Files>(
        &self,
        files: &F,
        dir: &str,
        group: GroupId,
    ) -> io::Result<Option<EntryId>> {
        self.with(files, dir, |groups| groups.get(&group).and_then(newest))
    }

    /// The first group after that one with a complete file, and its newest.
    pub(crate) fn after<F: Files>(
        &self,
        files: &F,
        dir: &str,
        group: Option<GroupId>,
    ) -> io::Result<Option<(GroupId, EntryId)>> {
        let from = group.map_or(Bound::Unbounded, Bound::Excluded);
        self.with(files, dir, |groups| {
            let mut later = groups.range((from, Bound::Unbounded));
            later.find_map(|(group, files)| Some((*group, newest(files)?)))
        })
    }

    /// Every file of every group.
    pub(crate) fn all<F: Files>(&self, files: &F, dir: &str) -> io::Result<Vec<(GroupId, Kept)>> {
        self.with(files, dir, |groups| {
            groups.iter().flat_map(|(group, kept)| kept.iter().map(|kept| (*group, *kept))).collect()
        })
    }

    /// There is such a file.
    pub(crate) fn put<F: Files>(&self, files: &F, dir: &str, group: GroupId, kept: Kept) -> io::Result<()> {
        self.with(files, dir, |groups| {
            let of_group = groups.entry(group).or_default();
            if !of_group.contains(&kept) {
                of_group.push(kept);
            }
        })
    }

    /// There is no such file any more.
    pub(crate) fn take<F: Files>(&self, files: &F, dir: &str, group: GroupId, kept: Kept) -> io::Result<()> {
        self.with(files, dir, |groups| {
            if let Some(of_group) = groups.get_mut(&group) {
                of_group.retain(|file| *file != kept);
                if of_group.is_empty() {
                    groups.remove(&group);
                }
            }
        })
    }
}

fn newest(files: &OfGroup) -> Option<EntryId> {
    let complete = files.iter().filter(|(_, kind)| *kind == Kind::Complete);
    complete.map(|(id, _)| *id).max_by_key(|id| id.index)
}

fn listed<F: Files>(files: &F, dir: &str) -> io::Result<BTreeMap<GroupId, OfGroup>> {
    let names = match files.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed?,
    };
    let mut groups: BTreeMap<GroupId, OfGroup> = BTreeMap::new();
    for (group, kept) in names.iter().filter_map(|name| parse(name)) {
        groups.entry(group).or_default().push(kept);
    }
    Ok(groups)
}

/// The name of a file.
pub(crate) fn name(group: GroupId, (id, kind): Kept) -> String {
    format!("{:016x}-{:016x}-{:016x}.{}", group.0, id.index.0, id.term.0, kind.ending())
}

/// What a name says; `None` if it is not of a snapshot file.
pub(crate) fn parse(name: &str) -> Option<(GroupId, Kept)> {
    let (numbers, ending) = name.split_once('.')?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.ending() == ending)?;
    let mut numbers = numbers.split('-').map(|number| u64::from_str_radix(number, 16));
    let mut number = || numbers.next()?.ok();
    let (group, index, term) = (number()?, number()?, number()?);
    Some((GroupId(group), (EntryId::new(Term(term), Index(index)), kind))).filter(|_| number().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_its_file_is() {
        let id = EntryId::new(Term(3), Index(0xAB));
        for kind in Kind::ALL {
            assert_eq!(parse(&name(GroupId(77), (id, kind))), Some((GroupId(77), (id, kind))));
        }
        for other in ["", "x", "1-2-3", "1-2.snap", "1-2-3-4.snap", "1-2-3.snap.old", "1-2-z.snap"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
