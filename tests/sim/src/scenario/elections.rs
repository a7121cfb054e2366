//! Which node leads, and that none leads without a quorum.

use super::{MS, Scenario, claim};
use crate::watch::Checked;
use crate::world::World;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "initial-election",
        &[3],
        "one leader, and the same in the same term two seconds later",
        initial_election,
    ),
    Scenario::new(
        "re-election",
        &[3],
        "a leader is cut off and replaced, and its return disturbs nothing; no quorum, no leader",
        re_election,
    ),
    Scenario::new(
        "many-elections",
        &[7],
        "ten rounds in which three nodes are cut off; the other four have a leader every time",
        many_elections,
    ),
];

fn initial_election(world: &mut World<'_>) -> Checked {
    let leader = world.await_leader()?;
    let term = world.term(leader);
    world.run_for(2_000 * MS)?;
    remains(world, leader, term)
}

/// It still leads in the same term.
pub(super) fn remains(world: &World<'_>, leader: usize, term: u64) -> Checked {
    let now = world.leader();
    claim!(
        world,
        now == Some(leader) && world.term(leader) == term,
        "n{} led in term {term}; now {:?} does in term {}",
        leader + 1,
        now.map(|at| at + 1),
        now.map_or(0, |at| world.term(at))
    );
    Ok(())
}

/// No node in touch leads, now or during the longest election timeout.
fn nobody_leads(world: &mut World<'_>) -> Checked {
    let mut who = None;
    let span = 2 * world.timeout();
    world.wait(span, |world| {
        who = (0..world.count_nodes()).find(|at| world.is_in_touch(*at) && world.leads(*at));
        who.is_some()
    })?;
    claim!(world, who.is_none(), "n{} leads without a quorum", who.unwrap_or_default() + 1);
    Ok(())
}

fn re_election(world: &mut World<'_>) -> Checked {
    let first = world.await_leader()?;
    world.cut_off(first);
    let second = world.await_leader()?;
    let term = world.term(second);
    world.mend(first);
    let span = 2 * world.timeout() + world.draw(world.timeout());
    world.run_for(span)?;
    remains(world, second, term)?;

    // The leader and another are cut off. A leader that receives nothing of a quorum gives up within two election timeouts, so
    // that a node that comes back sees neither it nor another lead.
    let other = (second + 1 + world.draw(2) as usize) % 3;
    world.cut_off(second);
    world.cut_off(other);
    let span = 2 * world.timeout();
    world.run_for(span)?;
    nobody_leads(world)?;
    claim!(world, !world.leads(second), "n{} still leads, alone", second + 1);

    // A quorum, and then everybody.
    world.mend(other);
    let third = world.await_leader()?;
    let term = world.term(third);
    world.mend(second);
    let span = 2 * world.timeout();
    world.run_for(span)?;
    remains(world, third, term)
}

fn many_elections(world: &mut World<'_>) -> Checked {
    world.await_leader()?;
    for _ in 0..10 {
        let away = world.draw_nodes(3);
        for node in &away {
            world.cut_off(*node);
        }
        // A leader that was not cut off goes on; otherwise the four others elect one.
        world.await_leader()?;
        let span = world.draw(2 * world.timeout());
        world.run_for(span)?;
        let leader = world.await_leader()?;
        claim!(world, !away.contains(&leader), "n{} leads and is cut off", leader + 1);
        for node in away {
            world.mend(node);
        }
    }
    world.await_leader().map(|_| ())
}
