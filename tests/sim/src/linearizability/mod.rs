//! Is there an order in which these concurrent calls could have happened one after the other?
//!
//! A history is linearizable if every call can be given one instant between being made and returning, such that the
//! results are those of calls made one at a time in that order (Herlihy & Wing, 1990). [`check`] searches for that order
//! by the method of Wing & Gong, with Lowe's memory of positions that led nowhere, key by key: a history is linearizable
//! if, and only if, the calls of each key have such an order.
//!
//! - [`Model`]: what the calls mean; [`Register`] and [`KeyValue`] are such.
//! - [`recording`]: histories that were written down by others, as text.
//!
//! What is not here: calls that touch several keys at once (nothing is split finer than by key, so a model may declare one
//! key for all of them), and weaker promises than linearizability.

mod key_value;
mod model;
pub mod recording;
mod register;
mod search;
#[cfg(test)]
mod tests;
mod visited;

use std::fmt::{self, Debug, Write as _};

pub use key_value::{KeyValue, KvInput, KvOutput};
pub use model::{Model, Step};
pub use register::{Register, RegisterInput, RegisterOutput};
use rustc_hash::FxHashMap;

/// One call, as its client saw it.
///
/// Times only need to be in order: numbers of events are best. Of two calls, one came first if it returned at a *smaller*
/// time than the other was made at; equal times say nothing, so a recorder that repeats times weakens the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<I, O> {
    /// The client that called. For readers of reports; the check does not use it.
    pub client: u32,
    /// When the call was made.
    pub called: u64,
    /// When it returned. `None`: it may take effect at any later time, or never.
    pub returned: Option<u64>,
    /// What was asked for.
    pub input: I,
    /// What was answered. `None`: unknown, so any answer will do.
    pub output: Option<O>,
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none.
    Violation(Violation),
    /// The steps allowed were not enough to tell.
    OutOfBudget,
}

impl Verdict {
    /// Whether an order was found.
    #[must_use]
    pub const fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable)
    }
}

/// Where a history stops being linearizable.
///
/// All calls on `key` that returned before the `stuck` one did have an order, `linearized` (with some of those that were
/// still running); no such order has room for the `stuck` call as well. Of calls that returned at one time, those that
/// stand first in the history count as having returned first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key of the calls without an order.
    pub key: Vec<u8>,
    /// An order of what went before, as positions in the history.
    pub linearized: Vec<usize>,
    /// The call that fits nowhere, as a position in the history.
    pub stuck: usize,
    /// What `linearized` leaves behind, in the model's words.
    pub state: String,
}

impl Violation {
    /// The counterexample in a few lines: the end of the order that was found, the state after it, the call that does not
    /// fit. `history` is the one that was checked.
    #[must_use]
    pub fn describe<I: Debug, O: Debug>(&self, history: &[Call<I, O>]) -> String {
        const SHOWN: usize = 12;
        let mut text = format!("key {:?} is not linearizable\n", Escaped(&self.key));
        let skipped = self.linearized.len().saturating_sub(SHOWN);
        if skipped > 0 {
            _ = writeln!(text, "  {skipped} calls, then");
        }
        for &at in &self.linearized[skipped..] {
            describe_call(&mut text, "", &history[at]);
        }
        _ = writeln!(text, "  leave {}", self.state);
        describe_call(&mut text, "does not fit: ", &history[self.stuck]);
        text
    }
}

fn describe_call<I: Debug, O: Debug>(text: &mut String, label: &str, call: &Call<I, O>) {
    _ = write!(text, "  {label}client {}, {}..", call.client, call.called);
    _ = match call.returned {
        Some(returned) => write!(text, "{returned}"),
        None => write!(text, "?"),
    };
    _ = write!(text, ": {:?}", call.input);
    _ = match &call.output {
        Some(output) => writeln!(text, " -> {output:?}"),
        None => writeln!(text, " -> unknown"),
    };
}

/// Bytes as text, with escapes where they are none.
struct Escaped<'a>(&'a [u8]);

impl Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// What every key may take in the first round, in steps, and how much more it is in each one after that.
const FIRST_SHARE: u64 = 4096;
const SHARE_GROWTH: u64 = 8;

/// Looks for an order of the calls of `history`, which may stand in any order in it.
///
/// `budget` bounds the steps of the model over all keys. A history that is linearizable takes about as many steps as it
/// has calls times those that run at once; finding that there is no order can take exponentially many. So the keys get
/// their steps in rounds: where one is hard and another is easily seen to have no order, that one ends the search. Takes
/// memory for at most one position a step: a bit for each of the key's calls, and a word.
///
/// # Panics
/// If a call returned before it was made, or there are 2³¹ calls.
pub fn check<M: Model>(model: &M, history: &[Call<M::Input, M::Output>], mut budget: u64) -> Verdict {
    assert!(history.len() < 1 << 31, "positions are numbers of 32 bits, and each call has two");
    let mut search = search::Search::new(model, history);
    let mut keys = by_key(model, history);
    let mut share = FIRST_SHARE;
    while !keys.is_empty() {
        if let [_] = keys[..] {
            share = budget;
        }
        let mut violation = None;
        keys.retain(|(key, calls)| {
            if violation.is_some() {
                return true;
            }
            let allowed = share.min(budget);
            let (outcome, left) = search.run(calls, allowed);
            budget -= allowed - left;
            if let search::Outcome::Stuck { linearized, stuck, state } = outcome {
                violation = Some(Violation { key: key.to_vec(), linearized, stuck, state });
                return true;
            }
            matches!(outcome, search::Outcome::OutOfBudget)
        });
        match violation {
            Some(violation) => return Verdict::Violation(violation),
            None if budget == 0 && !keys.is_empty() => return Verdict::OutOfBudget,
            None => share = share.saturating_mul(SHARE_GROWTH),
        }
    }
    Verdict::Linearizable
}

/// The positions of each key's calls; keys in the order in which they first appear.
fn by_key<'h, M: Model>(model: &M, history: &'h [Call<M::Input, M::Output>]) -> Vec<(&'h [u8], Vec<u32>)> {
    let mut keys: Vec<(&[u8], Vec<u32>)> = Vec::new();
    let mut slots: FxHashMap<&[u8], usize> = FxHashMap::default();
    for (at, call) in (0..).zip(history) {
        let key = model.key(&call.input);
        let slot = *slots.entry(key).or_insert_with(|| {
            keys.push((key, Vec::new()));
            keys.len() - 1
        });
        keys[slot].1.push(at);
    }
    keys
}
