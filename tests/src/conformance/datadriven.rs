//! The text format of etcd's tests: commands, and what they print.
//!
//! ```text
//! # a comment
//! command key=value key=(v1, v2) word        one or more lines; the first names the command
//! ----
//! what is expected, up to an empty line; or, between two lines of `----` each, with empty lines in it
//! ```
//! What is not here: any command.

use std::collections::BTreeMap;

/// A command and what it should print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    /// The line it begins at, from 1.
    pub(super) line: usize,
    /// Its first word.
    pub(super) name: String,
    /// Words of the first line that have no value.
    pub(super) words: Vec<String>,
    /// Words of the first line that have some: one for `key=value`, several for `key=(a, b)`.
    pub(super) values: BTreeMap<String, Vec<String>>,
    /// The lines after the first.
    pub(super) body: Vec<String>,
    /// What should be printed.
    pub(super) expected: String,
}

impl Command {
    /// The values of a key; none if it is not given.
    pub(super) fn list(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }
}

/// Reads a file. An error names the line.
pub(super) fn parse(text: &str) -> Result<Vec<Command>, String> {
    let mut commands = Vec::new();
    let mut lines = (1..).zip(text.lines()).peekable();
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let mut command = head(line).map_err(|what| format!("line {number}: {what}"))?;
        command.line = number;
        loop {
            let (_, line) = lines.next().ok_or_else(|| format!("line {number}: no `----` follows"))?;
            if line == "----" {
                break;
            }
            command.body.push(line.to_owned());
        }
        let is_fenced = lines.next_if(|(_, line)| *line == "----").is_some();
        let mut expected = Vec::new();
        while let Some((_, line)) = lines.next() {
            let is_end = if is_fenced {
                line == "----" && lines.next_if(|(_, l)| *l == "----").is_some()
            } else {
                line.is_empty()
            };
            if is_end {
                break;
            }
            expected.push(line);
        }
        command.expected = expected.join("\n");
        commands.push(command);
    }
    Ok(commands)
}

/// Reads the first line of a command.
pub(super) fn head(line: &str) -> Result<Command, String> {
    let mut rest = line.trim();
    let mut command = Command { name: word(&mut rest).to_owned(), ..Command::default() };
    while !rest.is_empty() {
        let end = rest.find(|char: char| char.is_whitespace() || char == '=').unwrap_or(rest.len());
        let key = &rest[..end];
        rest = &rest[end..];
        let Some(after) = rest.strip_prefix('=') else {
            command.words.push(key.to_owned());
            rest = rest.trim_start();
            continue;
        };
        rest = after;
        let values = if let Some(inner) = rest.strip_prefix('(') {
            let (list, after) = inner.split_once(')').ok_or("a list is not closed")?;
            rest = after.trim_start();
            let list = list.split(',').map(|value| value.trim().to_owned());
            list.filter(|value| !value.is_empty()).collect()
        } else {
            vec![word(&mut rest).to_owned()]
        };
        if command.values.insert(key.to_owned(), values).is_some() {
            return Err(format!("`{key}` is given twice"));
        }
    }
    Ok(command)
}

/// Takes the next word.
fn word<'a>(rest: &mut &'a str) -> &'a str {
    let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    *rest = after.trim_start();
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_words_values_lists_a_body_and_an_expectation() {
        let text = "# why\n\nadd-nodes 3 voters=(1,2, 3) index=2\nv1 v2\n----\none\n  two\n\nnext\n----\n----\n\nx\n----\n----\n\nlast\n----";
        let commands = parse(text).unwrap();
        let first = &commands[0];
        assert_eq!((first.line, &first.name[..], &first.words[..]), (3, "add-nodes", &["3".to_owned()][..]));
        assert_eq!(first.list("voters"), ["1", "2", "3"]);
        assert_eq!((first.list("index"), first.list("none").len()), (&["2".to_owned()][..], 0));
        assert_eq!((&first.body[..], &first.expected[..]), (&["v1 v2".to_owned()][..], "one\n  two"));
        assert_eq!((&commands[1].name[..], &commands[1].expected[..]), ("next", "\nx"));
        assert_eq!((commands.len(), &commands[2].expected[..]), (3, ""));
    }

    #[test]
    fn what_is_broken_is_named_with_its_line() {
        assert_eq!(parse("\nrun\nmore").unwrap_err(), "line 2: no `----` follows");
        assert_eq!(parse("run a=(1,2\n----\n").unwrap_err(), "line 1: a list is not closed");
        assert_eq!(parse("run a=1 a=2\n----\n").unwrap_err(), "line 1: `a` is given twice");
    }
}
