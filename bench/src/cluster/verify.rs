//! After the load: are all replicas equal, and does each have every acknowledged write? IMPURE: it waits, by the clock.

use std::thread;
use std::time::{Duration, Instant};

use super::control::NodeControl;
use crate::ledger::Subject;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Acknowledged writes that some replica does not have; the most of any node.
    pub lost: u64,
    /// Whether all replicas of each group came to the same index and the same state.
    pub replicas_agree: bool,
    /// What kept a replica from being judged.
    pub errors: Vec<String>,
}

/// Waits until the replicas of each group have applied the same, up to `patience`, then compares them with each other
/// and with the ledger.
pub fn verify<N: NodeControl>(
    nodes: &mut [N],
    groups: u32,
    subject: &mut Subject,
    patience: Duration,
) -> Verification {
    let mut found = Verification::default();
    match settle(nodes, groups, patience) {
        Ok(agree) => found.replicas_agree = agree,
        Err(error) => found.errors.push(error),
    }
    for (number, node) in nodes.iter_mut().enumerate() {
        let name = number + 1;
        match subject.verify(&mut |group, query| node.query(group, query)) {
            Ok(verdict) => {
                found.lost = found.lost.max(verdict.lost);
                found.errors.extend(verdict.undecided.into_iter().map(|why| format!("node n{name}, {why}")));
            }
            Err(error) => found.errors.push(format!("node n{name}: {error}")),
        }
    }
    found
}

/// Waits for equal applied indices, then compares states.
fn settle<N: NodeControl>(nodes: &mut [N], groups: u32, patience: Duration) -> Result<bool, String> {
    let start = Instant::now();
    loop {
        let applied = nodes.iter_mut().map(|node| node.applied(groups)).collect::<Result<Vec<_>, _>>()?;
        if applied.windows(2).all(|pair| pair[0] == pair[1]) {
            // A leader may still write an entry of its own between the two looks: then indices differ, and it is early.
            let digests = nodes.iter_mut().map(|node| node.digests(groups)).collect::<Result<Vec<_>, _>>()?;
            let is_equal = digests.windows(2).all(|pair| pair[0] == pair[1]);
            let indices =
                |digests: &[(u64, u64)]| digests.iter().map(|(index, _)| *index).collect::<Vec<_>>();
            if is_equal || digests.windows(2).all(|pair| indices(&pair[0]) == indices(&pair[1])) {
                return Ok(is_equal);
            }
        }
        if start.elapsed() > patience {
            return Err(format!("replicas did not come to the same index within {} s", patience.as_secs()));
        }
        thread::sleep(Duration::from_millis(10));
    }
}
