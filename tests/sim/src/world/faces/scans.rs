//! Walks through all keys, page by page: what was there before must be seen, in order, each key once.

use std::time::Duration;

use bytes::Bytes;
use raftwerk::kv::codec::Item;
use raftwerk::kv::{Scanner, Served, Store, StoreError};
use raftwerk::{Consistency, GroupId, ReadOptions};

use super::calls::{Asked, Told};
use super::stores::number_of;
use super::{MARK, User, World};
use crate::watch::{Checked, Violation};

/// How long a page of any replica may wait.
const ELSEWHERE: Duration = Duration::from_secs(2);
/// After so many errors in a row a walk is given up.
const ERRORS_MAX: u32 = 8;
/// The most walks of one user at a time.
const WALKS_MAX: usize = 2;

/// A walk that is under way.
#[derive(Debug)]
pub(super) struct Walk {
    level: Consistency,
    /// How many of the keys that stay were there when it began.
    at_first: usize,
    /// How much of each pair was acknowledged when this page was asked for.
    acknowledged: Vec<u64>,
    last: Option<Bytes>,
    /// Keys that stay, as they were seen: in order.
    seen: Vec<Bytes>,
    /// The shard that is walked through, and the state that its first page was from.
    state: Option<Served<GroupId>>,
    /// The first half of a pair, and the state that it is from.
    half: Option<(GroupId, Item)>,
    errors: u32,
}

impl World<'_> {
    fn acknowledged(&self) -> Vec<u64> {
        self.faces.record.pairs.iter().map(|pair| pair.acknowledged).collect()
    }

    pub(super) fn begin_scan(&mut self, user: &mut User, store: &Store, node: usize) -> Checked {
        if user.calls.iter().filter(|call| matches!(call.asked, Asked::Page(_))).count() == WALKS_MAX {
            return Ok(());
        }
        let chance = &mut self.faces.chance;
        let level = chance.one_of(&[Consistency::Strong, Consistency::Strong, Consistency::ConsistentPrefix]);
        let (items, bytes) = (chance.one_of(&[1, 3, 10, 50, 1000]), chance.one_of(&[1, 64, 1 << 20]));
        let options = ReadOptions::new(level).or_wait(ELSEWHERE);
        let scanner =
            store.at(options).scan(&[MARK], Some(&[MARK + 1])).page_limits(items as u32, bytes as u32);
        let walk = Walk {
            level,
            at_first: self.faces.record.added.len(),
            acknowledged: self.acknowledged(),
            last: None,
            seen: Vec::new(),
            state: None,
            half: None,
            errors: 0,
        };
        self.ask_for_page(user, node, walk, scanner);
        Ok(())
    }

    fn ask_for_page(&mut self, user: &mut User, node: usize, walk: Walk, mut scanner: Scanner) {
        self.call_face(user, node, Asked::Page(Box::new(walk)), async move {
            let page = scanner.next_page().await;
            Told::Page(Box::new(scanner), page)
        });
    }

    pub(super) fn take_page(
        &mut self,
        user: &mut User,
        node: usize,
        mut walk: Walk,
        scanner: Scanner,
        told: Result<Option<Vec<Item>>, StoreError>,
    ) -> Checked {
        match told {
            Ok(Some(items)) => {
                self.answered += 1;
                let origin = scanner.origin().unwrap_or_default();
                check_state(&mut walk, origin)?;
                self.look_at_page(&mut walk, origin.value, &items)?;
                walk.acknowledged = self.acknowledged();
                walk.errors = 0;
            }
            Ok(None) => {
                self.answered += 1;
                return self.judge_walk(&walk);
            }
            Err(StoreError::Reply(error)) => {
                return Err(Violation::new("an answer is of its call", format!("{walk:?}: {error}")));
            }
            Err(_) => walk.errors += 1,
        }
        // One that is shut down refuses at once, for ever.
        if walk.errors < ERRORS_MAX && !self.is_ending {
            self.ask_for_page(user, node, walk, scanner);
        }
        Ok(())
    }

    fn look_at_page(&self, walk: &mut Walk, shard: GroupId, items: &[Item]) -> Checked {
        let wrong = |rule, walk: &Walk, item: &Item| {
            let what = format!("{:?} after {:?}, at {:?}: {:?}", item, walk.last, walk.level, walk.half);
            Err(Violation::new(rule, what))
        };
        if walk.level != Consistency::ConsistentPrefix {
            walk.half = None; // the pages of a shard are of different moments
        }
        for item in items {
            let is_within = item.key.first() == Some(&MARK) && self.faces.map.route(&item.key) == shard;
            if !is_within || walk.last.as_ref().is_some_and(|last| item.key <= last) {
                return wrong("a scan misses nothing", walk, item);
            }
            walk.last = Some(item.key.clone());
            match (item.key.get(2), item.key.get(3..)) {
                (Some(b's'), _) => walk.seen.push(item.key.clone()),
                (Some(b'p'), Some([_, 0])) => walk.half = Some((shard, item.clone())),
                (Some(b'p'), Some([pair, 1])) => {
                    let least = walk.acknowledged.get(usize::from(*pair)).copied().unwrap_or_default();
                    let least = if walk.level == Consistency::Strong { least } else { 0 };
                    if number_of(&item.value) < least {
                        return wrong("a scan misses nothing", walk, item);
                    }
                    // Where a page has both, they are of one write.
                    let torn = |(of, half): (GroupId, Item)| {
                        let is_its = of == shard && half.key[..4] == item.key[..4];
                        is_its && (half.value != item.value || half.version != item.version)
                    };
                    if walk.half.take().is_some_and(torn) {
                        return wrong("a page is of one moment", walk, item);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A walk is at its end: what was there before it began was seen.
    fn judge_walk(&self, walk: &Walk) -> Checked {
        if walk.level != Consistency::Strong {
            return Ok(());
        }
        let missed = self.faces.record.added[..walk.at_first]
            .iter()
            .find(|(key, _)| walk.seen.binary_search(key).is_err());
        missed.map_or(Ok(()), |(key, version)| {
            let what = format!("{key:?} has been there since {version}, and was not seen");
            Err(Violation::new("a scan misses nothing", what))
        })
    }
}

/// At a level that shows one state of each shard, all its pages are from that.
fn check_state(walk: &mut Walk, origin: Served<GroupId>) -> Checked {
    let before = walk.state.replace(origin).filter(|before| before.value == origin.value);
    if walk.level != Consistency::ConsistentPrefix || before.is_none_or(|before| before.index == origin.index)
    {
        return Ok(());
    }
    Err(Violation::new("a page is of one moment", format!("{before:?}, then {origin:?}: {walk:?}")))
}
