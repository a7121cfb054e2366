//! The command line: options, their defaults and bounds, and which of them go together.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use raftwerk::Consistency;

use crate::client::Load;
use crate::cluster::power_cut::PowerCut;
use crate::failover::Fault;
use crate::ledger::MachineKind;
use crate::reading::{Replica, consistency};
use crate::workload::WorkloadKind;

/// Operations that may be under way in an open loop.
const OPEN_IN_FLIGHT_MAX: u32 = 65_536;

/// Measures Raftwerk.
#[derive(Debug, Parser)]
#[command(name = "raftwerk-bench", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a cluster on this machine, load it, measure it, and verify that nothing was lost.
    Cluster(ClusterOptions),
    /// Write a cluster's authority and the certificates of its nodes as PEM files.
    Certs(CertsOptions),
    /// Measure the log alone against the device under it, or look into one.
    Log(crate::log::LogOptions),
    /// Make a log of a given size on one node, and time how the node comes back over it.
    Recovery(RecoveryOptions),
    /// Make many groups on three nodes, and measure what they cost at rest.
    Idle(IdleOptions),
    /// Strike the node that leads most groups, and time until all of them take writes again.
    Failover(FailoverOptions),
    /// Run the canonical rows one after another, with what their parts cost alone, and show them as one table.
    Suite(crate::suite::SuiteOptions),
    /// Be one node of a cluster; started by `cluster --processes`.
    #[command(hide = true)]
    Node {
        /// The node's settings, as JSON.
        settings: String,
    },
}

/// Options of `recovery`.
#[derive(Debug, Args)]
pub struct RecoveryOptions {
    /// Size of the log in MiB.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub mib: u64,
    /// Groups in it.
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub groups: u64,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 128)]
    pub payload: usize,
    /// Worker threads, each with a lane of the log.
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
    /// Every group is checkpointed after each of its writes, as far as the disk keeps up: what opening takes is their files then.
    #[arg(long)]
    pub checkpointed: bool,
    /// Lanes that the node comes back with: another number than before has its log moved while it opens.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub lanes: Option<u16>,
    /// Read the log into the system's page cache before the node opens. Otherwise it is not there: the log is written past it.
    #[arg(long)]
    pub hot: bool,
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub json: bool,
}

/// Options of `idle`.
#[derive(Debug, Args)]
pub struct IdleOptions {
    /// Groups, each replicated on all three nodes.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(3..=1_000_000))]
    pub groups: u64,
    /// Seconds to watch them.
    #[arg(long, default_value_t = 20.0)]
    pub seconds: f64,
    /// Worker threads per node.
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub json: bool,
    /// Seeds the election timers.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Options of `failover`.
#[derive(Debug, Args)]
pub struct FailoverOptions {
    /// Groups, each replicated on all three nodes.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(3..=1_000_000))]
    pub groups: u32,
    /// What happens to the node.
    #[arg(long, value_enum, default_value_t = Fault::Kill)]
    pub fault: Fault,
    /// Writes under way at any time. As many as the node leads groups, or more: then each of them is looked for at once.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub in_flight: u32,
    /// No client writes while the fault lasts: what counts is when others lead.
    #[arg(long)]
    pub idle: bool,
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub json: bool,
    /// Seeds workload and election timers.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl FailoverOptions {
    /// The cluster that is struck: `after` its measured time began, which lasts `in_all`.
    #[must_use]
    pub fn cluster(&self, after: Duration, in_all: Duration) -> ClusterOptions {
        let words = ["raftwerk-bench", "cluster", "--processes", "--state-machine", "hash"];
        let mut options = match Cli::parse_from(words).command {
            Command::Cluster(options) => options,
            _ => unreachable!("the words say so"),
        };
        (options.groups, options.in_flight, options.seed) = (self.groups, self.in_flight, self.seed);
        (options.kill_leader_after, options.seconds) = (Some(after), in_all.as_secs_f64());
        if self.fault == Fault::WorkerStuck {
            options.workers = 1; // all groups of the node are with the one that is stuck
        }
        options
    }
}

/// Options of `certs`.
#[derive(Debug, Args)]
pub struct CertsOptions {
    /// The folder to write to.
    pub folder: PathBuf,
    /// The cluster's name.
    #[arg(long, default_value = "raftwerk")]
    pub cluster: String,
    /// How many nodes get certificates: n1, n2 …
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub nodes: u64,
}

/// `on` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// Options of `cluster`.
#[derive(Clone, Debug, Args)]
pub struct ClusterOptions {
    /// Nodes, each a voter of every group: 1, 3 or 5.
    #[arg(long, default_value_t = 3)]
    pub nodes: u64,
    /// Raft groups.
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub groups: u32,
    /// Bytes of each proposal.
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    pub payload: usize,
    /// Closed loop: operations under way at any time.
    #[arg(long, value_name = "N", default_value_t = 4096, conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub in_flight: u32,
    /// Open loop: operations started per second, with latency from the intended start.
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// Seconds to measure.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Keep the nodes' data in this folder, which must be empty or absent. Default: a folder that is removed.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What the entries drive.
    #[arg(long, value_enum, default_value_t = MachineKind::Kv)]
    pub state_machine: MachineKind,
    /// Whether the log is synced before anything is acknowledged.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub sync: Switch,
    /// Share of reads; `uniform` and `zipfian` only.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub reads: u32,
    /// What reads may show: strong, bounded:TIME, monotonic, read-my-writes, consistent-prefix, eventual.
    #[arg(long, value_name = "LEVEL", default_value = "strong", value_parser = consistency)]
    pub consistency: Consistency,
    /// Which replica answers reads; any replica waits for what it lacks.
    #[arg(long, value_enum, default_value_t = Replica::Leader)]
    pub replica: Replica,
    /// Which keys, and which mix.
    #[arg(long, value_enum, default_value_t = WorkloadKind::Uniform)]
    pub workload: WorkloadKind,
    /// Keys that the workload draws from.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub keys: u32,
    /// Kill the node that leads most groups so long into the measured time, then start it again.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub kill_leader_after: Option<Duration>,
    /// The same with the node that leads fewest groups: how a replica catches up while writes go on.
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "kill_leader_after")]
    pub kill_follower_after: Option<Duration>,
    /// How long a killed node stays down.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub down: Duration,
    /// Log of a group in MiB after which the engine writes a checkpoint of it; 0: none is written.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(0..=1 << 20))]
    pub checkpoint_mib: u64,
    /// After the verification, load the cluster again and cut the power of all nodes at one instant; open them from what that leaves,
    /// and verify again.
    #[arg(long, value_enum, value_name = "UNSYNCED", num_args = 0..=1, default_missing_value = "lost")]
    pub power_cut: Option<PowerCut>,
    /// Run each node as a process of its own.
    #[arg(long)]
    pub processes: bool,
    /// Worker threads per node.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub workers: u64,
    /// Lanes of each node's log; as many as workers if not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub lanes: Option<u64>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub json: bool,
    /// Seeds workload and election timers.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Which node is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The one that leads most groups.
    LeadsMost,
    /// The one that leads fewest.
    LeadsFewest,
}

/// Why options make no run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OptionsError {
    /// Not a number of voters that this version knows.
    #[error("--nodes must be 1, 3 or 5, not {0}")]
    Nodes(u64),
    /// Two writes could be equal.
    #[error("--payload must be {least} to 1048576 bytes with --state-machine {machine}, not {bytes}")]
    Payload {
        /// As given.
        bytes: usize,
        /// The least for this state machine.
        least: usize,
        /// Its name.
        machine: &'static str,
    },
    /// Not a rate.
    #[error("--rate must be above 0 and at most 100 million, not {0}")]
    Rate(f64),
    /// Not a length of time.
    #[error("--seconds must be 0.1 to 86400, not {0}")]
    Seconds(f64),
    /// The mix has its own share of reads.
    #[error("--reads does not go with --workload {0}, which has its own share of reads")]
    Reads(&'static str),
    /// No majority would be left.
    #[error("to kill a node takes at least 3 nodes")]
    KillNodes,
    /// The cut is of one process's files.
    #[error(
        "--power-cut does not go with --processes: all nodes lose power at one instant, which takes one process"
    )]
    PowerCutProcesses,
    /// Nothing is promised that could be kept.
    #[error(
        "--power-cut does not go with --sync off, which promises nothing; to see the verdict fail: --power-cut lying"
    )]
    PowerCutUnsynced,
    /// It would come too late.
    #[error("a node is killed, and is back, within the measured {0} seconds, or not at all")]
    KillTime(f64),
}

impl ClusterOptions {
    /// Checks what single options cannot.
    ///
    /// # Errors
    /// The first [`OptionsError`].
    pub fn check(&self) -> Result<(), OptionsError> {
        let least = self.state_machine.payload_bytes_min();
        if !matches!(self.nodes, 1 | 3 | 5) {
            return Err(OptionsError::Nodes(self.nodes));
        }
        if !(least..=1 << 20).contains(&self.payload) {
            let machine = self.state_machine.name();
            return Err(OptionsError::Payload { bytes: self.payload, least, machine });
        }
        if let Some(rate) = self.rate.filter(|rate| !(*rate > 0.0 && *rate <= 1e8)) {
            return Err(OptionsError::Rate(rate));
        }
        if !(0.1..=86_400.0).contains(&self.seconds) {
            return Err(OptionsError::Seconds(self.seconds));
        }
        if self.reads > 0 && self.workload.reads_percent().is_some() {
            return Err(OptionsError::Reads(self.workload.name()));
        }
        if self.power_cut.is_some() && self.processes {
            return Err(OptionsError::PowerCutProcesses);
        }
        if self.power_cut.is_some() && self.sync == Switch::Off {
            return Err(OptionsError::PowerCutUnsynced);
        }
        match self.strike() {
            Some(_) if self.nodes < 3 => Err(OptionsError::KillNodes),
            Some((_, after)) if after.as_secs_f64() >= self.seconds => {
                Err(OptionsError::KillTime(self.seconds))
            }
            _ => Ok(()),
        }
    }

    /// The node that is to be killed, if any, and how long into the measured time.
    #[must_use]
    pub fn strike(&self) -> Option<(Victim, Duration)> {
        let leader = self.kill_leader_after.map(|after| (Victim::LeadsMost, after));
        leader.or(self.kill_follower_after.map(|after| (Victim::LeadsFewest, after)))
    }

    /// How operations are started.
    #[must_use]
    pub const fn load(&self) -> Load {
        match self.rate {
            Some(per_second) => Load::Open { per_second, in_flight_max: OPEN_IN_FLIGHT_MAX },
            None => Load::Closed { in_flight: self.in_flight },
        }
    }
}

/// Reads `3s`, `500ms`, `1.5m`, or a bare number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        other => return Err(format!("`{other}` is no unit of time; use ms, s or m")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("`{digits}` is not a number"))?;
    Duration::try_from_secs_f64(number * unit).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn cluster(arguments: &str) -> Result<ClusterOptions, clap::Error> {
        let words = ["raftwerk-bench", "cluster"].into_iter().chain(arguments.split_whitespace());
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Cluster(options) => options,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_the_documented_ones_and_valid() {
        let options = cluster("").unwrap();
        assert_eq!(options.check(), Ok(()));
        assert_eq!((options.nodes, options.groups, options.payload, options.seconds), (3, 48, 16, 10.0));
        assert_eq!(options.load(), Load::Closed { in_flight: 4096 });
        assert_eq!((options.state_machine, options.sync), (MachineKind::Kv, Switch::On));
    }

    #[test]
    fn everything_can_be_said() {
        let all = "--nodes 5 --groups 100 --payload 128 --rate 50000 --seconds 4 --data-dir /x --state-machine hash \
             --sync off --reads 20 --workload zipfian --kill-leader-after 1500ms --processes --json --seed 9 --workers 2 --lanes 4 \
             --keys 50 --consistency bounded:50ms --replica any";
        let options = cluster(all).unwrap();
        assert_eq!(options.check(), Ok(()));
        assert_eq!(options.kill_leader_after, Some(Duration::from_millis(1500)));
        assert!(matches!(options.load(), Load::Open { per_second: 50000.0, .. }));
        assert_eq!(options.strike(), Some((Victim::LeadsMost, Duration::from_millis(1500))));
        let follower = cluster("--kill-follower-after 2s --down 4s --checkpoint-mib 0").unwrap();
        assert_eq!(follower.strike(), Some((Victim::LeadsFewest, Duration::from_secs(2))));
        assert_eq!((follower.down, follower.checkpoint_mib), (Duration::from_secs(4), 0));
        assert!(cluster("--kill-follower-after 2s --kill-leader-after 2s").is_err());
        assert_eq!(options.power_cut, None);
        assert_eq!(cluster("--power-cut --json").unwrap().power_cut, Some(PowerCut::Lost));
        assert_eq!(cluster("--power-cut torn").unwrap().power_cut, Some(PowerCut::Torn));
        assert_eq!(options.consistency, Consistency::BoundedStaleness(Duration::from_millis(50)));
        assert_eq!(options.replica, Replica::Any);
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_its_reason() {
        assert!(cluster("--rate 5 --in-flight 7").is_err());
        assert!(cluster("--groups 0").is_err());
        assert!(cluster("--kill-leader-after 3h").is_err());
        let refused = |arguments: &str| cluster(arguments).unwrap().check().unwrap_err();
        assert_eq!(refused("--nodes 2"), OptionsError::Nodes(2));
        assert!(matches!(refused("--payload 15"), OptionsError::Payload { least: 16, .. }));
        assert!(matches!(
            refused("--payload 7 --state-machine hash"),
            OptionsError::Payload { least: 8, .. }
        ));
        assert_eq!(refused("--rate 0"), OptionsError::Rate(0.0));
        assert_eq!(refused("--seconds 0"), OptionsError::Seconds(0.0));
        assert_eq!(refused("--workload ycsb-a --reads 10"), OptionsError::Reads("ycsb-a"));
        assert_eq!(refused("--nodes 1 --kill-leader-after 1s"), OptionsError::KillNodes);
        assert_eq!(refused("--seconds 3 --kill-leader-after 3s"), OptionsError::KillTime(3.0));
        assert_eq!(refused("--power-cut --processes"), OptionsError::PowerCutProcesses);
        assert_eq!(refused("--power-cut torn --sync off"), OptionsError::PowerCutUnsynced);
    }

    #[test]
    fn lengths_of_time_are_read() {
        assert_eq!(duration("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert!(duration("s").is_err() && duration("-1s").is_err());
    }
}
