//! The rooms that are mutated, what is left out of them, how large a sample is drawn, and what judges them.
//!
//! What is not here: where a file can be changed (`places`), and how a judge is run (`judge`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::places::{self, Place};
use super::{Chance, MechanicalError};
use crate::Profile;

/// A room: some folders of the sources, and their judges.
#[derive(Debug)]
pub struct Room {
    /// Its name.
    pub name: &'static str,
    /// Its files: folders, or single files.
    pub of: &'static [&'static str],
    /// What is not mutated: that which judges, and disks that are there for tests only.
    pub without: &'static [&'static str],
    /// How many places are drawn if no other number is asked for.
    pub sample: usize,
    /// Test programs that run with a mutant switched on, the cheapest first.
    pub programs: &'static [Judge],
    /// The profiles of the lives after that, in turns.
    pub profiles: &'static [Profile],
}

/// Tests that judge: package, program or `lib`, and what must be in their names.
pub type Judge = (&'static str, &'static str, &'static str);

/// Where a package of judges lies.
#[must_use]
pub fn folder_of(package: &str) -> &'static str {
    match package {
        "raftwerk-raft" => "engine/raft",
        "raftwerk-frame" => "engine/frame",
        "raftwerk-wal" => "wal",
        "raftwerk-net" => "net",
        "raftwerk-multiraft" => "engine/multiraft",
        "raftwerk-kv" => "engine/kv",
        _ => "tests",
    }
}

/// The profiles for all that the simulator runs without a wire.
const LIVES: [Profile; 6] =
    [Profile::Swarm, Profile::Hostile, Profile::Churn, Profile::Members, Profile::Leases, Profile::Relaxed];

/// All rooms.
pub const ROOMS: [Room; 4] = [
    Room {
        name: "raft",
        of: &["engine/raft/src"],
        without: &["engine/raft/src/group/invariant.rs"],
        sample: 340,
        programs: &[
            ("raftwerk-tests", "scripts", ""),
            ("raftwerk-raft", "lib", ""),
            ("raftwerk-raft", "protocol", "scenario"),
            ("raftwerk-raft", "allocation", ""),
            // The other schedules take much longer, and lives have all that they have.
            ("raftwerk-raft", "protocol", "schedule::random_schedules_on_three"),
        ],
        profiles: &LIVES,
    },
    Room {
        name: "worker",
        of: &["engine/multiraft/src/worker"],
        without: &["engine/multiraft/src/worker/tests", "engine/multiraft/src/worker/tests.rs"],
        sample: 130,
        programs: &[("raftwerk-multiraft", "lib", "")],
        profiles: &LIVES,
    },
    Room {
        name: "log",
        of: &["wal/src"],
        without: &["wal/src/tests", "wal/src/disk/simulated", "wal/src/platter"],
        sample: 130,
        programs: &[
            ("raftwerk-wal", "lib", ""),
            ("raftwerk-wal", "decoding", ""),
            ("raftwerk-wal", "small_disk", ""),
            ("raftwerk-wal", "forgetful_disk", ""),
            ("raftwerk-wal", "platter", ""),
            ("raftwerk-wal", "failing_calls", ""),
        ],
        profiles: &LIVES,
    },
    Room {
        name: "wire",
        of: &["net/src", "engine/frame/src"],
        without: &["net/src/quic/admission/policy/tests.rs"],
        sample: 60,
        programs: &[
            ("raftwerk-frame", "lib", ""),
            ("raftwerk-frame", "edges", ""),
            ("raftwerk-net", "lib", ""),
            ("raftwerk-net", "quic", ""),
        ],
        profiles: &[Profile::Quic],
    },
];

/// Of every file at least so many places are drawn, if it has them.
const OF_A_FILE_MIN: usize = 3;

/// A place that was drawn.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// What switches it on: not 0.
    pub number: u32,
    /// Its room.
    pub room: &'static Room,
    /// Its file.
    pub file: String,
    /// The place.
    pub place: Place,
}

/// What a checkout has.
#[derive(Debug, Default)]
pub struct Survey {
    /// The text of each file with places.
    pub texts: BTreeMap<String, String>,
    /// How many places each room has.
    pub places: BTreeMap<&'static str, usize>,
    /// What was drawn.
    pub drawn: Vec<Mutant>,
}

/// Finds the places of all rooms below `root`, and draws from each room's; `sample` takes the place of its own number.
///
/// # Errors
/// If a file cannot be read, or is not Rust.
pub fn survey(root: &Path, draw: u64, sample: Option<usize>) -> Result<Survey, MechanicalError> {
    let mut survey = Survey::default();
    for room in &ROOMS {
        let mut found: Vec<(String, Place)> = Vec::new();
        for file in files(root, room)? {
            let path = root.join(&file);
            let text = fs::read_to_string(&path).map_err(MechanicalError::io(&path))?;
            let places = places::find(&file, &text)
                .map_err(|error| MechanicalError::Syntax { file: file.clone(), what: error.to_string() })?;
            found.extend(places.into_iter().map(|place| (file.clone(), place)));
            survey.texts.insert(file, text);
        }
        survey.places.insert(room.name, found.len());
        for (file, place) in drawn(found, draw, sample.unwrap_or(room.sample)) {
            let number = survey.drawn.len() as u32 + 1;
            survey.drawn.push(Mutant { number, room, file, place });
        }
    }
    Ok(survey)
}

/// The places with the lowest lots. A lot depends on nothing but the place's name: so a sample of changed sources is
/// much the same.
fn drawn(mut found: Vec<(String, Place)>, draw: u64, sample: usize) -> Vec<(String, Place)> {
    found.sort_by_cached_key(|(_, place)| (Chance::of(draw, &place.name).any(), place.name.clone()));
    let mut of_file: BTreeMap<String, usize> = BTreeMap::new();
    let mut chosen = BTreeSet::new();
    for (at, (file, _)) in found.iter().enumerate() {
        let many = of_file.entry(file.clone()).or_default();
        *many += 1;
        if *many <= OF_A_FILE_MIN && chosen.len() < sample {
            chosen.insert(at);
        }
    }
    for at in 0..found.len() {
        if chosen.len() >= sample {
            break;
        }
        chosen.insert(at);
    }
    let all = found.into_iter().enumerate();
    all.filter(|(at, _)| chosen.contains(at)).map(|(_, found)| found).collect()
}

/// The source files of a room, in order.
fn files(root: &Path, room: &Room) -> Result<Vec<String>, MechanicalError> {
    let (mut files, mut open) =
        (Vec::new(), room.of.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
    while let Some(path) = open.pop() {
        if room.without.contains(&path.as_str()) {
            continue;
        }
        let whole = root.join(&path);
        if whole.is_file() {
            if path.ends_with(".rs") {
                files.push(path);
            }
            continue;
        }
        for entry in fs::read_dir(&whole).map_err(MechanicalError::io(&whole))? {
            let entry = entry.map_err(MechanicalError::io(&whole))?;
            open.push(format!("{path}/{}", entry.file_name().to_string_lossy()));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, calls: usize) -> Vec<(String, Place)> {
        let body: String = (0..calls).map(|call| format!("g{call}();")).collect();
        let places = places::find(file, &format!("fn f() {{ {body} }}")).unwrap();
        places.into_iter().map(|place| (file.to_owned(), place)).collect()
    }

    fn names(drawn: &[(String, Place)]) -> BTreeSet<String> {
        drawn.iter().map(|(_, place)| place.name.clone()).collect()
    }

    #[test]
    fn a_draw_takes_of_every_file_and_stays_much_the_same_when_files_change() {
        let files = |first: usize| [found("a.rs", first), found("b.rs", 300), found("c.rs", 2)].concat();
        let before = drawn(files(100), 1, 40);
        assert_eq!(before.len(), 40);
        assert_eq!(before.iter().filter(|(file, _)| file == "c.rs").count(), 2);
        assert_eq!(names(&before), names(&drawn(files(100), 1, 40)));
        assert_ne!(names(&before), names(&drawn(files(100), 2, 40)));
        let after = names(&drawn(files(110), 1, 40));
        assert!(names(&before).intersection(&after).count() >= 30);
        assert_eq!(drawn(files(1), 1, 1_000).len(), 303);
    }
}
