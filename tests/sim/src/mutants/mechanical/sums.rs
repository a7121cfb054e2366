//! IMPURE: checksums of what a verdict depends on: so it is known how long it stands.
//!
//! What is not here: which verdicts are kept (`records`, `score`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::MechanicalError;
use super::rooms::{self, ROOMS, Room, Survey};
use crate::mutants::workshop::files_of;

/// Where a file's own tests begin, if it has any: they are no part of what is mutated.
const OWN_TESTS: &str = "#[cfg(test)]\nmod tests {";

/// Checksums of a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// The sources that are mutated.
    pub sources: u32,
    /// Their tests and stories.
    pub judges: u32,
    /// The simulator's rules and faults.
    pub simulator: u32,
}

/// The checksums of every room. A room's tests are all that is in the packages of its judges.
pub(super) fn sums(root: &Path, survey: &Survey) -> Result<BTreeMap<&'static str, Sums>, MechanicalError> {
    let mutated = |room: &Room, file: &str| room.of.iter().any(|of| is_in(file, of));
    let mut hashers: BTreeMap<&'static str, [crc32fast::Hasher; 3]> =
        ROOMS.iter().map(|room| (room.name, Default::default())).collect();
    for file in files_of(root)? {
        if !file.ends_with(".rs") && !is_in(&file, "tests/scripts") {
            continue;
        }
        let path = root.join(&file);
        let text = fs::read_to_string(&path).map_err(MechanicalError::io(&path))?;
        for room in &ROOMS {
            let Some([sources, tests, simulator]) = hashers.get_mut(room.name) else { continue };
            let is_mutated = survey.texts.contains_key(&file) && mutated(room, &file);
            let is_simulator = is_in(&file, "tests/sim") && !is_in(&file, "tests/sim/src/mutants");
            let of_judges = |(package, ..): &rooms::Judge| is_in(&file, rooms::folder_of(package));
            let is_test = !is_in(&file, "tests/sim") && room.programs.iter().any(of_judges);
            if is_mutated {
                let own_tests = text.find(OWN_TESTS).unwrap_or(text.len());
                add(sources, &file, &text[..own_tests]);
                add(tests, &file, &text[own_tests..]);
            } else if is_simulator {
                add(simulator, &file, &text);
            } else if is_test {
                add(tests, &file, &text);
            }
        }
    }
    let sums = hashers.into_iter().map(|(room, hashers)| {
        let [sources, judges, simulator] = hashers.map(crc32fast::Hasher::finalize);
        (room, Sums { sources, judges, simulator })
    });
    Ok(sums.collect())
}

fn add(hasher: &mut crc32fast::Hasher, file: &str, text: &str) {
    hasher.update(file.as_bytes());
    hasher.update(text.as_bytes());
}

/// Whether a file is that one, or below that folder.
fn is_in(file: &str, folder: &str) -> bool {
    file.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
