//! IMPURE: what is kept of a run while it goes on: every verdict as a line, so that it can go on where it was ended; and the
//! equivalent ones with their reasons, which are given by hand.
//!
//! What is not here: how a verdict comes about (`judge`), and what is kept in the sources (`score`).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::MechanicalError;

/// What noticed a mutant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// `package/program`, or `life profile`.
    pub judge: String,
    /// The test that failed, if it has a name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub test: String,
    /// The rule that broke, or how it failed.
    pub what: String,
    /// The seed of a life.
    #[serde(default)]
    pub seed: u64,
    /// Seconds until then.
    #[serde(default)]
    pub seconds: f64,
}

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Verdict {
    /// Something noticed it.
    Noticed(Notice),
    /// Nothing did.
    Unnoticed,
    /// It does not compile, so it is no mutant.
    Unbuildable,
}

/// What comes by a mutant: where nothing does, a test is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Tests of the room.
    pub tests: usize,
    /// Profiles with lives that do.
    pub profiles: usize,
}

/// A line of what is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The mutant's name.
    pub name: String,
    /// A checksum of the room's sources.
    pub sources: u32,
    /// A checksum of its tests and stories.
    pub judges: u32,
    /// A checksum of the simulator's rules and faults.
    #[serde(default)]
    pub simulator: u32,
    /// For how many seconds lives were allowed to go on.
    #[serde(default)]
    pub lives: f64,
    /// What comes by it.
    #[serde(default)]
    pub reached: Reached,
    /// What became of it.
    pub verdict: Verdict,
}

/// All that is kept, by name: the latest.
pub(super) struct Records {
    file: File,
    pub(super) by_name: BTreeMap<String, Record>,
}

impl Records {
    pub(super) fn open(path: &Path) -> Result<Self, MechanicalError> {
        let text = if path.exists() {
            fs::read_to_string(path).map_err(MechanicalError::io(path))?
        } else {
            String::new()
        };
        // A line that was cut off when a run was ended is tried again.
        let records = text.lines().filter_map(|line| serde_json::from_str::<Record>(line).ok());
        let by_name = records.map(|record| (record.name.clone(), record)).collect();
        let mut file =
            OpenOptions::new().create(true).append(true).open(path).map_err(MechanicalError::io(path))?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n")?;
        }
        Ok(Self { file, by_name })
    }

    pub(super) fn add(&mut self, record: Record) -> Result<(), MechanicalError> {
        let mut line = serde_json::to_string(&record).map_err(std::io::Error::other)?;
        line.push('\n');
        self.file.write_all(line.as_bytes())?;
        self.by_name.insert(record.name.clone(), record);
        Ok(())
    }
}

/// A mutant that does nothing wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Equivalent {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Reads the verdicts that were given by hand: `== name`, then the reason; what comes before the first is the file's
/// own.
///
/// # Errors
/// If one has no reason, or a name has two.
pub fn equivalents(text: &str) -> Result<Vec<Equivalent>, MechanicalError> {
    let mut all: Vec<Equivalent> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            all.push(Equivalent { name: name.trim().to_owned(), reason: String::new() });
        } else if let Some(last) = all.last_mut().filter(|_| !line.trim().is_empty()) {
            if !last.reason.is_empty() {
                last.reason.push(' ');
            }
            last.reason.push_str(line.trim());
        }
    }
    // Several names in a row share the reason below the last of them.
    let mut reason = String::new();
    for equivalent in all.iter_mut().rev() {
        if equivalent.reason.is_empty() {
            equivalent.reason.clone_from(&reason);
        }
        reason.clone_from(&equivalent.reason);
    }
    for (at, one) in all.iter().enumerate() {
        let what = if one.reason.is_empty() {
            "has no reason"
        } else if all[..at].iter().any(|other| other.name == one.name) {
            "stands there twice"
        } else {
            continue;
        };
        return Err(MechanicalError::Equivalents(format!("{} {what}", one.name)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equivalents_have_names_and_reasons() {
        let text = "About this file.\n\n== a\n== b\nIt is\nthe same.\n\n== c\nAs slow.\n";
        let all = equivalents(text).unwrap();
        let all: Vec<(&str, &str)> = all.iter().map(|one| (one.name.as_str(), one.reason.as_str())).collect();
        assert_eq!(all, [("a", "It is the same."), ("b", "It is the same."), ("c", "As slow.")]);
        assert!(equivalents("== a\nwhy\n== a\nwhy\n").is_err());
        assert!(equivalents("== a\n").is_err());
    }

    #[test]
    fn what_is_kept_can_be_gone_on_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        let record = |name: &str, verdict| Record {
            name: name.to_owned(),
            sources: 1,
            judges: 2,
            simulator: 3,
            lives: 60.0,
            reached: Reached::default(),
            verdict,
        };
        let notice = Notice {
            judge: "life swarm".to_owned(),
            test: String::new(),
            what: "progress".to_owned(),
            seed: 7,
            seconds: 1.5,
        };
        let mut records = Records::open(&path).unwrap();
        records.add(record("a", Verdict::Unnoticed)).unwrap();
        records.add(record("b", Verdict::Unbuildable)).unwrap();
        records.add(record("a", Verdict::Noticed(notice.clone()))).unwrap();
        drop(records);
        // A run was ended while it wrote this.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"name\":\"c\"").unwrap();
        let mut records = Records::open(&path).unwrap();
        records.add(record("d", Verdict::Unnoticed)).unwrap();
        drop(records);
        let records = Records::open(&path).unwrap().by_name;
        assert_eq!(records.keys().collect::<Vec<_>>(), ["a", "b", "d"]);
        assert_eq!(records["a"].verdict, Verdict::Noticed(notice.clone()));
    }
}
