//! Every planted bug of the catalogue still fits the sources: its text is there, exactly once, and no two entries want
//! the same place. Nothing is built here, and nothing is changed.

use std::collections::BTreeSet;

use raftwerk_sim::mutants::{catalogue, checkout, folder, mechanical};

/// Fewer than this are no catalogue.
const BUGS_MIN: usize = 40;

#[test]
fn every_planted_bug_still_fits_the_sources() {
    let root = checkout();
    let mutants = catalogue::read(&folder(&root)).unwrap_or_else(|error| panic!("{error}"));
    assert!(mutants.len() >= BUGS_MIN, "{} planted bugs", mutants.len());
    let planted = catalogue::plant(&root, &mutants).unwrap_or_else(|error| panic!("{error}"));
    let files: BTreeSet<&str> =
        mutants.iter().flat_map(|mutant| &mutant.edits).map(|edit| edit.file.as_str()).collect();
    assert_eq!(planted.len(), files.len());
    for mutant in &mutants {
        let is_on = format!("planted::is({})", mutant.number);
        assert!(planted.values().any(|text| text.contains(&is_on)), "{} is nowhere", mutant.name);
    }
}

/// A test that was renamed would end a hunt of the whole catalogue in its midst.
#[test]
fn every_test_that_an_entry_names_exists() {
    let root = checkout();
    let mutants = catalogue::read(&folder(&root)).unwrap_or_else(|error| panic!("{error}"));
    let tests: Vec<_> = mutants.iter().filter_map(|mutant| Some((mutant, mutant.test.as_ref()?))).collect();
    assert!(tests.len() >= BUGS_MIN, "{} entries name a test", tests.len());
    for (mutant, test) in tests {
        let krate = root.join(mechanical::rooms::folder_of(&test.package));
        let folder = krate.join(if test.program.is_some() { "tests" } else { "src" });
        let (modules, name) = test.name.rsplit_once("::").unwrap_or(("", &test.name));
        // The file of the innermost module, or a file that has the module in it.
        let module = modules.rsplit("::").find(|module| *module != "tests");
        let is_there = |path: &std::path::Path| {
            let is_file_of = module.is_none_or(|module| path.with_extension("").ends_with(module))
                || test.program.as_ref().is_some_and(|program| path.with_extension("").ends_with(program))
                || path.with_extension("").ends_with("tests");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            is_file_of && text.contains(&format!("fn {name}("))
        };
        let files = sources(&folder);
        let what = format!("{} {}: {} has no test {}", mutant.number, mutant.name, test.package, test.name);
        assert!(files.iter().any(|path| is_there(path)), "{what}");
    }
}

/// All source files below a folder.
fn sources(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn no_planted_bug_is_in_the_sources_themselves() {
    let root = checkout();
    let mutants = catalogue::read(&folder(&root)).unwrap_or_else(|error| panic!("{error}"));
    for edit in mutants.iter().flat_map(|mutant| &mutant.edits) {
        let text = std::fs::read_to_string(root.join(&edit.file)).unwrap();
        assert!(!text.contains("planted::is("), "{}", edit.file);
    }
}

#[test]
fn every_equivalent_mutant_has_its_place_in_the_sources() {
    let root = checkout();
    let names = mechanical::names(&root).unwrap_or_else(|error| panic!("{error}"));
    let equivalents = mechanical::equivalents_of(&root).unwrap_or_else(|error| panic!("{error}"));
    let gone = equivalents.iter().filter(|equivalent| !names.contains_key(&equivalent.name));
    let gone: Vec<&str> = gone.map(|equivalent| equivalent.name.as_str()).collect();
    assert!(gone.is_empty(), "what these changed is there no longer, so the reason is void: {gone:#?}");
}

#[test]
fn the_score_of_mechanical_mutants_adds_up() {
    let root = checkout();
    let score = mechanical::score_of(&root).unwrap_or_else(|error| panic!("{error}"));
    let equivalents = mechanical::equivalents_of(&root).unwrap_or_else(|error| panic!("{error}"));
    for (room, part) in &score.rooms {
        assert!(mechanical::rooms::ROOMS.iter().any(|known| known.name == room), "there is no room {room}");
        let tried = part.noticed.len() + part.equivalent.len() + part.missed.len();
        assert_eq!(part.counts.tried, tried, "{room}");
        assert_eq!(part.counts.missed, part.missed.len(), "{room}");
        let mut all = part.noticed.iter().chain(&part.missed);
        let noticed = all.find(|known| equivalents.iter().any(|equivalent| equivalent.name == known.name));
        assert_eq!(noticed, None, "{room}: what is called equivalent is not, or the score is older");
    }
}
