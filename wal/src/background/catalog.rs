//! The catalog of a lane's snapshot files, which saves listing their directory: a listing costs as much as
//! there are groups.
//!
//! The directory is listed once, by the first job that needs it; from then on each snapshot job records what
//! it creates and removes. The lane is the directory's only user. About 60 bytes a group. The lock is held
//! for a lookup, or for the first listing, by jobs, which run one after another, and while a lane is opened:
//! never in a turn.
//!
//! Not here: the content of the files (`background::snapshots`).

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use raftwerk_frame::{EntryId, GroupId, Index, Term};
use smallvec::SmallVec;

use crate::disk::files::Files;

/// The kind of a file, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whole and durable.
    Complete,
    /// A transfer in progress.
    Incoming,
    /// Being written.
    Unfinished,
    /// It was complete, and is damaged: set aside for inspection, until there is another one.
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
pub(crate) type CatalogEntry = (EntryId, Kind);
/// The files of one group: nearly always one.
pub(crate) type GroupFiles = SmallVec<[CatalogEntry; 1]>;

/// The catalog: the files of all groups of a lane; `None` before the directory was listed.
#[derive(Debug, Default)]
pub(crate) struct SnapshotCatalog(Mutex<Option<BTreeMap<GroupId, GroupFiles>>>);

impl SnapshotCatalog {
    fn with<F: Files, T>(
        &self,
        files: &F,
        dir: &str,
        look: impl FnOnce(&mut BTreeMap<GroupId, GroupFiles>) -> T,
    ) -> io::Result<T> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let groups = match &mut *known {
            Some(groups) => groups,
            unlisted => unlisted.insert(listed(files, dir)?),
        };
        Ok(look(groups))
    }

    /// The files of a group.
    pub(crate) fn of<F: Files>(&self, files: &F, dir: &str, group: GroupId) -> io::Result<GroupFiles> {
        self.with(files, dir, |groups| groups.get(&group).cloned().unwrap_or_default())
    }

    /// The newest complete file of a group.
    pub(crate) fn newest<F: Files>(
        &self,
        files: &F,
        dir: &str,
        group: GroupId,
    ) -> io::Result<Option<EntryId>> {
        self.with(files, dir, |groups| groups.get(&group).and_then(newest))
    }

    /// The first group after `group` with a complete file, and its newest.
    pub(crate) fn after<F: Files>(
        &self,
        files: &F,
        dir: &str,
        group: Option<GroupId>,
    ) -> io::Result<Option<(GroupId, EntryId)>> {
        let from = group.map_or(Bound::Unbounded, Bound::Excluded);
        self.with(files, dir, |groups| {
            let mut later = groups.range((from, Bound::Unbounded));
            let found = later.find_map(|(group, files)| Some((*group, newest(files)?)));
            assert!(found.is_none_or(|(found, _)| Some(found) > group), "a pass over groups moves forward");
            found
        })
    }

    /// Every file of every group.
    pub(crate) fn all<F: Files>(&self, files: &F, dir: &str) -> io::Result<Vec<(GroupId, CatalogEntry)>> {
        self.with(files, dir, |groups| {
            groups.iter().flat_map(|(group, entry)| entry.iter().map(|entry| (*group, *entry))).collect()
        })
    }

    /// Records that the file exists.
    pub(crate) fn put<F: Files>(
        &self,
        files: &F,
        dir: &str,
        group: GroupId,
        entry: CatalogEntry,
    ) -> io::Result<()> {
        self.with(files, dir, |groups| {
            let of_group = groups.entry(group).or_default();
            if !of_group.contains(&entry) {
                of_group.push(entry);
            }
        })
    }

    /// Records that the file is removed.
    pub(crate) fn take<F: Files>(
        &self,
        files: &F,
        dir: &str,
        group: GroupId,
        entry: CatalogEntry,
    ) -> io::Result<()> {
        self.with(files, dir, |groups| {
            if let Some(of_group) = groups.get_mut(&group) {
                of_group.retain(|file| *file != entry);
                if of_group.is_empty() {
                    groups.remove(&group);
                }
            }
        })
    }
}

fn newest(files: &GroupFiles) -> Option<EntryId> {
    let complete = files.iter().filter(|(_, kind)| *kind == Kind::Complete);
    complete.map(|(id, _)| *id).max_by_key(|id| id.index)
}

fn listed<F: Files>(files: &F, dir: &str) -> io::Result<BTreeMap<GroupId, GroupFiles>> {
    let names = match files.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed?,
    };
    let mut groups: BTreeMap<GroupId, GroupFiles> = BTreeMap::new();
    for (group, entry) in names.iter().filter_map(|name| parse(name)) {
        groups.entry(group).or_default().push(entry);
    }
    Ok(groups)
}

/// The name of a file.
pub(crate) fn name(group: GroupId, (id, kind): CatalogEntry) -> String {
    format!("{:016x}-{:016x}-{:016x}.{}", group.0, id.index.0, id.term.0, kind.ending())
}

/// Parses a file name; `None` if it is not that of a snapshot file.
pub(crate) fn parse(name: &str) -> Option<(GroupId, CatalogEntry)> {
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
