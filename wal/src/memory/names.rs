//! Names in memory: those that are there, those that a power cut leaves, and what was done in between, in order.
//!
//! A change of names is durable when its directory is synced. Until then a power cut takes it back, or leaves it, whatever becomes of
//! those before and after it: a file system owes no order between two changes of which neither was synced.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::inode::Inode;

/// A file, whatever it is called.
pub(super) type Shared = Arc<Mutex<Inode>>;

/// One change of names, of a file that the name meant.
#[derive(Clone, Debug)]
enum Change {
    Given(String, Shared),
    Taken(String, Shared),
    /// `others` are the names that the file has besides.
    Moved {
        from: String,
        to: String,
        file: Shared,
        others: Vec<String>,
    },
}

impl Change {
    /// The name that it is about; of two, the new one.
    fn name(&self) -> &str {
        match self {
            Self::Given(name, _) | Self::Taken(name, _) | Self::Moved { to: name, .. } => name,
        }
    }

    /// Whether a sync of a directory makes it durable. No file moves from one to another.
    fn is_in(&self, dir: &str) -> bool {
        parent(self.name()) == dir
    }

    fn apply(&self, to: &mut BTreeMap<String, Shared>) {
        match self {
            Self::Given(name, file) => {
                to.insert(name.clone(), file.clone());
            }
            Self::Taken(name, file) => {
                if to.get(name).is_some_and(|there| Arc::ptr_eq(there, file)) {
                    to.remove(name);
                }
            }
            Self::Moved { from, to: name, file, others } => {
                // Where an earlier move was lost, it goes from wherever that had left it.
                to.retain(|old, there| old != from && (others.contains(old) || !Arc::ptr_eq(there, file)));
                to.insert(name.clone(), file.clone());
            }
        }
    }
}

/// All names of some files.
#[derive(Debug, Default)]
pub(super) struct Names {
    now: BTreeMap<String, Shared>,
    durable: BTreeMap<String, Shared>,
    /// Since their directory was last made durable.
    changes: Vec<Change>,
}

impl Names {
    /// The files that are there, by name.
    pub(super) const fn now(&self) -> &BTreeMap<String, Shared> {
        &self.now
    }

    /// Those that a power cut leaves in any case.
    pub(super) const fn durable(&self) -> &BTreeMap<String, Shared> {
        &self.durable
    }

    /// A file is there, durably, in place of what was there.
    pub(super) fn put(&mut self, name: &str, file: Shared) {
        self.changes.retain(|change| change.name() != name);
        self.now.insert(name.to_owned(), file.clone());
        self.durable.insert(name.to_owned(), file);
    }

    /// Only names for which `is_kept`.
    pub(super) fn retain(&mut self, mut is_kept: impl FnMut(&str) -> bool) {
        self.now.retain(|name, _| is_kept(name));
        self.durable.retain(|name, _| is_kept(name));
        self.changes.retain(|change| is_kept(change.name()));
    }

    /// A file gets a name: its first, or a second in another directory.
    pub(super) fn give(&mut self, name: &str, file: Shared) {
        self.change(Change::Given(name.to_owned(), file));
    }

    /// A name goes, if it is there; whether it was.
    pub(super) fn take(&mut self, name: &str) -> bool {
        let Some(file) = self.now.get(name).cloned() else { return false };
        self.change(Change::Taken(name.to_owned(), file));
        true
    }

    /// A file gets another name, if it is there, and whatever had that loses it; whether it was.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some(file) = self.now.get(from).cloned() else { return false };
        let is_other = |(name, there): &(&String, &Shared)| *name != from && Arc::ptr_eq(there, &file);
        let others = self.now.iter().filter(is_other).map(|(name, _)| name.clone()).collect();
        self.change(Change::Moved { from: from.to_owned(), to: to.to_owned(), file, others });
        true
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.changes.push(change);
    }

    /// The names in a directory become durable.
    pub(super) fn sync(&mut self, dir: &str) {
        let durable = &mut self.durable;
        self.changes.retain(|change| {
            let is_here = change.is_in(dir);
            if is_here {
                change.apply(durable);
            }
            !is_here
        });
    }

    /// How many changes a power cut now may take back.
    pub(super) fn in_doubt(&self) -> usize {
        self.changes.len()
    }

    /// What a power cut now leaves, where each change that is in doubt, in order, is asked whether it has reached the device.
    pub(super) fn survived(&self, is_there: &mut dyn FnMut() -> bool) -> BTreeMap<String, Shared> {
        let mut names = self.durable.clone();
        self.changes.iter().filter(|_| is_there()).for_each(|change| change.apply(&mut names));
        names
    }
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
