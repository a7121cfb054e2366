//! A command line, taken apart: a name, then words, pairs `key=value`, and switches.

use std::str::FromStr;

use raftwerk_frame::NodeId;

/// What is left of a command line. Whoever takes the command takes its arguments, and then says that it is [`done`].
///
/// [`done`]: Arguments::done
pub(crate) struct Arguments<'a> {
    pub(crate) name: &'a str,
    rest: Vec<&'a str>,
}

impl<'a> Arguments<'a> {
    pub(crate) fn parse(line: &'a str) -> Self {
        let mut words = line.split_whitespace();
        Self { name: words.next().unwrap_or_default(), rest: words.collect() }
    }

    /// Takes a word that stands for itself, such as `quiet`.
    pub(crate) fn switch(&mut self, name: &str) -> bool {
        let at = self.rest.iter().position(|word| *word == name);
        at.map(|at| self.rest.remove(at)).is_some()
    }

    /// Takes the value of `key=value`.
    pub(crate) fn text(&mut self, key: &str) -> Option<&'a str> {
        let value = |word: &&'a str| word.split_once('=').filter(|(k, _)| *k == key).map(|(_, value)| value);
        let at = self.rest.iter().position(|word| value(word).is_some())?;
        value(&self.rest.remove(at))
    }

    /// Takes the number of `key=number`.
    pub(crate) fn number(&mut self, key: &str) -> Result<Option<u64>, String> {
        self.text(key).map(parse).transpose()
    }

    /// Takes `key=on` or `key=off`; off if it is missing.
    pub(crate) fn is_on(&mut self, key: &str) -> Result<bool, String> {
        match self.text(key) {
            None | Some("off") => Ok(false),
            Some("on") => Ok(true),
            Some(other) => Err(format!("{key}={other}: on or off")),
        }
    }

    /// Takes the node of `key=node`; `*` is any.
    pub(crate) fn node(&mut self, key: &str) -> Result<Option<NodeId>, String> {
        self.text(key).filter(|text| *text != "*").map(|text| parse(text).map(NodeId)).transpose()
    }

    /// Takes the first word that is left.
    pub(crate) fn word(&mut self) -> Option<&'a str> {
        (!self.rest.is_empty()).then(|| self.rest.remove(0))
    }

    /// Takes the first word that is left, as a number.
    pub(crate) fn next_number(&mut self) -> Result<Option<u64>, String> {
        self.word().map(parse).transpose()
    }

    /// Takes the first word that is left, as a number that must be there.
    pub(crate) fn need_number(&mut self, what: &str) -> Result<u64, String> {
        self.next_number()?.ok_or_else(|| format!("{} wants {what}", self.name))
    }

    /// Takes the node that the command is for.
    pub(crate) fn need_node(&mut self) -> Result<NodeId, String> {
        self.need_number("a node").map(NodeId)
    }

    /// Takes all that is left.
    pub(crate) fn words(&mut self) -> Vec<&'a str> {
        std::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    pub(crate) fn done(self) -> Result<(), String> {
        if self.rest.is_empty() { Ok(()) } else { Err(format!("{}: what is {:?}?", self.name, self.rest)) }
    }
}

/// A number, with the text in the complaint.
pub(crate) fn parse<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_taken_by_kind_and_none_may_be_left() {
        let mut arguments = Arguments::parse("deliver from=1 to=* 3 quiet");
        assert!(arguments.switch("quiet"));
        assert_eq!(arguments.node("from"), Ok(Some(NodeId(1))));
        assert_eq!(arguments.node("to"), Ok(None));
        assert_eq!(arguments.next_number(), Ok(Some(3)));
        assert!(arguments.done().is_ok());
        assert!(Arguments::parse("status now").done().is_err());
    }
}
