//! The rules, one function each: given a file, what is wrong with it. Words that are forbidden are put together from
//! pieces here, so that this file may be checked like any other.

use super::tree::Source;

const LINES_MAX: usize = 600;
/// Crates whose own sources may touch the world only in files marked impure.
const PURE_ROOMS: [&str; 3] = ["engine/", "wal/", "net/"];
/// Everything that may stand at the top level, besides hidden files and build output.
const ROOMS: [&str; 12] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "engine",
    "net",
    "wal",
    "bench",
    "tests",
];

fn complaint(file: &Source, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", file.path)
}

/// Lines in which a needle stands, out of those given. A needle that begins like a word is the beginning of one.
fn hits<'a>(
    lines: impl Iterator<Item = (usize, String)> + 'a,
    needles: &'a [String],
) -> impl Iterator<Item = (usize, &'a str)> + 'a {
    lines.filter_map(|(at, line)| {
        let needle = needles.iter().find(|needle| stands_in(&line, needle))?;
        Some((at, needle.as_str()))
    })
}

fn stands_in(line: &str, needle: &str) -> bool {
    let is_word = |char: char| char.is_alphanumeric() || char == '_';
    let inside = |at: usize| needle.starts_with(is_word) && line[..at].ends_with(is_word);
    line.match_indices(needle).any(|(at, _)| !inside(at))
}

/// Puts words together: `["a" "b"]` gives "ab".
fn joined(pieces: &[[&str; 2]]) -> Vec<String> {
    pieces.iter().map(|pair| pair.concat()).collect()
}

/// What, what not, where next: somebody who opens a file learns at once whether it is the right one.
pub(crate) fn head(file: &Source) -> Vec<String> {
    let is_good = file.head().trim_start_matches("//!").trim().len() > 10;
    if is_good {
        Vec::new()
    } else {
        vec![complaint(file, 1, "the file does not open with `//! what it is`")]
    }
}

pub(crate) fn length(file: &Source) -> Vec<String> {
    let lines = file.lines().count();
    let what = format!("{lines} lines are more than {LINES_MAX}: split it by what it talks about");
    if lines > LINES_MAX { vec![complaint(file, LINES_MAX + 1, &what)] } else { Vec::new() }
}

/// Names that say nothing, of files, folders and modules.
pub(crate) fn names(file: &Source) -> Vec<String> {
    let empty = joined(&[
        ["ut", "il"],
        ["hel", "per"],
        ["com", "mon"],
        ["mi", "sc"],
        ["mana", "ger"],
        ["hand", "ler"],
    ]);
    let is_empty = |word: &str| {
        let mut parts = word.split(|char: char| !char.is_alphanumeric());
        parts.any(|part| empty.iter().any(|name| part == name || part.strip_suffix('s') == Some(name)))
    };
    let mut complaints = Vec::new();
    if is_empty(file.path.trim_end_matches(".rs")) {
        complaints.push(complaint(file, 1, "a name in the path says nothing"));
    }
    for (at, line) in file.code() {
        let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
        if words.next() == Some("mod") && words.next().is_some_and(is_empty) {
            complaints.push(complaint(file, at, "the module's name says nothing"));
        }
    }
    complaints
}

/// Marks of unfinished work, and tests that do not run.
pub(crate) fn leftovers(file: &Source) -> Vec<String> {
    let needles = joined(&[
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X"],
        ["to", "do!("],
        ["unimple", "mented!("],
        ["#[ig", "nore"],
    ]);
    let lines = file.lines().map(|(at, line)| (at, line.to_owned()));
    hits(lines, &needles)
        .map(|(at, needle)| complaint(file, at, &format!("`{needle}`: do it, or open an issue")))
        .collect()
}

/// Time, threads, files, sockets and global randomness, outside the few files that say so at their head.
pub(crate) fn purity(file: &Source) -> Vec<String> {
    let in_room = PURE_ROOMS.iter().any(|room| file.path.starts_with(room)) && file.path.contains("src/");
    if !in_room || file.is_test() || file.head().contains("IMPURE") {
        return Vec::new();
    }
    let needles = joined(&[
        ["std::time::", "Instant"],
        ["Instant::", "now"],
        ["System", "Time"],
        ["thread::", "spawn"],
        ["thread::", "Builder"],
        ["std::", "fs"],
        ["File", "::"],
        ["Tcp", "Stream"],
        ["Udp", "Socket"],
        ["thread_", "rng"],
        ["rand::", "rng"],
    ]);
    let what = |needle| format!("`{needle}` in a file whose head does not say IMPURE");
    hits(file.own_code(), &needles).map(|(at, needle)| complaint(file, at, &what(needle))).collect()
}

pub(crate) fn unsafe_code(file: &Source) -> Vec<String> {
    let keyword = ["un", "safe"].concat();
    if file.head().contains(&keyword) {
        return Vec::new();
    }
    let is_word = |line: &str| {
        let mut words = line.split(|char: char| !char.is_alphanumeric() && char != '_');
        words.any(|word| word == keyword)
    };
    let lines = file.code().filter(|(_, line)| is_word(line));
    lines
        .map(|(at, _)| {
            complaint(file, at, &format!("{keyword} code, and the file's head says nothing of it"))
        })
        .collect()
}

/// A test that sleeps is either slow or wrong.
pub(crate) fn waiting(file: &Source) -> Vec<String> {
    let needles = joined(&[["sleep", "("]]);
    let is_test_file = file.is_test();
    let mut in_tests = is_test_file;
    let lines = file.code().filter(move |(_, line)| {
        in_tests |= line.trim_start().starts_with("#[cfg(test)]");
        in_tests
    });
    hits(lines, &needles)
        .map(|(at, _)| complaint(file, at, "a test waits for a fact, not for a time"))
        .collect()
}

/// Paths that exist on one machine only. A folder for temporary files is asked for, not named.
pub(crate) fn machine_paths(file: &Source) -> Vec<String> {
    let needles = joined(&[
        ["/ho", "me/"],
        ["/ro", "ot/"],
        ["/Us", "ers/"],
        ["/wo", "rk/"],
        ["/tm", "p/"],
        ["C:", "\\"],
    ]);
    let lines = file.lines().map(|(at, line)| (at, line.to_owned()));
    hits(lines, &needles)
        .map(|(at, needle)| complaint(file, at, &format!("`{needle}` is one machine's")))
        .collect()
}

/// What a crate of ours may use of ours. `None`: everything.
fn floors_below(krate: &str) -> Option<&'static [&'static str]> {
    match krate {
        "engine/frame" | "net" => Some(&[]),
        "engine/raft" | "wal" => Some(&["raftwerk-frame"]),
        "engine/multiraft" => Some(&["raftwerk-frame", "raftwerk-raft", "raftwerk-wal", "raftwerk-net"]),
        "engine/kv" => Some(&["raftwerk-frame", "raftwerk-multiraft"]),
        "engine" => Some(&["raftwerk-multiraft", "raftwerk-kv", "raftwerk-net"]),
        _ => None,
    }
}

/// The arrows between crates, in dependencies of every kind.
pub(crate) fn arrows(manifest: &Source) -> Vec<String> {
    let krate = manifest.path.trim_end_matches("/Cargo.toml");
    let Some(allowed) = floors_below(krate) else { return Vec::new() };
    let mut complaints = Vec::new();
    let mut section = String::new();
    for (at, line) in manifest.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        }
        let named = if line.starts_with('[') {
            section.rsplit('.').next()
        } else {
            line.split(['.', '=', ' ']).next()
        };
        // A crate may name itself: that is how its tests have a feature of it.
        let ours = named
            .filter(|name| *name == "raftwerk" || name.starts_with("raftwerk-"))
            .filter(|name| name.strip_prefix("raftwerk-") != krate.rsplit('/').next());
        if let Some(used) = ours.filter(|used| section.contains("dependencies") && !allowed.contains(used)) {
            complaints.push(complaint(
                manifest,
                at,
                &format!("{krate} may not use {used}: arrows point downwards"),
            ));
        }
    }
    complaints
}

pub(crate) fn rooms(names: &[String]) -> Vec<String> {
    let is_room = |name: &String| ROOMS.contains(&name.as_str()) || name.starts_with('.') || name == "target";
    let strangers =
        names.iter().filter(|name| !is_room(name)).map(|name| format!("{name}: no room at the top level"));
    let missing = ROOMS.iter().filter(|room| !names.iter().any(|name| name == *room));
    strangers.chain(missing.map(|room| format!("{room}: missing at the top level"))).collect()
}

/// Each rule must find its own kind of fault, and nothing in a good file.
pub(crate) fn try_them() {
    let file = |path: &str, text: String| Source { path: path.to_owned(), text };
    let good = file(
        "wal/src/lane/mod.rs",
        "//! A lane: what is written in order.\nfn lane() {} // std::\n".to_owned(),
    );
    for rule in [head, length, names, leftovers, purity, unsafe_code, waiting, machine_paths] {
        assert_eq!(rule(&good), Vec::<String>::new());
    }
    let bad = |path: &str, pieces: &[&str]| file(path, pieces.concat());
    let found = |complaints: Vec<String>, at: usize| {
        let place = format!(":{at}:");
        assert!(complaints.len() == 1 && complaints[0].contains(&place), "{complaints:?} at {at}");
    };
    found(head(&bad("a/src/b.rs", &["fn main() {}\n"])), 1);
    found(length(&bad("a/src/b.rs", &["\n".repeat(LINES_MAX + 1).as_str()])), LINES_MAX + 1);
    found(names(&file(&["wal/src/ut", "il.rs"].concat(), String::new())), 1);
    found(leftovers(&bad("a/src/b.rs", &["//! a\n\n// TO", "DO more"])), 3);
    found(purity(&bad("net/src/b.rs", &["//! a\nuse std::", "fs;\n"])), 2);
    found(unsafe_code(&bad("a/src/b.rs", &["//! a\nun", "safe {}\n"])), 2);
    found(waiting(&bad("a/tests/b.rs", &["//! a\nthread::sleep", "(a);\n"])), 2);
    found(machine_paths(&bad("a/b.md", &["see /ho", "me/me\n"])), 1);
    let manifest = "[dependencies]\nraftwerk-frame.workspace = true\n[dev-dependencies.raftwerk-wal]\n";
    found(arrows(&file("engine/raft/Cargo.toml", manifest.to_owned())), 3);
    let mut top: Vec<String> = ROOMS.map(str::to_owned).into();
    assert!(rooms(&top).is_empty());
    top[0] = "attic".to_owned();
    assert_eq!(rooms(&top).len(), 2);
}
