//! `script`: runs protocol stories and shows where they differ from what they expect; `--update` writes them anew.
//!
//! `cargo run -p raftwerk-tests --bin script -- tests/scripts/election.txt --update`. The language is described at the
//! head of `raftwerk_tests::script`.

use std::io::Write;
use std::process::ExitCode;
use std::{env, fs, io};

use raftwerk_tests::script;

fn main() -> io::Result<ExitCode> {
    let (options, files): (Vec<String>, Vec<String>) =
        env::args().skip(1).partition(|word| word.starts_with("--"));
    let is_update = options.iter().any(|option| option == "--update");
    if files.is_empty() || options.iter().any(|option| option != "--update") {
        writeln!(io::stderr(), "usage: script FILE... [--update]")?;
        return Ok(ExitCode::from(2));
    }
    let mut is_good = true;
    for file in &files {
        let text = fs::read_to_string(file)?;
        match script::run(&text) {
            Err(failure) => {
                is_good = false;
                writeln!(io::stdout(), "{file}: {failure}")?;
            }
            Ok(told) if told == text => writeln!(io::stdout(), "{file}: ok")?,
            Ok(told) if is_update => {
                fs::write(file, told)?;
                writeln!(io::stdout(), "{file}: written")?;
            }
            Ok(told) => {
                is_good = false;
                writeln!(io::stdout(), "{file}: {}", script::first_difference(&text, &told))?;
            }
        }
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
