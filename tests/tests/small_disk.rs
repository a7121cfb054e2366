//! A node whose disk is full, on a real file system, in every append mode: it refuses writes and does all else, its groups go on
//! elsewhere, and it heals by itself, by what it lets go as well as by space that comes back. Needs root, `mkfs.ext4` and a loop
//! device; says so where they are missing. What the log alone does there: `wal/tests/small_disk.rs`.

#[path = "../../wal/tests/small/mod.rs"]
mod small;

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use raftwerk::{
    AppendMode, Applied, Change, GroupId, NodeId, ProposeError, Reconfiguration, ReconfigureError, Role,
};
use raftwerk_tests::facts::until;
use raftwerk_tests::nodes::{Nodes, assert_kept};
use small::{DISK_BYTES, Small};

const GROUP: GroupId = GroupId(1);
/// Has a replica on the small disk only.
const OTHER: GroupId = GroupId(2);
/// Whose disk it is.
const FULL: NodeId = NodeId(1);
const PAYLOAD_BYTES: usize = 32 << 10;

type Written = Vec<(Bytes, Applied)>;

#[test]
fn node_with_a_full_disk_refuses_writes_and_heals() {
    for mode in AppendMode::ALL {
        let Some(small) = Small::mount() else { return };
        fills_and_heals(small.path(), mode);
    }
}

fn fills_and_heals(disk: PathBuf, mode: AppendMode) {
    let folder = disk.join("node");
    let mut nodes = Nodes::start(4, move |config| {
        (config.workers, config.append_mode, config.segment_bytes) = (1, mode, 4 << 20);
        config.checkpoint_log_bytes = 1 << 30; // nothing makes room unasked
        if config.node == FULL {
            config.data_dir = folder.clone();
        }
    });
    assert_eq!(nodes.engine(FULL).stats().append_mode, mode.name());
    nodes.engine(FULL).create_group(OTHER, &[FULL]).wait().expect("a group can be made");
    // First: a segment goes when nothing that lives is in it, or in one before it.
    let other: Written = (0..300).map(|_| nodes.write(OTHER, PAYLOAD_BYTES)).collect();
    nodes.create(&[GROUP]);
    let mut written: Written = (0..10).map(|_| nodes.write(GROUP, PAYLOAD_BYTES)).collect();
    let ballast = Ballast::fill(&disk);
    fill(&nodes, &mut written);

    // Reads are answered, of all that was acknowledged.
    assert_eq!(nodes.replica(FULL, OTHER).propose("more").wait(), Err(ProposeError::StorageFull));
    assert_kept(&nodes.local(FULL, OTHER), &other);
    assert_kept(&nodes.read(GROUP), &written);
    // The reserve: members may go, and none may come.
    lead(&nodes, FULL);
    let change = |change| nodes.try_reconfigure(GROUP, &Reconfiguration::of([change]));
    let left = change(Change::Remove(NodeId(4))).expect("a member may go");
    assert!(!left.configuration.contains(NodeId(4)));
    assert_eq!(nodes.leader(GROUP), FULL);
    assert_eq!(change(Change::Learner(NodeId(5))), Err(ReconfigureError::StorageFull));
    // And terms and votes. Whoever has room goes on with the group.
    let term = nodes.replica(FULL, GROUP).status().wait().expect("it is there").term;
    lead(&nodes, NodeId(2));
    until("the term to be known", || {
        nodes.replica(FULL, GROUP).status().wait().ok().filter(|now| now.term > term)
    });
    written.extend((0..20).map(|_| nodes.write(GROUP, PAYLOAD_BYTES)));

    // What the node lets go of makes room, and it gets what it has missed.
    nodes.engine(FULL).remove_group(OTHER).wait().expect("it was there");
    catches_up(&nodes, &written);
    // The disk is filled once more, and this time somebody else makes room.
    lead(&nodes, FULL);
    fill(&nodes, &mut written);
    drop(ballast);
    let healed =
        until("an acknowledged write", || match nodes.replica(FULL, GROUP).propose("again").wait() {
            Err(ProposeError::StorageFull) => None,
            answer => Some(answer),
        });
    written.push(("again".into(), healed.expect("nothing else is wrong")));
    written.extend((0..20).map(|_| nodes.write(GROUP, PAYLOAD_BYTES)));
    assert!(!nodes.engine(FULL).stats().is_poisoned);

    // And what it says is so after a restart.
    catches_up(&nodes, &written);
    nodes.close(FULL);
    nodes.open(FULL);
    catches_up(&nodes, &written);
    assert_eq!(nodes.engine(FULL).groups().wait().expect("the node is open"), [GROUP]);
}

/// Writes at the node whose disk is small, until that is full.
fn fill(nodes: &Nodes, written: &mut Written) {
    let begun = written.len();
    until("a full disk", || {
        assert!((written.len() - begun) * PAYLOAD_BYTES < DISK_BYTES as usize, "more than the disk holds");
        lead(nodes, FULL);
        let payload = Bytes::from(format!("filling {:>width$}", written.len(), width = PAYLOAD_BYTES));
        match nodes.replica(FULL, GROUP).propose(payload.clone()).wait() {
            Ok(applied) => written.push((payload, applied)),
            Err(ProposeError::StorageFull) => return Some(()),
            Err(ProposeError::NotLeader { .. } | ProposeError::Busy | ProposeError::Unknown) => {}
            Err(error) => panic!("{error}"),
        }
        None
    });
}

/// Waits until a node leads.
fn lead(nodes: &Nodes, wanted: NodeId) {
    until("the lead where it is wanted", || {
        let leader = nodes.leader(GROUP);
        if leader != wanted {
            let _refused = nodes.replica(leader, GROUP).transfer_leadership(wanted).wait();
        }
        let status = nodes.replica(wanted, GROUP).status().wait().ok()?;
        (status.role == Role::Leader && status.commit >= status.last.index).then_some(())
    });
}

/// Waits until the node whose disk is small has everything, each write once.
fn catches_up(nodes: &Nodes, written: &Written) {
    let last = written.iter().map(|(_, applied)| applied.id.index).max();
    until("the node to have everything", || {
        nodes.replica(FULL, GROUP).status().wait().ok().filter(|now| Some(now.applied) >= last)
    });
    assert_kept(&nodes.local(FULL, GROUP), written);
}

/// A file that takes all that is left of a disk but a little, as long as it is there.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(disk: &Path) -> Self {
        let path = disk.join("ballast");
        let mut file = File::create(&path).expect("a file can be made");
        let zeros = vec![0; 64 << 10];
        let mut bytes = 0;
        loop {
            match file.write(&zeros) {
                Ok(written) => bytes += written as u64,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
            assert!(bytes <= DISK_BYTES);
        }
        file.set_len(bytes.saturating_sub(128 << 10)).expect("a file can be cut");
        file.sync_all().expect("a file can be synced");
        Self(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.0);
    }
}
