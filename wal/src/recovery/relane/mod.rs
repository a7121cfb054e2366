//! Moving a log into another number of lanes, at opening.
//!
//! The live data in the old lanes, as recovery finds it, is copied into new ones beside them: each group's
//! latest metadata, and every live frame of entries, byte for byte. Snapshot files are hard-linked. All of it
//! is made durable, read again past the page cache and compared, group by group, with the old lanes; then one
//! rename makes the manifest name the new lanes (`directory::switch`), and the old ones are removed. Nothing
//! is written to the old lanes meanwhile, so until that rename they are unchanged, and leftovers of the new
//! ones are removed by the next opening.
//!
//! A group keeps all its metadata: hard state, base and its configuration, entries, floor, fence, whether it
//! is a witness or removed, whether its loss is accepted. Damage is not copied: where a lane has some,
//! nothing is moved. So a list of losses, which answers for damage that is still in the files, is not needed
//! in the new lanes.
//!
//! Cost: the old lanes are read twice, the new ones written once and read once. Space: as much as is live in
//! the old lanes, and up to a segment for each new one. Memory: the index of one lane at a time, 32 bytes for
//! each group and 16 for each frame of that lane, and a batch of 256 KiB for each new lane.
//!
//! Not here: writing a lane (`recovery::relane::writer`), the assignment of groups to lanes.

mod writer;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;

use raftwerk_frame::GroupId;
use raftwerk_frame::frame;
use rustc_hash::FxHashMap;

use crate::background::catalog::{self, Kind};
use crate::directory::{Directory, NotSwitched, clear_lane, clear_others, switch};
use crate::disk::files::Files;
use crate::error::OpenError;
use crate::format::manifest::LaneSet;
use crate::format::segment::lane_dir;
use crate::index::GroupLog;
use crate::index::frame::Place;
use crate::lane::options::{LaneOptions, OnDamage};
use crate::recovery::relane::writer::LaneWriter;
use crate::recovery::scan::{Scan, Source};
use crate::recovery::{self, Walk};

/// The lane of a group, given the number of lanes; `None` if the group must stay where it is.
pub type LaneOf<'a> = &'a dyn Fn(GroupId, u16) -> Option<u16>;

/// Why a log keeps its old lanes, unchanged; see [`RelaneError::is_undecided`].
#[derive(Debug, thiserror::Error)]
pub enum RelaneError {
    /// The disk, or the quota, has no space for a copy of the live data.
    #[error("there is no room for other lanes: {0}")]
    NoRoom(#[source] OpenError),
    /// A lane is damaged, perhaps for a long time already.
    #[error("a lane is damaged: {0}")]
    Damaged(#[source] OpenError),
    /// `lane_of` returned `None`: this group must stay in its lane.
    #[error("group {group} belongs to its lane")]
    Held {
        /// The group.
        group: GroupId,
    },
    /// The system refuses a call; if that is a hard link, the file system does not support them.
    #[error("the system refuses other lanes: {0}")]
    Refused(#[source] OpenError),
    /// The copy of a group differs from the original.
    #[error("the copy of group {group} differs")]
    Differs {
        /// The group, or one of them.
        group: GroupId,
    },
    /// No lane numbers left: the directory has had 65,535 lanes.
    #[error("there are no numbers left for other lanes")]
    NoNumbers,
    /// A clone of the directory is in use.
    #[error("the directory is in use")]
    InUse,
    /// A call failed during the switch to the new lanes: only another opening can establish which lanes are
    /// valid. This directory must not be used any more.
    #[error("it is not known which lanes count: {0}")]
    Undecided(#[source] OpenError),
}

impl RelaneError {
    /// Whether it is unknown which lanes are valid, so that nothing may be written to any.
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

/// Statistics of a completed move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relaned {
    /// The old number of lanes.
    pub from: u16,
    /// The new number of lanes.
    pub to: u16,
    /// Groups, including removed ones with metadata left.
    pub groups: u64,
    /// Frames of entries.
    pub frames: u64,
    /// Bytes written: frames, metadata, padding; without the zeros that fill new files.
    pub bytes: u64,
    /// Snapshot files.
    pub snapshots: u64,
}

impl<F: Files> Directory<F> {
    /// Moves the log into `lanes` lanes, unless it has as many already. Blocks: for opening only, before any
    /// lane is opened and while this is the only clone. `options`: as the lanes will be opened with;
    /// `lane_of` returns the lane of a group, given the number of lanes.
    ///
    /// Crash-safe at any moment: the log has either all old lanes, or all new ones, whole.
    ///
    /// Cost and space: see the head of `relane`; on the order of a few seconds a GiB.
    ///
    /// # Errors
    /// [`RelaneError`]: the log keeps its old lanes, and this directory remains usable; unless
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
        if !self.is_only_clone() {
            return Err(RelaneError::InUse);
        }
        let new = old.next(lanes).ok_or(RelaneError::NoNumbers)?;
        assert_eq!(new.lanes, lanes, "the new lanes are as many as wanted");
        assert!(new.first > old.first + old.lanes, "new lanes are numbered behind a gap");
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
            self.replace_lanes(new);
        }
        if moved.as_ref().err().is_none_or(|error| !error.is_undecided()) {
            // Best effort: the next opening removes what remains.
            let _ = clear_others(self.files(), self.set());
        }
        moved
    }
}

/// A move in progress.
struct Relaning<'a, F: Files> {
    files: &'a F,
    old: LaneSet,
    new: LaneSet,
    options: &'a LaneOptions,
    lane_of: LaneOf<'a>,
    /// A hash of each group's state in the old lanes.
    told: FxHashMap<GroupId, u64>,
}

impl<F: Files> Relaning<'_, F> {
    /// Creates the new lanes, whole and durable.
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
        assert_eq!(writers.len(), usize::from(self.new.lanes), "there is one writer for each new lane");
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
        // On any damage nothing is moved: the usual opening decides which groups are fenced.
        LaneOptions { lane: number, on_damage: OnDamage::Refuse, ..self.options.clone() }
    }

    /// Copies the live data of an old lane: metadata first, then entries, in the order of their places.
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
        let logs = || walk.replay.groups.logs();
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
                continue; // nothing to copy
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
                assert!(place.end() <= scan.header.bytes, "a live frame lies in its segment");
                let bytes = reader.at(u64::from(place.offset), u64::from(place.bytes))?;
                // It was whole when it was read before; every frame is checked again as it leaves a lane.
                let Ok((header, _)) = frame::parse(bytes) else {
                    let what = "a frame is not what it was when it was read before";
                    return Err(OpenError::corrupt(&scan.path, u64::from(place.offset), what).into());
                };
                writers[self.lane_of(header.group)?].frame(bytes)?;
            }
        }
        Ok(())
    }

    /// Hard-links every complete snapshot file, and every damaged one set aside, into the lane that its group
    /// belongs to.
    fn name_snapshots(&self, moved: &mut Relaned) -> Result<(), RelaneError> {
        let mut has_some = vec![false; usize::from(self.new.lanes)];
        for number in self.old.numbers() {
            let from = format!("{}/snapshots", lane_dir(number));
            let names = match self.files.list(&from) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                listed => listed.map_err(OpenError::io(&from))?,
            };
            for name in names {
                let Some((group, (_, Kind::Complete | Kind::Damaged))) = catalog::parse(&name) else {
                    continue;
                };
                let lane = self.lane_of(group)?;
                assert!(lane < usize::from(self.new.lanes), "lanes count in 16 bits");
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

    /// Reads the new lanes as the next opening will, from the device, and compares every group with the old
    /// lanes.
    fn verify(&mut self) -> Result<(), RelaneError> {
        for number in self.new.numbers() {
            let options = self.options_of(number);
            let names = recovery::list(self.files, number)?;
            let (_, walk) =
                recovery::read(self.files, &options, &names.segments, self.new.log_id, Source::Device)?;
            let Walk { replay, .. } = walk;
            for log in replay.groups.logs() {
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

/// A hash of everything in a group's log except the places.
fn fingerprint(log: &GroupLog) -> u64 {
    let mut hasher = DefaultHasher::new();
    let facts = (log.hard_state.term, log.hard_state.vote, log.base, &log.base_configuration, log.last);
    let marks = (log.floor, log.fence_term(), log.is_removed, log.is_loss_accepted, log.is_witness());
    (log.group, facts, marks, log.live_bytes, log.memberships()).hash(&mut hasher);
    for frame in log.live() {
        (frame.first, frame.term, frame.count, frame.is_withheld, frame.place.bytes).hash(&mut hasher);
    }
    hasher.finish()
}
