//! IMPURE: the catalogue of planted bugs, read from the text files in `tests/sim/mutants`, and how it is applied.
//!
//! An entry names a source file, the text to be found in it, exactly once, and what to put there; `{planted}` in it
//! becomes an expression that is true while that bug alone is switched on. What is not here: the copy that is changed
//! (`workshop`), and the hunt (`super`). The format is explained in `tests/sim/mutants/README.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum as _;

use crate::Profile;

/// What stands in an entry for "this bug is switched on".
const PLACEHOLDER: &str = "{planted}";

/// A bug that can be switched on in a copy of the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// What switches it on; unique, not 0.
    pub number: u32,
    /// Its name, unique.
    pub name: String,
    /// The one profile in which it can show, if there is one.
    pub profile: Option<Profile>,
    /// The test that fails with it, where that is what catches it and no simulated life can.
    pub test: Option<Test>,
    /// What goes wrong, and what it would cost.
    pub title: String,
    /// What is changed.
    pub edits: Vec<Edit>,
}

/// A test of one of the crates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// The crate that it is of.
    pub package: String,
    /// Which of the crate's test programs it is in; in its library if `None`.
    pub program: Option<String>,
    /// Its name, with the modules that it is in.
    pub name: String,
}

/// One change of one source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The file, from the top of the checkout.
    pub file: String,
    /// A text of it, found exactly once …
    pub find: String,
    /// … and what is put there. Contains `{planted}` at least once.
    pub put: String,
}

impl Edit {
    /// What is put there, with the expression that is true while the bug of this number is switched on.
    pub(super) fn planted(&self, number: u32) -> String {
        self.put.replace(PLACEHOLDER, &format!("::raftwerk_frame::planted::is({number})"))
    }
}

/// Why the catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of a catalogue file does not belong there.
    #[error("{file}:{line}: {what}")]
    Syntax {
        /// The catalogue file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Two entries have the same number or name.
    #[error("{name} ({number}): its number or its name is taken")]
    Taken {
        /// The later entry's number …
        number: u32,
        /// … and name.
        name: String,
    },
    /// An entry no longer fits the sources.
    #[error("{name}: its text stands {times} times in {file}, not once: {find:?}")]
    NotOnce {
        /// The entry.
        name: String,
        /// The source file.
        file: String,
        /// How often the text was found.
        times: usize,
        /// The text.
        find: String,
    },
    /// Two entries change the same text.
    #[error("{first} and {second} change the same text of {file}")]
    Overlap {
        /// The one.
        first: String,
        /// The other.
        second: String,
        /// The source file.
        file: String,
    },
}

impl CatalogueError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// Reads every `.txt` in a folder, in order of names, but for the verdicts on mechanical mutants, which are no bugs.
///
/// # Errors
/// [`CatalogueError`] if a file cannot be read or understood, or if two entries share a number or a name.
pub fn read(folder: &Path) -> Result<Vec<Mutant>, CatalogueError> {
    let mut paths = Vec::new();
    for found in fs::read_dir(folder).map_err(CatalogueError::io(folder))? {
        let path = found.map_err(CatalogueError::io(folder))?.path();
        let is_verdicts = path.file_name().is_some_and(|name| name == super::mechanical::EQUIVALENTS);
        if path.extension().is_some_and(|extension| extension == "txt") && !is_verdicts {
            paths.push(path);
        }
    }
    paths.sort();
    let mut mutants = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(CatalogueError::io(&path))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        mutants.extend(parse(&name, &text)?);
    }
    let (mut numbers, mut names) = (BTreeSet::from([0]), BTreeSet::new());
    for Mutant { number, name, .. } in &mutants {
        if !numbers.insert(*number) || !names.insert(name) {
            return Err(CatalogueError::Taken { number: *number, name: name.clone() });
        }
    }
    mutants.sort_by_key(|mutant| mutant.number);
    Ok(mutants)
}

/// What a line of an entry belongs to.
enum Part {
    /// The file's own words, before the first entry.
    Head,
    Title,
    Find,
    Put,
}

/// Reads one catalogue file's text.
///
/// # Errors
/// [`CatalogueError::Syntax`].
pub fn parse(file: &str, text: &str) -> Result<Vec<Mutant>, CatalogueError> {
    let mut mutants: Vec<Mutant> = Vec::new();
    let mut part = Part::Head;
    for (at, line) in text.lines().enumerate() {
        let wrong = |what| CatalogueError::Syntax { file: file.to_owned(), line: at + 1, what };
        if let Some(entry) = line.strip_prefix("== ") {
            mutants.push(begin(entry).ok_or_else(|| wrong("an entry begins with its number and its name"))?);
            part = Part::Title;
            continue;
        }
        let Some(mutant) = mutants.last_mut() else { continue };
        if let Some(source) = line.strip_prefix("-- ") {
            let edit = Edit { file: source.trim().to_owned(), find: String::new(), put: String::new() };
            mutant.edits.push(edit);
            part = Part::Find;
            continue;
        }
        let edit = mutant.edits.last_mut();
        match (&part, edit) {
            (Part::Title, _) => add_line(&mut mutant.title, line.trim()),
            (Part::Find, Some(_)) if line == "++" => part = Part::Put,
            (Part::Find, Some(edit)) => add_line(&mut edit.find, line),
            (Part::Put, Some(edit)) => add_line(&mut edit.put, line),
            _ => return Err(wrong("this line belongs to nothing")),
        }
    }
    for mutant in &mut mutants {
        mutant.title = mutant.title.trim().replace('\n', " ");
        for edit in &mut mutant.edits {
            edit.find.truncate(edit.find.trim_end().len());
            edit.put.truncate(edit.put.trim_end().len());
        }
        let is_whole = |edit: &Edit| !edit.find.trim().is_empty() && edit.put.contains(PLACEHOLDER);
        if mutant.title.is_empty() || mutant.edits.is_empty() || !mutant.edits.iter().all(is_whole) {
            let what = "the last entry, or one before it, lacks a title, a text to find, or a `{planted}`";
            return Err(CatalogueError::Syntax { file: file.to_owned(), line: text.lines().count(), what });
        }
    }
    Ok(mutants)
}

fn begin(entry: &str) -> Option<Mutant> {
    let (number, rest) = entry.trim().split_once(' ')?;
    let (name, shown_by) = rest.split_once(' ').unwrap_or((rest, "()"));
    let (mut profile, mut test) = (None, None);
    match shown_by.strip_prefix('(')?.strip_suffix(')')?.split_once(' ') {
        Some(("test", which)) => {
            let (package, name) = which.split_once(' ')?;
            let (package, program) = package
                .split_once('/')
                .map_or((package, None), |(package, program)| (package, Some(program.to_owned())));
            test = Some(Test { package: package.to_owned(), program, name: name.to_owned() });
        }
        Some(_) => return None,
        None if shown_by == "()" => {}
        None => profile = Some(Profile::from_str(&shown_by[1..shown_by.len() - 1], false).ok()?),
    }
    let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let mutant = Mutant {
        number: number.parse().ok()?,
        name: name.to_owned(),
        profile,
        test,
        title: String::new(),
        edits: Vec::new(),
    };
    is_name.then_some(mutant)
}

/// Texts of several lines keep their line breaks, and have none at their ends.
fn add_line(text: &mut String, line: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
}

/// A change with its place in the unchanged text.
struct Placed<'a> {
    from: usize,
    to: usize,
    mutant: &'a Mutant,
    put: String,
}

/// Plants all bugs into the sources under `root`: every changed file with its new text.
///
/// # Errors
/// [`CatalogueError::NotOnce`] and [`CatalogueError::Overlap`] if an entry does not fit, [`CatalogueError::Io`].
pub fn plant(root: &Path, mutants: &[Mutant]) -> Result<BTreeMap<String, String>, CatalogueError> {
    let mut by_file: BTreeMap<&str, Vec<(&Mutant, &Edit)>> = BTreeMap::new();
    for mutant in mutants {
        for edit in &mutant.edits {
            by_file.entry(&edit.file).or_default().push((mutant, edit));
        }
    }
    let mut planted = BTreeMap::new();
    for (file, edits) in by_file {
        let path = root.join(file);
        let text = fs::read_to_string(&path).map_err(CatalogueError::io(&path))?;
        planted.insert(file.to_owned(), changed(file, &text, &edits)?);
    }
    Ok(planted)
}

pub(super) fn changed(file: &str, text: &str, edits: &[(&Mutant, &Edit)]) -> Result<String, CatalogueError> {
    let mut placed = Vec::with_capacity(edits.len());
    for (mutant, edit) in edits {
        let places: Vec<usize> = text.match_indices(&edit.find).map(|(at, _)| at).collect();
        let [from] = places[..] else {
            return Err(CatalogueError::NotOnce {
                name: mutant.name.clone(),
                file: file.to_owned(),
                times: places.len(),
                find: edit.find.clone(),
            });
        };
        placed.push(Placed { from, to: from + edit.find.len(), mutant, put: edit.planted(mutant.number) });
    }
    placed.sort_by_key(|edit| edit.from);
    let (mut result, mut at, mut before) = (String::with_capacity(2 * text.len()), 0, "");
    for edit in placed {
        if edit.from < at {
            return Err(CatalogueError::Overlap {
                first: before.to_owned(),
                second: edit.mutant.name.clone(),
                file: file.to_owned(),
            });
        }
        result.push_str(&text[at..edit.from]);
        result.push_str(&edit.put);
        (at, before) = (edit.to, &edit.mutant.name);
    }
    result.push_str(&text[at..]);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "words about the file\n\n== 3 late\nIt comes\ntoo late.\n-- a.rs\n    one < two\n++\n    one < two || {planted}\n\n\
                       == 5 twice (churn)\nTwice.\n-- a.rs\nthree\n++\nif {planted} { 3 } else { three }\n-- b.rs\nx\n++\n{planted}\n";

    #[test]
    fn entries_are_read_with_their_lines_and_planted_side_by_side() {
        let mutants = parse("two.txt", TWO).unwrap();
        assert_eq!(mutants[0].title, "It comes too late.");
        assert_eq!(mutants[0].edits[0].find, "    one < two");
        assert_eq!(mutants[1].edits.len(), 2);
        assert_eq!(
            mutants.iter().map(|mutant| mutant.profile).collect::<Vec<_>>(),
            [None, Some(Profile::Churn)]
        );
        let edits: Vec<(&Mutant, &Edit)> =
            vec![(&mutants[1], &mutants[1].edits[0]), (&mutants[0], &mutants[0].edits[0])];
        let text = changed("a.rs", "if     one < two { three }", &edits).unwrap();
        assert_eq!(
            text,
            "if     one < two || ::raftwerk_frame::planted::is(3) { if ::raftwerk_frame::planted::is(5) { 3 } else { three } }"
        );
    }

    #[test]
    fn an_entry_may_name_the_test_that_shows_it() {
        let entry = "== 1 late (test raftwerk-wal a::tests::b)\nt\n-- a\nb\n++\n{planted}\n";
        let mutants = parse("one.txt", entry).unwrap();
        let mut expected =
            Test { package: "raftwerk-wal".to_owned(), program: None, name: "a::tests::b".to_owned() };
        assert_eq!((&mutants[0].test, mutants[0].profile), (&Some(expected.clone()), None));
        let mutants = parse("one.txt", &entry.replace("-wal a", "-wal/whole a")).unwrap();
        expected.program = Some("whole".to_owned());
        assert_eq!(mutants[0].test, Some(expected));
    }

    #[test]
    fn a_text_that_is_missing_ambiguous_or_taken_is_refused() {
        let mutants = parse("two.txt", TWO).unwrap();
        let three = (&mutants[1], &mutants[1].edits[0]);
        let refused = |text: &str, edits: &[(&Mutant, &Edit)]| changed("a.rs", text, edits).unwrap_err();
        assert!(matches!(refused("none", &[three]), CatalogueError::NotOnce { times: 0, .. }));
        assert!(matches!(refused("three three", &[three]), CatalogueError::NotOnce { times: 2, .. }));
        let other = Edit { find: "thr".to_owned(), ..mutants[1].edits[0].clone() };
        assert!(matches!(refused("three", &[three, (&mutants[0], &other)]), CatalogueError::Overlap { .. }));
    }

    #[test]
    fn an_entry_that_lacks_something_is_refused() {
        for bad in [
            "== x late\n",
            "== 1 late (test)\nt\n-- a\nb\n++\n{planted}\n",
            "== 1 late (test raftwerk-wal)\nt\n-- a\nb\n++\n{planted}\n",
            "== 1 late (often)\nt\n-- a\nb\n++\n{planted}\n",
            "== 1 Late\nt\n-- a\nb\n++\n{planted}\n",
            "== 1 late\n-- a\nb\n++\n{planted}\n",
            "== 1 late\nt\n-- a\nb\n++\nnothing\n",
            "== 1 late\nt\n-- a\n++\n{planted}\n",
            "== 1 late\nt\n",
        ] {
            assert!(matches!(parse("bad.txt", bad), Err(CatalogueError::Syntax { .. })), "{bad:?}");
        }
    }
}
