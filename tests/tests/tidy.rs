//! The house rules, checked over the whole checkout: file heads, lengths, names, the crate graph, where the world may be
//! touched, where `unsafe` may stand. Every complaint names file and line.
//!
//! Not here: what rustfmt, clippy and rustdoc check. The rules for one file are in `tidy/rules.rs`; `tidy/words.rs` counts words,
//! `tidy/shape.rs` measures structures and modules, and `tidy/tree.rs` walks over the checkout.

#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/shape.rs"]
mod shape;
#[path = "tidy/tree.rs"]
mod tree;
#[path = "tidy/words.rs"]
mod words;

use tree::Source;

/// Fails with all complaints of a rule, not only the first.
fn assert_none(complaints: impl Iterator<Item = String>) {
    let complaints: Vec<String> = complaints.collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn over_sources(rule: impl Fn(&Source) -> Vec<String>) {
    let sources = tree::sources();
    assert!(sources.len() > 40, "only {} source files were found", sources.len());
    assert_none(sources.iter().flat_map(rule));
}

#[test]
fn every_file_opens_with_what_it_is() {
    over_sources(rules::head);
}

#[test]
fn no_file_is_longer_than_600_lines() {
    over_sources(rules::length);
}

#[test]
fn no_file_or_module_has_an_empty_name() {
    over_sources(rules::names);
}

#[test]
fn no_file_has_a_mark_for_later_work() {
    over_sources(rules::leftovers);
}

#[test]
fn only_files_marked_impure_touch_the_world() {
    over_sources(rules::purity);
}

#[test]
fn unsafe_code_stands_only_in_files_marked_for_it() {
    over_sources(rules::unsafe_code);
}

#[test]
fn tests_wait_for_facts_not_for_time() {
    over_sources(rules::waiting);
}

#[test]
fn no_file_names_a_machine() {
    assert_none(tree::texts().iter().flat_map(rules::machine_paths));
}

#[test]
fn crates_use_lower_floors_only() {
    let crates = tree::manifests();
    assert!(crates.len() >= 7, "only {} crates were found", crates.len());
    assert_none(crates.iter().flat_map(rules::arrows));
}

#[test]
fn the_top_level_holds_the_rooms_and_nothing_else() {
    assert_none(rules::rooms(&tree::top_level()).into_iter());
}

#[test]
fn comments_and_docs_name_components() {
    assert_none(words::words(&tree::texts()).into_iter());
}

/// What the code still has of each fault. A change that removes some lowers the figure here.
const SHAPE: [(&str, usize); 5] = [
    ("structures with more than 20 fields", 0),
    ("functions that take or return bare booleans", 0),
    ("modules in circles", 0),
    ("folders of more than 12 files", 0),
    ("files with a sibling's name in front", 0),
];
/// Assertions of raft and the log, in 1,000 functions. A change that adds some raises it.
const ASSERTED: usize = 552;

#[test]
fn the_code_keeps_its_shape() {
    let (figures, asserted) = shape::figures(&tree::sources()).expect("every source parses");
    let compared = SHAPE.into_iter().zip(figures).filter_map(|((what, known), figure)| {
        assert_eq!(what, figure.what);
        let list = || figure.found.join("\n  ");
        (figure.found.len() != known)
            .then(|| format!("{what}: {}, not {known}:\n  {}", figure.found.len(), list()))
    });
    assert_none(compared);
    assert_eq!(asserted, ASSERTED, "assertions in 1,000 functions of raft and the log");
}

#[test]
fn the_rules_find_what_they_look_for() {
    rules::try_them();
    words::try_them();
    shape::try_them();
}
