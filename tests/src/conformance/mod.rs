//! Runs other projects' test data against Raftwerk: what they say must come out, and what does.
//!
//! The data lies beside the checkout and is read when it is needed; nothing of it is copied into this project, and
//! nothing in here knows a particular file, id or index of it. Each suite is a folder, each [`Case`] a file or a recording
//! in it. `tests/src/bin/conformance.rs` is the command; formats are described where they are read.
//!
//! What is not here: stories of our own, which are in [`script`](crate::script).

mod ccf;
mod confchange;
mod datadriven;
mod interaction;
mod linearizability;
mod quorum;

use std::path::{Path, PathBuf};
use std::{fs, io};

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is as expected.
    Passed,
    /// Something differs, for a reason that makes it right to.
    Waived(String),
    /// Something differs.
    Failed(String),
}

/// A file, or a part of one, with its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its name: the file's path in the suite.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// Why a suite could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// Its data is not there.
    #[error("{path}: not there")]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file or folder could not be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A file that all cases depend on is not what it should be.
    #[error("{path}: {what}")]
    Malformed {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// A suite: a name, and how its cases come from the folder that all suites lie in.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// What it is called.
    pub name: &'static str,
    /// Runs all its cases.
    pub run: fn(&Path) -> Result<Vec<Case>, SuiteError>,
}

/// All suites, in the order in which they are run.
pub const SUITES: [Suite; 7] = [
    Suite { name: "etcd-quorum", run: quorum::etcd },
    Suite { name: "etcd-confchange", run: confchange::etcd },
    Suite { name: "etcd-interaction-a", run: interaction::at_rest },
    Suite { name: "etcd-interaction-b", run: interaction::step_by_step },
    Suite { name: "raft-rs", run: raft_rs },
    Suite { name: "ccf", run: ccf::run },
    Suite { name: "linearizability", run: linearizability::run },
];

/// Both of raft-rs' folders; either may be missing.
fn raft_rs(folder: &Path) -> Result<Vec<Case>, SuiteError> {
    let mut cases = Vec::new();
    let halves = [quorum::raft_rs(folder), confchange::raft_rs(folder)];
    let mut absent = None;
    for half in halves {
        match half {
            Ok(half) => cases.extend(half),
            Err(error @ SuiteError::Absent { .. }) => absent = Some(error),
            Err(error) => return Err(error),
        }
    }
    absent.filter(|_| cases.is_empty()).map_or(Ok(cases), Err)
}

/// Where the data lies unless somebody says otherwise: `RAFTWERK_CONFORMANCE`, or beside the checkout.
#[must_use]
pub fn default_folder() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    std::env::var_os("RAFTWERK_CONFORMANCE").map_or_else(beside, PathBuf::from)
}

/// The text of a file.
fn read(path: &Path) -> Result<String, SuiteError> {
    fs::read_to_string(path).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: io::Error) -> SuiteError {
    let path = path.to_path_buf();
    match error.kind() {
        io::ErrorKind::NotFound => SuiteError::Absent { path },
        _ => SuiteError::Unreadable { path, error },
    }
}

/// The files of a folder by name; those that end so, if that is asked for. A folder without any counts as absent.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, SuiteError> {
    let entries = fs::read_dir(folder).map_err(|error| unreadable(folder, error))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        if path.is_file() && path.to_string_lossy().ends_with(ending) {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() { Err(SuiteError::Absent { path: folder.to_path_buf() }) } else { Ok(paths) }
}

/// A file's name without its folders.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A case for each text file of a folder; its name begins with `prefix`.
fn cases_of(folder: &Path, prefix: &str, judge: impl Fn(&str) -> Outcome) -> Result<Vec<Case>, SuiteError> {
    let case = |path: &PathBuf| {
        let outcome = judge(&read(path)?);
        Ok(Case { name: format!("{prefix}{}", name_of(path)), outcome })
    };
    files(folder, ".txt")?.iter().map(case).collect()
}
