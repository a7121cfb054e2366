//! The items of a [`Tree`](super::Tree), by number: where they lie, and how two copies share them.
//!
//! A slot is one cache line. Slots lie in pages of [`PAGE_SLOTS`], pages in chunks of [`CHUNK_PAGES`]. Pages and
//! chunks are shared: cloning copies the list of chunks, and a later write to either copy copies the one chunk
//! and the one page it touches, once. Whether a page is shared is a plain load of its count: a count without
//! weak references needs no locked instruction.
//!
//! Invariants:
//! 1. The slots in use are those below `len`; the others of the last page are empty.
//! 2. Every page but the last has [`PAGE_SLOTS`] slots, and every chunk but the last [`CHUNK_PAGES`] pages.
//!    No chunk is empty.
//! 3. A slot keeps its number until it, or the last one, is removed.

use raftwerk_frame::Index;
use triomphe::Arc;

use crate::inline_bytes::InlineBytes;
use crate::key_array::Keys;

/// The slots of a page: a write to a shared one copies 4 KiB.
pub(super) const PAGE_SLOTS: usize = 64;
/// The pages of a chunk: a write to a shared one counts so many references up.
pub(super) const CHUNK_PAGES: usize = 64;
/// The slots of a page with one item, in a small map.
const PAGE_SLOTS_MIN: usize = 4;
/// The most slots by which a page of a small map grows.
const PAGE_SLOTS_MORE: usize = 16;

/// A key with its value and version. Empty while it is not in use.
#[derive(Clone, Debug, Default)]
#[repr(align(64))]
pub(super) struct Slot {
    pub(super) key: InlineBytes,
    pub(super) value: InlineBytes,
    pub(super) version: Index,
}

const _: () = assert!(size_of::<Slot>() == 64);

type Page = Arc<[Slot]>;

#[derive(Clone, Debug, Default)]
struct Chunk {
    pages: Vec<Page>,
}

/// The slots.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    chunks: Vec<Arc<Chunk>>,
    len: u32,
}

/// Chunk, page and slot of a number.
const fn place(number: u32) -> (usize, usize, usize) {
    let number = number as usize;
    let page = number / PAGE_SLOTS;
    (page / CHUNK_PAGES, page % CHUNK_PAGES, number % PAGE_SLOTS)
}

impl Slots {
    #[inline]
    pub(super) const fn len(&self) -> usize {
        self.len as usize
    }

    /// The slot of a number below `len`.
    #[inline]
    pub(super) fn slot(&self, number: u32) -> &Slot {
        let (chunk, page, slot) = place(number);
        &self.chunks[chunk].pages[page][slot]
    }

    /// The slot, for writing: its page is copied first if it is shared.
    #[inline]
    pub(super) fn slot_mut(&mut self, number: u32) -> &mut Slot {
        let (chunk, page, slot) = place(number);
        let page = &mut Arc::make_mut(&mut self.chunks[chunk]).pages[page];
        &mut own(page)[slot]
    }

    /// Loads a slot and what a write of it reads besides, and returns something that depends on both.
    #[inline]
    pub(super) fn touch(&self, number: u32) -> usize {
        let (chunk, page, slot) = place(number);
        let page = &self.chunks[chunk].pages[page];
        Arc::count(page) ^ page[slot].version.0 as usize
    }

    /// Appends an item; returns its number.
    ///
    /// # Panics
    /// At 2³² items.
    pub(super) fn push(&mut self, item: Slot) -> u32 {
        let number = self.len;
        self.len = number.checked_add(1).expect("a map's items fit into 256 GiB");
        let (chunk, page, slot) = place(number);
        if chunk == self.chunks.len() {
            self.chunks.push(Arc::default());
        }
        let pages = &mut Arc::make_mut(&mut self.chunks[chunk]).pages;
        if page == pages.len() {
            // So that few of a small map's slots are vacant.
            let slots = (number as usize / 4).next_power_of_two().clamp(PAGE_SLOTS_MIN, PAGE_SLOTS);
            pages.push(std::iter::repeat_n(Slot::default(), slots).collect());
        } else if slot == pages[page].len() {
            let more = std::iter::repeat_n(Slot::default(), slot.min(PAGE_SLOTS_MORE));
            pages[page] = own(&mut pages[page]).iter_mut().map(std::mem::take).chain(more).collect();
        }
        own(&mut pages[page])[slot] = item;
        number
    }

    /// Removes an item; the last one gets its number.
    pub(super) fn swap_remove(&mut self, number: u32) {
        let last = self.len - 1;
        let moved = std::mem::take(self.slot_mut(last));
        if number != last {
            *self.slot_mut(number) = moved;
        }
        self.len = last;
        let (chunk, page, slot) = place(last);
        if slot == 0 {
            Arc::make_mut(&mut self.chunks[chunk]).pages.pop();
            if page == 0 {
                self.chunks.pop();
            }
        }
        if last == 0 {
            *self = Self::default();
        }
    }
}

/// The slots of a page, for writing.
#[inline]
fn own(page: &mut Page) -> &mut [Slot] {
    if !page.is_unique() {
        *page = page.iter().cloned().collect();
    }
    Arc::get_mut(page).expect("a page that was just copied has one owner")
}

impl Keys<u32> for Slots {
    #[inline]
    fn key<'a>(&'a self, number: &'a u32) -> &'a [u8] {
        self.slot(*number).key.as_slice()
    }
}

#[cfg(test)]
impl Slots {
    /// Asserts the numbered invariants of the file's head.
    pub(super) fn assert_rules(&self) {
        let pages: Vec<&Page> = self.chunks.iter().flat_map(|chunk| &chunk.pages).collect();
        for (nth, chunk) in self.chunks.iter().enumerate() {
            let is_last = nth + 1 == self.chunks.len();
            assert!(!chunk.pages.is_empty() && (is_last || chunk.pages.len() == CHUNK_PAGES));
        }
        assert_eq!(pages.len(), self.len().div_ceil(PAGE_SLOTS));
        assert!(pages.iter().rev().skip(1).all(|page| page.len() == PAGE_SLOTS));
        let slots: Vec<&Slot> = pages.iter().flat_map(|page| page.iter()).collect();
        assert!(slots.len() >= self.len());
        assert!(slots[self.len()..].iter().all(|slot| slot.key.as_slice().is_empty() && slot.version.0 == 0));
    }

    /// Whether the page of a slot is shared, itself or with its chunk.
    pub(super) fn is_shared(&self, number: u32) -> bool {
        let (chunk, page, _) = place(number);
        !self.chunks[chunk].is_unique() || !self.chunks[chunk].pages[page].is_unique()
    }
}
