//! Crowds of readers: many at once at one replica, with large queries, some of them with a deadline far away.
//!
//! | rule | what |
//! |---|---|
//! | `answers its own query` | an answer proves which query was read: it is the reader's own |
//! | `reads see what is committed` | and it is of a state that the reader may be shown |
//! | `waits its time` | a read that may wait is not refused for what it waits for before its time is over |
//!
//! Queries are such as no machine sees: what they are answered with is their own hash (`ledger`). So an answer to another query is
//! one that cannot be mistaken. How much a worker holds for waiting calls is bounded: `watch/load.rs`. What is not here: what
//! answers may show at each level (`readers`).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use raftwerk::{Call, Consistency, GroupId, Index, ReadAnswer, ReadError, ReadOptions, Session};

use super::asides::Aside;
use super::{World, group_id};
use crate::ledger::{ECHO, echo};
use crate::plan::Crowd;
use crate::watch::{Checked, Violation};

/// What one that has all the patience in the world waits for: so many entries more than there are.
const FAR: u64 = 1 << 40;
/// Of readers that come together, the first one is so patient.
const PATIENT_ROUNDS: u32 = 8;
/// So many wait at one node; what becomes of others is not followed.
const PATIENTS_MAX: usize = 2048;

/// A reader that waits.
pub(crate) struct Patient {
    group: GroupId,
    /// What its answer has to be.
    echo: Bytes,
    /// What its answer has to have seen.
    wanted: u64,
    called: u64,
    wait: u64,
    read: Call<ReadAnswer, ReadError>,
}

/// What came of crowds so far.
#[derive(Default)]
pub(super) struct Gathered {
    /// Readers that were answered.
    pub(super) answered: u64,
}

impl World<'_> {
    /// Some more come.
    pub(super) fn gather(&mut self, crowd: u16, round: u32) -> Checked {
        let plan = self.plan.crowds[usize::from(crowd)];
        if self.is_ending || round >= plan.rounds {
            return Ok(());
        }
        self.count(17, u64::from(crowd) << 32 | u64::from(round));
        self.aside(self.now + plan.gap, Aside::Crowd { crowd, round: round + 1 });
        let group = (plan.group % self.plan.groups as u64) as usize;
        let places = self.places(group);
        let node = places[(plan.place % places.len() as u64) as usize];
        if !self.nodes[node].is_reachable() || self.nodes[node].is_wiped {
            return Ok(());
        }
        for number in 0..plan.count {
            let is_far = plan.is_flood || number == 0 && round.is_multiple_of(PATIENT_ROUNDS);
            self.come(&plan, group, node, number, is_far)?;
        }
        self.answer_bells(node);
        Ok(())
    }

    /// One reader comes.
    pub(super) fn come(
        &mut self,
        plan: &Crowd,
        group: usize,
        node: usize,
        number: u32,
        is_far: bool,
    ) -> Checked {
        self.unique += 1;
        let (id, unique) = (group_id(group), self.unique);
        let committed = self.watch.committed(id);
        let mut query = [ECHO, &unique.to_le_bytes()].concat();
        query.resize(plan.bytes.max(query.len()), unique as u8);
        let query = Bytes::from(query);
        let echo = echo(&query).unwrap_or_default();
        // Far ahead, what comes next, or what is there.
        let (level, wanted) = match number % 4 {
            _ if is_far => (Consistency::Monotonic, committed + FAR),
            0 => (Consistency::Strong, committed),
            1 => (Consistency::Monotonic, committed),
            _ => (Consistency::Monotonic, committed + 1 + u64::from(number) % 3),
        };
        let session = Session::new();
        session.saw(id, Index(wanted));
        let options = ReadOptions::new(level).in_session(&session).or_wait(Duration::from_nanos(plan.wait));
        let of = &mut self.nodes[node];
        let Some(body) = &of.body else { return Ok(()) };
        let read = body.group(id).query(query, options);
        if plan.is_flood || of.patients.len() >= PATIENTS_MAX {
            return Ok(());
        }
        let (called, wait) = (self.now, plan.wait);
        let mut patient = Patient { group: id, echo, wanted, called, wait, read };
        let waker = of.doorbell.waker().clone();
        match Pin::new(&mut patient.read).poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => self.nodes[node].patients.push(patient),
            Poll::Ready(outcome) => self.judge_patient(node, &patient, outcome)?,
        }
        Ok(())
    }

    /// Hands out what a node has answered.
    pub(super) fn answer_patients(&mut self, node: usize) -> Checked {
        let waker = self.nodes[node].doorbell.waker().clone();
        let (mut patients, mut at) = (std::mem::take(&mut self.nodes[node].patients), 0);
        while let Some(patient) = patients.get_mut(at) {
            match Pin::new(&mut patient.read).poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => at += 1,
                Poll::Ready(outcome) => {
                    let patient = patients.swap_remove(at);
                    self.judge_patient(node, &patient, outcome)?;
                }
            }
        }
        self.nodes[node].patients = patients;
        Ok(())
    }

    fn judge_patient(
        &mut self,
        node: usize,
        patient: &Patient,
        outcome: Result<ReadAnswer, ReadError>,
    ) -> Checked {
        let whose = format_args!("{} read at n{}", patient.group, node + 1).to_string();
        let answer = match outcome {
            Ok(answer) => answer,
            Err(ReadError::Behind { .. }) if !self.has_waited(node, patient) => {
                let waited = (self.now - patient.called) / 1_000_000;
                let what = format!("{whose}: refused after {waited} of {} ms", patient.wait / 1_000_000);
                return Err(Violation::new("waits its time", what));
            }
            Err(_) => return Ok(()),
        };
        self.asides.gathered.answered += 1;
        if answer.reply != patient.echo {
            let what = format!("{whose}: the answer at {} is to another query", answer.index);
            return Err(Violation::new("answers its own query", what));
        }
        if answer.index.0 < patient.wanted {
            let what = format!("{whose}: at {}, and {} was to be seen", answer.index, patient.wanted);
            return Err(Violation::new("reads see what is committed", what));
        }
        Ok(())
    }

    /// Whether the time is over for which a read was to wait, if it may wait at all, by a clock that gains, or leaps.
    fn has_waited(&self, node: usize, patient: &Patient) -> bool {
        let worker = |body: &raftwerk::drive::Node<_>| body.load(body.worker_of(patient.group)).is_poisoned;
        if self.nodes[node].body.as_ref().is_none_or(worker) {
            return true; // a log that has failed lets no call wait
        }
        let gain = u128::from(self.plan.drift_ppm.unsigned_abs() + 1_000);
        let least = u128::from(patient.wait) * 1_000_000 / (1_000_000 + gain);
        let leaps = self.plan.strikes.iter().any(|strike| strike.kind == crate::fault::FaultKind::ClockLeap);
        leaps || u128::from(self.now - patient.called) + 1_000_000 >= least
    }
}
