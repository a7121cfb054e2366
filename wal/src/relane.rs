//! Other lanes for a log: at opening, when their number is to be another one.
//!
//! What counts in the old lanes, as recovery finds it, is copied into new ones beside them: of each group its latest facts, and every frame
//! of entries that is alive, byte for byte. Snapshot files get a second name. All of it is made durable, read again past the system's cache
//! and compared, group by group, with what the old lanes said; then one rename makes the manifest name the new lanes
//! (`directory::switch`), and the old ones are removed. Nothing is written to the old lanes meanwhile, so until that rename they are what
//! they were, and whatever is left of the others is removed by the next opening.
//!
//! A group keeps all that its lane knew of it: term and vote, where its log begins and in which configuration, its entries, its floor, its
//! fence, that it is a witness or gone, that its loss is accepted. Damage is not carried: where a lane has some, nothing is moved. So
//! a list of losses, which answers for damage that is still in the files, has nothing to answer for in the new ones.
//!
//! Cost: the old lanes are read twice, the new ones written once and read once. Room: as much as is alive in the old lanes, and up to a segment for
//! each new one. Memory: the index of one lane at a time, 32 bytes for each group and 16 for each frame of that lane, and a batch of
//! 256 KiB for each new lane.
//!
//! What is not here: writing a lane (`relane_writer`), which lane a group belongs to.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;

use raftwerk_frame::GroupId;
use raftwerk_frame::frame;
use rustc_hash::FxHashMap;

use crate::directory::{Directory, LaneSet, NotSwitched, clear_lane, clear_others, switch};
use crate::disk::Files;
use crate::error::OpenError;
use crate::index::{GroupLog, Place};
use crate::lane::{LaneOptions, OnDamage};
use crate::recovery::{self, Walk};
use crate::relane_writer::LaneWriter;
use crate::scan::Scan;
use crate::segment::lane_dir;
use crate::shelf::{self, Kind};

/// Which of so many lanes a group belongs to; `None` if it must stay where it is.
pub type LaneOf<'a> = &'a dyn Fn(GroupId, u16) -> Option<u16>;

/// Why a log keeps the lanes that it has. Nothing of them was changed; see [`RelaneError::is_undecided`].
#[derive(Debug, thiserror::Error)]
pub enum RelaneError {
    /// The disk, or the quota, has no room for a copy of what is alive.
    #[error("there is no room for other lanes: {0}")]
    NoRoom(#[source] OpenError),
    /// Something in a lane is damaged, and may have been for long.
    #[error("a lane is damaged: {0}")]
    Damaged(#[source] OpenError),
    /// The caller has said that this group must stay in its lane.
    #[error("group {group} belongs to its lane")]
    Held {
        /// The group.
        group: GroupId,
    },
    /// The system refuses a call; where that is to give a file a second name, the file system has one for each.
    #[error("the system refuses other lanes: {0}")]
    Refused(#[source] OpenError),
    /// What was written is not what the old lanes say.
    #[error("the copy of group {group} differs")]
    Differs {
        /// The group, or one of them.
        group: GroupId,
    },
    /// No more numbers: the directory has had 65,535 lanes.
    #[error("there are no numbers left for other lanes")]
    NoNumbers,
    /// A clone of the directory is in use.
    #[error("the directory is in use")]
    InUse,
    /// A call failed at the very moment at which the new lanes took the place of the old ones: only another opening can tell which
    /// ones count. This directory must not be used any more.
    #[error("it is not known which lanes count: {0}")]
    Undecided(#[source] OpenError),
}

impl RelaneError {
    /// Whether it is not known which lanes count, so that nothing may be written to any.
    #[must_use]
    pub const fn is_undecided(&self) -> bool {
        matches!(self, Self::Undecided(_))
    }

    fn of(error: OpenError) -> Self {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match &error {
            OpenError::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded) => {
                Self::NoRoom(error)
            }
            OpenError::Corrupt { .. } => Self::Damaged(error),
            _ => Self::Refused(error),
        }
    }
}

impl From<OpenError> for RelaneError {
    fn from(error: OpenError) -> Self {
        Self::of(error)
    }
}

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relaned {
    /// How many lanes there were.
    pub from: u16,
    /// How many there are.
    pub to: u16,
    /// Groups, those that are gone and have left something behind among them.
    pub groups: u64,
    /// Frames of entries.
    pub frames: u64,
    /// Bytes written: frames, facts, padding; without the zeros that files are filled with first.
    pub bytes: u64,
    /// Snapshot files.
    pub snapshots: u64,
}

impl<F: Files> Directory<F> {
    /// Moves everything into so many other lanes, unless there are as many already. Blocks: for opening only, before any lane is opened
    /// and while this is the only clone. `options` as they will be for the lanes; `lane_of` says which lane of how many a group belongs to.
    ///
    /// The process, or the machine, may end at any moment: the log has either all lanes of before, or all new ones, whole.
    ///
    /// Cost and room: see the head of `relane`; on the order of a few seconds a GiB.
    ///
    /// # Errors
    /// [`RelaneError`]: the log keeps the lanes that it has, and this goes on being their directory; unless
    /// [`RelaneError::is_undecided`].
    pub fn relane(
        &mut self,
        lanes: u16,
        options: &LaneOptions,
        lane_of: LaneOf<'_>,
    ) -> Result<Relaned, RelaneError> {
        let old = self.set();
        if old.lanes == lanes {
            return Ok(Relaned { from: lanes, to: lanes, ..Relaned::default() });
        }
        if lanes == 0 {
            return Err(OpenError::Options("a log has at least one lane").into());
        }
        options.check()?;
        if !self.is_alone() {
            return Err(RelaneError::InUse);
        }
        let new = old.next(lanes).ok_or(RelaneError::NoNumbers)?;
        let mut relaning =
            Relaning { files: self.files(), old, new, options, lane_of, told: FxHashMap::default() };
        let moved = relaning.copy().and_then(|moved| {
            switch(self.files(), old, new).map_err(|error| match error {
                NotSwitched::Undone(source) => RelaneError::of(OpenError::io("manifest")(source)),
                NotSwitched::Undecided(source) => {
                    RelaneError::Undecided(OpenError::Io { file: "manifest".to_owned(), source })
                }
            })?;
            Ok(moved)
        });
        if moved.is_ok() {
            self.has_now(new);
        }
        if moved.as_ref().err().is_none_or(|error| !error.is_undecided()) {
            // A wish: the next opening does what is left of it.
            let _ = clear_others(self.files(), self.set());
        }
        moved
    }
}

/// A log on its way into other lanes.
struct Relaning<'a, F: Files> {
    files: &'a F,
    old: LaneSet,
    new: LaneSet,
    options: &'a LaneOptions,
    lane_of: LaneOf<'a>,
    /// What the old lanes say of each group, as a hash.
    told: FxHashMap<GroupId, u64>,
}

impl<F: Files> Relaning<'_, F> {
    /// Makes the new lanes, whole and durable.
    fn copy(&mut self) -> Result<Relaned, RelaneError> {
        for number in self.new.numbers() {
            let dir = lane_dir(number);
            clear_lane(self.files, number).map_err(OpenError::io(&dir))?;
            self.files.create_dir(&dir).map_err(OpenError::io(&dir))?;
        }
        self.files.sync_dir("").map_err(OpenError::io("lanes"))?;
        let (files, options, log_id) = (self.files, self.options, self.new.log_id);
        let writer = |number| LaneWriter::new(files, number, log_id, options);
        let mut writers: Vec<LaneWriter<'_, F>> = self.new.numbers().map(writer).collect();
        let mut moved = Relaned { from: self.old.lanes, to: self.new.lanes, ..Relaned::default() };
        for number in self.old.numbers() {
            self.copy_lane(number, &mut writers, &mut moved)?;
        }
        for writer in writers {
            moved.bytes += writer.finish()?;
        }
        self.name_snapshots(&mut moved)?;
        self.verify()?;
        Ok(moved)
    }

    fn lane_of(&self, group: GroupId) -> Result<usize, RelaneError> {
        let lane = (self.lane_of)(group, self.new.lanes).ok_or(RelaneError::Held { group })?;
        assert!(lane < self.new.lanes, "a group belongs to one of the lanes");
        Ok(usize::from(lane))
    }

    fn options_of(&self, number: u16) -> LaneOptions {
        // Whatever is damaged, nothing is moved: the usual opening decides what is fenced.
        LaneOptions { lane: number, on_damage: OnDamage::Refuse, ..self.options.clone() }
    }

    /// Copies what counts of an old lane: facts first, then entries, in the order in which they lie there.
    fn copy_lane(
        &mut self,
        number: u16,
        writers: &mut [LaneWriter<'_, F>],
        moved: &mut Relaned,
    ) -> Result<(), RelaneError> {
        let options = self.options_of(number);
        let names = recovery::list(self.files, number)?;
        let (scans, mut walk) =
            recovery::read_durable(self.files, &options, &names.segments, self.old.log_id)?;
        walk.replay.forget_blank();
        let logs = || walk.replay.groups.slots.iter().flatten();
        for log in logs() {
            self.lane_of(log.group)?; // before anything is written
        }
        for writer in &mut *writers {
            writer.raise(walk.terms);
        }
        let mut places = Vec::new();
        for log in logs() {
            let said = fingerprint(log);
            if said == fingerprint(&GroupLog::new(log.group)) {
                continue; // nothing
            }
            writers[self.lane_of(log.group)?].facts(log)?;
            places.extend(log.live().map(|frame| frame.place));
            if self.told.insert(log.group, said).is_some() {
                return Err(RelaneError::Differs { group: log.group }); // it is in two lanes
            }
            moved.groups += 1;
        }
        moved.frames += places.len() as u64;
        places.sort_unstable_by_key(|place| (place.segment, place.offset));
        self.copy_entries(&places, &scans, writers)
    }

    fn copy_entries(
        &self,
        places: &[Place],
        scans: &[Scan<'_, F>],
        writers: &mut [LaneWriter<'_, F>],
    ) -> Result<(), RelaneError> {
        for of_segment in places.chunk_by(|place, next| place.segment == next.segment) {
            let segment = of_segment[0].segment;
            let at = scans.binary_search_by_key(&segment, |scan| scan.header.sequence);
            let scan = at.ok().and_then(|at| scans.get(at)).expect("what is alive lies in a segment");
            let mut reader = scan.reader();
            for place in of_segment {
                let bytes = reader.at(u64::from(place.offset), u64::from(place.bytes))?;
                // It was whole a moment ago; what leaves a lane is looked at when it leaves.
                let Ok((header, _)) = frame::parse(bytes) else {
                    let what = "a frame is not what it was when it was read before";
                    return Err(OpenError::corrupt(&scan.path, u64::from(place.offset), what).into());
                };
                writers[self.lane_of(header.group)?].frame(bytes)?;
            }
        }
        Ok(())
    }

    /// Gives every complete snapshot file a second name, in the lane that its group belongs to, and those that were set aside.
    fn name_snapshots(&self, moved: &mut Relaned) -> Result<(), RelaneError> {
        let mut has_some = vec![false; usize::from(self.new.lanes)];
        for number in self.old.numbers() {
            let from = format!("{}/snapshots", lane_dir(number));
            let names = match self.files.list(&from) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                listed => listed.map_err(OpenError::io(&from))?,
            };
            for name in names {
                let Some((group, (_, Kind::Complete | Kind::Damaged))) = shelf::parse(&name) else {
                    continue;
                };
                let lane = self.lane_of(group)?;
                let to = format!("{}/snapshots", lane_dir(self.new.first + lane as u16));
                if !std::mem::replace(&mut has_some[lane], true) {
                    self.files.create_dir(&to).map_err(OpenError::io(&to))?;
                }
                let (old, name) = (format!("{from}/{name}"), format!("{to}/{name}"));
                self.files.link(&old, &name).map_err(OpenError::io(&name))?;
                moved.snapshots += 1;
            }
        }
        for (number, _) in self.new.numbers().zip(has_some).filter(|(_, has_some)| *has_some) {
            let dir = lane_dir(number);
            self.files.sync_dir(&format!("{dir}/snapshots")).map_err(OpenError::io(&dir))?;
            self.files.sync_dir(&dir).map_err(OpenError::io(&dir))?;
        }
        Ok(())
    }

    /// Reads the new lanes as the next opening will, from the device: they say of every group what the old ones say.
    fn verify(&mut self) -> Result<(), RelaneError> {
        for number in self.new.numbers() {
            let options = self.options_of(number);
            let names = recovery::list(self.files, number)?;
            let (_, walk) = recovery::read(self.files, &options, &names.segments, self.new.log_id, true)?;
            let Walk { replay, .. } = walk;
            for log in replay.groups.slots.iter().flatten() {
                if self.told.remove(&log.group) != Some(fingerprint(log)) {
                    return Err(RelaneError::Differs { group: log.group });
                }
            }
        }
        match self.told.keys().next() {
            Some(group) => Err(RelaneError::Differs { group: *group }),
            None => Ok(()),
        }
    }
}

/// All that a log says, but where it lies, as a number.
fn fingerprint(log: &GroupLog) -> u64 {
    let mut hasher = DefaultHasher::new();
    let facts = (log.hard_state.term, log.hard_state.vote, log.base, &log.base_configuration, log.last);
    let marks = (log.floor, log.fence_term(), log.is_removed, log.is_loss_accepted, log.is_witness);
    (log.group, facts, marks, log.live_bytes, log.memberships()).hash(&mut hasher);
    for frame in log.live() {
        (frame.first, frame.term, frame.count, frame.is_withheld, frame.place.bytes).hash(&mut hasher);
    }
    hasher.finish()
}
