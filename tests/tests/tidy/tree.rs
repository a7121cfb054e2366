//! The checkout as the rules see it: its sources, its texts, its manifests. Build output and hidden folders are left
//! out, and so is everything that version control does.

use std::fs;
use std::path::{Path, PathBuf};

/// A file's text, and where it is.
pub(crate) struct Source {
    /// From the top of the checkout, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// Lines with their numbers from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    /// The `//!` lines that the file opens with.
    pub(crate) fn head(&self) -> String {
        let head = self.text.lines().take_while(|line| line.starts_with("//!"));
        head.collect::<Vec<_>>().join("\n")
    }

    /// Whether the file is test code from its first line on.
    pub(crate) fn is_test(&self) -> bool {
        let mut parts = self.path.split('/');
        parts.any(|part| part == "tests" || part == "tests.rs")
    }

    /// The lines that are code: without comments, and without what stands in quotes. A block comment counts as code,
    /// which is one more reason not to write any.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, String)> {
        self.lines().map(|(at, line)| (at, without_words(line)))
    }

    /// The text of its line comments, of every kind.
    pub(crate) fn comments(&self) -> impl Iterator<Item = &str> {
        self.lines().filter_map(|(_, line)| {
            let at = code_ends_at(line);
            line.get(at..)
                .and_then(|rest| rest.strip_prefix("//"))
                .map(|text| text.trim_start_matches(['/', '!']))
        })
    }

    /// The lines that are code, up to the unit tests at the file's end.
    pub(crate) fn own_code(&self) -> impl Iterator<Item = (usize, String)> {
        self.code().take_while(|(_, line)| !line.trim_start().starts_with("#[cfg(test)]"))
    }
}

/// Cuts a line comment off, and empties string literals.
fn without_words(line: &str) -> String {
    let mut code = String::new();
    scan(line, |char| code.push(char));
    code
}

/// The byte at which a line's comment begins, or its end.
fn code_ends_at(line: &str) -> usize {
    scan(line, |_| ())
}

/// Passes on what of a line is code, quotes left out, up to a line comment; the byte at which that begins. Knows escaped
/// quotes and quotes as characters, not raw strings.
fn scan(line: &str, mut code: impl FnMut(char)) -> usize {
    let mut is_quoted = false;
    let mut chars = line.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        let next = chars.peek().map(|(_, char)| *char);
        match char {
            '\\' if is_quoted => {
                chars.next();
            }
            '\'' if !is_quoted && next == Some('"') => {
                chars.next();
                chars.next();
            }
            '"' => is_quoted = !is_quoted,
            '/' if !is_quoted && next == Some('/') => return at,
            _ if is_quoted => {}
            char => code(char),
        }
    }
    line.len()
}

/// The top of the checkout.
fn top() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the tests have a folder of their own").to_owned()
}

/// The names at the top level.
pub(crate) fn top_level() -> Vec<String> {
    let entries = fs::read_dir(top()).expect("the checkout can be read");
    entries.map(|entry| entry.expect("it still can").file_name().to_string_lossy().into_owned()).collect()
}

/// All Rust files.
pub(crate) fn sources() -> Vec<Source> {
    files(&["rs"])
}

/// All files that people write.
pub(crate) fn texts() -> Vec<Source> {
    files(&["rs", "toml", "md", "txt", "yml", "yaml", "sh", "html", "js", "css"])
}

/// The manifests of all crates, without the workspace's.
pub(crate) fn manifests() -> Vec<Source> {
    let mut manifests = files(&["toml"]);
    manifests.retain(|file| file.path.ends_with("/Cargo.toml"));
    manifests
}

fn files(endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    walk(&top(), "", endings, &mut found);
    found.sort_by(|one: &Source, other| one.path.cmp(&other.path));
    found
}

fn walk(folder: &Path, name: &str, endings: &[&str], found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder of the checkout can be read") {
        let path = entry.expect("it still can").path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_output = file == "target" && (name.is_empty() || name.ends_with("fuzz"));
        if file.starts_with('.') || is_output {
            continue;
        }
        let name = if name.is_empty() { file } else { format!("{name}/{file}") };
        if path.is_dir() {
            walk(&path, &name, endings, found);
        } else if path.extension().is_some_and(|end| endings.iter().any(|wanted| end == *wanted)) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            found.push(Source { path: name, text });
        }
    }
}
