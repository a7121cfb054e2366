//! The names below a directory: current, durable on the device, and the changes in between.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{InDoubt, PowerLoss};

/// The target of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    /// By the file's number.
    File(u64),
}

/// A name that was added, or removed (`None`). The two changes of a rename have one number.
#[derive(Debug)]
struct Change {
    number: u64,
    path: PathBuf,
    node: Option<Node>,
}

#[derive(Debug, Default)]
pub(super) struct Names {
    live: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    /// In order; not durable yet.
    changes: Vec<Change>,
}

fn dir_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

impl Names {
    pub(super) fn has(&self, path: &Path) -> bool {
        self.live.contains_key(path)
    }

    pub(super) fn give(&mut self, number: u64, path: &Path, node: Node) {
        self.change(number, path, Some(node));
    }

    /// Returns the node that had the name.
    pub(super) fn take(&mut self, number: u64, path: &Path) -> Option<Node> {
        let taken = if self.has(path) { self.change(number, path, None) } else { None };
        assert!(!self.has(path), "a name that is taken is unused");
        taken
    }

    /// Returns the node that had the new name.
    pub(super) fn rename(&mut self, number: u64, from: &Path, to: &Path) -> Option<Node> {
        let node = self.live.get(from).copied()?;
        self.change(number, from, None);
        let replaced = self.change(number, to, Some(node));
        assert!(self.live.get(to) == Some(&node), "a renamed file has its new name");
        replaced
    }

    fn change(&mut self, number: u64, path: &Path, node: Option<Node>) -> Option<Node> {
        assert!(
            self.changes.last().is_none_or(|before| before.number <= number),
            "changes are kept in their order"
        );
        self.changes.push(Change { number, path: path.to_owned(), node });
        put(&mut self.live, path, node)
    }

    /// Makes the directory's names durable as they were when sync `number` began.
    pub(super) fn sync(&mut self, number: u64, dir: &Path) {
        let durable = &mut self.durable;
        self.changes.retain(|change| {
            let is_covered = change.number < number && dir_of(&change.path) == dir;
            if is_covered {
                put(durable, &change.path, change.node);
            }
            !is_covered
        });
    }

    /// Every file that has a name, or may get one back.
    pub(super) fn files(&self) -> BTreeSet<u64> {
        let changed = self.changes.iter().filter_map(|change| change.node.as_ref());
        let nodes = self.live.values().chain(self.durable.values()).chain(changed);
        nodes.filter_map(|node| if let Node::File(file) = node { Some(*file) } else { None }).collect()
    }

    pub(super) fn path_of(&self, file: u64) -> Option<&Path> {
        let mut names = self.live.iter().chain(&self.durable);
        names.find(|(_, node)| **node == Node::File(file)).map(|(path, _)| path.as_path())
    }

    /// Power cut: decides which changes reached the device. In each directory, only those before the first
    /// that did not.
    pub(super) fn end(&mut self, reached: &mut dyn FnMut(InDoubt<'_>) -> bool, loss: &mut PowerLoss) {
        let mut stopped: BTreeSet<PathBuf> = BTreeSet::new();
        let mut asked: BTreeMap<(u64, PathBuf), bool> = BTreeMap::new();
        for change in std::mem::take(&mut self.changes) {
            let dir = dir_of(&change.path).to_owned();
            // The old and the new name of a rename within one directory change together.
            let has_reached = *asked.entry((change.number, dir.clone())).or_insert_with(|| {
                let has_reached = !stopped.contains(&dir) && reached(InDoubt::Names(&dir));
                if has_reached {
                    loss.names_kept += 1;
                } else {
                    loss.names_lost += 1;
                    stopped.insert(dir);
                }
                has_reached
            });
            if has_reached {
                put(&mut self.durable, &change.path, change.node);
            }
        }
    }

    /// The device's names, directories before their content. A name in a directory without a name is
    /// unreachable.
    pub(super) fn left(&self) -> impl Iterator<Item = (&Path, Node)> {
        let is_dir = |path: &Path| path.as_os_str().is_empty() || self.durable.get(path) == Some(&Node::Dir);
        let is_reached = move |path: &Path| path.ancestors().skip(1).all(is_dir);
        self.durable
            .iter()
            .filter(move |(path, _)| is_reached(path))
            .map(|(path, node)| (path.as_path(), *node))
    }
}

fn put(names: &mut BTreeMap<PathBuf, Node>, path: &Path, node: Option<Node>) -> Option<Node> {
    match node {
        Some(node) => names.insert(path.to_owned(), node),
        None => names.remove(path),
    }
}
