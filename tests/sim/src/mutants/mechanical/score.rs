//! IMPURE: what is kept: every verdict as a line, so that a run can go on where it was ended; the equivalent ones with
//! their reasons; the score.
//!
//! What is not here: how a verdict comes about (`judge`).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::MechanicalError;
use super::rooms::{ROOMS, Survey};

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

/// A line of what is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
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

/// Counts of a room, or of all.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counts {
    /// Places that there are.
    pub places: usize,
    /// Mutants that were drawn and do not compile.
    pub unbuildable: usize,
    /// Mutants that were tried.
    pub tried: usize,
    /// Of them, noticed by a test …
    pub noticed_by_tests: usize,
    /// … or by a life.
    pub noticed_by_lives: usize,
    /// Noticed at all.
    pub noticed: usize,
    /// Noticed by nothing, since they do nothing wrong.
    pub equivalent: usize,
    /// Noticed by nothing, without such a verdict.
    pub missed: usize,
}

/// The score of a run.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// By room.
    pub rooms: BTreeMap<&'static str, Counts>,
    /// What was missed.
    pub missed: Vec<String>,
    /// What is equivalent, and was tried.
    pub equivalents: Vec<Equivalent>,
    /// What was noticed, and by what.
    pub noticed: Vec<(String, Notice)>,
    /// Drawn, and not tried yet.
    pub open: usize,
}

impl Score {
    /// Sums up what is kept of those that were drawn.
    #[must_use]
    pub fn of(survey: &Survey, by_name: &BTreeMap<String, Record>, equivalents: &[Equivalent]) -> Self {
        let mut score = Self::default();
        for room in &ROOMS {
            let places = survey.places.get(room.name).copied().unwrap_or_default();
            score.rooms.insert(room.name, Counts { places, ..Counts::default() });
        }
        for mutant in &survey.drawn {
            let name = &mutant.place.name;
            let Some(record) = by_name.get(name) else {
                score.open += 1;
                continue;
            };
            let Some(counts) = score.rooms.get_mut(mutant.room.name) else { continue };
            counts.tried += 1;
            let equivalent = equivalents.iter().find(|equivalent| equivalent.name == *name);
            match (&record.verdict, equivalent) {
                (Verdict::Unbuildable, _) => {
                    counts.tried -= 1;
                    counts.unbuildable += 1;
                }
                (Verdict::Noticed(notice), _) => {
                    counts.noticed += 1;
                    let is_life = notice.judge.starts_with("life ");
                    *(if is_life { &mut counts.noticed_by_lives } else { &mut counts.noticed_by_tests }) += 1;
                    score.noticed.push((name.clone(), notice.clone()));
                }
                (Verdict::Unnoticed, Some(equivalent)) => {
                    counts.equivalent += 1;
                    score.equivalents.push(equivalent.clone());
                }
                (Verdict::Unnoticed, None) => {
                    counts.missed += 1;
                    score.missed.push(name.clone());
                }
            }
        }
        score
    }

    /// Over all rooms.
    #[must_use]
    pub fn total(&self) -> Counts {
        self.rooms.values().fold(Counts::default(), |sum, room| Counts {
            places: sum.places + room.places,
            unbuildable: sum.unbuildable + room.unbuildable,
            tried: sum.tried + room.tried,
            noticed_by_tests: sum.noticed_by_tests + room.noticed_by_tests,
            noticed_by_lives: sum.noticed_by_lives + room.noticed_by_lives,
            noticed: sum.noticed + room.noticed,
            equivalent: sum.equivalent + room.equivalent,
            missed: sum.missed + room.missed,
        })
    }

    /// The score as it is kept in the sources: a member per line, so that two of them can be compared.
    #[must_use]
    pub fn json(&self, command: &str, draw: u64) -> String {
        let total = self.total();
        let lines = |values: Vec<serde_json::Value>| {
            let lines: Vec<String> = values.iter().map(|value| format!("    {value}")).collect();
            if lines.is_empty() { "[]".to_owned() } else { format!("[\n{}\n  ]", lines.join(",\n")) }
        };
        let rooms =
            self.rooms.iter().map(|(name, counts)| serde_json::json!({ "room": name, "counts": counts }));
        let equivalents = self.equivalents.iter().map(|one| serde_json::json!(one));
        let noticed = self.noticed.iter().map(|(name, notice)| {
            let seconds = (notice.seconds * 10.0).round() / 10.0;
            serde_json::json!({ "name": name, "notice": Notice { seconds, ..notice.clone() } })
        });
        let members = [
            ("command", serde_json::json!(command).to_string()),
            ("draw", draw.to_string()),
            ("tried", total.tried.to_string()),
            ("noticed", total.noticed.to_string()),
            ("equivalent", total.equivalent.to_string()),
            ("missed", total.missed.to_string()),
            ("rooms", lines(rooms.collect())),
            ("missed_names", lines(self.missed.iter().map(|name| serde_json::json!(name)).collect())),
            ("equivalents", lines(equivalents.collect())),
            ("noticed_by", lines(noticed.collect())),
        ];
        let members: Vec<String> =
            members.iter().map(|(name, value)| format!("  \"{name}\": {value}")).collect();
        format!("{{\n{}\n}}\n", members.join(",\n"))
    }
}

/// What noticed what in a score that was kept: it is tried first the next time.
#[must_use]
pub fn hints(json: &str) -> BTreeMap<String, Notice> {
    let value: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    let all = value["noticed_by"].as_array().into_iter().flatten();
    all.filter_map(|one| {
        let notice = serde_json::from_value(one["notice"].clone()).ok()?;
        Some((one["name"].as_str()?.to_owned(), notice))
    })
    .collect()
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
        let score = Score { noticed: vec![("a".to_owned(), notice.clone())], ..Score::default() };
        assert_eq!(hints(&score.json("command", 1)), [("a".to_owned(), notice)].into());
    }
}
