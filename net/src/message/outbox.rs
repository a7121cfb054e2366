//! The messages queued for one peer in one channel: any thread enqueues, the net thread dequeues.
//!
//! Bounded by bytes. Every message carries the epoch of the connection it was queued for, and is dropped if
//! it is dequeued in another one. What is not here: waking the net thread (`wake.rs`), coalescing messages
//! (`coalesce.rs`).
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_queue::SegQueue;
use crossbeam_utils::CachePadded;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::message::coalesce::Unit;
use crate::transport::{Parts, SendError};

/// The assumed overhead of a queued message, so that empty messages are bounded too.
const MESSAGE_OVERHEAD_BYTES: usize = 192;

/// A bounded queue of messages for one channel of one peer.
pub(crate) struct Outbox {
    queue: SegQueue<Queued>,
    /// Bytes waiting or being written, overhead included.
    bytes: CachePadded<AtomicUsize>,
    queue_bytes_max: usize,
    message_bytes_max: usize,
    /// Whether the outbox is on the net thread's list of outboxes with new messages.
    listed: AtomicBool,
    /// Notified on the net thread when the writer should check the queue.
    ready: Notify,
}

struct Queued {
    epoch: u64,
    length: usize,
    parts: Parts,
}

/// Bytes dequeued from an outbox that count as its own until they are written or dropped.
pub(crate) struct Charge<'a> {
    outbox: &'a Outbox,
    bytes: usize,
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.outbox.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Outbox {
    /// An empty outbox with limits in bytes.
    pub(crate) fn new(queue_bytes_max: usize, message_bytes_max: usize) -> Self {
        Self {
            queue: SegQueue::new(),
            bytes: CachePadded::new(AtomicUsize::new(0)),
            queue_bytes_max,
            message_bytes_max,
            listed: AtomicBool::new(false),
            ready: Notify::new(),
        }
    }

    /// Queues a message for the connection of an epoch. A message within its own limit always fits an empty
    /// queue.
    ///
    /// # Errors
    /// [`SendError::TooLarge`] or [`SendError::Full`]; the message is dropped.
    pub(crate) fn push(&self, epoch: u64, parts: Parts) -> Result<(), SendError> {
        let length = parts.iter().map(|part| part.len()).sum();
        if length > self.message_bytes_max {
            return Err(SendError::TooLarge);
        }
        let cost = length + MESSAGE_OVERHEAD_BYTES;
        let before = self.bytes.fetch_add(cost, Ordering::Relaxed);
        if before > 0 && before.saturating_add(cost) > self.queue_bytes_max {
            self.bytes.fetch_sub(cost, Ordering::Relaxed);
            return Err(SendError::Full);
        }
        self.queue.push(Queued { epoch, length, parts });
        Ok(())
    }

    /// Whether the caller must list the outbox with the net thread: true for the first message after it was
    /// last unlisted.
    pub(crate) fn needs_listing(&self) -> bool {
        !self.listed.load(Ordering::SeqCst) && !self.listed.swap(true, Ordering::SeqCst)
    }

    /// Unlists the outbox and wakes its writer. A message queued before this call is found by that wake-up;
    /// one queued after it lists the outbox again.
    pub(crate) fn unlist(&self) {
        self.listed.store(false, Ordering::SeqCst);
        self.ready.notify_one();
    }

    /// Ends when the writer should check the queue: at once if it was woken since the last call.
    pub(crate) fn ready(&self) -> Notified<'_> {
        self.ready.notified()
    }

    /// Moves messages of an epoch into `unit` until it is full or the queue is empty; `None` if there were
    /// none of it. Messages of other epochs are dropped and counted in `dropped`.
    pub(crate) fn fill(&self, epoch: u64, unit: &mut Unit, dropped: &mut u64) -> Option<Charge<'_>> {
        let mut charge = Charge { outbox: self, bytes: 0 };
        let mut message = self.queue.pop()?;
        unit.start(self.bytes.load(Ordering::Relaxed));
        loop {
            charge.bytes += message.length + MESSAGE_OVERHEAD_BYTES;
            if message.epoch == epoch {
                unit.push(message.length, message.parts);
            } else {
                *dropped += 1;
            }
            if unit.is_full() {
                break;
            }
            match self.queue.pop() {
                Some(next) => message = next,
                None => break,
            }
        }
        (unit.messages() > 0).then_some(charge)
    }

    /// Drops everything queued so far; returns how many messages that were.
    pub(crate) fn clear(&self) -> u64 {
        let mut dropped = 0;
        // Bounded by the present length, so that busy senders cannot hold the net thread here.
        for _ in 0..self.queue.len() {
            let Some(message) = self.queue.pop() else { break };
            self.bytes.fetch_sub(message.length + MESSAGE_OVERHEAD_BYTES, Ordering::Relaxed);
            dropped += 1;
        }
        dropped
    }

    #[cfg(test)]
    pub(crate) fn listed_for_test(&self) -> bool {
        self.listed.load(Ordering::SeqCst)
    }

    /// Bytes waiting or being written, overhead included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn message(length: usize) -> Parts {
        std::iter::once(Bytes::from(vec![0; length])).collect()
    }

    #[test]
    fn the_queue_is_bounded_by_bytes_and_by_count() {
        let outbox = Outbox::new(10_000, 5_000);
        assert_eq!(outbox.push(1, message(5_001)), Err(SendError::TooLarge));
        while outbox.push(1, message(1_000)).is_ok() {}
        assert!((9_000..=10_000).contains(&outbox.bytes()));
        outbox.clear();
        let mut empty = 0;
        while outbox.push(1, message(0)).is_ok() {
            empty += 1;
        }
        assert_eq!(empty, 10_000 / MESSAGE_OVERHEAD_BYTES);
        assert_eq!(outbox.clear(), empty as u64);
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn the_longest_message_fits_an_empty_queue() {
        let outbox = Outbox::new(5_000, 5_000);
        outbox.push(1, message(5_000)).unwrap();
        assert_eq!(outbox.push(1, message(0)), Err(SendError::Full));
    }

    #[test]
    fn room_comes_back_when_a_unit_is_written_or_given_up() {
        let outbox = Outbox::new(10_000, 5_000);
        outbox.push(1, message(5_000)).unwrap();
        let (mut unit, mut dropped) = (Unit::default(), 0);
        let charge = outbox.fill(1, &mut unit, &mut dropped).unwrap();
        assert_eq!(outbox.bytes(), 5_000 + MESSAGE_OVERHEAD_BYTES);
        drop(charge);
        assert_eq!(outbox.bytes(), 0);
        assert!(outbox.fill(1, &mut unit, &mut dropped).is_none());
    }

    #[test]
    fn messages_for_an_earlier_connection_are_dropped_by_the_next() {
        let outbox = Outbox::new(10_000, 5_000);
        outbox.push(1, message(10)).unwrap();
        outbox.push(2, message(20)).unwrap();
        let (mut unit, mut dropped) = (Unit::default(), 0);
        drop(outbox.fill(2, &mut unit, &mut dropped).unwrap());
        assert_eq!((unit.messages(), unit.bytes(), dropped), (1, 24, 1));
        assert_eq!(outbox.bytes(), 0);
        outbox.push(2, message(30)).unwrap();
        assert!(outbox.fill(3, &mut unit, &mut dropped).is_none(), "nothing to write");
        assert_eq!((dropped, outbox.bytes()), (2, 0));
    }
}
