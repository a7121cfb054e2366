//! Calls that are open: futures of the engine's own faces, polled when one of them has rung.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use raftwerk::kv::codec::{Found, Item, Swap};
use raftwerk::kv::{Scanner, Served, StoreError};
use raftwerk::{GroupId, Index, ProposeError, ReadError};

use super::onces::Turn;
use super::scans::Walk;
use super::stores::{Get, Pair, Write};
use super::{User, World};
use crate::watch::Checked;

/// What was called, and what its answer is judged by.
#[derive(Debug)]
pub(super) enum Asked {
    /// A put, a delete, or a compare-and-set of a key that many use.
    Write(Write),
    /// What such a key holds.
    Get(Get),
    /// A key that is set once, and stays.
    Add(Write),
    /// Two keys that are set together.
    Pair(Pair, u64),
    /// Both of them are read together.
    Both(Pair),
    /// The next page of a walk through all keys.
    Page(Box<Walk>),
    /// A write that is sent until it has an answer.
    Once(Turn),
    /// A client makes itself known.
    Register(GroupId),
}

/// What a call was answered, by what it was.
pub(super) enum Told {
    Version(Result<Index, StoreError>),
    Existed(Result<bool, StoreError>),
    Swapped(Result<Swap, StoreError>),
    Found(Result<Option<Found>, StoreError>),
    Served(Result<Served<Option<Found>>, StoreError>),
    Both(Result<Vec<Served<Option<Found>>>, StoreError>),
    Page(Box<Scanner>, Result<Option<Vec<Item>>, StoreError>),
    Known(Result<(), StoreError>),
}

/// An open call.
pub(super) struct Call {
    pub(super) node: usize,
    /// When it was made, in events.
    pub(super) called: u64,
    pub(super) asked: Asked,
    pub(super) answer: Pin<Box<dyn Future<Output = Told>>>,
}

impl World<'_> {
    /// A user calls, and goes on.
    pub(super) fn call_face(
        &mut self,
        user: &mut User,
        node: usize,
        asked: Asked,
        answer: impl Future<Output = Told> + 'static,
    ) {
        // A call that was made before it is polled may have its answer already.
        user.rung.0.store(true, Ordering::Relaxed);
        user.calls.push(Call { node, called: self.events, asked, answer: Box::pin(answer) });
    }

    /// Takes the answers that have come.
    pub(super) fn hear_calls(&mut self, user: &mut User) -> Checked {
        while user.rung.0.swap(false, Ordering::Relaxed) {
            let waker = Waker::from(Arc::clone(&user.rung));
            let mut cx = Context::from_waker(&waker);
            let mut at = 0;
            while let Some(call) = user.calls.get_mut(at) {
                let Poll::Ready(told) = call.answer.as_mut().poll(&mut cx) else {
                    at += 1;
                    continue;
                };
                let Call { node, called, asked, .. } = user.calls.swap_remove(at);
                self.count(42, called ^ node as u64);
                self.take_told(user, node, called, asked, told)?;
            }
        }
        Ok(())
    }

    fn take_told(&mut self, user: &mut User, node: usize, called: u64, asked: Asked, told: Told) -> Checked {
        match (asked, told) {
            (Asked::Write(write), told) => self.take_write(user, called, write, told),
            (Asked::Get(get), told) => self.take_found(user, called, get, told),
            (Asked::Add(write), Told::Version(told)) => self.take_added(user, write, told),
            (Asked::Pair(pair, number), Told::Version(told)) => self.take_pair(user, pair, number, told),
            (Asked::Both(pair), Told::Both(told)) => self.take_both(user, &pair, told),
            (Asked::Page(walk), Told::Page(scanner, told)) => {
                self.take_page(user, node, *walk, *scanner, told)
            }
            (Asked::Once(turn), told) => self.take_once(user, turn, told),
            (Asked::Register(group), Told::Known(told)) => self.take_registered(user, group, told),
            (asked, _) => unreachable!("{asked:?} has answers of another kind"),
        }
    }

    /// A node dies with a call at it.
    pub(super) fn lose_call(&mut self, user: &mut User, call: Call) {
        self.unknown += 1;
        match call.asked {
            Asked::Write(write) => self.faces.record.lost(write, call.called),
            Asked::Pair(pair, _) => self.faces.record.abandon(&pair),
            Asked::Once(turn) => user.slots[turn.slot].attempts -= 1,
            Asked::Register(group) => user.registering.retain(|other| *other != group),
            Asked::Add(_) | Asked::Get(_) | Asked::Both(_) | Asked::Page(_) => {}
        }
    }
}

/// What an error leaves.
pub(super) enum Ended {
    /// It certainly had no effect; the leader may be there.
    Refused(Option<usize>),
    Unknown,
    /// The group answered, and not to this call.
    Wrong,
}

pub(super) fn ended(error: &StoreError) -> Ended {
    match error {
        StoreError::Propose(ProposeError::Unknown) => Ended::Unknown,
        StoreError::Propose(ProposeError::NotLeader { hint })
        | StoreError::Read(ReadError::NotLeader { hint }) => {
            Ended::Refused(hint.map(|node| node.0 as usize - 1))
        }
        StoreError::Reply(_) => Ended::Wrong,
        _ => Ended::Refused(None),
    }
}
