//! Activities beside the clients and faults of a run: each kind has a file of its own, and all share one kind of event and one
//! struct for their state.

use super::crowds::Gathered;
use super::hostile::Forged;
use super::shipping::Shipping;
use super::shrinking::Shrinking;
use super::slipping::Slip;
use super::standing::Stand;
use super::{Event, World};
use crate::watch::Checked;

/// Which of them is due.
#[derive(Clone, Copy, Debug)]
pub(super) enum Aside {
    /// Some of a crowd of readers come: which crowd, and for the how manieth time.
    Crowd { crowd: u16, round: u32 },
    /// A group is on its way to its last voter.
    Shrink,
    /// An operator looks after a replica that was dropped by mistake.
    Slip,
    /// Some clients register that will make no call, and so many are still to come.
    Strangers { left: u32 },
    /// An operator looks after replicas with machines that have panicked.
    Revive,
    /// The world looks whether groups go on.
    Look,
}

/// What they remember.
#[derive(Default)]
pub(super) struct Asides {
    pub(super) shrinking: Option<Shrinking>,
    pub(super) slip: Option<Slip>,
    pub(super) gathered: Gathered,
    /// By group.
    pub(super) stands: Vec<Stand>,
    pub(super) shipping: Shipping,
    pub(super) forged: Option<Forged>,
}

impl World<'_> {
    pub(super) fn begin_asides(&mut self) {
        if self.plan.end > 0 && self.plan.quic.is_none() {
            self.aside(0, Aside::Look);
        }
        if let Some(strangers) = self.plan.strangers.filter(|_| self.subject.remembers_clients()) {
            self.aside(strangers.at, Aside::Strangers { left: strangers.count });
        }
        for crowd in 0..self.plan.crowds.len() {
            self.aside(self.plan.crowds[crowd].at, Aside::Crowd { crowd: crowd as u16, round: 0 });
        }
    }

    /// Puts one of them into the future.
    pub(super) fn aside(&mut self, at: u64, what: Aside) {
        self.at(at, Event::Aside { what });
    }

    pub(super) fn go_aside(&mut self, what: Aside) -> Checked {
        match what {
            Aside::Crowd { crowd, round } => self.gather(crowd, round)?,
            Aside::Shrink => self.follow_shrinking(),
            Aside::Slip => self.follow_slip(),
            Aside::Strangers { left } => self.register_strangers(left),
            Aside::Revive => self.revive_machines(),
            Aside::Look => self.look_around()?,
        }
        Ok(())
    }

    /// Hands out what a node has answered to the callers that wait beside its clients.
    pub(super) fn answer_asides(&mut self, node: usize) -> Checked {
        if self.nodes[node].doorbell.has_rung() {
            self.answer_receivers(node);
            self.answer_patients(node)?;
        }
        Ok(())
    }

    /// A node dies with all calls that wait for it.
    pub(super) fn lose_asides(&mut self, node: usize) {
        self.nodes[node].patients.clear();
        self.asides.shipping.retain(|(from, to, _), _| *from != node && *to != node);
    }
}
