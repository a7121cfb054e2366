//! A power cut at any call, with an independent fate for every unsynced sector and name. Everything reported
//! as durable must be there, and the log found must equal the recorded content, batch for batch.

use proptest::prelude::*;

use super::*;
use crate::disk::simulated::SectorFate;

/// A small generator for choices within a case; its seed comes from the test.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

type Said = BTreeMap<GroupId, Story>;

/// A run of a lane between two power cuts, mirrored in a model without files.
struct Life<'a> {
    lane: MemoryLane,
    model: Said,
    /// The log's content as of each batch.
    said: &'a mut BTreeMap<Lsn, Said>,
    chance: &'a mut Chance,
}

impl Life<'_> {
    fn step(&mut self) {
        let group = GroupId(1 + self.chance.below(4));
        let slot = self.lane.attach(group);
        let choice = self.chance.below(13);
        if choice == 0 && self.lane.latest_hard_state(slot) == HardState::default() {
            return;
        }
        let story = self.model.entry(group).or_default();
        let last = story.entries.keys().next_back().map_or(story.base.index.0, |last| *last);
        let term = story.hard_state.term.0.max(story.floor.map_or(0, |floor| floor.term.0)) + 1;
        match choice {
            0 => {
                self.lane.remove(slot);
                let reached = story.entries.get(&last).map_or(story.base, |(term, _)| id(last, *term));
                let floor = story.floor.max(Some(reached)).filter(|floor| *floor != EntryId::default());
                *story = Story { hard_state: story.hard_state, floor, ..Story::default() };
            }
            12 if let Some((hard_state, floor)) = self.lane.past(slot) => {
                assert_eq!((hard_state, floor), (story.hard_state, story.floor.unwrap_or_default()));
                self.lane.join(slot, LogKind::Full);
                story.floor = Some(floor);
            }
            1 | 2 => {
                story.hard_state = HardState { term: Term(term), vote: Some(NodeId(term)) };
                self.lane.hard_state(slot, story.hard_state).unwrap();
            }
            3 | 4 if !story.entries.is_empty() => {
                let to = story.base.index.0 + 1 + self.chance.below(last - story.base.index.0);
                story.base = id(to, story.entries[&to].0);
                story.entries = story.entries.split_off(&(to + 1));
                self.lane.compact(slot, story.base);
            }
            5 => {
                story.base = id(last + self.chance.below(9), term);
                story.entries.clear();
                story.configuration = voters(1 + self.chance.below(5));
                self.lane.snapshot(slot, story.base, &story.configuration, Tail::Drop);
            }
            6 => {
                let before = self.lane.marks.sealed().0;
                self.lane.submit().unwrap();
                // Relocated metadata may fill batches of its own, which change no content.
                for lsn in before + 1..=self.lane.marks.sealed().0 {
                    self.said.entry(Lsn(lsn)).or_insert_with(|| self.model.clone());
                }
                return;
            }
            _ => {
                let back = self.chance.below(last - story.base.index.0 + 1).min(self.chance.below(20));
                let (first, count) = (last + 1 - back, 1 + self.chance.below(5));
                let bytes = [20, 200, 900][self.chance.below(3) as usize];
                story.entries.split_off(&first);
                for index in first..first + count {
                    story.entries.insert(index, (term, payload(index, term, bytes)));
                }
                append(&mut self.lane, slot, id(first, term), count, bytes);
            }
        }
        self.said.insert(self.lane.marks.sealed().next(), self.model.clone());
    }
}

/// Runs lanes on one disk until each is cut; checks each next run against the recorded content.
fn lives(seed: u64, lives: u64) -> Seen {
    let mut seen = Seen::default();
    let mut chance = Chance(seed);
    let mut files = MemoryFiles::new();
    let mut said = BTreeMap::from([(Lsn(0), Said::new())]);
    let mut durable = Lsn(0);
    for life in 0..lives {
        let (lane, _, report) = match open_in(&files, small()) {
            Ok(opened) => opened,
            Err(error) => panic!("seed {seed}, life {life}: {error}"),
        };
        assert!(report.last >= durable, "seed {seed}, life {life}: {} of {durable} is left", report.last);
        let Some(model) = said.get(&report.last).cloned() else {
            panic!("seed {seed}, life {life}: nothing was said as of {}", report.last)
        };
        let mut found = stories(&lane);
        found.retain(|_, story| *story != Story::default());
        let mut expected = model.clone();
        expected.retain(|_, story| *story != Story::default());
        assert_eq!(found, expected, "seed {seed}, life {life}");
        seen.torn += u64::from(report.torn.is_some());
        seen.unclaimed += u64::from(report.last > durable);
        durable = report.last;
        said.retain(|lsn, _| *lsn <= durable);
        let cut_after = 1 + chance.below(60);
        files.fail_change(cut_after, u64::MAX, std::io::ErrorKind::Other);
        let mut life = Life { lane, model, said: &mut said, chance: &mut chance };
        for _ in 0..800 {
            if life.lane.poisoned.is_none() && life.lane.turn_budget() > 0 {
                life.step();
            }
            life.lane.disk_mut().runs_by_itself = life.chance.below(6) == 0; // so that several batches share a write
            match life.lane.poll() {
                Ok(progress) => durable = progress.durable,
                Err(_) => break,
            }
        }
        seen.recycled += life.lane.stats().recycled;
        drop(life);
        if chance.below(3) == 0 {
            files.heal(); // only the process ended: its writes can be read, but are not durable yet
            continue;
        }
        let (mut fates, mut names) = (Chance(chance.below(u64::MAX)), Chance(chance.below(u64::MAX)));
        let fate = |_: &str, _| match fates.below(3) {
            0 => SectorFate::Old,
            1 => SectorFate::New,
            _ => SectorFate::Garbage(fates.below(256) as u8),
        };
        files = files.after_power_cut_with_names(|| names.below(2) == 0, fate);
    }
    seen
}

/// Counts of the events; a test of rare events must prove that they happen.
#[derive(Debug, Default)]
struct Seen {
    torn: u64,
    unclaimed: u64,
    recycled: u64,
}

#[test]
fn the_lives_go_through_torn_batches_unacknowledged_ones_and_used_files() {
    let all = (0..90).map(|seed| lives(seed * 0x9E37_79B9, 6));
    let sum = all.fold(Seen::default(), |sum, seen| Seen {
        torn: sum.torn + seen.torn,
        unclaimed: sum.unclaimed + seen.unclaimed,
        recycled: sum.recycled + seen.recycled,
    });
    assert!(sum.torn > 20 && sum.unclaimed > 20 && sum.recycled > 20, "{sum:?}");
}

/// A process that ends right after renaming the manifest leaves a name that may still be lost. The log's id
/// and number of lanes could be read from its segments too, or from the second copy: but no run may rely on
/// less than it found.
#[test]
fn a_manifest_that_a_new_life_finds_is_durable_before_it_is_relied_on() {
    // Each copy is created, written, synced and renamed, and its directory synced.
    for n in 1..=10 {
        let files = MemoryFiles::new();
        files.fail_change(n, u64::MAX, std::io::ErrorKind::Other);
        let _died = open_in(&files, small()).map(|_| ());
        files.heal();
        let (mut lane, ..) = open_in(&files, small()).unwrap();
        let fleeting = files.paths_not_durable();
        assert!(!fleeting.iter().any(|path| path.starts_with("manifest")), "call {n}: {fleeting:?}");
        let slot = lane.attach(GroupId(1));
        append(&mut lane, slot, id(1, 1), 1, 20);
        settle(&mut lane);
        drop(lane);
        let files = files.after_power_cut(|_, _| SectorFate::Old);
        let (lane, ..) = open_in(&files, small()).unwrap();
        assert_eq!(stories(&lane)[&GroupId(1)].entries.len(), 1, "call {n}");
    }
}

#[test]
fn a_name_that_is_not_durable_is_one_that_a_power_cut_takes() {
    let files = MemoryFiles::new();
    for n in 1..8 {
        files.fail_change(n, u64::MAX, std::io::ErrorKind::Other);
        let _died = open_in(&files, small()).map(|_| ());
        files.heal();
        let cut = files.after_power_cut(|_, _| SectorFate::Old).paths();
        let gone: Vec<String> = files.paths().into_iter().filter(|path| !cut.contains(path)).collect();
        assert_eq!(files.paths_not_durable(), gone, "call {n}");
    }
    let (lane, ..) = open_in(&files, small()).unwrap();
    drop(lane);
    assert!(!files.paths_not_durable().contains(&"manifest".to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn what_was_called_durable_survives_power_cuts_at_any_call(seed in any::<u64>()) {
        let _ = lives(seed, 6);
    }
}
