//! What outlives a crash, and Figure 8 of the paper: what an older term's entry on a majority is worth.
//!
//! Half of all crashes are power cuts, which leave of what was not synced what chance leaves of it.

use super::{MS, Scenario, claim};
use crate::watch::Checked;
use crate::world::World;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "persist-1",
        &[3],
        "everybody, the leader, a follower: each crashes and comes back",
        persist_1,
    ),
    Scenario::new(
        "persist-2",
        &[5],
        "rotating parts of the cluster crash; any three that are up agree",
        persist_2,
    ),
    Scenario::new(
        "persist-3",
        &[3],
        "two crash while the third is cut off; one of them and the third go on",
        persist_3,
    ),
    Scenario::new(
        "figure-8",
        &[5],
        "a thousand rounds of proposing and crashing the leader, three and more up; then all agree",
        figure_8,
    ),
    Scenario::new(
        "figure-8-unreliable",
        &[5],
        "the same with leaders cut off, in foul weather, most replies late; then all agree",
        figure_8_unreliable,
    )
    .in_foul_weather(),
    Scenario::new("churn", &[5], "three clients, and twenty rounds of cuts, starts and crashes", churn)
        .with_clients(3),
    Scenario::new(
        "churn-unreliable",
        &[5],
        "three clients, and twenty rounds of cuts, starts and crashes in foul weather",
        churn,
    )
    .with_clients(3)
    .in_foul_weather(),
];

const SMALL: usize = 32;

/// A node crashes, and starts after a while.
fn restart(world: &mut World<'_>, node: usize) -> Checked {
    world.crash(node)?;
    let pause = world.draw(world.timeout());
    world.run_for(pause)?;
    world.revive(node)
}

fn persist_1(world: &mut World<'_>) -> Checked {
    world.agree(3, SMALL)?;
    for node in 0..3 {
        world.crash(node)?;
    }
    for node in 0..3 {
        world.revive(node)?;
    }
    let mut last = world.committed();
    last = later(world, 3, last)?;

    let leader = world.await_leader()?;
    restart(world, leader)?;
    last = later(world, 3, last)?;

    let leader = world.await_leader()?;
    world.crash(leader)?;
    last = later(world, 2, last)?;
    world.revive(leader)?;
    last = later(world, 3, last)?;

    let leader = world.await_leader()?;
    let follower = (leader + 1 + world.draw(2) as usize) % 3;
    world.crash(follower)?;
    last = later(world, 2, last)?;
    world.revive(follower)?;
    later(world, 3, last).map(|_| ())
}

/// Agrees on something new, behind all that was committed before.
fn later(world: &mut World<'_>, expected: usize, last: u64) -> Result<u64, crate::Violation> {
    let index = world.agree(expected, SMALL)?;
    claim!(world, index > last, "{index} was committed before, up to {last}");
    Ok(index)
}

fn persist_2(world: &mut World<'_>) -> Checked {
    for _ in 0..5 {
        let last = world.agree(5, SMALL)?;
        let leader = world.await_leader()?;
        let of = |step: usize| (leader + step) % 5;
        world.crash(of(1))?;
        world.crash(of(2))?;
        let last = later(world, 3, last)?;
        for step in [0, 3, 4] {
            world.crash(of(step))?;
        }
        // The two that missed something cannot do anything without one of those that did not.
        world.revive(of(1))?;
        world.revive(of(2))?;
        let span = 2 * world.timeout();
        world.run_for(span)?;
        claim!(world, world.leader().is_none(), "two of five have a leader");
        world.revive(of(3))?;
        let last = later(world, 3, last)?;
        world.revive(of(4))?;
        world.revive(of(0))?;
        later(world, 5, last)?;
    }
    Ok(())
}

fn persist_3(world: &mut World<'_>) -> Checked {
    let last = world.agree(3, SMALL)?;
    let leader = world.await_leader()?;
    let (follower, away) = ((leader + 1) % 3, (leader + 2) % 3);
    world.cut_off(away);
    let last = later(world, 2, last)?;
    world.crash(leader)?;
    world.crash(follower)?;
    world.mend(away);
    world.revive(leader)?;
    let last = later(world, 2, last)?;
    world.revive(follower)?;
    later(world, 3, last).map(|_| ())
}

/// How long an agreement may take while most answers come late, in nanoseconds.
const PATIENCE: u64 = 60_000 * MS;
/// Rounds of Figure 8.
const ROUNDS: u64 = 1_000;

/// Proposes something at each node that takes itself for the leader, and pauses: mostly too short to commit it.
fn propose_and_pause(world: &mut World<'_>) -> Result<Option<usize>, crate::Violation> {
    let mut leader = None;
    for at in 0..5 {
        if world.leads(at) {
            let _unknown = world.ask(at, SMALL)?;
            leader = Some(at);
        }
    }
    let span = if world.draw(10) == 0 { world.timeout() / 2 } else { 13 * MS };
    let pause = world.draw(span);
    world.run_for(pause)?;
    Ok(leader)
}

fn figure_8(world: &mut World<'_>) -> Checked {
    world.agree(5, SMALL)?;
    let mut crashes = 0;
    for _ in 0..ROUNDS {
        if let Some(leader) = propose_and_pause(world)? {
            world.crash(leader)?;
            crashes += 1;
        }
        let up = (0..5).filter(|at| world.is_up(*at)).count();
        if up < 3 {
            let node = world.draw(5) as usize;
            world.revive(node)?;
        }
    }
    world.note(format_args!("{crashes} leaders crashed, {} entries committed", world.committed()));
    claim!(world, crashes >= 3, "{crashes} leaders in {ROUNDS} rounds");
    for node in 0..5 {
        world.revive(node)?;
    }
    world.agree(5, SMALL).map(|_| ())
}

fn figure_8_unreliable(world: &mut World<'_>) -> Checked {
    world.agree(5, SMALL)?;
    let mut cuts = 0;
    for round in 0..ROUNDS {
        if round == ROUNDS / 5 {
            world.delay_replies(true);
        }
        let leader = propose_and_pause(world)?;
        if let Some(leader) = leader.filter(|at| world.is_in_touch(*at))
            && world.draw(4) == 0
        {
            world.cut_off(leader);
            cuts += 1;
        }
        let in_touch = (0..5).filter(|at| world.is_in_touch(*at)).count();
        if in_touch < 3 {
            let node = world.draw(5) as usize;
            world.mend(node);
        }
    }
    world.note(format_args!("{cuts} leaders cut off, {} entries committed", world.committed()));
    claim!(world, cuts > 0, "{cuts} leaders in {ROUNDS} rounds");
    world.mend_all();
    // An election takes two rounds of answers, each from a quorum before the candidate's patience ends. Of the answers
    // some four in ten come in time as things are now, so that several elections fail for each that does not.
    let begin = world.now();
    world.agree_within(PATIENCE, 5, SMALL)?;
    world.note(format_args!("agreed after {} ms", (world.now() - begin) / MS));
    Ok(())
}

fn churn(world: &mut World<'_>) -> Checked {
    world.await_leader()?;
    for _ in 0..20 {
        let node = world.draw(5) as usize;
        if world.draw(5) == 0 {
            world.cut_off(node);
        }
        let node = world.draw(5) as usize;
        if world.draw(2) == 0 {
            world.revive(node)?;
            world.mend(node);
        }
        let node = world.draw(5) as usize;
        if world.draw(5) == 0 {
            world.crash(node)?;
        }
        let span = world.timeout() * 7 / 10;
        world.run_for(span)?;
    }
    let before = world.answers();
    world.mend_all();
    for node in 0..5 {
        world.revive(node)?;
    }
    world.agree(5, SMALL)?;
    let served = world.wait(5_000 * MS, |world| world.answers() >= before + 10)?;
    // In the worst of draws no node had a quorum before; now all have.
    claim!(world, served, "{before} calls were answered, and then {}", world.answers() - before);
    Ok(())
}
