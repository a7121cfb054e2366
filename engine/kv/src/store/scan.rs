//! Scans of a key range across shards, a page at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raftwerk_frame::GroupId;

use super::served::{HeldOptions, Served};
use super::{Store, StoreError};
use crate::codec::{self, Item, Page, Scan};
use crate::machine::{PAGE_BYTES_MAX, PAGE_ITEMS_MAX};
use crate::shard_map::ShardMap;
use raftwerk_multiraft::{Call, Consistency, FrozenState, ReadAnswer, ReadError};

/// The position of a scan: pure, so that it can be tested without groups.
#[derive(Clone, Debug)]
struct Walk {
    /// The beginning of the next page; `None`: the scan is complete.
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
}

impl Walk {
    fn new(from: &[u8], to: Option<&[u8]>) -> Self {
        let empty = to.is_some_and(|to| to <= from);
        Self { from: (!empty).then(|| from.to_vec()), to: to.map(<[u8]>::to_vec) }
    }

    /// Advances past a page: to just after its last item, or to the next shard.
    fn advance(&mut self, map: &ShardMap, page: &Page) {
        let Some(from) = &self.from else { return };
        let next = match page.items.last() {
            Some(last) if page.more => Some([&last.key[..], &[0]].concat()),
            _ => map.shard_of(from).end.map(<[u8]>::to_vec),
        };
        self.from = next.filter(|next| self.to.as_ref().is_none_or(|to| next < to));
    }
}

/// Scans a range of keys. Each page comes from one shard, at the level of [`Store::at`]; between pages no
/// state is held, except a shard's at [`ConsistentPrefix`](Consistency::ConsistentPrefix).
///
/// After an error the same page can be requested again.
#[derive(Debug)]
#[must_use = "a scanner does nothing until a page is asked for"]
pub struct Scanner(Arc<Mutex<Progress>>);

/// How far a scan has come.
#[derive(Clone, Debug)]
struct Progress {
    store: Store,
    options: HeldOptions,
    walk: Walk,
    /// The shard's state that all its pages are from, at a level that requires one state.
    frozen: Option<(GroupId, FrozenState)>,
    /// The origin of the last page.
    origin: Option<Served<GroupId>>,
    /// Calls that were over.
    pages: u64,
    items_max: u32,
    bytes_max: u32,
}

impl Clone for Scanner {
    /// Another scan that continues where this one is.
    fn clone(&self) -> Self {
        Self(Arc::new(Mutex::new(self.held().clone())))
    }
}

impl Scanner {
    pub(super) fn new(store: Store, options: HeldOptions, from: &[u8], to: Option<&[u8]>) -> Self {
        let (items_max, bytes_max) = (PAGE_ITEMS_MAX, PAGE_BYTES_MAX);
        let walk = Walk::new(from, to);
        let (frozen, origin, pages) = (None, None, 0);
        let progress = Progress { store, options, walk, frozen, origin, pages, items_max, bytes_max };
        Self(Arc::new(Mutex::new(progress)))
    }

    /// The shard of the last page, and the state that it was read from.
    #[must_use]
    pub fn origin(&self) -> Option<Served<GroupId>> {
        self.held().origin
    }

    /// Bounds the following pages: to `items_max` items (0 counts as 1), and `bytes_max` bytes of keys and
    /// values unless a single item has more. The machine's own limits apply as well.
    pub fn page_limits(self, items_max: u32, bytes_max: u32) -> Self {
        let mut progress = self.held();
        progress.items_max = items_max.max(1);
        progress.bytes_max = bytes_max;
        drop(progress);
        self
    }

    /// The next items; never empty; `None` at the end of the range. Queries as many shards as needed, from the
    /// first poll on. The scanner advances when the call completes; a second call begun before that has the
    /// same page.
    ///
    /// # Errors
    /// [`StoreError`]; no item is skipped by another call.
    pub fn next_page(&mut self) -> Call<Option<Vec<Item>>, StoreError> {
        let mut progress = self.held().clone();
        let scan = Arc::clone(&self.0);
        let page = async move {
            let pages = progress.pages;
            let items = progress.next_page().await;
            progress.pages += 1;
            // After an error, too: shards that had nothing are not asked again.
            let mut held = held(&scan);
            if held.pages == pages {
                *held = progress;
            }
            items
        };
        Call::staged(page, || ReadError::Closed.into())
    }

    fn held(&self) -> MutexGuard<'_, Progress> {
        held(&self.0)
    }
}

fn held(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    async fn next_page(&mut self) -> Result<Option<Vec<Item>>, StoreError> {
        while let Some(group) = self.group() {
            let answer = self.answer(group).await?;
            if let Some(items) = self.take(group, &answer)? {
                return Ok(Some(items));
            }
        }
        Ok(None)
    }

    /// The group of the next page.
    fn group(&self) -> Option<GroupId> {
        self.walk.from.as_deref().map(|from| self.store.shard_map().route(from))
    }

    /// The next page's answer: of the shard's live state, or at a level that requires one state for all pages
    /// of a shard, of a frozen one.
    async fn answer(&mut self, group: GroupId) -> Result<ReadAnswer, ReadError> {
        let query = self.query();
        if self.options.options().consistency != Consistency::ConsistentPrefix {
            return self.store.shards.groups[&group].query(query, self.options.options()).await;
        }
        if self.frozen.as_ref().is_none_or(|(of, _)| *of != group) {
            let freezing = self.store.shards.groups[&group].freeze(self.options.options());
            self.frozen = Some((group, freezing.await?));
        }
        let (_, state) = self.frozen.as_ref().expect("was just set");
        Ok(state.query(&query))
    }

    fn query(&self) -> Vec<u8> {
        let from = self.walk.from.as_deref().unwrap_or_default();
        // The shard's own end need not be given: its group holds no keys beyond.
        let (items_max, bytes_max) = (self.items_max, self.bytes_max);
        let scan = Scan { from, to: self.walk.to.as_deref(), items_max, bytes_max };
        let mut query = Vec::with_capacity(32 + from.len());
        codec::scan(&mut query, &scan);
        query
    }

    fn take(&mut self, group: GroupId, answer: &ReadAnswer) -> Result<Option<Vec<Item>>, StoreError> {
        let page = codec::page(&answer.reply)?;
        self.origin = Some(Served { value: group, index: answer.index, staleness: answer.staleness });
        self.walk.advance(&self.store.shards.map, &page);
        if self.group() != Some(group) {
            self.frozen = None;
        }
        Ok((!page.items.is_empty()).then_some(page.items))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raftwerk_frame::Index;

    use super::*;

    fn page(keys: &[&'static [u8]], more: bool) -> Page {
        let item = |key: &&'static [u8]| Item {
            key: Bytes::from_static(key),
            value: Bytes::new(),
            version: Index(1),
        };
        Page { items: keys.iter().map(item).collect(), more }
    }

    fn map() -> ShardMap {
        ShardMap::new([(&b""[..], GroupId(1)), (b"g", GroupId(2)), (b"p", GroupId(3))]).unwrap()
    }

    #[test]
    fn a_walk_goes_through_pages_and_shards_and_stops_at_its_end() {
        let mut walk = Walk::new(b"b", Some(b"h"));
        walk.advance(&map(), &page(&[b"b", b"c"], true));
        assert_eq!(walk.from.as_deref(), Some(&b"c\0"[..]));
        walk.advance(&map(), &page(&[], false));
        assert_eq!(walk.from.as_deref(), Some(&b"g"[..]));
        walk.advance(&map(), &page(&[b"g"], false));
        assert_eq!(walk.from, None);
        walk.advance(&map(), &page(&[], false));
        assert_eq!(walk.from, None);
    }

    #[test]
    fn an_unbounded_walk_ends_after_the_last_shard_and_an_empty_one_at_once() {
        let mut walk = Walk::new(b"", None);
        for next in [Some(&b"g"[..]), Some(b"p"), None] {
            walk.advance(&map(), &page(&[], false));
            assert_eq!(walk.from.as_deref(), next);
        }
        assert_eq!(Walk::new(b"m", Some(b"m")).from, None);
        assert_eq!(Walk::new(b"m", Some(b"a")).from, None);
    }

    #[test]
    fn an_end_on_a_shards_border_does_not_touch_the_next_shard() {
        let mut walk = Walk::new(b"a", Some(b"g"));
        walk.advance(&map(), &page(&[b"f"], false));
        assert_eq!(walk.from, None);
    }
}
