//! IMPURE: the copy with all mutants in it, built: its test programs and its simulator.
//!
//! A change may not compile where it stands. The compiler's errors name it: it is left out, and the copy is built again,
//! until all that is left compiles. What is not here: what runs the programs (`judge`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::MechanicalError;
use super::plant::{Lies, plant};
use super::program::Program;
use super::rooms::{Mutant, ROOMS, Survey};
use crate::mutants::compiler::{self, CompileError};
use crate::mutants::workshop::{MODULES, PLANTED_AT, Workshop, replace_once};

/// The copy's module of switches. Unlike the catalogue's it looks for itself, in test programs and in the simulator alike;
/// and it can note which switches a process comes by instead. A note allocates nothing: there are tests that count.
const PLANTED: &str = r#"//! Which mutant is switched on, or which are reached. Only in a copy that was made for trying them.

extern crate std;

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::fs::File;
use std::io::Write as _;
use std::sync::OnceLock;

/// The environment has not been looked at yet.
const UNKNOWN: u32 = u32::MAX;
/// None is on: the first time that each is reached goes into a file.
const NOTING: u32 = u32::MAX - 1;
/// More than there are.
const NUMBERS: usize = 8_192;

static NUMBER: AtomicU32 = AtomicU32::new(UNKNOWN);
static REACHED: [AtomicBool; NUMBERS] = [const { AtomicBool::new(false) }; NUMBERS];
static NOTES: OnceLock<Option<File>> = OnceLock::new();

/// Whether this mutant is on.
#[inline]
#[must_use]
pub fn is(number: u32) -> bool {
    let on = NUMBER.load(Ordering::Relaxed);
    if on < NOTING { on == number } else { ask(number) }
}

#[cold]
fn ask(number: u32) -> bool {
    let mut on = NUMBER.load(Ordering::Relaxed);
    if on == UNKNOWN {
        let open = |path| File::options().append(true).create(true).open(path).expect("the file for what is reached opens");
        let noting = NOTES.get_or_init(|| std::env::var_os("RAFTWERK_REACHED").map(open)).is_some();
        let number = || std::env::var("RAFTWERK_PLANTED").ok().and_then(|number| number.parse().ok());
        on = if noting { NOTING } else { number().unwrap_or_default() };
        NUMBER.store(on, Ordering::Relaxed);
    }
    if on == NOTING {
        note(number);
    }
    on == number
}

#[cold]
fn note(number: u32) {
    let (Some(reached), Some(Some(file))) = (REACHED.get(number as usize), NOTES.get()) else { return };
    let mut file: &File = file;
    if reached.swap(true, Ordering::Relaxed) {
        return;
    }
    let (mut line, mut at, mut rest) = ([b'\n'; 11], 10, number);
    while rest > 0 {
        at -= 1;
        line[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    file.write_all(&line[at..]).expect("what is reached can be noted");
}
"#;

/// How often the copy may fail to build.
const ROUNDS_MAX: usize = 40;

/// What was built.
#[derive(Debug, Default)]
pub(super) struct Built {
    /// Test programs by package and name.
    pub(super) programs: BTreeMap<(String, String), Program>,
    /// The simulator.
    pub(super) simulator: PathBuf,
    /// Mutants that do not compile, by name.
    pub(super) unbuildable: BTreeSet<String>,
}

/// Builds the copy with all that was drawn, but for what is known not to compile; and the judges of all rooms: with fewer
/// packages their crates would have other features, and be built once more.
pub(super) fn build(
    workshop: &Workshop,
    root: &Path,
    survey: &Survey,
    known: BTreeSet<String>,
    tell: &dyn Fn(&str),
) -> Result<Built, MechanicalError> {
    let mut built = Built { unbuildable: known, ..Built::default() };
    for round in 1..=ROUNDS_MAX {
        let lies = lay(workshop, root, survey, &built.unbuildable)?;
        let errors = compile(workshop, &mut built)?;
        if errors.is_empty() {
            return Ok(built);
        }
        let guilty = guilty(&errors, &lies, survey, &built.unbuildable);
        tell(&format!("round {round}: {} errors, {} mutants do not compile", errors.len(), guilty.len()));
        if guilty.is_empty() {
            let said: Vec<&str> = errors.iter().map(|error| error.rendered.as_str()).collect();
            return Err(MechanicalError::Build(said.join("\n")));
        }
        built.unbuildable.extend(guilty);
    }
    Err(MechanicalError::Build("there is no end of mutants that do not compile".to_owned()))
}

/// Writes the copy.
fn lay(
    workshop: &Workshop,
    root: &Path,
    survey: &Survey,
    without: &BTreeSet<String>,
) -> Result<BTreeMap<String, Vec<Lies>>, MechanicalError> {
    let mut by_file: BTreeMap<&str, Vec<(u32, &super::Place)>> = BTreeMap::new();
    for mutant in survey.drawn.iter().filter(|mutant| !without.contains(&mutant.place.name)) {
        by_file.entry(&mutant.file).or_default().push((mutant.number, &mutant.place));
    }
    let (mut texts, mut lies) = (BTreeMap::new(), BTreeMap::new());
    for (file, chosen) in by_file {
        let (text, where_they_are) = plant(&survey.texts[file], &chosen);
        texts.insert(file.to_owned(), text);
        lies.insert(file.to_owned(), where_they_are);
    }
    for (file, find, put) in MODULES {
        replace_once(root, &mut texts, file, find, put)?;
    }
    for module in PLANTED_AT {
        texts.insert(module.to_owned(), PLANTED.to_owned());
    }
    workshop.lay(root, texts)?;
    Ok(lies)
}

/// Builds the judges, and the simulator, in one go: so they share all crates. The simulator is of the
/// tests' profile, and assertions that a release is without may notice, too. Cargo builds it since a test of its package asks for it.
fn compile(workshop: &Workshop, built: &mut Built) -> Result<Vec<CompileError>, MechanicalError> {
    let (mut packages, mut programs) = (BTreeSet::from(["raftwerk-sim"]), BTreeSet::from(["mutants"]));
    for (package, program, _) in ROOMS.iter().flat_map(|room| room.programs) {
        packages.insert(*package);
        programs.insert(*program);
    }
    let mut arguments: Vec<&str> = vec!["test", "--no-run", "--no-fail-fast"];
    if programs.remove("lib") {
        arguments.push("--lib");
    }
    arguments.extend(packages.iter().flat_map(|package| ["--package", package]));
    arguments.extend(programs.iter().flat_map(|program| ["--test", program]));
    Ok(compiler::cargo(workshop, &arguments, |artifact| note_program(artifact, built))?)
}

fn note_program(value: &Value, built: &mut Built) {
    let Some(path) = value["executable"].as_str().map(PathBuf::from) else { return };
    let (target, manifest) = (&value["target"], value["manifest_path"].as_str().unwrap_or_default());
    let folder = Path::new(manifest).parent().map(Path::to_owned).unwrap_or_default();
    let name = target["name"].as_str().unwrap_or_default();
    match target["kind"][0].as_str() {
        Some("bin") if name == "raftwerk-sim" && value["profile"]["test"] == Value::Bool(false) => {
            built.simulator = path;
        }
        Some("test") => {
            built.programs.insert((package_of(value), name.to_owned()), Program { path, folder });
        }
        Some("lib") => {
            built.programs.insert((package_of(value), "lib".to_owned()), Program { path, folder });
        }
        _ => {}
    }
}

/// The name in a package's id: `path+file:///…/wal#raftwerk-wal@0.1.0`, or without it if the folder has the same.
fn package_of(value: &Value) -> String {
    let id = value["package_id"].as_str().unwrap_or_default();
    let (path, after) = id.rsplit_once('#').unwrap_or((id, ""));
    match after.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => path.rsplit('/').next().unwrap_or_default().to_owned(),
    }
}

/// The mutants that errors complain of: the innermost around each; where there is none, all of that function.
fn guilty(
    errors: &[CompileError],
    lies: &BTreeMap<String, Vec<Lies>>,
    survey: &Survey,
    without: &BTreeSet<String>,
) -> BTreeSet<String> {
    let named = |number: u32| survey.drawn.iter().find(|mutant| mutant.number == number);
    let mut guilty = BTreeSet::new();
    for error in errors {
        let around = error.spans.iter().find_map(|(file, from, to)| {
            let there = lies.get(file)?.iter().filter(|lie| lie.at.start <= *from && *to <= lie.at.end);
            there.min_by_key(|lie| lie.at.len())
        });
        if let Some(mutant) = around.and_then(|lie| named(lie.number)) {
            guilty.insert(mutant.place.name.clone());
            continue;
        }
        // What is left out here is missed there: a variable that may not be set, a function that is `const` no longer.
        let nearest = error.spans.iter().find_map(|(file, from, _)| {
            let there =
                lies.get(file)?.iter().filter_map(|lie| named(lie.number).map(|mutant| (lie, mutant)));
            let there = there.filter(|(_, mutant)| !without.contains(&mutant.place.name));
            there.min_by_key(|(lie, _)| lie.at.start.abs_diff(*from)).map(|(_, mutant)| mutant)
        });
        let all = survey.drawn.iter().filter(|mutant| !without.contains(&mutant.place.name));
        let is_called = |mutant: &&Mutant| {
            let name = mutant.place.function.rsplit("::").next().unwrap_or_default();
            mutant.place.constness.is_some() && error.rendered.contains(&format!("{name}`"))
        };
        let called: Vec<String> = all.filter(is_called).map(|mutant| mutant.place.name.clone()).collect();
        if called.is_empty() {
            guilty.extend(nearest.map(|mutant| mutant.place.name.clone()));
        } else {
            guilty.extend(called);
        }
    }
    guilty
}
