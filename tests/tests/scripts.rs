//! Runs every story in `tests/scripts` and fails with the first difference of each. With `UPDATE=1` in the
//! environment, or `--update` after `--`, stories are written anew instead: then read what changed.
#![allow(clippy::print_stdout, reason = "a test runner of its own says what it ran")]

use std::path::{Path, PathBuf};
use std::{env, fs};

use raftwerk_tests::script;

fn main() {
    let is_update =
        env::var_os("UPDATE").is_some_and(|value| value == "1") || env::args().any(|word| word == "--update");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let entries = fs::read_dir(&folder).expect("the folder of scripts is there");
    let paths = entries.map(|entry| entry.expect("a folder can be read").path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "txt")).collect();
    paths.sort();
    assert!(paths.len() >= 60, "only {} stories in {}", paths.len(), folder.display());
    let failures: Vec<String> = paths.iter().filter_map(|path| try_story(path, is_update).err()).collect();
    assert!(failures.is_empty(), "{} of {} stories:\n{}", failures.len(), paths.len(), failures.join("\n"));
    println!("\nstories: {} passed, 0 failed\n", paths.len());
}

fn try_story(path: &Path, is_update: bool) -> Result<(), String> {
    let text = fs::read_to_string(path).expect("a story can be read");
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let told = script::run(&text).map_err(|failure| format!("{name}: {failure}"))?;
    if told != text && is_update {
        fs::write(path, told).expect("a story can be written");
        return Ok(());
    }
    if told == text { Ok(()) } else { Err(format!("{name}: {}", script::first_difference(&text, &told))) }
}
