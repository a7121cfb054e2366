//! The life of nodes: start, turns, disks, death.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use raftwerk::OpenError;
use raftwerk::drive::{self, Place, Settings};
use raftwerk_frame::Time;
use raftwerk_frame::frame::{FrameHeader, FrameKind};
use raftwerk_net::Transport;
use raftwerk_wal::simulated::SectorFate;
use raftwerk_wal::{LaneOptions, OpenError as LogError};

use super::{Event, World, node_id, relaxed};
use crate::disk::{Mishaps, Obedient, Queue, SimDisk, held};
use crate::fault::FaultKind;
use crate::node::{Rounds, State, Written};
use crate::watch::{Checked, Violation};

/// Whether a node that opens goes on with what it finds under a name: all but what is thrown away or written anew.
fn is_relied_on(path: &str) -> bool {
    path == "manifest" || path.ends_with(".snap") || path.ends_with(".log")
}

/// Groups that could not be made are tried again after so long.
const CREATE_AGAIN: u64 = 100_000_000;
/// How far back faults can take a durable batch away.
const WRITTEN_MAX: usize = 64;

impl World<'_> {
    /// A node starts: its log is read, and its workers have their first turns.
    pub(super) fn start(&mut self, at: usize, life: u32) -> Checked {
        let node = &mut self.nodes[at];
        if node.state != State::Down || node.life != life {
            return Ok(());
        }
        self.count(6, at as u64);
        self.nodes[at].life += 1;
        let clock = self.clock_of_life(at);
        let node = &mut self.nodes[at];
        (node.clock, node.latest) = (clock, Time(0));
        node.files.decided_by(Some(Box::new(Obedient(Arc::clone(&node.mishaps)))));
        self.plug_in(at);
        // It may die before it has opened what it found, or made.
        if self.plan.crashes
            && !self.is_ending
            && self.chances.faults.below(if life == 0 { 4 } else { 16 }) == 0
        {
            let calls = self.chances.faults.below(20);
            held(&self.nodes[at].mishaps).crash_after = Some(self.calls_of_a_start(life, calls));
        }
        self.draw_priority(at);
        match self.open(at) {
            Ok(body) => self.opened(at, body),
            Err(error) => self.refused(at, &error),
        }
    }

    fn open(&mut self, at: usize) -> Result<drive::Node<SimDisk>, OpenError> {
        let (log_id, settings) = (self.log_of(at), self.settings_of_life(at));
        let directory = self.open_directory(at, log_id)?;
        let plan = &self.plan;
        let node = &mut self.nodes[at];
        let lanes = usize::from(directory.lanes());
        node.disks = (0..lanes).map(|_| SimDisk::new(directory.clone(), u64::from(node.life))).collect();
        drop(directory);
        let places = node.disks.iter().enumerate().map(|(lane, disk)| Place {
            lane: LaneOptions { lane: lane as u16, ..plan.lane.clone() },
            disk: disk.clone(),
            waker: node.bells.waker(lane),
        });
        let seed = self.seed ^ node.id.0 << 48;
        let priority = plan.priorities[at];
        let accept_losses = node.accepts_losses;
        let incarnation = u64::from(node.life) + 1;
        let settings = Settings { node: node.id, seed, incarnation, priority, accept_losses, ..settings };
        if priority == 0 {
            self.watch.unwilling.insert(settings.node);
        } else {
            self.watch.unwilling.remove(&settings.node);
        }
        let transport = Arc::clone(&node.transport) as Arc<dyn Transport>;
        let now = node.clock.local(self.now);
        drive::Node::open(&settings, plan.inbox_max, places.collect(), &self.machines, &transport, now)
    }

    fn opened(&mut self, at: usize, body: drive::Node<SimDisk>) -> Checked {
        if self.nodes[at].is_damaged && self.has_forgotten(at, &body) {
            // All that was known of a group was in what is lost. The operator must not let it go on.
            drop(body);
            return self.retire(at);
        }
        self.note_found(at, &body);
        let node = &mut self.nodes[at];
        let (lanes, undecided) = (body.lanes(), std::mem::take(&mut node.undecided));
        if !node.is_wiped && !node.is_fenced {
            let dropped: Vec<_> = std::mem::take(&mut node.dropped);
            let is_anew = std::mem::take(&mut node.is_damaged_anew);
            let of_disk = (node.is_damaged, is_anew, &dropped[..]);
            self.watch.opened(
                at,
                of_disk,
                &undecided,
                (0..lanes).flat_map(|worker| body.replicas(worker)),
            )?;
        }
        let fleeting = node.files.paths_not_durable();
        if let Some(path) = fleeting.iter().find(|path| is_relied_on(path)) {
            let what = format!("n{} goes on with {path}, which a power cut would take away", at + 1);
            return Err(Violation::new("found is durable", what));
        }
        node.state = State::Up;
        node.opened = self.now;
        node.turned.resize(lanes.max(node.turned.len()), 0);
        if node.rounds.len() != lanes {
            // Its groups have other workers than those that others may support still.
            let latest = node.turned.iter().copied().max().unwrap_or_default();
            node.turned.fill(latest);
        }
        (node.is_doomed, node.installs) = (false, 0);
        let (life, dies_again) = (node.life, std::mem::take(&mut node.dies_again));
        node.rounds = vec![Rounds::new(); lanes];
        node.written.clear();
        node.vouched = vec![raftwerk_wal::Lsn(0); lanes];
        node.bells.take();
        node.transport.closed.store(0, Ordering::Relaxed);
        node.create_again_at = 0;
        node.body = Some(body);
        self.tend(at);
        for peer in &self.nodes {
            peer.transport.closed.fetch_and(!(1 << (at + 1)), Ordering::Relaxed);
        }
        if dies_again {
            let soon = self.now + self.chances.faults.heavy_tailed(20_000_000);
            self.at(soon, Event::Doom { node: at as u16, life, power: true });
        }
        self.say(|| {
            let (life, timeout) = (self.nodes[at].life, self.nodes[at].timeout / 1_000_000);
            format!("n{}  up, life {life}, T {timeout} ms", at + 1)
        });
        self.connect_to_all(at);
        self.mind_creations(at)?;
        for worker in 0..lanes {
            self.call(at, worker, self.now);
            self.set_to_work(at, worker);
        }
        Ok(())
    }

    /// A node stays down, loudly.
    fn retire(&mut self, at: usize) -> Checked {
        self.nodes[at].disks.clear();
        self.unplug(at);
        self.nodes[at].state = State::Retired;
        self.loud_stops += 1;
        self.is_given_up |= self.plan.is_churning;
        Ok(())
    }

    /// Whether a group that was durable here is not known any more.
    fn has_forgotten(&self, at: usize, body: &drive::Node<SimDisk>) -> bool {
        let found = (0..body.lanes()).flat_map(|worker| body.replicas(worker)).map(|view| view.group.0);
        let found: Vec<u64> = found.collect();
        !self.nodes[at].is_wiped && !self.nodes[at].is_fenced && self.watch.forgets(at, &found)
    }

    /// A node did not open. That is right if its disk was damaged or refused a call, and a fault of ours if not.
    fn refused(&mut self, at: usize, error: &OpenError) -> Checked {
        self.say(|| format!("n{}  does not open: {error}", at + 1));
        let node = &mut self.nodes[at];
        node.keep_undecided();
        self.unplug(at);
        let node = &mut self.nodes[at];
        let struck = std::mem::take(&mut held(&node.mishaps).struck) > 0;
        let has_crashed = held(&node.mishaps).has_crashed;
        let is_refusal = match error {
            OpenError::Log(LogError::Io { source, .. }) => source.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        };
        if has_crashed || struck || is_refusal {
            // The same disk may answer better the next time.
            let power = has_crashed && self.chances.faults.below(2) == 0;
            return self.fall(at, power);
        }
        if self.nodes[at].is_damaged {
            return self.retire(at);
        }
        Err(Violation::new("opens", format!("n{} refuses its own log: {error}", at + 1)))
    }

    /// A node dies. `power`: with its machine, so that only what was synced is certain to be left.
    pub(super) fn fall(&mut self, at: usize, power: bool) -> Checked {
        if self.nodes[at].state == State::Retired {
            return Ok(());
        }
        self.count(7, at as u64);
        self.say(|| format!("n{}  dies{}", at + 1, if power { " of a power cut" } else { "" }));
        self.lose_callers(at);
        self.lose_readers(at);
        self.lose_repeaters(at);
        self.lose_faces(at);
        let forgets = power || held(&self.nodes[at].mishaps).has_forgotten;
        self.lose_received(at, forgets);
        self.lose_asides(at);
        let node = &mut self.nodes[at];
        if power && self.chances.faults.below(2) == 0 {
            // In the middle of what it was writing.
            held(&node.mishaps).crash_after = Some(self.chances.faults.below(4));
            for disk in &node.disks {
                node.undecided.extend(disk.run_appends(usize::MAX, |_| ()));
                disk.run_background(Queue::Segments);
                disk.run_background(Queue::Snapshots);
            }
        }
        node.creations.clear();
        for (group, _) in std::mem::take(&mut node.leaving) {
            // Perhaps it is gone, and perhaps not.
            node.dropped.push(group);
            node.joins.push(group);
            node.to_create.push(group);
        }
        if let Some(body) = node.body.take() {
            self.installed += body.stats().installs;
            self.leased_reads += body.stats().leased_reads;
            node.noted = body.peers();
        }
        node.keep_undecided();
        node.state = State::Down;
        self.unplug(at);
        let node = &mut self.nodes[at];
        *held(&node.mishaps) = Mishaps::default();
        if power {
            let disk = &self.plan.disk;
            let (chance, names) = (&mut self.chances.faults, &mut self.chances.names);
            // Changes of names that were not synced: all lost, all there, or each on its own.
            let kept = names.one_of(&[0, 50, 50, 100]);
            let fate = |_: &str, _| match chance.below(100) {
                drawn if drawn < disk.old_percent => SectorFate::Old,
                drawn if drawn < disk.old_percent + disk.new_percent => SectorFate::New,
                drawn => SectorFate::Garbage(drawn as u8),
            };
            node.files = node.files.after_power_cut_with_names(|| names.below(100) < kept, fate);
        }
        let (life, notice) = (node.life, self.links.notice());
        for peer in (0..self.nodes.len()).filter(|peer| *peer != at) {
            let of_peer = self.nodes[peer].life;
            self.at(self.now + notice, Event::Notice { node: peer as u16, peer: at as u16, life: of_peer });
        }
        if self.stage.is_none() || self.is_ending {
            let hurries = std::mem::take(&mut self.nodes[at].hurries);
            let usual = if hurries { 2_000_000 } else { 300_000_000 };
            let pause = self.chances.faults.heavy_tailed(usual);
            self.at(self.now + pause, Event::Start { node: at as u16, life });
        }
        Ok(())
    }

    /// The operator ends a life with a failed log, or the machine one that had begun only just.
    pub(super) fn doom(&mut self, at: usize, life: u32, power: bool) -> Checked {
        let is_this = self.nodes[at].life == life && self.nodes[at].state == State::Up;
        if is_this && !(power && self.is_ending) { self.fall(at, power) } else { Ok(()) }
    }

    pub(super) fn notice(&mut self, at: usize, peer: usize, life: u32) {
        if self.plan.quic.is_some() {
            return; // it finds out by itself
        }
        let node = &self.nodes[at];
        if self.nodes[peer].state != State::Up {
            node.transport.closed.fetch_or(1 << (peer + 1), Ordering::Relaxed);
        }
        if let Some(body) = node.body.as_ref().filter(|_| node.life == life) {
            body.disconnected(node_id(peer));
            self.answer_bells(at);
        }
    }

    /// Schedules turns for workers that were called.
    pub(super) fn answer_bells(&mut self, at: usize) {
        let mut called = self.nodes[at].bells.take();
        while called != 0 {
            let worker = called.trailing_zeros() as usize;
            called &= called - 1;
            let soon = self.now + 1_000 + self.chances.turns.below(20_000);
            self.call(at, worker, soon);
        }
    }

    /// A worker has its turn now, and its disks work.
    pub(super) fn wake(&mut self, at: usize, worker: usize) {
        self.call(at, worker, self.now);
        self.set_to_work(at, worker);
    }

    /// A worker has its turn at that time, or earlier.
    pub(super) fn call(&mut self, at: usize, worker: usize, when: u64) {
        let node = &mut self.nodes[at];
        let still = node.still_until(worker);
        let Some(rounds) = node.rounds.get_mut(worker) else { return };
        let when = when.max(still).max(rounds.free_at);
        if when < rounds.turn_at {
            rounds.turn_at = when;
            self.at(when, Event::Turn { node: at as u16, worker: worker as u16 });
        }
    }

    pub(super) fn turn(&mut self, at: usize, worker: usize) -> Checked {
        let now = self.now;
        let node = &mut self.nodes[at];
        let is_due = node.state == State::Up && node.rounds.get(worker).is_some_and(|of| of.turn_at == now);
        if !is_due {
            return Ok(());
        }
        node.rounds[worker].turn_at = u64::MAX;
        let until = node.still_until(worker).max(node.rounds[worker].free_at);
        if until > now {
            self.call(at, worker, until);
            return Ok(());
        }
        self.count(1, (at << 8 | worker) as u64);
        let node = &mut self.nodes[at];
        let local = node.local(now);
        let Some(body) = &mut node.body else { return Ok(()) };
        let end = body.turn(worker, local);
        node.turned[worker] = now;
        let busy = self.spend_turn(at, worker);
        let next = if end.is_busy { busy } else { self.nodes[at].clock.world(end.next_deadline) };
        if next != u64::MAX {
            self.call(at, worker, next.max(now + 1_000));
        }
        self.check_turn(at, worker)?;
        if !end.is_closed {
            self.check_vouching(at, worker)?; // one that has ended takes part in nothing any more
        }
        self.check_exclusion(at, worker)?;
        self.check_segments(at, worker)?;
        self.mind_install(at);
        self.mind_creations(at)?;
        self.answer_callers(at);
        self.answer_readers(at)?;
        self.answer_repeaters(at)?;
        self.answer_asides(at)?;
        self.answer_faces(at)?;
        self.set_to_work(at, worker);
        self.mind_shrinking(at);
        let mut sent = std::mem::take(&mut self.sent);
        self.nodes[at].transport.take_sent(&mut sent);
        for (to, channel, bytes) in sent.drain(..) {
            self.post(at, to, channel, bytes)?;
        }
        self.sent = sent;
        self.tend(at);
        self.answer_bells(at);
        if end.is_closed { self.worker_left(at, worker) } else { Ok(()) }
    }

    fn check_turn(&mut self, at: usize, worker: usize) -> Checked {
        let Some(body) = &self.nodes[at].body else { return Ok(()) };
        if self.nodes[at].is_fenced {
            return Ok(());
        }
        for view in body.replicas(worker).filter(|_| !self.nodes[at].is_wiped) {
            let changed = self.watch.replica(at, &view)?;
            if changed {
                let committed = self.watch.committed(view.group);
                self.commits[view.group.0 as usize - 1].note(self.now, committed);
            }
            if changed && self.trace.is_some() {
                let (core, group) = (view.core, view.group);
                self.say(|| {
                    format!(
                        "n{}  {group} {}{:?} in {}, log {}..{}, commit {}, applied {}",
                        at + 1,
                        if core.is_witness() { "witness, " } else { "" },
                        core.role(),
                        core.term(),
                        core.compacted(),
                        core.last(),
                        core.commit(),
                        view.applied
                    )
                });
            }
        }
        if self.events.is_multiple_of(16) {
            let load = body.load(worker);
            self.watch.load(at, &load)?;
            self.mind_poison(at, load.is_poisoned);
        }
        Ok(())
    }

    /// A node with a failed log is started again by its operator, after a while.
    fn mind_poison(&mut self, at: usize, is_poisoned: bool) {
        let node = &mut self.nodes[at];
        if is_poisoned && !std::mem::replace(&mut node.is_doomed, true) {
            let life = node.life;
            self.say(|| format!("n{}  its log has failed", at + 1));
            let soon = self.chances.faults.heavy_tailed(200_000_000);
            self.at(self.now + soon, Event::Doom { node: at as u16, life, power: false });
        }
    }

    /// Gives the disks of a worker something to do.
    fn set_to_work(&mut self, at: usize, worker: usize) {
        for (number, queue) in Queue::ALL.into_iter().enumerate() {
            let node = &mut self.nodes[at];
            let Some(disk) = node.disks.get(worker) else { return };
            if node.rounds[worker].is_working[number] || !disk.has(queue) {
                continue;
            }
            node.rounds[worker].is_working[number] = true;
            if queue == Queue::Appends {
                node.rounds[worker].batches = disk.appends();
            }
            let life = node.life;
            let mut takes = self.plan.disk.sync / 2 + self.chances.disks.below(self.plan.disk.sync);
            if !self.is_ending && self.chances.disks.hits(self.plan.disk.slow_ppm) {
                takes += self.chances.disks.heavy_tailed(self.plan.disk.slow);
                self.faults.add(FaultKind::SlowDisk);
            }
            let event = Event::Disk { node: at as u16, worker: worker as u16, queue: number as u8, life };
            self.at(self.now + takes, event);
        }
    }

    /// A disk has finished what it was at.
    pub(super) fn work(&mut self, at: usize, worker: usize, queue: Queue, life: u32) -> Checked {
        let node = &mut self.nodes[at];
        if node.life != life || node.state != State::Up {
            return Ok(());
        }
        let until = node.hangs_until.max(node.frozen_until);
        let until = if queue == Queue::Segments { until.max(node.segments_until) } else { until };
        if until > self.now {
            let event = Event::Disk { node: at as u16, worker: worker as u16, queue: queue as u8, life };
            self.at(until, event);
            return Ok(());
        }
        self.count(3, (at << 8 | worker << 4 | queue as usize) as u64);
        let node = &mut self.nodes[at];
        node.rounds[worker].is_working[queue as usize] = false;
        let disk = node.disks[worker].clone();
        let is_cut_off = self.spare_nothing(at, queue, &disk);
        if queue == Queue::Appends {
            self.append(at, worker, &disk)?;
        } else {
            self.run_background(at, queue, &disk);
        }
        drop(disk);
        let has_crashed = held(&self.nodes[at].mishaps).has_crashed;
        if has_crashed {
            let power = is_cut_off || self.chances.faults.below(2) == 0;
            // What the first death left written and not durable, a second one may take from a life that relies on it.
            self.nodes[at].dies_again = !power && self.chances.faults.below(2) == 0;
            return self.fall(at, power);
        }
        self.call(at, worker, self.now + 1_000);
        self.set_to_work(at, worker);
        Ok(())
    }

    /// A log begins later from now on: a checkpoint is on the disk, under a name that a power cut would leave, that has what the
    /// log no longer has. Witnesses have no state, and no checkpoint.
    fn check_checkpointed(&self, at: usize, header: &FrameHeader) -> Checked {
        let (node, group) = (&self.nodes[at], header.group);
        let has_state = |body: &drive::Node<SimDisk>| {
            body.replicas(body.worker_of(group)).any(|view| view.group == group && view.machine.is_some())
        };
        if header.index.0 == 0 || !node.body.as_ref().is_some_and(has_state) {
            return Ok(());
        }
        let ours = format!("{:016x}", group.0);
        let is_enough = |path: &str| {
            let Some((_, name)) = path.strip_suffix(".snap").and_then(|path| path.split_once("/snapshots/"))
            else {
                return false;
            };
            let mut parts = name.split('-');
            let index = |part: &str| u64::from_str_radix(part, 16).ok();
            parts.next() == Some(&*ours) && parts.next().and_then(index) >= Some(header.index.0)
        };
        if node.files.has_durable(is_enough) {
            return Ok(());
        }
        let what =
            format!("n{} {group}: its log begins after {}, and no checkpoint has that", at + 1, header.id());
        Err(Violation::new("dropped is checkpointed", what))
    }

    fn append(&mut self, at: usize, lane: usize, disk: &SimDisk) -> Checked {
        let (is_told, tales) = (self.plan.relaxed > 0, &mut self.written[at]);
        let durable = disk.run_appends(self.nodes[at].rounds[lane].batches, |job| {
            if is_told {
                relaxed::note_written(tales, job);
            }
        });
        if self.nodes[at].is_fenced || self.nodes[at].is_wiped {
            return Ok(()); // what an old image holds contradicts what was sent since
        }
        let mut begins_anew = false;
        for job in durable {
            let (mut checked, mut groups) = (Ok(()), smallvec::SmallVec::new());
            job.frames(|header, body| {
                if header.kind == FrameKind::Entries {
                    groups.push(header.group);
                }
                if checked.is_ok() {
                    checked = self.watch.durable(at, &header, body);
                }
                if checked.is_ok() && matches!(header.kind, FrameKind::Compact | FrameKind::Snapshot) {
                    checked = self.check_checkpointed(at, &header);
                }
                begins_anew |= header.kind == FrameKind::Snapshot;
            });
            checked?;
            self.watch.batch_ends()?;
            let node = &mut self.nodes[at];
            node.vouched[lane] = node.vouched[lane].max(job.claim());
            // Where a probe lay, there is another batch by now.
            if !self.plan.remembers_batches || job.is_probe() {
                continue;
            }
            let number = usize::from(node.first_lane) + lane;
            let path = format!("lane-{number}/seg-{:016x}.log", job.segment);
            // A copy: the buffer is the lane's, which wants it back.
            let (offset, batch, lsn) = (job.offset, bytes::Bytes::copy_from_slice(&job.batch), job.lsn);
            node.written.push_back(Written { lane, path, offset, batch, lsn, groups });
            if node.written.len() > WRITTEN_MAX {
                node.written.pop_front();
            }
        }
        if begins_anew {
            self.mind_beginning(at);
        }
        Ok(())
    }

    /// Asks for the groups that are still to be made here. One that is durable need not be asked for again.
    fn mind_creations(&mut self, at: usize) -> Checked {
        self.mind_leaving(at);
        let wanted = self.nodes[at].to_create.iter().copied();
        let as_witness: Vec<_> = wanted.clone().filter(|group| self.is_witness(at, *group)).collect();
        let as_founder: Vec<_> = wanted
            .filter(|group| {
                let of_voters = self.plan.voters[group.0 as usize - 1].contains(&at);
                (of_voters || self.founds_beside(*group) == Some(at)) && !self.nodes[at].joins.contains(group)
            })
            .map(|group| (group, self.founders(group)))
            .collect();
        let node = &mut self.nodes[at];
        let is_here = !node.is_fenced;
        if node.to_create.is_empty() || !is_here {
            return Ok(());
        }
        let mut cx = Context::from_waker(Waker::noop());
        let is_wiped = node.is_wiped;
        let (created, watch, mut checked) = (&mut node.to_create, &self.watch, Ok(()));
        node.creations.retain_mut(|(group, creation)| match Pin::new(creation).poll(&mut cx) {
            Poll::Pending => true,
            Poll::Ready(outcome) => {
                if outcome.is_ok() && checked.is_ok() && !is_wiped {
                    checked = watch.created(at, *group);
                }
                created.retain(|wanted| wanted != group || outcome.is_err());
                false
            }
        });
        checked?;
        let Some(body) = node.body.as_ref().filter(|_| self.now >= node.create_again_at) else {
            return Ok(());
        };
        node.create_again_at = self.now + CREATE_AGAIN;
        for group in &node.to_create {
            if node.creations.iter().any(|(asked, _)| asked == group) {
                continue;
            }
            if let Some((_, founders)) = as_founder.iter().find(|(of, _)| of == group) {
                node.creations.push((*group, body.create_group(*group, founders)));
            } else if as_witness.contains(group) {
                node.creations.push((*group, body.join_group_as_witness(*group)));
            } else {
                node.creations.push((*group, body.join_group(*group)));
            }
        }
        Ok(())
    }
}
