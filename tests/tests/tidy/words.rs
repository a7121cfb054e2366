//! The words of comments and docs, counted: sentences about persons and about speech, where a component does something.
//! How to write instead: `engine/docs/style.md`.

use super::tree::Source;

/// Words about persons, in 10,000 words. May only fall.
const PERSONS_MAX: usize = 4;
/// Words about speech, in 10,000 words. May only fall.
const SPEECH_MAX: usize = 3;
const PERSONS: [&str; 8] = ["who", "whom", "whoever", "whose", "somebody", "nobody", "anybody", "someone"];
const SPEECH: [&str; 6] = ["says", "tells", "told", "hears", "heard", "speaks"];
/// Texts that count, besides comments and the pages of `engine/docs`.
const READMES: [&str; 4] = ["README.md", "bench/README.md", "tests/README.md", "tests/sim/README.md"];
const CRATES: [&str; 5] = ["bench/", "engine/", "net/", "tests/sim/src/", "wal/"];

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    words: usize,
    persons: usize,
    speech: usize,
}

impl Count {
    fn add(&mut self, line: &str) {
        self.words += line.split_whitespace().count();
        let mut last = String::new();
        for word in line.split(|char: char| !char.is_alphanumeric()).filter(|word| !word.is_empty()) {
            let word = word.to_lowercase();
            self.persons += usize::from(PERSONS.contains(&word.as_str()));
            self.speech += usize::from(SPEECH.contains(&word.as_str()) || word == "of" && last == "word");
            last = word;
        }
    }
}

fn is_counted(file: &Source) -> bool {
    let is_of_crate = CRATES.iter().any(|krate| file.path.starts_with(krate));
    READMES.contains(&file.path.as_str())
        || is_of_crate && (file.path.ends_with(".rs") || file.path.ends_with(".md"))
}

fn count(file: &Source, count: &mut Count) {
    if file.path.ends_with(".rs") {
        file.comments().for_each(|line| count.add(line));
        return;
    }
    let mut is_fenced = false;
    for (_, line) in file.lines() {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        if !is_fence && !is_fenced {
            count.add(line);
        }
    }
}

/// What is wrong with the words of all files together.
pub(crate) fn words(files: &[Source]) -> Vec<String> {
    let mut sum = Count::default();
    files.iter().filter(|file| is_counted(file)).for_each(|file| count(file, &mut sum));
    let families = [("persons", sum.persons, PERSONS_MAX), ("speech", sum.speech, SPEECH_MAX)];
    let over = families.into_iter().filter(|(_, found, max)| found * 10_000 > max * sum.words);
    over.map(|(family, found, max)| {
        format!("{found} words about {family} in {} are more than {max} in 10,000", sum.words)
    })
    .collect()
}

/// Finds both families where they count, and nothing where they do not.
pub(crate) fn try_them() {
    let file = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let mut sum = Count::default();
    count(
        &file("wal/src/a.rs", "//! Whoever hears\nlet who = \"// says\"; // word of it, 'heard'\n"),
        &mut sum,
    );
    assert_eq!(sum, Count { words: 6, persons: 1, speech: 3 });
    let mut sum = Count::default();
    count(&file("README.md", "nobody\n```text\nwho says\n```\n| told |\n"), &mut sum);
    assert_eq!(sum, Count { words: 4, persons: 1, speech: 1 });
    assert_eq!(words(&[file("net/src/a.rs", "// nobody speaks")]).len(), 2);
    assert_eq!(words(&[file("tests/tests/a.rs", "// nobody speaks")]).len(), 0);
}
