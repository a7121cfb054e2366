//! When checkpoints are due.

use super::*;

/// How many checkpoints are written along with 256 KiB of log, if the state's size counts for so many
/// percent.
fn made(percent: u32, lane_bytes_max: u64) -> u64 {
    let mut node = Node::open_with(&MemoryFiles::new(), 1 << 10, |settings, _| {
        (settings.checkpoint_state_percent, settings.lane_bytes_max) = (percent, lane_bytes_max);
    });
    node.lead_alone();
    for _ in 0..256 {
        node.write(&[7; 1 << 10]).unwrap();
    }
    node.worker.env.metrics.read().checkpoints
}

#[test]
fn a_large_state_is_checkpointed_seldom_but_not_so_seldom_that_the_log_is_over_its_bound() {
    let image = {
        let mut node = Node::alone(&MemoryFiles::new(), 1 << 10);
        node.write(&[7; 1 << 10]).unwrap();
        let checkpoint =
            node.worker.groups.find(GROUP).and_then(|replica| replica.checkpointing.latest().cloned());
        checkpoint.expect("one is due after each write").bytes
    };
    assert!((50..200).contains(&image), "{image} bytes: the percentages below are for a hundred or so");
    assert!(made(0, u64::MAX) > 200, "{}: one a write", made(0, u64::MAX));
    // As for a state of 16 KiB: one checkpoint for as much log.
    let percent = (16 << 10) * 100 / image as u32;
    let seldom = made(percent, u64::MAX);
    assert!((8..=18).contains(&seldom), "{seldom}");
    // The bound of the lane counts for more than that.
    let bounded = made(percent, 16 << 10);
    assert!((40..=70).contains(&bounded), "{bounded}: once in a quarter of the bound");
}
