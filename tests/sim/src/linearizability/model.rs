//! What calls mean: the sequential specification that a history is held against. Implemented by
//! [`Register`](super::Register) and [`KeyValue`](super::KeyValue); used by the search.

use std::fmt::Debug;
use std::hash::Hash;

/// What calls do when they are made one at a time.
pub trait Model {
    /// What one key holds. Cloned, compared and hashed for every change: make it small, or shared.
    type State: Clone + Eq + Hash + Debug;
    /// What is asked for.
    type Input: PartialEq;
    /// What is answered.
    type Output;

    /// What every key holds before the first call.
    fn initial(&self) -> Self::State;

    /// The key that a call touches. Calls on different keys must not influence each other; a model without keys gives
    /// the same one always.
    fn key<'i>(&self, input: &'i Self::Input) -> &'i [u8];

    /// Whether a call that gave this answer leaves *every* state as it is in which it may give it. Such calls are placed as
    /// early as they fit, for good; `false` is always right, and slower.
    fn only_observes(&self, input: &Self::Input, output: Option<&Self::Output>) -> bool;

    /// Makes a call in `state`: what it changes, or that it could not have given `output` there. `None` is any output.
    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
    ) -> Step<Self::State>;
}

/// What a call did to a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<S> {
    /// In this state it would have answered something else.
    Illegal,
    /// The state stays as it is. Saying so is cheaper than an equal state, and must not be left out.
    Unchanged,
    /// The state becomes this one.
    Next(S),
}

impl<S: PartialEq> Step<S> {
    /// The step from `state` to `next`, which may be equal.
    pub fn between(state: &S, next: S) -> Self {
        if *state == next { Self::Unchanged } else { Self::Next(next) }
    }
}
