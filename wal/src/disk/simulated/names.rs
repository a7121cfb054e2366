//! File names in memory: the current ones, the durable ones, and the changes in between, in order.
//!
//! A change of names is durable when its directory is synced. Until then a power cut may undo it or leave it,
//! independently of the changes before and after it: a file system guarantees no order between two unsynced
//! changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::inode::Inode;

/// A file, under any name.
pub(super) type Shared = Arc<Mutex<Inode>>;

/// One change of names; refers to the file that had the name.
#[derive(Clone, Debug)]
enum Change {
    Given(String, Shared),
    Taken(String, Shared),
    Moved { from: String, to: String, file: Shared },
}

impl Change {
    /// The name it concerns; for a rename, the new one.
    fn name(&self) -> &str {
        match self {
            Self::Given(name, _) | Self::Taken(name, _) | Self::Moved { to: name, .. } => name,
        }
    }

    /// Whether a sync of `dir` makes it durable. Files never move between directories.
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
            Self::Moved { from, to: name, file } => {
                // If an earlier rename was lost, the file is moved from the name it kept. Its names in other
                // directories stay, also those that it was given since.
                let is_moved =
                    |old: &str, there: &Shared| parent(old) == parent(name) && Arc::ptr_eq(there, file);
                to.retain(|old, there| old != from && !is_moved(old, there));
                to.insert(name.clone(), file.clone());
            }
        }
    }
}

/// The names of all files.
#[derive(Debug, Default)]
pub(super) struct Names {
    now: BTreeMap<String, Shared>,
    durable: BTreeMap<String, Shared>,
    /// Changes since the last sync of their directory.
    changes: Vec<Change>,
}

impl Names {
    /// The current files, by name.
    pub(super) const fn now(&self) -> &BTreeMap<String, Shared> {
        &self.now
    }

    /// The durable ones: a power cut leaves them in any case.
    pub(super) const fn durable(&self) -> &BTreeMap<String, Shared> {
        &self.durable
    }

    /// Adds a file durably, replacing one of that name.
    pub(super) fn put(&mut self, name: &str, file: Shared) {
        self.changes.retain(|change| change.name() != name);
        self.now.insert(name.to_owned(), file.clone());
        self.durable.insert(name.to_owned(), file);
    }

    /// Keeps only names for which `is_kept` returns `true`.
    pub(super) fn retain(&mut self, mut is_kept: impl FnMut(&str) -> bool) {
        self.now.retain(|name, _| is_kept(name));
        self.durable.retain(|name, _| is_kept(name));
        self.changes.retain(|change| is_kept(change.name()));
    }

    /// Adds a name for a file: its first, or a second in another directory.
    pub(super) fn give(&mut self, name: &str, file: Shared) {
        assert!(!self.now.contains_key(name), "a name that is given was unused");
        self.change(Change::Given(name.to_owned(), file));
    }

    /// Removes a name. Returns whether it existed.
    pub(super) fn take(&mut self, name: &str) -> bool {
        let Some(file) = self.now.get(name).cloned() else { return false };
        self.change(Change::Taken(name.to_owned(), file));
        assert!(!self.now.contains_key(name), "a name that is taken is unused");
        true
    }

    /// Renames a file, replacing one of the new name. Returns whether the old name existed.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some(file) = self.now.get(from).cloned() else { return false };
        self.change(Change::Moved { from: from.to_owned(), to: to.to_owned(), file });
        assert!(self.now.contains_key(to), "a renamed file has its new name");
        assert!(from == to || !self.now.contains_key(from), "a renamed file has lost its old name");
        true
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.changes.push(change);
    }

    /// Makes the names in a directory durable.
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

    /// The number of changes that a power cut now may undo.
    pub(super) fn in_doubt(&self) -> usize {
        self.changes.len()
    }

    /// The names that a power cut now leaves; `is_there` decides for each unsynced change, in order, whether
    /// it reached the device.
    pub(super) fn survived(&self, is_there: &mut dyn FnMut() -> bool) -> BTreeMap<String, Shared> {
        let mut names = self.durable.clone();
        self.changes.iter().filter(|_| is_there()).for_each(|change| change.apply(&mut names));
        names
    }
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_that_becomes_durable_late_leaves_the_files_names_elsewhere() {
        let file: Shared = Arc::new(Mutex::new(Inode::durable("a/new", vec![])));
        let mut names = Names::default();
        names.put("a/new", file.clone());
        assert!(names.rename("a/new", "a/whole"));
        names.give("b/whole", file);
        names.sync("b");
        names.sync("a");
        let durable: Vec<&String> = names.durable().keys().collect();
        assert_eq!(durable, ["a/whole", "b/whole"]);
    }
}
