//! Leaders that live and can do nothing are replaced; those that are only slow are not.

use super::elections::remains;
use super::{ELECTION, MS, Scenario, claim};
use crate::watch::Checked;
use crate::world::World;

/// Within this time other nodes lead what a node led that can do nothing.
const REPLACED_WITHIN: u64 = 2_000 * MS;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "idle-disk-hang",
        &[3, 5],
        "the disk of a leader hangs while nobody writes: another leads within two seconds, and goes on when it is well",
        idle_disk_hang,
    ),
    Scenario::new(
        "stuck-worker",
        &[3, 5],
        "a worker of a leader is stuck, others of its node are not: another leads within two seconds, and goes on",
        stuck_worker,
    )
    .with_workers(2),
    Scenario::new(
        "slow-is-not-dead",
        &[3],
        "syncs that take up to nine tenths of an election timeout move no leader, busy or idle",
        slow_is_not_dead,
    ),
    Scenario::new(
        "pauses",
        &[3, 5],
        "a hundred pauses of a fifth of an election timeout, of leaders and others, cost no election",
        pauses,
    ),
    Scenario::new(
        "disk-hangs-now-and-then",
        &[3],
        "a disk that hangs again and again costs its node the lead, once",
        disk_hangs_now_and_then,
    ),
];

/// A leader of a group that has had nothing to send for a while.
fn resting_leader(world: &mut World<'_>) -> Result<usize, crate::watch::Violation> {
    world.await_leader()?;
    world.agree(world.count_nodes(), 10)?;
    let span = 3 * ELECTION + world.draw(2 * ELECTION);
    world.run_for(span)?;
    world.await_leader()
}

/// Another node leads, soon; and the old one does not take the lead back when the fault is over.
fn is_replaced_for_good(world: &mut World<'_>, old: usize, span: u64) -> Checked {
    let began = world.now();
    world.wait(REPLACED_WITHIN, |world| world.leader().is_some_and(|now| now != old))?;
    let new = world.leader();
    claim!(world, new.is_some_and(|new| new != old), "n{} is not replaced: {:?} leads", old + 1, new);
    let new = new.unwrap_or_default();
    let term = world.term(new);
    world.run_for(began + span - world.now())?;
    world.agree(world.count_nodes(), 10)?;
    world.run_for(10 * ELECTION)?;
    remains(world, new, term)
}

fn idle_disk_hang(world: &mut World<'_>) -> Checked {
    let leader = resting_leader(world)?;
    let span = 6 * ELECTION + world.draw(8 * ELECTION);
    world.hang_disk(leader, span);
    is_replaced_for_good(world, leader, span)
}

fn stuck_worker(world: &mut World<'_>) -> Checked {
    let leader = resting_leader(world)?;
    let span = 6 * ELECTION + world.draw(8 * ELECTION);
    world.stick_worker(leader, span);
    is_replaced_for_good(world, leader, span)
}

fn slow_is_not_dead(world: &mut World<'_>) -> Checked {
    let leader = resting_leader(world)?;
    let term = world.term(leader);
    world.slow_disks(ELECTION * 6 / 10);
    world.run_for(20 * ELECTION)?;
    for _ in 0..10 {
        world.agree(2, 10)?;
    }
    world.run_for(10 * ELECTION)?;
    remains(world, leader, term)?;
    world.slow_disks(MS);
    Ok(())
}

fn pauses(world: &mut World<'_>) -> Checked {
    let leader = resting_leader(world)?;
    let term = world.term(leader);
    for round in 0..100 {
        let node = if round % 2 == 0 { leader } else { world.draw_nodes(1)[0] };
        world.freeze(node, ELECTION / 5);
        if world.draw(3) == 0 {
            world.agree(2, 10)?;
        }
        let span = ELECTION / 5 + world.draw(ELECTION);
        world.run_for(span)?;
    }
    remains(world, leader, term)
}

fn disk_hangs_now_and_then(world: &mut World<'_>) -> Checked {
    let leader = resting_leader(world)?;
    let mut leaders = vec![leader];
    for _ in 0..10 {
        let span = ELECTION + ELECTION / 2 + world.draw(ELECTION);
        world.hang_disk(leader, span);
        let span = span + ELECTION + world.draw(2 * ELECTION);
        world.run_for(span)?;
        leaders.push(world.await_leader()?);
    }
    leaders.dedup();
    // A hang that is over before a node has noticed it, as the first may be, costs nothing.
    claim!(world, leaders.len() == 2, "leaders, in turn: {leaders:?}");
    Ok(())
}
