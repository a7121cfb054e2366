//! A checkpoint that is damaged or gone is the loss of one replica: it is fenced and empty, and all others go
//! on.

use raftwerk_wal::{Files, OnDamage};

use super::*;

const OTHER: GroupId = GroupId(0x0DD);

fn opened(files: &MemoryFiles) -> Node {
    Node::open_with(files, 4096, |_, options| options.on_damage = OnDamage::Fence)
}

impl Node {
    fn write_to(&mut self, group: GroupId, payload: &[u8]) -> Result<Applied, ProposeError> {
        let (reply, mut answer) = oneshot::channel();
        let payload = Bytes::copy_from_slice(payload);
        assert!(self.inbox.request(Request::Propose { group, payload, reply }).is_ok());
        self.settle();
        answer.try_recv().expect("every proposal ends")
    }

    /// Writes as soon as the node, the group's only member, leads it.
    fn lead_and_write(&mut self, group: GroupId) {
        for _ in 0..20 {
            if self.write_to(group, &[7; 500]).is_ok() {
                return;
            }
            self.turn(TIMEOUT);
            self.settle();
        }
        panic!("{group} has no leader");
    }
}

#[test]
fn a_replica_without_its_checkpoint_opens_bare_and_others_go_on() {
    for is_gone in [false, true] {
        let files = MemoryFiles::new();
        let mut node = opened(&files);
        node.create(&[1]);
        let initial_members = Configuration::of_voters([NodeId(1)]);
        let _made = node.order(|reply| Order::Bootstrap { group: OTHER, initial_members, reply });
        node.lead_and_write(OTHER);
        while node.status().unwrap().compacted.index < Index(3) {
            node.lead_and_write(GROUP);
        }
        drop(node);
        let name = format!("/snapshots/{:016x}-", GROUP.0);
        let path = files.paths().into_iter().find(|path| path.contains(&name)).unwrap();
        if is_gone {
            files.remove(&path).unwrap();
        } else {
            assert!(files.rot(&path, 70, 1));
        }
        for incarnation in 0..2 {
            let mut node = opened(&files);
            node.settle();
            let status = node.status().unwrap();
            assert_eq!((status.applied, status.compacted.index), (Index(0), Index(0)), "life {incarnation}");
            node.lead_and_write(OTHER);
            assert_eq!(
                node.write(b"no"),
                Err(ProposeError::NotLeader { hint: None }),
                "it may have promised more"
            );
        }
    }
}
