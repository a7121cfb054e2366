//! Values at their bounds: the smallest frames, the largest configuration, the longest wait.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use raftwerk_frame::frame::{EntryKind, FrameHeader, FrameWriter};
use raftwerk_frame::{Configuration, ConfigurationError, EntryId, GroupId, Index, NodeId, Term, Time};

#[test]
fn a_frame_of_entries_without_payloads_is_read_back() {
    let mut bytes = vec![0; 256];
    let mut writer = FrameWriter::new(&mut bytes, GroupId(1), EntryId::new(Term(1), Index(7))).unwrap();
    for _ in 0..3 {
        assert!(writer.push(EntryKind::Payload, b""));
    }
    let written = writer.finish().unwrap();
    assert_eq!(FrameHeader::parse(&bytes).unwrap(), written);
    assert_eq!(written.last_index(), Index(9));
}

#[test]
fn a_configuration_may_name_so_many_replicas_and_no_more() {
    let nodes = |count: usize| Configuration::of_voters((1..=count as u64).map(NodeId));
    let most = nodes(Configuration::REPLICAS_MAX);
    let mut bytes = Vec::new();
    most.encode(&mut bytes);
    assert_eq!(Configuration::decode(&bytes).unwrap(), most);
    bytes[1] += 1;
    bytes.extend_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(Configuration::decode(&bytes), Err(ConfigurationError::TooMany));
}

#[test]
fn the_index_before_the_first_is_zero_and_so_is_the_one_before_that() {
    assert_eq!(Index(8).prev(), Index(7));
    assert_eq!(Index(1).prev(), Index(0));
    assert_eq!(Index(0).prev(), Index(0));
}

#[test]
fn a_time_is_added_to_up_to_the_end_of_time() {
    let longest = u64::MAX / 2_000_000_000;
    assert_eq!(Time(1) + Duration::from_secs(longest), Time(longest * 1_000_000_000 + 1));
    assert_eq!(Time(1) + Duration::from_secs(longest + 1), Time(u64::MAX));
    assert_eq!(Time(u64::MAX - 1) + Duration::from_secs(1), Time(u64::MAX));
}
