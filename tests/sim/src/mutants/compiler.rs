//! IMPURE: cargo, run on a copy of the sources, and the compiler's errors with their places.
//!
//! What is not here: the copy (`workshop`), and which change an error comes from (`check`, `mechanical/bench`).

use std::io;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::workshop::Workshop;

/// An error of the compiler.
#[derive(Clone, Debug)]
pub(super) struct CompileError {
    /// The whole message, as the compiler prints it.
    pub(super) rendered: String,
    /// File and bytes of every place in the message, the primary ones first. Not empty.
    pub(super) spans: Vec<(String, usize, usize)>,
}

/// Runs cargo on the copy. `on_artifact` gets the message of each crate or program that was built.
///
/// # Errors
/// If cargo cannot be run, or fails without an error of the compiler.
pub(super) fn cargo(
    workshop: &Workshop,
    arguments: &[&str],
    mut on_artifact: impl FnMut(&Value),
) -> io::Result<Vec<CompileError>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .args(["--locked", "--quiet", "--message-format", "json", "--manifest-path"])
        .arg(workshop.sources().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(workshop.target())
        .stdin(Stdio::null())
        .output()?;
    let mut errors = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        match value["reason"].as_str() {
            Some("compiler-message") if value["message"]["level"] == "error" => {
                errors.extend(error_of(&value["message"]));
            }
            Some("compiler-artifact") => on_artifact(&value),
            _ => {}
        }
    }
    if output.status.success() {
        return Ok(Vec::new());
    }
    if errors.is_empty() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("cargo {} failed:\n{stderr}", arguments.join(" "))));
    }
    Ok(errors)
}

/// The error in a message of the compiler; `None` if it has no place: the last message only counts the others.
pub(super) fn error_of(message: &Value) -> Option<CompileError> {
    let mut spans: Vec<(bool, String, usize, usize)> = Vec::new();
    for span in message["spans"].as_array()? {
        let number = |field: &str| span[field].as_u64().map(|number| number as usize);
        let file = span["file_name"].as_str()?.to_owned();
        spans.push((
            span["is_primary"] != Value::Bool(true),
            file,
            number("byte_start")?,
            number("byte_end")?,
        ));
    }
    spans.sort();
    let spans: Vec<_> = spans.into_iter().map(|(_, file, from, to)| (file, from, to)).collect();
    let rendered = message["rendered"].as_str().unwrap_or_default().to_owned();
    (!spans.is_empty()).then_some(CompileError { rendered, spans })
}
