//! From a key's hash to the number of its slot: a cache in front of the order.
//!
//! It need not be complete, and is never trusted: a hit counts if the slot has the key, and a miss is
//! answered by the order. So a copy of a map begins without one, keys that are crowded out cost a search in
//! the order, and keys chosen to collide make puts no slower than that. It is a function of the operations
//! alone; there is no seed.
//!
//! Two lines of [`LINE_ENTRIES`] entries hold a key's entry: its own, or the neighbour if that is full. Lines lie
//! in pages, and the table grows by linear hashing: one page is divided at a time, by tags alone, without a
//! look at the keys. No step takes more than a few microseconds, whatever the table's size. A table that has
//! become far too large is dropped, and fills again.
//!
//! Invariants:
//! 1. An entry's tag is that of the key in its slot, and no slot has two entries.
//! 2. An entry is in the line of its tag or in that line's neighbour.

use std::hash::Hasher;

/// The entries of a line, which is one cache line.
const LINE_ENTRIES: usize = 8;
/// The lines of a page: 4 KiB.
const PAGE_LINES: usize = 64;
const PAGE_ENTRIES: usize = PAGE_LINES * LINE_ENTRIES;
/// The lines of the smallest table.
const LINES_MIN: usize = 4;
/// The items of the smallest map that has a table.
pub(super) const ITEMS_MIN: usize = 16;

/// A part of a key's hash, of which the low bits choose line and page. Never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Tag(u32);

impl Tag {
    #[inline]
    pub(super) fn of(key: &[u8]) -> Self {
        let mut hasher = rustc_hash::FxHasher::default();
        hasher.write(key);
        let hash = hasher.finish();
        Self(((hash ^ hash >> 32) as u32).max(1))
    }

    const fn page_bits(self) -> usize {
        self.0 as usize / PAGE_LINES
    }
}

/// Entries with tag 0 are vacant.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Line {
    tags: [u32; LINE_ENTRIES],
    numbers: [u32; LINE_ENTRIES],
}

const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    /// A bit for each entry with this tag.
    #[inline]
    fn with(&self, tag: u32) -> u32 {
        let bits = self.tags.iter().zip(0..).map(|(&other, bit)| u32::from(other == tag) << bit);
        bits.sum()
    }

    fn put(&mut self, at: usize, tag: u32, number: u32) {
        (self.tags[at], self.numbers[at]) = (tag, number);
    }
}

/// The table. An empty one takes no memory beyond itself.
#[derive(Debug, Default)]
pub(super) struct Table {
    pages: Vec<Box<[Line]>>,
}

impl Table {
    /// The page and the line in which a tag is looked for first. The other is its neighbour.
    #[inline]
    fn home(&self, tag: Tag) -> (usize, usize) {
        let count = self.pages.len();
        // The pages from `count - level` to `level` are not divided yet.
        let level = 1 << count.ilog2();
        let low = tag.page_bits() & (level - 1);
        let page = if low + level < count { tag.page_bits() & (2 * level - 1) } else { low };
        (page, tag.0 as usize & (self.pages[page].len() - 1))
    }

    /// Loads the line of a tag, and returns something that depends on it.
    #[inline]
    pub(super) fn touch(&self, tag: Tag) -> usize {
        if self.pages.is_empty() {
            return 0;
        }
        let (page, line) = self.home(tag);
        self.pages[page][line].tags[0] as usize
    }

    /// The numbers under a tag: one of them, at most, is the key's.
    #[inline]
    pub(super) fn numbers(&self, tag: Tag) -> impl Iterator<Item = u32> {
        let lines = if self.pages.is_empty() {
            None
        } else {
            let (page, line) = self.home(tag);
            let page = &self.pages[page];
            Some([&page[line], &page[line ^ 1]])
        };
        lines.into_iter().flatten().flat_map(move |line| {
            let mut bits = line.with(tag.0);
            std::iter::from_fn(move || {
                let at = bits.trailing_zeros() as usize;
                bits &= bits.wrapping_sub(1);
                line.numbers.get(at).copied()
            })
        })
    }

    /// Adds an entry for a key that has none, in a map with so many items. If both lines are full, one of the
    /// entries makes room.
    pub(super) fn add(&mut self, tag: Tag, number: u32, items: usize) {
        if self.pages.is_empty() {
            if items < ITEMS_MIN {
                return;
            }
            self.pages.push(lines(LINES_MIN));
        }
        self.grow(items);
        let (page, line) = self.home(tag);
        if !put(&mut self.pages[page], line, tag.0, number) {
            self.pages[page][line].put(number as usize % LINE_ENTRIES, tag.0, number);
        }
    }

    /// Removes the entry of a number, if it has one.
    pub(super) fn remove(&mut self, tag: Tag, number: u32) {
        if let Some((line, at)) = self.entry(tag, number) {
            line.put(at, 0, 0);
        }
    }

    /// Drops the table if the map's items have become few for it, or none.
    pub(super) fn shrink(&mut self, items: usize) {
        let lines: usize = self.pages.len() * self.pages.first().map_or(0, |page| page.len());
        if items < lines && (items == 0 || lines > LINES_MIN) {
            self.pages = Vec::new();
        }
    }

    /// A slot has got another number.
    pub(super) fn renumber(&mut self, tag: Tag, from: u32, to: u32) {
        if let Some((line, at)) = self.entry(tag, from) {
            line.numbers[at] = to;
        }
    }

    fn entry(&mut self, tag: Tag, number: u32) -> Option<(&mut Line, usize)> {
        if self.pages.is_empty() {
            return None;
        }
        let (page, line) = self.home(tag);
        let has = |line: &Line, at: usize| line.tags[at] == tag.0 && line.numbers[at] == number;
        let (line, at) = [line, line ^ 1].into_iter().find_map(|line| {
            let at = (0..LINE_ENTRIES).find(|&at| has(&self.pages[page][line], at))?;
            Some((line, at))
        })?;
        Some((&mut self.pages[page][line], at))
    }

    /// Grows by a step, if the items are many for the pages: a small table to twice its lines, a large one by
    /// one page. Lines are three quarters full at most, on average, and then well over 95 of 100 entries fit.
    fn grow(&mut self, items: usize) {
        let (count, first) = (self.pages.len(), self.pages[0].len());
        if first < PAGE_LINES {
            if items > first * LINE_ENTRIES * 3 / 4 {
                let mut grown = lines(2 * first);
                for (tag, number) in used(&self.pages[0]) {
                    put(&mut grown, tag as usize & (2 * first - 1), tag, number);
                }
                self.pages[0] = grown;
            }
            return;
        }
        // The pages of a level are divided while the items rise from 0.6 to 0.75 of what it has room for.
        let level = 1 << count.ilog2();
        let wanted = items.saturating_sub(level * PAGE_ENTRIES * 3 / 5) / (PAGE_ENTRIES * 3 / 20);
        if count - level < wanted {
            self.divide(count - level, level);
        }
    }

    /// Moves the entries of a page with the next bit set to a new page.
    fn divide(&mut self, page: usize, level: usize) {
        let mut above = lines(PAGE_LINES);
        for line in &mut self.pages[page] {
            for at in 0..LINE_ENTRIES {
                let (tag, number) = (line.tags[at], line.numbers[at]);
                if Tag(tag).page_bits() & level > 0 {
                    put(&mut above, tag as usize & (PAGE_LINES - 1), tag, number);
                    line.put(at, 0, 0);
                }
            }
        }
        self.pages.push(above);
    }
}

fn lines(count: usize) -> Box<[Line]> {
    vec![Line::default(); count].into()
}

/// Puts an entry into its line or the neighbour; returns whether there was room.
fn put(page: &mut [Line], line: usize, tag: u32, number: u32) -> bool {
    for line in [line, line ^ 1] {
        let at = page[line].with(0).trailing_zeros() as usize;
        if at < LINE_ENTRIES {
            page[line].put(at, tag, number);
            return true;
        }
    }
    false
}

fn used(page: &[Line]) -> impl Iterator<Item = (u32, u32)> {
    page.iter().flat_map(|line| line.tags.into_iter().zip(line.numbers)).filter(|(tag, _)| *tag != 0)
}

#[cfg(test)]
impl Table {
    /// Asserts the numbered invariants of the file's head.
    pub(super) fn assert_rules(&self, slots: &super::slots::Slots) {
        let mut seen = vec![false; slots.len()];
        for (nth, page) in self.pages.iter().enumerate() {
            assert!(page.len() == PAGE_LINES || (nth == 0 && self.pages.len() == 1));
            for (line, held) in page.iter().enumerate() {
                for (tag, number) in used(std::slice::from_ref(held)) {
                    assert_eq!(Tag::of(slots.slot(number).key.as_slice()).0, tag, "a tag is its key's");
                    let (page, home) = self.home(Tag(tag));
                    assert!(
                        page == nth && (line == home || line == home ^ 1),
                        "an entry is where it is looked for"
                    );
                    assert!(
                        !std::mem::replace(&mut seen[number as usize], true),
                        "slot {number} has two entries"
                    );
                }
            }
        }
    }

    pub(super) fn entries(&self) -> usize {
        self.pages.iter().flat_map(|page| used(page)).count()
    }

    pub(super) const fn pages(&self) -> usize {
        self.pages.len()
    }
}

#[cfg(test)]
impl Tag {
    pub(super) const fn low_bits(self) -> usize {
        self.0 as usize % 1024
    }
}
