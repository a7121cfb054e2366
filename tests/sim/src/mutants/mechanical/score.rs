//! The score: of each room what was drawn, what noticed it and what was missed, and of which sources that is known.
//!
//! It is kept in the sources, as `mechanical.json`, by rooms: one that is not run keeps what was known of it before, with
//! the checksums that it was run on. Where these still hold, its verdicts stand on a machine that has never run it. What
//! is not here: what is kept while a run goes on, and verdicts given by hand (`records`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::records::{Equivalent, Notice, Reached, Record, Verdict};
use super::rooms::{ROOMS, Survey};
use super::sums::Sums;

/// Counts of a room, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Places that there are.
    pub places: usize,
    /// Mutants that were drawn and do not compile.
    pub unbuildable: usize,
    /// Mutants that were drawn and not tried yet.
    pub open: usize,
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
    /// Of those missed, how many no test and no life comes by.
    pub unreached: usize,
}

/// A mutant that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// What comes by it.
    #[serde(default)]
    pub reached: Reached,
    /// What noticed it, if anything did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<Notice>,
    /// Why it is equivalent, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is known of a room.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// What was run last.
    pub command: String,
    /// What drew the sample.
    pub draw: u64,
    /// Of which sources, tests and simulator it is.
    pub sums: Sums,
    /// For how many seconds lives were allowed to go on.
    pub lives: f64,
    /// How many.
    pub counts: Counts,
    /// What was missed.
    pub missed: Vec<Known>,
    /// What is equivalent.
    pub equivalent: Vec<Known>,
    /// What does not compile.
    pub unbuildable: Vec<String>,
    /// What was noticed.
    pub noticed: Vec<Known>,
}

/// What is known of all rooms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// By name.
    pub rooms: BTreeMap<String, Part>,
}

impl Part {
    fn add(&mut self, record: &Record, equivalents: &[Equivalent]) {
        let equivalent = equivalents.iter().find(|equivalent| equivalent.name == record.name);
        let (name, reached) = (record.name.clone(), record.reached);
        let known = Known { name, reached, notice: None, reason: None };
        match (&record.verdict, equivalent) {
            (Verdict::Unbuildable, _) => self.unbuildable.push(known.name),
            (Verdict::Noticed(notice), _) => {
                let seconds = (notice.seconds * 10.0).round() / 10.0;
                let notice = Some(Notice { seconds, ..notice.clone() });
                self.noticed.push(Known { notice, ..known });
            }
            (Verdict::Unnoticed, Some(equivalent)) => {
                let reason = Some(equivalent.reason.clone());
                self.equivalent.push(Known { reason, ..known });
            }
            (Verdict::Unnoticed, None) => self.missed.push(known),
        }
    }

    fn count(&mut self, places: usize, open: usize) {
        let is_life =
            |known: &&Known| known.notice.as_ref().is_some_and(|notice| notice.judge.starts_with("life "));
        let noticed_by_lives = self.noticed.iter().filter(is_life).count();
        self.counts = Counts {
            places,
            unbuildable: self.unbuildable.len(),
            open,
            tried: self.noticed.len() + self.equivalent.len() + self.missed.len(),
            noticed_by_tests: self.noticed.len() - noticed_by_lives,
            noticed_by_lives,
            noticed: self.noticed.len(),
            equivalent: self.equivalent.len(),
            missed: self.missed.len(),
            unreached: self.missed.iter().filter(|known| known.reached == Reached::default()).count(),
        };
    }

    /// The verdicts, as they would stand in the records of a run.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let Sums { sources, judges, simulator } = self.sums;
        let record = move |name: &str, reached, verdict| Record {
            name: name.to_owned(),
            sources,
            judges,
            simulator,
            lives: self.lives,
            reached,
            verdict,
        };
        let none = Reached::default();
        let unbuildable = self.unbuildable.iter().map(move |name| record(name, none, Verdict::Unbuildable));
        let all = self.noticed.iter().chain(&self.equivalent).chain(&self.missed);
        let tried = all.map(move |known| {
            let verdict = known.notice.clone().map_or(Verdict::Unnoticed, Verdict::Noticed);
            record(&known.name, known.reached, verdict)
        });
        unbuildable.chain(tried)
    }

    /// As it is kept: a mutant per line, so that two of them can be compared.
    fn json(&self) -> Result<String, serde_json::Error> {
        let Value::Object(members) = serde_json::to_value(self)? else { return Ok(String::new()) };
        let members: Vec<String> = members
            .iter()
            .map(|(name, value)| match value.as_array().filter(|lines| !lines.is_empty()) {
                Some(lines) => {
                    let lines: Vec<String> = lines.iter().map(|line| format!("        {line}")).collect();
                    format!("      \"{name}\": [\n{}\n      ]", lines.join(",\n"))
                }
                None => format!("      \"{name}\": {value}"),
            })
            .collect();
        Ok(format!("{{\n{}\n    }}", members.join(",\n")))
    }
}

impl Score {
    /// Sums up the records of those that were drawn. What is the same in all rooms comes with `like`.
    #[must_use]
    pub fn of(
        survey: &Survey,
        by_name: &BTreeMap<String, Record>,
        equivalents: &[Equivalent],
        (sums, like): (&BTreeMap<&'static str, Sums>, &Part),
    ) -> Self {
        let mut score = Self::default();
        for room in &ROOMS {
            let mut part = Part { sums: sums.get(room.name).copied().unwrap_or_default(), ..like.clone() };
            let mut open = 0;
            for mutant in survey.drawn.iter().filter(|mutant| mutant.room.name == room.name) {
                match by_name.get(&mutant.place.name) {
                    Some(record) => part.add(record, equivalents),
                    None => open += 1,
                }
            }
            part.count(survey.places.get(room.name).copied().unwrap_or_default(), open);
            score.rooms.insert(room.name.to_owned(), part);
        }
        score
    }

    /// Reads what is kept in the sources. What cannot be read is not known.
    #[must_use]
    pub fn read(json: &str) -> Self {
        let value: Value = serde_json::from_str(json).unwrap_or_default();
        let rooms = value["rooms"].as_object().into_iter().flatten();
        let part = |value: &Value| serde_json::from_value(value.clone()).ok();
        Self { rooms: rooms.filter_map(|(room, value)| Some((room.clone(), part(value)?))).collect() }
    }

    /// Keeps what was known of every room before, but for those that were run or of which everything is known.
    #[must_use]
    pub fn merged_into(self, before: Self, was_run: impl Fn(&str) -> bool) -> Self {
        let mut rooms = before.rooms;
        for (room, part) in self.rooms {
            if was_run(&room) || part.counts.open == 0 || !rooms.contains_key(&room) {
                rooms.insert(room, part);
            }
        }
        Self { rooms }
    }

    /// What noticed each mutant the last time, whatever the sources were: it is tried first.
    #[must_use]
    pub fn hints(&self) -> BTreeMap<String, Notice> {
        let noticed = self.rooms.values().flat_map(|part| &part.noticed);
        noticed.filter_map(|known| Some((known.name.clone(), known.notice.clone()?))).collect()
    }

    /// Over all rooms.
    #[must_use]
    pub fn total(&self) -> Counts {
        self.rooms.values().map(|part| &part.counts).fold(Counts::default(), |sum, room| Counts {
            places: sum.places + room.places,
            unbuildable: sum.unbuildable + room.unbuildable,
            open: sum.open + room.open,
            tried: sum.tried + room.tried,
            noticed_by_tests: sum.noticed_by_tests + room.noticed_by_tests,
            noticed_by_lives: sum.noticed_by_lives + room.noticed_by_lives,
            noticed: sum.noticed + room.noticed,
            equivalent: sum.equivalent + room.equivalent,
            missed: sum.missed + room.missed,
            unreached: sum.unreached + room.unreached,
        })
    }

    /// As it is kept in the sources.
    ///
    /// # Errors
    /// If a figure is none that JSON has.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        let total = self.total();
        let mut rooms = Vec::new();
        for (room, part) in &self.rooms {
            rooms.push(format!("    \"{room}\": {}", part.json()?));
        }
        Ok(format!(
            "{{\n  \"tried\": {},\n  \"noticed\": {},\n  \"equivalent\": {},\n  \"missed\": {},\n  \"open\": {},\n  \
             \"rooms\": {{\n{}\n  }}\n}}\n",
            total.tried,
            total.noticed,
            total.equivalent,
            total.missed,
            total.open,
            rooms.join(",\n")
        ))
    }

    /// For people: the counts, and what was missed.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut lines = Vec::new();
        let total = self.total();
        let rooms = self.rooms.iter().map(|(name, part)| (name.as_str(), &part.counts));
        for (name, counts) in rooms.chain([("all", &total)]) {
            let Counts { places, tried, unbuildable, noticed, equivalent, missed, open, .. } = counts;
            let (tests, lives) = (counts.noticed_by_tests, counts.noticed_by_lives);
            lines.push(format!(
                "{name:<7} {places:>5} places · {tried:>4} tried ({unbuildable} do not compile) · {noticed:>4} noticed \
                 ({tests} by tests, {lives} by lives) · {equivalent} equivalent · {missed} missed · {open} open"
            ));
        }
        for known in self.rooms.values().flat_map(|part| &part.missed) {
            let Reached { tests, profiles } = known.reached;
            lines.push(format!("MISSED: {} ({tests} tests and {profiles} profiles reach it)", known.name));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, verdict: Verdict) -> Record {
        let reached = Reached { tests: 3, profiles: 1 };
        Record { name: name.to_owned(), sources: 1, judges: 2, simulator: 3, lives: 60.0, reached, verdict }
    }

    fn notice(judge: &str) -> Notice {
        let (what, test) = ("it fails".to_owned(), "a".to_owned());
        Notice { judge: judge.to_owned(), test, what, seed: 7, seconds: 1.5 }
    }

    /// Two noticed, one equivalent, one missed, one that does not compile.
    fn part() -> (Part, Vec<Record>) {
        let records = vec![
            record("e", Verdict::Unbuildable),
            record("a", Verdict::Noticed(notice("package/lib"))),
            record("b", Verdict::Noticed(notice("life swarm"))),
            record("c", Verdict::Unnoticed),
            record("d", Verdict::Unnoticed),
        ];
        let equivalents = [Equivalent { name: "c".to_owned(), reason: "It is the same.".to_owned() }];
        let sums = Sums { sources: 1, judges: 2, simulator: 3 };
        let mut part = Part { command: "run".to_owned(), draw: 1, sums, lives: 60.0, ..Part::default() };
        records.iter().for_each(|record| part.add(record, &equivalents));
        part.count(10, 2);
        (part, records)
    }

    #[test]
    fn a_room_is_counted_and_its_records_can_be_made_of_it_again() {
        let (part, mut records) = part();
        let counts = part.counts;
        assert_eq!(
            (counts.tried, counts.noticed, counts.noticed_by_tests, counts.noticed_by_lives),
            (4, 2, 1, 1)
        );
        assert_eq!((counts.equivalent, counts.missed, counts.unreached, counts.unbuildable), (1, 1, 0, 1));
        let again: Vec<Record> = part.records().collect();
        records[0].reached = Reached::default();
        assert_eq!(again, records);
    }

    #[test]
    fn a_score_outlives_its_file() {
        let (part, _) = part();
        let score = Score { rooms: [("log".to_owned(), part)].into() };
        let json = score.json().unwrap();
        assert_eq!(Score::read(&json), score);
        assert_eq!(score.hints().into_keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(json.contains("\"missed\": 1,\n  \"open\": 2"), "{json}");
        assert!(score.summary().contains("MISSED: d (3 tests and 1 profiles reach it)"));
        assert_eq!(Score::read("{"), Score::default());
    }

    #[test]
    fn a_room_that_is_not_run_keeps_what_was_known_of_it() {
        let of = |command: &str, open| {
            let counts = Counts { open, ..Counts::default() };
            Part { command: command.to_owned(), counts, ..Part::default() }
        };
        let score = |rooms: &[(&str, Part)]| Score {
            rooms: rooms.iter().map(|(room, part)| ((*room).to_owned(), part.clone())).collect(),
        };
        let before = score(&[("log", of("before", 0)), ("raft", of("before", 9)), ("wire", of("before", 1))]);
        let now =
            [("log", of("now", 5)), ("raft", of("now", 5)), ("wire", of("now", 0)), ("worker", of("now", 7))];
        let merged = score(&now).merged_into(before, |room| room == "raft");
        let commands: Vec<&str> = merged.rooms.values().map(|part| part.command.as_str()).collect();
        assert_eq!(commands, ["before", "now", "now", "now"]);
    }
}
