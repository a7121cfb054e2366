//! Framing against what it cannot do without: a copy of the payloads and a checksum of the copy.
//!
//! Targets: at 128 B at least 75 %, at 1 KiB at least 90 % of memcpy + CRC alone. IMPURE: it
//! measures time.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use raftwerk_frame::frame::{EntryKind, FrameWriter, parse};
use raftwerk_frame::{EntryId, GroupId, Index, Term};

/// Payload bytes of one frame, about what a busy group writes in one turn.
const FRAME_PAYLOAD_BYTES: usize = 64 << 10;

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for payload_bytes in [16usize, 128, 1024] {
        let count = FRAME_PAYLOAD_BYTES / payload_bytes;
        // Payloads lie apart, as they do in submissions.
        let source: Vec<u8> = (0..count * (payload_bytes + 8)).map(|at| at as u8).collect();
        let payloads: Vec<&[u8]> = source.chunks_exact(payload_bytes + 8).map(|place| &place[8..]).collect();
        let mut out = vec![0u8; FRAME_PAYLOAD_BYTES * 2];
        group.throughput(Throughput::Elements(count as u64));

        group.bench_function(BenchmarkId::new("copy and crc alone", payload_bytes), |bencher| {
            bencher.iter(|| {
                let mut at = 0;
                for payload in black_box(&payloads) {
                    out[at..at + payload.len()].copy_from_slice(payload);
                    at += payload.len();
                }
                crc32fast::hash(black_box(&out[..at]))
            });
        });
        group.bench_function(BenchmarkId::new("write", payload_bytes), |bencher| {
            bencher.iter(|| write(&mut out, black_box(&payloads)));
        });
        let bytes = write(&mut out, &payloads);
        group.bench_function(BenchmarkId::new("check", payload_bytes), |bencher| {
            bencher.iter(|| parse(black_box(&out[..bytes])).map(|(header, _)| header.count));
        });
    }
    group.finish();
}

fn write(out: &mut [u8], payloads: &[&[u8]]) -> usize {
    let first = EntryId::new(Term(3), Index(7));
    let mut writer = FrameWriter::new(out, GroupId(9), first).expect("the buffer holds a header");
    for payload in payloads {
        assert!(writer.push(EntryKind::Payload, payload), "the buffer holds twice the payloads");
    }
    writer.finish().expect("there are entries").frame_bytes()
}

criterion_group!(benches, frames);
criterion_main!(benches);
