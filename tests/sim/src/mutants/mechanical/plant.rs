//! Many changes in one text, each behind a switch of its own, and where each has come to lie.
//!
//! What is not here: what is changed (`places`), and the copy that the text is written into (`workshop`).

use std::collections::BTreeSet;
use std::ops::Range;

use super::places::{IS_ON, Place, Side};

/// Where a change lies in the planted text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lies {
    /// What switches it on.
    pub number: u32,
    /// From its first edit to its last, in bytes of the planted text.
    pub at: Range<usize>,
}

/// Plants changes into a text; all of them are of that text.
#[must_use]
pub fn plant(text: &str, chosen: &[(u32, &Place)]) -> (String, Vec<Lies>) {
    let mut edits = Vec::new();
    for (which, (number, place)) in chosen.iter().enumerate() {
        let is_on = format!("raftwerk_frame::planted::is({number})");
        edits.extend(place.edits.iter().map(|edit| {
            // At one position inner ones close first, and outer ones open first.
            let (order, rank) = match edit.side {
                Side::Closes => (usize::MAX - place.at.start, u8::MAX - place.kind as u8),
                Side::Opens | Side::Replaces => (usize::MAX - place.at.end, place.kind as u8),
            };
            let key = (edit.at.start, edit.side, order, rank);
            (key, edit.at.clone(), edit.put.replace(IS_ON, &is_on), Some(which))
        }));
    }
    let keywords: BTreeSet<_> = chosen
        .iter()
        .filter_map(|(_, place)| place.constness.as_ref())
        .map(|at| (at.start, at.end))
        .collect();
    for (from, to) in keywords {
        edits.push(((from, Side::Replaces, 0, 0), from..to, String::new(), None));
    }
    edits.sort_by_key(|(key, ..)| *key);
    let (mut planted, mut done) = (String::with_capacity(text.len() * 2), 0);
    let mut lies: Vec<Option<Range<usize>>> = vec![None; chosen.len()];
    for (_, at, put, which) in edits {
        planted.push_str(&text[done..at.start]);
        let from = planted.len();
        planted.push_str(&put);
        done = at.end;
        if let Some(which) = which {
            let lie = lies[which].get_or_insert(from..from);
            lie.end = planted.len();
        }
    }
    planted.push_str(&text[done..]);
    let lies =
        chosen.iter().zip(lies).filter_map(|((number, _), at)| Some(Lies { number: *number, at: at? }));
    (planted, lies.collect())
}

#[cfg(test)]
mod tests {
    use super::super::places::find;
    use super::*;

    /// Everything that can be changed in a text, planted at once.
    fn all_planted(text: &str) -> String {
        let places = find("a.rs", text).unwrap();
        let chosen: Vec<(u32, &Place)> = (1..).zip(&places).collect();
        let (planted, lies) = plant(text, &chosen);
        assert_eq!(lies.len(), places.len());
        for lie in &lies {
            assert!(planted[lie.at.clone()].contains(&format!("is({})", lie.number)), "{planted}");
        }
        assert!(syn::parse_file(&planted).is_ok(), "{planted}");
        planted.replace("raftwerk_frame::planted::is", "is")
    }

    #[test]
    fn a_condition_and_the_comparisons_in_it_are_planted_one_within_the_other() {
        let left = "(match (&(a ), &( b)) { (l, r) => if is(4) { l <= r } else { l < r } })";
        let right = "(match (&(b ), &( 9)) { (l, r) => if is(5) { l <= r } else { l < r } })";
        let both = format!("(if is(3) ^ ({left} ) {{ {right}}} else {{ is(3) }})");
        assert_eq!(
            all_planted("fn f(a: u8, b: u8) { if a < b && b < 9 { g() } }"),
            format!("fn f(a: u8, b: u8) {{ if (is(2) ^ ({both})) {{ if !is(1) {{ g() }} }} }}")
        );
    }

    #[test]
    fn a_changed_function_is_const_no_longer() {
        assert_eq!(
            all_planted("const fn next(n: u8) -> u8 { n + 1 }\nconst fn same(n: u8) -> u8 { n }"),
            " fn next(n: u8) -> u8 { n + (if is(1) { 0 } else { 1 }) }\nconst fn same(n: u8) -> u8 { n }"
        );
    }

    #[test]
    fn characters_of_several_bytes_shift_nothing() {
        assert_eq!(
            all_planted("// ≤ and ≥\nfn f(n: u8) -> bool { n == 'ß' as u8 }"),
            "// ≤ and ≥\nfn f(n: u8) -> bool { (is(1) ^ (n == 'ß' as u8)) }"
        );
    }
}
