//! The house rules, checked over the whole checkout: file heads, lengths, names, the crate graph, where the world may be
//! touched, where `unsafe` may stand. Every complaint names file and line.
//!
//! What is not here: what rustfmt, clippy and rustdoc check. The rules themselves are in `tidy/rules.rs`, the walk
//! over the checkout in `tidy/tree.rs`.

#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/tree.rs"]
mod tree;

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
fn nothing_is_left_to_be_done_later() {
    over_sources(rules::leftovers);
}

#[test]
fn only_files_marked_impure_touch_the_world() {
    over_sources(rules::purity);
}

#[test]
fn unsafe_code_stands_only_where_the_head_says_so() {
    over_sources(rules::unsafe_code);
}

#[test]
fn tests_wait_for_facts_not_for_time() {
    over_sources(rules::waiting);
}

#[test]
fn no_file_speaks_of_a_machine() {
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
fn the_rules_find_what_they_look_for() {
    rules::try_them();
}
