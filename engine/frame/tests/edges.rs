//! Values at their bounds: the smallest frames, the largest configuration, the longest wait.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use raftwerk_frame::frame::{EntryKind, FrameHeader, FrameWriter};
use raftwerk_frame::{Configuration, ConfigurationError, EntryId, GroupId, Index, LogId, NodeId, Term, Time};

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

/// Readers make room for that many bytes: none that is accepted may take more.
#[test]
fn no_configuration_takes_more_bytes_than_its_bound() {
    let most = Configuration::REPLICAS_MAX as u64;
    let nodes = || (1..=most).map(NodeId);
    let bytes_of = |configuration: &Configuration| {
        let mut bytes = Vec::new();
        configuration.encode(&mut bytes);
        assert_eq!(&Configuration::decode(&bytes).unwrap(), configuration);
        bytes.len()
    };
    let largest = Configuration {
        auto_leave: true,
        logs: nodes().map(|node| (node, LogId(u64::MAX))).collect(),
        witnesses: nodes().collect(),
        ..Configuration::of_voters(nodes())
    };
    assert_eq!(bytes_of(&largest), Configuration::BYTES_MAX);
    // With its members in any lists, and without what it can lack, it is no larger.
    let split = |from: u64, to: u64| (from..=to).map(NodeId).collect::<Vec<_>>();
    let divided = Configuration {
        voters: split(1, 20),
        outgoing: split(10, 31),
        learners: split(50, 70),
        learners_next: split(15, 15),
        logs: split(1, 31).into_iter().map(|node| (node, LogId(1))).collect(),
        witnesses: split(50, 70).into_iter().collect(),
        ..largest.clone()
    };
    let lists = [&divided.voters, &divided.outgoing, &divided.learners, &divided.learners_next];
    assert_eq!(lists.iter().map(|list| list.len() as u64).sum::<u64>(), most);
    assert!(bytes_of(&divided) < Configuration::BYTES_MAX);
    assert!(
        bytes_of(&Configuration { logs: [].into_iter().collect(), ..largest }) < Configuration::BYTES_MAX
    );
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
