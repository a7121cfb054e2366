//! IMPURE: whether all planted bugs compile, found by `cargo check` of the copy, without a hunt.
//!
//! An entry that names what has been renamed fits the sources and does not compile. The check reports the compiler's
//! errors, each under the entry in whose text it is. What is not here: whether the entries fit (`catalogue`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use super::catalogue::{CatalogueError, Mutant};
use super::compiler::{self, CompileError};
use super::{HuntError, Prepared};

/// Plants the named bugs, or all if no name is given, and checks that the copy's simulator compiles; how many were
/// planted. `tell` gets a line before the compiler runs.
///
/// # Errors
/// [`HuntError::DoesNotCompile`] with the entries and the compiler's messages; else if the copy could not be made.
pub fn check(names: &[String], tell: impl Fn(&str)) -> Result<usize, HuntError> {
    let Prepared { root, mut mutants, workshop, .. } = Prepared::open(names)?;
    mutants.retain(|mutant| names.is_empty() || names.contains(&mutant.name));
    workshop.plant(&root, &mutants)?;
    tell(&format!("{} bugs planted; checking that they compile", mutants.len()));
    // Crates that do not need each other are all checked, so that one run shows as many errors as it can.
    let errors = compiler::cargo(&workshop, &["check", "--keep-going", "--package", "raftwerk-sim"], |_| ())?;
    if errors.is_empty() {
        return Ok(mutants.len());
    }
    let mut texts = BTreeMap::new();
    for (file, ..) in errors.iter().flat_map(|error| &error.spans) {
        let path = workshop.sources().join(file);
        // A place in the standard library or a dependency has no text in the copy, and no entry.
        if !texts.contains_key(file) && path.starts_with(workshop.sources()) {
            let text = fs::read_to_string(&path).map_err(CatalogueError::io(&path))?;
            texts.insert(file.clone(), text);
        }
    }
    Err(HuntError::DoesNotCompile(report(&errors, &mutants, &texts)))
}

/// The errors, each under the entry that it comes from. `texts` has the files of the copy that they have places in.
fn report(errors: &[CompileError], mutants: &[Mutant], texts: &BTreeMap<String, String>) -> String {
    let mut report = String::new();
    for error in errors {
        let _ = match entry_of(error, mutants, texts) {
            Some(Mutant { number, name, .. }) => {
                writeln!(report, "the planted bug {number} {name} does not compile:")
            }
            None => writeln!(report, "the copy does not compile, and no planted bug is at this place:"),
        };
        let _ = writeln!(report, "{}", error.rendered.trim_end());
    }
    report.truncate(report.trim_end().len());
    report
}

/// The entry that an error is in: the first of its places that lies in a planted text names it.
fn entry_of<'a>(
    error: &CompileError,
    mutants: &'a [Mutant],
    texts: &BTreeMap<String, String>,
) -> Option<&'a Mutant> {
    error.spans.iter().find_map(|(file, from, to)| {
        let text = texts.get(file)?;
        mutants.iter().find(|mutant| {
            mutant.edits.iter().filter(|edit| edit.file == *file).any(|edit| {
                let put = edit.planted(mutant.number);
                text.match_indices(&put).any(|(at, _)| *from < at + put.len() && at < *to)
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::{changed, parse};
    use super::*;

    const ENTRIES: &str = "== 3 good\nCompiles.\n-- a.rs\none\n++\none || {planted}\n\n\
                           == 5 bad\nNames what is gone.\n-- b.rs\nx\n++\n{planted}\n-- a.rs\ntwo\n++\nif {planted} { gone } else { two }\n";
    const SOURCE: &str = "fn one() {}\nfn main() { (two, three) }\n";

    /// The message that the compiler gives for a word of the planted text.
    fn message(text: &str, word: &str) -> CompileError {
        let from = text.find(word).unwrap();
        let message = serde_json::json!({
            "rendered": format!("error[E0425]: cannot find value `{word}` in this scope\n"),
            "spans": [
                { "file_name": "b.rs", "byte_start": 0, "byte_end": 1, "is_primary": false },
                { "file_name": "a.rs", "byte_start": from, "byte_end": from + word.len(), "is_primary": true },
            ],
        });
        compiler::error_of(&message).unwrap()
    }

    #[test]
    fn report_names_the_entry_that_does_not_compile() {
        let mutants = parse("two.txt", ENTRIES).unwrap();
        let edits: Vec<_> = vec![(&mutants[0], &mutants[0].edits[0]), (&mutants[1], &mutants[1].edits[1])];
        let text = changed("a.rs", SOURCE, &edits).unwrap();
        let texts = BTreeMap::from([("a.rs".to_owned(), text.clone())]);
        assert_eq!(
            report(&[message(&text, "gone")], &mutants, &texts),
            "the planted bug 5 bad does not compile:\nerror[E0425]: cannot find value `gone` in this scope"
        );
        assert_eq!(entry_of(&message(&text, "one ||"), &mutants, &texts), Some(&mutants[0]));
    }

    #[test]
    fn report_blames_no_entry_for_an_error_elsewhere() {
        let mutants = parse("two.txt", ENTRIES).unwrap();
        let texts = BTreeMap::from([("a.rs".to_owned(), SOURCE.to_owned())]);
        let said = report(&[message(SOURCE, "three")], &mutants, &texts);
        assert!(said.starts_with("the copy does not compile, and no planted bug"), "{said}");
        assert!(said.ends_with("cannot find value `three` in this scope"), "{said}");
    }

    #[test]
    fn message_that_only_counts_errors_is_none() {
        let message =
            serde_json::json!({ "rendered": "error: aborting due to 1 previous error", "spans": [] });
        assert!(compiler::error_of(&message).is_none());
    }
}
