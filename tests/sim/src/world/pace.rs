//! What differs from node to node and from life to life: settings, clocks, and how long turns take.
//!
//! A turn happens at one moment; what it costs is that the worker has no other before it is over. So what a turn leaves over is
//! done that much later. What is not here: what is drawn (`variety`).

use raftwerk::drive::Settings;

use super::World;
use crate::clock::Clock;
use crate::fault::{FaultKind, Strike};
use crate::variety::slow_turn;

/// What a turn costs at least where there is more to do at once.
const BUSY: u64 = 2_000;
const MILLION: u64 = 1_000_000;

impl World<'_> {
    /// The longest election timeout of all lives, in nanoseconds.
    pub(super) fn longest_timeout(&self) -> u64 {
        self.plan.variety.longest(self.plan.settings.election_timeout.as_nanos() as u64)
    }

    /// The settings of a life that begins.
    pub(super) fn settings_of_life(&mut self, at: usize) -> Settings {
        let life = self.nodes[at].life;
        let settings = self.plan.variety.settings(&self.plan.settings, at, life);
        self.nodes[at].timeout = settings.election_timeout.as_nanos() as u64;
        settings
    }

    /// The clock of a life that begins.
    pub(super) fn clock_of_life(&mut self, at: usize) -> Clock {
        let drift = self.plan.drift_ppm;
        let drift =
            if drift == 0 { 0 } else { self.chances.faults.below(2 * drift as u64 + 1) as i64 - drift };
        let base = self.chances.faults.below(1 << 40);
        let base = self.plan.variety.clock_begins(at, self.nodes[at].life).unwrap_or(base);
        Clock::new(self.now, base, drift)
    }

    /// What the turn costs that a worker has now: it is over then. And from when on the worker may have more to do.
    pub(super) fn spend_turn(&mut self, at: usize, worker: usize) -> u64 {
        let now = self.now;
        let node = &mut self.nodes[at];
        let (slow, until) = node.slow_turns;
        let usual = if until > now { slow } else { self.plan.variety.turn };
        if usual == 0 {
            return now + BUSY;
        }
        let cost = usual / 2 + self.chances.pace.below(usual);
        node.rounds[worker].free_at = now + cost;
        now + cost.max(BUSY)
    }

    /// Faults of time: turns that take long, segments that are long in the making, clocks at other rates, or none.
    pub(super) fn delay(&mut self, strike: &Strike) {
        let (now, until, drift) = (self.now, self.now + strike.span, self.plan.drift_ppm);
        let election = self.plan.settings.election_timeout.as_nanos() as u64;
        let node = &mut self.nodes[strike.node];
        match strike.kind {
            FaultKind::SlowTurns => node.slow_turns = (slow_turn(strike, election), until),
            FaultKind::SlowSegment => node.segments_until = until,
            FaultKind::ClockRate => {
                let rate = (strike.salt % (2 * drift.unsigned_abs() + 1)) as i64 - drift;
                node.clock.run_at(now, rate.clamp(1 - MILLION as i64, MILLION as i64));
                self.ring_all(strike.node);
            }
            FaultKind::ClockStop => {
                node.clock.stop(now, until);
                node.clock_still_until = until;
                if strike.salt.is_multiple_of(2) {
                    node.frozen_until = until;
                }
                self.ring_all(strike.node);
            }
            _ => {}
        }
    }

    /// All workers of a node look at the clock: what they waited for comes sooner now, or later.
    fn ring_all(&mut self, at: usize) {
        for worker in 0..self.nodes[at].rounds.len() {
            self.wake(at, worker);
        }
        self.tend(at);
    }

    /// Turns, segments and clocks are as they should be.
    pub(super) fn restore_pace(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        (node.slow_turns, node.segments_until) = ((0, 0), 0);
        node.clock.go_on(now);
        for rounds in &mut node.rounds {
            rounds.free_at = 0;
        }
    }
}
