//! The form of a script file: prose, commands, `----`, output. Nothing in here knows what commands mean.

/// The line between commands and output.
const RULE: &str = "----";

/// Commands and the output they should have.
#[derive(Debug, Default)]
pub(crate) struct Block {
    /// Prose and empty lines before the commands.
    pub(crate) prose: Vec<String>,
    /// The commands, each with its line number from 1.
    pub(crate) commands: Vec<(usize, String)>,
    /// The expected output, without its end of line.
    pub(crate) output: Vec<String>,
}

/// A whole file.
#[derive(Debug, Default)]
pub(crate) struct Text {
    pub(crate) blocks: Vec<Block>,
    /// Prose after the last block.
    tail: Vec<String>,
}

impl Text {
    /// Splits a file into blocks.
    ///
    /// # Errors
    /// The number of a line at which commands begin that no `----` follows.
    pub(crate) fn parse(text: &str) -> Result<Self, usize> {
        let mut parsed = Self::default();
        let mut lines = text.lines().enumerate().peekable();
        while lines.peek().is_some() {
            let mut block = Block::default();
            while let Some((_, line)) = lines.next_if(|(_, line)| is_prose(line)) {
                block.prose.push(line.to_owned());
            }
            while let Some((at, line)) = lines.next_if(|(_, line)| *line != RULE && !line.is_empty()) {
                block.commands.push((at + 1, line.to_owned()));
            }
            let Some((at, _)) = block.commands.first() else {
                parsed.tail = block.prose;
                break;
            };
            lines.next_if(|(_, line)| *line == RULE).ok_or(*at)?;
            while let Some((_, line)) = lines.next_if(|(_, line)| !line.is_empty()) {
                block.output.push(line.to_owned());
            }
            lines.next_if(|(_, line)| line.is_empty());
            parsed.blocks.push(block);
        }
        Ok(parsed)
    }

    /// The file's text again.
    pub(crate) fn render(&self) -> String {
        let mut lines: Vec<&str> = Vec::new();
        for block in &self.blocks {
            lines.extend(block.prose.iter().map(String::as_str));
            lines.extend(block.commands.iter().map(|(_, command)| command.as_str()));
            lines.push(RULE);
            lines.extend(block.output.iter().map(String::as_str));
            lines.push("");
        }
        lines.extend(self.tail.iter().map(String::as_str));
        while lines.last().is_some_and(|line| line.is_empty()) {
            lines.pop();
        }
        lines.push("");
        lines.join("\n")
    }
}

fn is_prose(line: &str) -> bool {
    line.is_empty() || line.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Title\n\nfirst 1\nsecond\n----\nout\n  deeper\n\n# Then\nthird\n----\n\n# End\n";

    #[test]
    fn a_file_splits_into_blocks_and_is_rendered_as_it_was() {
        let text = Text::parse(TEXT).unwrap();
        assert_eq!(text.blocks.len(), 2);
        assert_eq!(text.blocks[0].commands, [(3, "first 1".to_owned()), (4, "second".to_owned())]);
        assert_eq!(text.blocks[0].output, ["out", "  deeper"]);
        assert_eq!(text.blocks[1].prose, ["# Then"]);
        assert_eq!(text.render(), TEXT);
    }

    #[test]
    fn commands_without_a_rule_are_refused_by_line() {
        assert_eq!(Text::parse("# a\nstatus\n\n----\n").unwrap_err(), 2);
    }
}
