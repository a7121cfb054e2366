//! The parts of a write, each alone: what copying and framing, the device, the connection and the state machine cost, and
//! what of this a write of a row consists of. IMPURE: clock, files.
//!
//! Constants come from measurements made right before the rows; how many syncs, messages and bytes a write takes comes
//! from the row's own report. `README.md` beside this crate lists what each part leaves out.

mod apply;
mod quic;

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use raftwerk_frame::frame::{EntryKind, FrameWriter};
use raftwerk_frame::{EntryId, GroupId, Index, Term};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) use self::apply::ApplyCost;
pub(super) use self::quic::QuicCost;
use crate::cli::ClusterOptions;
use crate::log::raw::Device;
use crate::usage::{own_cpu_nanos, system_cpu_nanos, thread_cpu_nanos};

/// Payload bytes of the longest frame.
const FRAME_PAYLOAD_BYTES: usize = 64 << 10;
const SMALL_WRITE_BYTES: usize = 4096;
const LARGE_WRITE_BYTES: usize = 1 << 20;
/// Every constant is the least of so many rounds: what else runs can only add to it.
const ROUNDS: usize = 3;
/// How long a round of frames, and of writes of one size takes.
const FRAMES_FOR: Duration = Duration::from_millis(10);
const WRITES_FOR: Duration = Duration::from_millis(150);

/// What each part costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Parts {
    /// What other processes used of the processors meanwhile, in cores.
    pub(super) others_cores: Option<f64>,
    /// For each size of payloads.
    pub(super) frames: Vec<FrameCost>,
    pub(super) device: DeviceCost,
    pub(super) quic: QuicCost,
    /// For each state machine, groups, size of payloads and number of keys.
    pub(super) apply: Vec<ApplyCost>,
}

/// Copying payloads into a frame, with headers and checksum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FrameCost {
    pub(super) payload_bytes: usize,
    /// A frame, beside its entries.
    pub(super) frame_ns: f64,
    /// An entry.
    pub(super) entry_ns: f64,
}

/// Raw synced writes to a file that was written before, past the page cache: CPU time of the process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct DeviceCost {
    pub(super) write_4k_cpu_us: f64,
    pub(super) write_1m_cpu_us: f64,
}

/// What an operation of a row would cost if it were nothing but its parts, on all nodes together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PartsUs {
    pub(super) copy_crc: f64,
    pub(super) device: f64,
    pub(super) quic: f64,
    pub(super) apply: f64,
    pub(super) sum: f64,
}

/// Measures what these rows consist of, in a folder on the disk of their data. `tick` is called between the measurements.
///
/// # Errors
/// A sentence.
pub(super) fn measure(rows: &[ClusterOptions], folder: &Path, tick: &dyn Fn()) -> Result<Parts, String> {
    let (system, own, started) = (system_cpu_nanos(), own_cpu_nanos(), Instant::now());
    let mut frames: Vec<FrameCost> = Vec::new();
    let mut applied: Vec<ApplyCost> = Vec::new();
    for row in rows {
        if !frames.iter().any(|cost| cost.payload_bytes == row.payload) {
            frames.push(frame_cost(row.payload));
        }
        if !applied.iter().any(|cost| cost.is_of(row)) {
            tick();
            applied.push(ApplyCost::measure(row));
        }
    }
    tick();
    let device = device_cost(folder)?;
    tick();
    let quic = QuicCost::measure()?;
    let busy = system_cpu_nanos().zip(system).map(|(after, before)| after.saturating_sub(before));
    let others = busy.map(|nanos| nanos.saturating_sub(own_cpu_nanos() - own));
    let others_cores = others.map(|nanos| nanos as f64 / started.elapsed().as_nanos() as f64);
    Ok(Parts { others_cores, frames, device, quic, apply: applied })
}

/// The least of some rounds.
fn least(mut round: impl FnMut() -> Result<f64, String>) -> Result<f64, String> {
    (0..ROUNDS).try_fold(f64::INFINITY, |least, _| round().map(|value| least.min(value)))
}

fn frame_cost(payload_bytes: usize) -> FrameCost {
    let most = (FRAME_PAYLOAD_BYTES / payload_bytes).max(2);
    let rounds = |entries| (0..ROUNDS).map(move |_| frame_nanos(payload_bytes, entries));
    let (one, all) = (rounds(1).fold(f64::INFINITY, f64::min), rounds(most).fold(f64::INFINITY, f64::min));
    let entry_ns = (all - one) / (most - 1) as f64;
    FrameCost { payload_bytes, frame_ns: (one - entry_ns).max(0.0), entry_ns }
}

/// The mean time of writing a frame of so many entries, from payloads that lie apart as they do in submissions.
fn frame_nanos(payload_bytes: usize, entries: usize) -> f64 {
    let source: Vec<u8> = (0..entries * (payload_bytes + 8)).map(|at| at as u8).collect();
    let payloads: Vec<&[u8]> = source.chunks_exact(payload_bytes + 8).map(|place| &place[8..]).collect();
    let mut out = vec![0u8; 4096 + 2 * entries * (payload_bytes + 64)];
    let (started, before, mut frames) = (Instant::now(), thread_cpu_nanos(), 0u64);
    while started.elapsed() < FRAMES_FOR {
        for _ in 0..16 {
            let first = EntryId::new(Term(3), Index(7));
            let mut writer =
                FrameWriter::new(&mut out, GroupId(9), first).expect("the buffer holds a header");
            for payload in black_box(&payloads) {
                assert!(writer.push(EntryKind::Payload, payload), "the buffer holds all entries");
            }
            black_box(writer.finish());
            frames += 1;
        }
    }
    (thread_cpu_nanos() - before) as f64 / frames as f64
}

fn device_cost(folder: &Path) -> Result<DeviceCost, String> {
    let sentence = |error: std::io::Error| format!("measuring the device: {error}");
    let device = Device::open(folder).map_err(sentence)?;
    let cpu_us = |bytes| least(|| device.cpu_us(bytes, WRITES_FOR).map_err(sentence));
    Ok(DeviceCost {
        write_4k_cpu_us: cpu_us(SMALL_WRITE_BYTES)?,
        write_1m_cpu_us: cpu_us(LARGE_WRITE_BYTES)?,
    })
}

impl DeviceCost {
    /// Of a write of so many bytes, on the line through the two that were measured.
    fn cpu_us(&self, bytes: f64) -> f64 {
        let (small, large) = (SMALL_WRITE_BYTES as f64, LARGE_WRITE_BYTES as f64);
        let per_byte = ((self.write_1m_cpu_us - self.write_4k_cpu_us) / (large - small)).max(0.0);
        (self.write_4k_cpu_us + (bytes - small) * per_byte).max(0.0)
    }
}

impl PartsUs {
    /// The parts of a row by its report. `None` if it lacks a figure, or nothing like it was measured.
    pub(super) fn of(report: &Value, parts: &Parts) -> Option<Self> {
        let figure = |name: &str| report[name].as_f64();
        let (writes, reads, nodes) = (figure("writes")?, figure("reads")?, figure("nodes")?);
        let (payload, groups) = (figure("payload_bytes")?, figure("groups")?);
        let operations = writes + reads;
        if operations == 0.0 {
            return None;
        }
        let frame = parts.frames.iter().find(|cost| cost.payload_bytes as f64 == payload)?;
        let apply = parts.apply.iter().find(|cost| cost.is_of_report(report))?;

        // What is under way in an open loop follows from how long it takes.
        let under_way = match figure("rate") {
            Some(rate) => rate * report["latency_us"]["p50"].as_f64()? / 1e6,
            None => figure("in_flight")?,
        };
        let most = (FRAME_PAYLOAD_BYTES as f64 / payload).max(1.0);
        let in_a_frame = (under_way * writes / operations / groups).clamp(1.0, most);
        let frame_us = (frame.entry_ns + frame.frame_ns / in_a_frame) / 1000.0;

        let copy_crc = nodes * frame_us * writes / operations;
        let device = match report["bytes_per_sync"].as_f64() {
            Some(bytes) => parts.device.cpu_us(bytes) * figure("syncs")? / operations,
            None => 0.0,
        };
        // Beyond an append and an acknowledgement per follower, messages are not what a write consists of.
        let messages = figure("messages_sent")?.min(2.0 * (nodes - 1.0) * writes);
        let bytes = figure("message_bytes_sent")?;
        let quic = parts.quic.cpu_us(messages, bytes, under_way < 2.0) / operations;
        let applied = nodes * apply.entry_ns * writes + apply.query_ns.unwrap_or(0.0) * reads;
        let apply = applied / 1000.0 / operations;
        Some(Self { copy_crc, device, quic, apply, sum: copy_crc + device + quic + apply })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::suite) fn parts() -> Parts {
        let apply = ApplyCost {
            state_machine: "kv".into(),
            groups: 48,
            payload_bytes: 16,
            keys: 100_000,
            entry_ns: 200.0,
            query_ns: Some(100.0),
        };
        Parts {
            others_cores: Some(0.1),
            frames: vec![FrameCost { payload_bytes: 16, frame_ns: 100.0, entry_ns: 10.0 }],
            device: DeviceCost { write_4k_cpu_us: 40.0, write_1m_cpu_us: 295.0 },
            quic: QuicCost { message_ns: 500.0, byte_ns: 2.0, lone_message_us: 60.0 },
            apply: vec![apply],
        }
    }

    fn close(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-9 * wanted.max(1.0), "{found}, not {wanted}");
    }

    fn cluster() -> Value {
        serde_json::json!({
            "writes": 1000, "reads": 0, "nodes": 3, "payload_bytes": 16, "groups": 48, "keys": 100_000,
            "state_machine": "kv", "in_flight": 480, "rate": null, "syncs": 30, "bytes_per_sync": 8192.0,
            "messages_sent": 100, "message_bytes_sent": 200_000, "latency_us": {"p50": 240.0},
        })
    }

    #[test]
    fn parts_of_a_write_add_up() {
        let found = PartsUs::of(&cluster(), &parts()).unwrap();
        close(found.copy_crc, 3.0 * (10.0 + 100.0 / 10.0) / 1000.0);
        close(found.device, 41.0 * 30.0 / 1000.0);
        close(found.quic, (100.0 * 0.5 + 200_000.0 * 0.002) / 1000.0);
        close(found.apply, 0.6);
        close(found.sum, found.copy_crc + found.device + found.quic + found.apply);
    }

    #[test]
    fn reads_are_queries_and_lone_messages_cost_more() {
        let mut report = cluster();
        (report["reads"], report["in_flight"]) = (3000.into(), 1.into());
        let found = PartsUs::of(&report, &parts()).unwrap();
        close(found.apply, (0.6 * 1000.0 + 0.1 * 3000.0) / 4000.0);
        close(found.copy_crc, 3.0 * 0.11 / 4.0);
        close(found.quic, 100.0 * 60.0 / 4000.0);
        report["messages_sent"] = 9000.into();
        close(PartsUs::of(&report, &parts()).unwrap().quic, 4.0 * 1000.0 * 60.0 / 4000.0);
    }

    #[test]
    fn open_loop_has_under_way_what_its_latency_makes() {
        let mut report = cluster();
        report["rate"] = 2e6.into();
        close(PartsUs::of(&report, &parts()).unwrap().copy_crc, 3.0 * 0.02);
    }

    #[test]
    fn no_parts_of_what_was_not_measured() {
        for (name, value) in [("payload_bytes", 32), ("groups", 7), ("keys", 5), ("writes", 0)] {
            let mut report = cluster();
            report[name] = value.into();
            assert_eq!(PartsUs::of(&report, &parts()), None, "{name}");
        }
    }

    #[test]
    fn least_of_the_rounds_counts_and_an_error_ends_them() {
        let mut rounds = [3.0, 1.0, 2.0, 0.5].into_iter();
        assert_eq!(least(|| rounds.next().ok_or_else(String::new)), Ok(1.0));
        assert_eq!(least(|| Err("no disk".to_owned())), Err("no disk".to_owned()));
    }

    #[test]
    fn frames_and_writes_cost_something() {
        let cost = frame_cost(128);
        assert!(cost.entry_ns > 0.0 && cost.frame_ns >= 0.0, "{cost:?}");
        let folder = tempfile::tempdir().unwrap();
        assert!(device_cost(folder.path()).unwrap().write_4k_cpu_us > 0.0);
    }
}
