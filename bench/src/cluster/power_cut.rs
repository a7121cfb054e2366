//! `--power-cut`: loads the cluster once more, cuts the power of all nodes at one instant, opens them from what their devices have,
//! and verifies again. IMPURE: clock, threads and files.
//!
//! The devices are models ([`Platter`]), shown each system call of the nodes: what the system was asked to make durable, and not what
//! it keeps in memory, is there afterwards. From the cut on no call is reported as done, so what the client sees acknowledged at any
//! time rests on syncs that were done before. What is not here: the first load and its verification (`mod`).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use raftwerk_wal::FileObserver;
use raftwerk_wal::platter::{InDoubt, Platter, PowerLoss};

use super::local::LocalNode;
use super::verify::{Verification, verify};
use super::{
    Loaded, PATIENCE, Place, client, killing, load_and_verify, make_groups, run_client, tell_address,
};
use crate::cli::ClusterOptions;
use crate::client::{Order, Progress, Tally};
use crate::cluster::control::NodeControl;
use crate::ledger::Subject;
use crate::report::{ClusterReport, PowerCutReport};
use crate::rng::Rng;

/// How long the cluster is loaded before the cut.
const LOAD_TIME: Duration = Duration::from_secs(1);
/// Writes under way for each group, at the most: all of them are of unknown outcome after the cut, and of too many the sums could not
/// tell which were applied.
const IN_FLIGHT_OF_GROUP_MAX: u32 = 1024;

/// What becomes of what was written and not synced when the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PowerCut {
    /// It is gone.
    Lost,
    /// A part of it is there, sector by sector, by `--seed`; likewise names of files.
    Torn,
    /// The same as lost, on devices that report syncs that they have not done: the verification must fail.
    Lying,
}

impl PowerCut {
    /// Its name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Torn => "torn",
            Self::Lying => "lying",
        }
    }
}

/// Runs the whole thing.
///
/// # Errors
/// A sentence on what kept it from being measured or verified.
pub(super) fn run(options: &ClusterOptions, what: PowerCut, place: &Place) -> Result<ClusterReport, String> {
    let devices = Devices::new(options, place)?;
    let mut nodes = Vec::new();
    for (node, platter) in (1..).zip(&devices.platters) {
        let observer = Some(Arc::clone(platter) as Arc<dyn FileObserver>);
        nodes.push(LocalNode::start_observed(place.settings(options, node), observer)?);
    }
    (0..nodes.len()).try_for_each(|node| tell_address(&mut nodes, node))?;
    let Loaded { mut nodes, subject, counter, mut report } =
        load_and_verify(options, place, nodes, &killing(options.down))?;
    let mut ledger = Ledger { subject, counter, acknowledged: 0 };
    if what == PowerCut::Lying {
        devices.platters.iter().for_each(|platter| platter.lie());
    }
    let tally = cut_under_load(options, &mut nodes, &devices, &mut ledger)?;
    let loss = devices.leave(what, options.seed)?;
    let cut = Instant::now();
    let opened = open_all(options, &mut nodes, &devices, &mut ledger);
    let writes_again = opened.is_ok().then(|| cut.elapsed());
    let verification = opened.map_or_else(
        |error| Verification { errors: vec![error], ..Verification::default() },
        |()| verify(&mut nodes, options.groups, &mut ledger.subject, PATIENCE),
    );
    nodes.into_iter().for_each(LocalNode::stop);
    report.acknowledged += ledger.acknowledged;
    Ok(add(report, what, &tally, &loss, writes_again, verification))
}

/// What was acknowledged so far, by clients that follow each other.
struct Ledger {
    subject: Subject,
    counter: u64,
    /// By those after the first load.
    acknowledged: u64,
}

/// The nodes' devices.
struct Devices {
    platters: Vec<Arc<Platter>>,
    /// What each has after the cut.
    images: Vec<PathBuf>,
}

impl Devices {
    fn new(options: &ClusterOptions, place: &Place) -> Result<Self, String> {
        let mut devices = Self { platters: Vec::new(), images: Vec::new() };
        for node in 1..=options.nodes {
            let folder = |name: &str| place.path.join(name).join(format!("n{node}"));
            let platter = Platter::new(place.settings(options, node).data_dir, folder("devices"));
            let sentence = |error| format!("a folder for the device of node n{node}: {error}");
            devices.platters.push(Arc::new(platter.map_err(sentence)?));
            devices.images.push(folder("left"));
        }
        Ok(devices)
    }

    /// Makes the folders that the nodes will open. The sum of what all devices lost.
    fn leave(&self, what: PowerCut, seed: u64) -> Result<PowerLoss, String> {
        let mut sum = PowerLoss::default();
        for (number, (platter, image)) in self.platters.iter().zip(&self.images).enumerate() {
            let mut chance = Chance::new(seed, number as u64);
            let reached = |_: InDoubt<'_>| what == PowerCut::Torn && chance.reached();
            let loss = platter.leave(image, reached);
            let loss =
                loss.map_err(|error| format!("what the power cut left of node n{}: {error}", number + 1))?;
            sum.unsynced_bytes += loss.unsynced_bytes;
            sum.sectors_lost += loss.sectors_lost;
            sum.sectors_kept += loss.sectors_kept;
            sum.files += loss.files;
            sum.names_lost += loss.names_lost;
            sum.names_kept += loss.names_kept;
        }
        Ok(sum)
    }
}

/// What of a device's unsynced sectors and names has reached it: few, half or most of them.
struct Chance {
    rng: Rng,
    eighths: u64,
}

impl Chance {
    fn new(seed: u64, device: u64) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(1009).wrapping_add(device));
        let eighths = [1, 4, 7][rng.below(3) as usize];
        Self { rng, eighths }
    }

    fn reached(&mut self) -> bool {
        self.rng.below(8) < self.eighths
    }
}

/// Loads the nodes, cuts their power, and ends what is left of them.
fn cut_under_load(
    options: &ClusterOptions,
    nodes: &mut [LocalNode],
    devices: &Devices,
    ledger: &mut Ledger,
) -> Result<Tally, String> {
    let in_flight = options.in_flight.min(options.groups.saturating_mul(IN_FLIGHT_OF_GROUP_MAX));
    // Other operations than those of the first load, all the time as many as there may be, whatever that was.
    let options = ClusterOptions { in_flight, rate: None, seed: options.seed ^ 0x5EED, ..options.clone() };
    let progress = Arc::new(Progress::new(nodes.len()));
    let (orders, obeyed) = mpsc::channel();
    let (say_ready, ready) = mpsc::channel();
    let ports = nodes.iter_mut().map(LocalNode::port).collect::<Result<Vec<_>, _>>()?;
    let subject = ledger.replace(&options);
    let client = client(&options, subject, ports, obeyed, &progress).counting_from(ledger.counter);
    let groups = options.groups;
    let (results, ended) = thread::scope(|scope| {
        let running = scope.spawn(move || run_client(client, groups, &say_ready));
        let is_ready = ready.recv().unwrap_or(false);
        if is_ready {
            thread::sleep(LOAD_TIME);
        }
        Platter::cut(devices.platters.iter().map(|platter| &**platter));
        // The client may have ended, with a panic: the join shows it.
        let _obeyed = orders.send(Order::Finish);
        let ended = nodes.iter_mut().enumerate().try_for_each(|(number, node)| {
            node.kill()?;
            let _obeyed = orders.send(Order::Gone(number));
            Ok(())
        });
        let results = running.join().map_err(|_| "the client panicked".to_owned());
        (
            results,
            if is_ready {
                ended
            } else {
                Err("not every group took a write before the power cut".to_owned())
            },
        )
    });
    let (tally, subject, _) = results?;
    ended?;
    ledger.note(subject, &tally);
    Ok(tally)
}

/// Opens all nodes from what their devices have, and waits until each group has taken a write.
fn open_all(
    options: &ClusterOptions,
    nodes: &mut [LocalNode],
    devices: &Devices,
    ledger: &mut Ledger,
) -> Result<(), String> {
    for (node, image) in nodes.iter_mut().zip(&devices.images) {
        node.restart_from(image.clone())?;
    }
    (0..nodes.len()).try_for_each(|node| tell_address(nodes, node))?;
    // As a program does when it starts: it changes nothing of a group that is there.
    make_groups(options, nodes)?;
    let ports = nodes.iter_mut().map(LocalNode::port).collect::<Result<Vec<_>, _>>()?;
    let (_orders, obeyed) = mpsc::channel();
    let subject = ledger.replace(options);
    let progress = Arc::new(Progress::new(nodes.len()));
    let mut client = client(options, subject, ports, obeyed, &progress).counting_from(ledger.counter);
    let have_leaders = client.barrier(0..options.groups, PATIENCE);
    let (tally, subject) = client.into_results();
    ledger.note(subject, &tally);
    if have_leaders {
        Ok(())
    } else {
        Err(format!("after the power cut not every group took a write within {} s", PATIENCE.as_secs()))
    }
}

impl Ledger {
    /// Takes the subject out, for a client; an empty one of the same kind stays.
    fn replace(&mut self, options: &ClusterOptions) -> Subject {
        let empty = Subject::new(options.state_machine, options.groups, 1, options.payload);
        std::mem::replace(&mut self.subject, empty)
    }

    /// Takes it back from a client.
    fn note(&mut self, subject: Subject, tally: &Tally) {
        (self.subject, self.counter) = (subject, tally.counter);
        self.acknowledged += tally.acknowledged;
    }
}

/// The first report, with what the power cut has shown.
fn add(
    mut report: ClusterReport,
    what: PowerCut,
    tally: &Tally,
    loss: &PowerLoss,
    writes_again: Option<Duration>,
    found: Verification,
) -> ClusterReport {
    report.unknown_outcomes += tally.unknown;
    report.stale_reads += tally.stale_reads;
    report.lost_acknowledged = report.lost_acknowledged.max(found.lost);
    report.replicas_agree &= found.replicas_agree;
    report.errors.extend(found.errors.into_iter().map(|error| format!("after the power cut: {error}")));
    report.power_cut = Some(PowerCutReport {
        unsynced: what.name(),
        seed: report.seed,
        acknowledged_meanwhile: tally.acknowledged,
        under_way: tally.unknown,
        unsynced_bytes: loss.unsynced_bytes,
        sectors_lost: loss.sectors_lost,
        sectors_kept: loss.sectors_kept,
        files: loss.files,
        names_lost: loss.names_lost,
        names_kept: loss.names_kept,
        writes_again_ms: writes_again.map(|time| (time.as_micros() as f64) / 1000.0),
        lost_acknowledged: found.lost,
        replicas_agree: found.replicas_agree,
    });
    report
}
