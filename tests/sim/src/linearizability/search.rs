//! The search for an order of one key's calls.
//!
//! The calls' beginnings and ends stand in a list, by time. A *candidate* is a call with its beginning before the first
//! end in the list: it may be next. Taking it strikes its beginning and end from the list. When no candidate is left to
//! try, the call that ends first has no place, and the search takes back its latest choice. A *position* is the set of calls
//! taken and the state they left; one that was entered before led nowhere and is left at once (Lowe, "Testing for
//! linearizability", 2017).
//!
//! Three observations keep it short. Each removes choices, never all choices that lead to an order:
//! 1. A candidate that only observes, and saw what is there, can be taken on the spot, and need not be taken back alone:
//!    in any order that has it later it may be moved to here. (A write of what is there already may not: later, it could
//!    change something.)
//! 2. A call that may never have happened is only worth taking where it changes the state.
//! 3. Of two such calls that ask for the same, with neither answer known, the one made first is taken first: from the moment
//!    when both are candidates they are interchangeable.
//!
//! What is not here: keys; the caller splits the history.

use rustc_hash::FxHashMap;

use super::visited::Visited;
use super::{Call, Model, Step};

/// The ends of the list of events: before the first and after the last.
const END: u32 = 0;
/// No such event, no such call.
const NONE: u32 = u32::MAX;

/// How a search ended.
pub(super) enum Outcome {
    Ordered,
    Stuck { linearized: Vec<usize>, stuck: usize, state: String },
    OutOfBudget,
}

/// A call's beginning or end, in the list of what is still to be taken.
#[derive(Clone, Copy, Debug)]
struct Event {
    call: u32,
    is_return: bool,
    next: u32,
    prev: u32,
}

/// Where a call stands in the list, and what observation 3 needs to know.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The call's position in the history.
    at: u32,
    called: u32,
    /// `NONE`: it may never have happened.
    returned: u32,
    /// The call that must be taken before this one, being its equal.
    twin: u32,
    only_observes: bool,
}

/// A call that was taken.
#[derive(Clone, Copy, Debug)]
struct Taken {
    call: u32,
    state_before: u32,
    /// Observation 1: there is no other choice in its stead.
    is_free: bool,
}

/// The work space of a search; reused from key to key.
pub(super) struct Search<'h, M: Model> {
    model: &'h M,
    history: &'h [Call<M::Input, M::Output>],
    /// How many steps are left.
    budget: u64,
    events: Vec<Event>,
    places: Vec<Place>,
    /// Which calls are taken, as bits, and after them the number of the state.
    position: Vec<u64>,
    order: Vec<Taken>,
    visited: Visited,
    states: Vec<M::State>,
    state_numbers: FxHashMap<M::State, u32>,
    /// How many calls that did happen are not taken.
    left: u32,
    /// The latest end that the search got stuck at, and the order it had then.
    stuck: u32,
    longest: Vec<Taken>,
    longest_state: u32,
}

impl<'h, M: Model> Search<'h, M> {
    pub(super) fn new(model: &'h M, history: &'h [Call<M::Input, M::Output>]) -> Self {
        Self {
            model,
            history,
            budget: 0,
            events: Vec::new(),
            places: Vec::new(),
            position: Vec::new(),
            order: Vec::new(),
            visited: Visited::default(),
            states: Vec::new(),
            state_numbers: FxHashMap::default(),
            left: 0,
            stuck: END,
            longest: Vec::new(),
            longest_state: 0,
        }
    }

    /// Looks for an order of these calls, which are on one key, in `budget` steps; also gives how many of them are left.
    pub(super) fn run(&mut self, calls: &[u32], budget: u64) -> (Outcome, u64) {
        self.set_up(calls);
        self.budget = budget;
        let outcome = self.find_order().unwrap_or(Outcome::OutOfBudget);
        (outcome, self.budget)
    }

    fn find_order(&mut self) -> Result<Outcome, OutOfBudget> {
        // The candidate to go on with; `None`: the position was just entered.
        let mut resume = None;
        while self.left > 0 {
            let choice = match resume {
                Some(event) => self.choose(event)?,
                None => match self.free_candidate()? {
                    Some(call) => {
                        self.take(call, self.state(), true);
                        continue;
                    }
                    None if self.visited.insert(&self.position) => self.choose(self.events[0].next)?,
                    None => None,
                },
            };
            if let Some((call, state)) = choice {
                self.take(call, state, false);
                resume = None;
            } else if let Some(call) = self.take_back() {
                resume = Some(self.events[self.places[call as usize].called as usize].next);
            } else {
                return Ok(self.explain());
            }
        }
        Ok(Outcome::Ordered)
    }

    fn set_up(&mut self, calls: &[u32]) {
        let history = self.history;
        self.places.clear();
        self.places.extend(calls.iter().map(|&at| {
            let Call { input, output, .. } = &history[at as usize];
            let only_observes = self.model.only_observes(input, output.as_ref());
            Place { at, called: NONE, returned: NONE, twin: NONE, only_observes }
        }));
        // At equal times beginnings come first, so that the calls overlap.
        let mut times: Vec<(u64, bool, u32)> = Vec::with_capacity(calls.len() * 2);
        for (call, &at) in (0..).zip(calls) {
            let Call { called, returned, .. } = history[at as usize];
            times.push((called, false, call));
            if let Some(returned) = returned {
                assert!(called <= returned, "a call returned before it was made");
                times.push((returned, true, call));
            }
        }
        times.sort_unstable();
        self.left = (times.len() - calls.len()) as u32;
        self.link(&times);
        self.name_twins(&times);
        self.states.clear();
        self.state_numbers.clear();
        let words = calls.len().div_ceil(64);
        self.position.clear();
        self.position.resize(words + 1, 0);
        let initial = self.number_of(self.model.initial());
        self.enter_state(initial);
        self.visited.reset(words + 1);
        self.order.clear();
        self.longest.clear();
        self.stuck = END;
    }

    fn link(&mut self, times: &[(u64, bool, u32)]) {
        let count = times.len() as u32;
        self.events.clear();
        self.events.push(Event { call: NONE, is_return: false, next: 1.min(count), prev: count });
        for (number, &(_, is_return, call)) in (1..).zip(times) {
            let next = if number == count { END } else { number + 1 };
            self.events.push(Event { call, is_return, next, prev: number - 1 });
            let place = &mut self.places[call as usize];
            *(if is_return { &mut place.returned } else { &mut place.called }) = number;
        }
    }

    /// Observation 3. Quadratic in the calls that may never have happened, which are few.
    fn name_twins(&mut self, times: &[(u64, bool, u32)]) {
        let mut loose: Vec<u32> = Vec::new();
        for &(_, is_return, call) in times {
            let Place { at, returned, .. } = self.places[call as usize];
            let made = &self.history[at as usize];
            if is_return || returned != NONE || made.output.is_some() {
                continue;
            }
            let equal =
                |other: &&u32| self.history[self.places[**other as usize].at as usize].input == made.input;
            if let Some(&twin) = loose.iter().rev().find(equal) {
                self.places[call as usize].twin = twin;
            }
            loose.push(call);
        }
    }

    /// A candidate that must happen and only observes what is there.
    fn free_candidate(&mut self) -> Result<Option<u32>, OutOfBudget> {
        let mut at = self.events[0].next;
        while at != END && !self.events[at as usize].is_return {
            let Event { call, next, .. } = self.events[at as usize];
            let Place { returned, only_observes, .. } = self.places[call as usize];
            if returned != NONE && only_observes && matches!(self.step(call)?, Step::Unchanged) {
                return Ok(Some(call));
            }
            at = next;
        }
        Ok(None)
    }

    /// The first candidate from `event` on that can be next, and the state it leaves.
    fn choose(&mut self, event: u32) -> Result<Option<(u32, u32)>, OutOfBudget> {
        let mut at = event;
        while at != END {
            let Event { call, is_return, next, .. } = self.events[at as usize];
            if is_return {
                self.note_stuck(at);
                return Ok(None);
            }
            let Place { returned, twin, only_observes, .. } = self.places[call as usize];
            at = next;
            if only_observes || twin != NONE && !self.is_taken(twin) {
                continue;
            }
            match self.step(call)? {
                Step::Next(state) => return Ok(Some((call, self.number_of(state)))),
                Step::Unchanged if returned != NONE => return Ok(Some((call, self.state()))),
                Step::Unchanged | Step::Illegal => {}
            }
        }
        Ok(None)
    }

    fn step(&mut self, call: u32) -> Result<Step<M::State>, OutOfBudget> {
        self.budget = self.budget.checked_sub(1).ok_or(OutOfBudget)?;
        let call = &self.history[self.places[call as usize].at as usize];
        let state = &self.states[self.state() as usize];
        Ok(self.model.step(state, &call.input, call.output.as_ref()))
    }

    /// What a violation will be explained with: the end that comes latest, since all that ended before it has an order.
    fn note_stuck(&mut self, event: u32) {
        if event > self.stuck {
            self.stuck = event;
            self.longest.clone_from(&self.order);
            self.longest_state = self.state();
        }
    }

    fn take(&mut self, call: u32, state: u32, is_free: bool) {
        self.order.push(Taken { call, state_before: self.state(), is_free });
        self.position[call as usize / 64] |= 1 << (call % 64);
        self.enter_state(state);
        let Place { called, returned, .. } = self.places[call as usize];
        self.strike(called);
        if returned != NONE {
            self.strike(returned);
            self.left -= 1;
        }
    }

    /// Takes back the latest choice, and everything that was taken for free after it.
    fn take_back(&mut self) -> Option<u32> {
        while let Some(Taken { call, state_before, is_free }) = self.order.pop() {
            let Place { called, returned, .. } = self.places[call as usize];
            // In the reverse order of striking, so that the neighbours are those of then.
            if returned != NONE {
                self.restore(returned);
                self.left += 1;
            }
            self.restore(called);
            self.position[call as usize / 64] &= !(1 << (call % 64));
            self.enter_state(state_before);
            if !is_free {
                return Some(call);
            }
        }
        None
    }

    fn strike(&mut self, event: u32) {
        let Event { next, prev, .. } = self.events[event as usize];
        self.events[prev as usize].next = next;
        self.events[next as usize].prev = prev;
    }

    fn restore(&mut self, event: u32) {
        let Event { next, prev, .. } = self.events[event as usize];
        self.events[prev as usize].next = event;
        self.events[next as usize].prev = event;
    }

    fn is_taken(&self, call: u32) -> bool {
        self.position[call as usize / 64] >> (call % 64) & 1 == 1
    }

    fn state(&self) -> u32 {
        self.position[self.position.len() - 1] as u32
    }

    fn enter_state(&mut self, state: u32) {
        let last = self.position.len() - 1;
        self.position[last] = u64::from(state);
    }

    fn number_of(&mut self, state: M::State) -> u32 {
        if let Some(&number) = self.state_numbers.get(&state) {
            return number;
        }
        let number = self.states.len() as u32;
        self.states.push(state.clone());
        self.state_numbers.insert(state, number);
        number
    }

    fn explain(&self) -> Outcome {
        let at = |call: u32| self.places[call as usize].at as usize;
        Outcome::Stuck {
            linearized: self.longest.iter().map(|taken| at(taken.call)).collect(),
            stuck: at(self.events[self.stuck as usize].call),
            state: format!("{:?}", self.states[self.longest_state as usize]),
        }
    }
}

/// No step is left.
struct OutOfBudget;
