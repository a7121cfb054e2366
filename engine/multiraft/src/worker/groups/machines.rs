//! The embedder's state machines, as a worker makes and calls them: a panic in one is an error.
//!
//! What is not here: what becomes of the replica ([`super::quarantine`]).

use std::any::Any;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use raftwerk_frame::GroupId;

use crate::api::state_machine::{Checkpoint, Committed, Replies, StateMachine, StateMachines};

/// Most characters of a panic's message that are kept.
const WHAT_CHARS_MAX: usize = 300;

/// Runs an embedder's code; a panic becomes an error with the panic's message.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let message = panic.downcast_ref::<&str>().copied();
        let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let message = message.unwrap_or("a panic without words").chars().take(WHAT_CHARS_MAX).collect();
        give_up(panic);
        message
    })
}

/// Drops what a panic may have left half updated; a further panic while it is dropped is caught.
pub(crate) fn give_up<T>(broken: T) {
    let dropped = catch_unwind(AssertUnwindSafe(move || drop(broken)));
    // A payload that panics when it is dropped is leaked.
    std::mem::forget(dropped);
}

/// An image that another thread writes: a panic there becomes an error of the file.
pub(in crate::worker) fn guarded_image(image: Checkpoint) -> Checkpoint {
    Box::new(move |out| guarded(|| image(out)).unwrap_or_else(|what| Err(io::Error::other(what))))
}

/// Makes a new machine for a group.
pub(in crate::worker) fn new_machine(
    machines: &dyn StateMachines,
    group: GroupId,
) -> Result<Box<dyn StateMachine>, String> {
    guarded(|| machines.create(group))
}

/// Makes a new machine and restores it from an image.
pub(in crate::worker) fn restore_machine(
    machines: &dyn StateMachines,
    group: GroupId,
    image: &mut dyn Read,
) -> io::Result<Box<dyn Any + Send>> {
    let restored = guarded(|| {
        let mut machine = machines.create(group);
        machine.restore(image).map(|()| machine)
    });
    let machine = restored.unwrap_or_else(|what| Err(io::Error::other(what)))?;
    Ok(Box::new(machine))
}

/// The result of [`restore_machine`], back from the background thread.
pub(in crate::worker) fn as_machine(machine: Box<dyn Any + Send>) -> Box<dyn StateMachine> {
    let machine: Result<Box<Box<dyn StateMachine>>, _> = machine.downcast();
    *machine.unwrap_or_else(|_| unreachable!("restore_machine makes a machine"))
}

/// The outcome of an attempt to [`restore_machine`].
pub(in crate::worker) fn as_restored(attempt: Box<dyn Any + Send>) -> Result<Box<dyn StateMachine>, String> {
    let attempt: Result<Box<io::Result<Box<dyn Any + Send>>>, _> = attempt.downcast();
    let attempt = *attempt.unwrap_or_else(|_| unreachable!("it is told what became of the attempt"));
    attempt.map(as_machine).map_err(|error| error.to_string())
}

/// Splits the result of making a machine: a placeholder stands in for a machine that could not be made,
/// beside the reason.
pub(in crate::worker) fn split(
    made: Option<Result<Box<dyn StateMachine>, String>>,
) -> (Option<Box<dyn StateMachine>>, Option<String>) {
    match made {
        None => (None, None),
        Some(Ok(machine)) => (Some(machine), None),
        Some(Err(what)) => (Some(Box::new(Broken)), Some(what)),
    }
}

/// A placeholder for a lost machine. It is never called: a replica in quarantine applies nothing and answers
/// no read.
pub(in crate::worker) struct Broken;

impl StateMachine for Broken {
    fn apply(&mut self, _: Committed<'_>, _: &mut Replies) {}

    fn query(&self, _: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn checkpoint(&self) -> Checkpoint {
        Box::new(|_| Err(io::Error::other("the machine is broken")))
    }

    fn restore(&mut self, _: &mut dyn Read) -> io::Result<()> {
        Err(io::Error::other("the machine is broken"))
    }
}
