//! What is committed, what is not, and what it costs.

use super::{MS, Scenario, claim};
use crate::watch::{Checked, Violation};
use crate::world::{Told, World};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "basic-agree",
        &[3],
        "three payloads at indices in order, none committed before it was proposed",
        basic_agree,
    ),
    Scenario::new(
        "bytes",
        &[3],
        "ten payloads of 5,000 bytes cost little more than being sent to two",
        bytes,
    ),
    Scenario::new(
        "follower-failure",
        &[3],
        "with one follower cut off the others agree; with two, nothing is committed",
        follower_failure,
    ),
    Scenario::new(
        "leader-failure",
        &[3],
        "with the first leader cut off the others agree; with the second, too, nothing is committed",
        leader_failure,
    ),
    Scenario::new("fail-agree", &[3], "a follower that was cut off catches up when it is back", fail_agree),
    Scenario::new(
        "fail-no-agree",
        &[5],
        "with three of five cut off nothing is committed, and its index is used again",
        fail_no_agree,
    ),
    Scenario::new("rejoin", &[3], "what a leader that was cut off kept to itself is replaced", rejoin),
    Scenario::new(
        "backup",
        &[5],
        "logs that differ in runs of fifty entries are mended run by run, not entry by entry",
        backup,
    ),
    Scenario::new(
        "count",
        &[3],
        "few messages for an election and ten entries, heartbeats alone when idle",
        count,
    ),
];

const SMALL: usize = 32;

fn basic_agree(world: &mut World<'_>) -> Checked {
    world.await_leader()?;
    world.run_for(500 * MS)?;
    // The leader's own empty entry, and nothing else.
    let before = world.committed();
    claim!(world, before == 1, "{before} entries are committed before anything was proposed");
    for number in 1..=3 {
        let pause = world.draw(300 * MS);
        world.run_for(pause)?;
        let committed = world.committed();
        claim!(
            world,
            committed == before + number - 1,
            "{committed} entries are committed before proposal {number}"
        );
        let index = world.agree(3, SMALL)?;
        claim!(world, index == before + number, "proposal {number} is at {index}, after {before}");
    }
    Ok(())
}

fn bytes(world: &mut World<'_>) -> Checked {
    const PAYLOAD: usize = 5_000;
    world.agree(3, SMALL)?;
    let before = world.tally();
    for _ in 0..10 {
        world.agree(3, PAYLOAD)?;
    }
    let cost = world.tally().since(&before).bytes;
    world.note(format_args!("ten payloads cost {cost} bytes"));
    let payloads = 10 * PAYLOAD as u64;
    claim!(world, cost <= 3 * payloads + 50_000, "{payloads} bytes cost {cost}");
    // Two followers have all of it, so it cannot have cost less.
    claim!(world, cost >= 2 * payloads, "{payloads} bytes cost only {cost}: they are not counted");
    Ok(())
}

/// Proposes at a node that has no quorum, and sees to it that nothing is committed; the tail it then has to itself.
fn nothing_is_committed(world: &mut World<'_>, at: usize) -> Result<u64, Violation> {
    let before = world.committed();
    let ask = world.ask(at, SMALL)?;
    let span = 4 * world.timeout();
    world.run_for(span)?;
    let (committed, told) = (world.committed(), world.told(ask));
    claim!(world, committed == before, "{before} entries were committed, and without a quorum {committed}");
    claim!(world, !matches!(told, Some(Told::Applied(_))), "acknowledged without a quorum: {told:?}");
    // Every call gets an answer in the end: the leader gave up, and reports an unknown outcome.
    claim!(world, told.is_some(), "n{} has not answered for four timeouts", at + 1);
    Ok(world.last(at) - before)
}

fn follower_failure(world: &mut World<'_>) -> Checked {
    world.agree(3, SMALL)?;
    let leader = world.await_leader()?;
    world.cut_off((leader + 1) % 3);
    world.agree(2, SMALL)?;
    let span = world.draw(2 * world.timeout());
    world.run_for(span)?;
    world.agree(2, SMALL)?;
    let leader = world.await_leader()?;
    for other in (0..3).filter(|at| *at != leader) {
        world.cut_off(other);
    }
    let tail = nothing_is_committed(world, leader)?;
    claim!(world, tail == 1, "the proposal made {tail} entries");
    world.mend_all();
    world.agree(3, SMALL).map(|_| ())
}

fn leader_failure(world: &mut World<'_>) -> Checked {
    world.agree(3, SMALL)?;
    let first = world.await_leader()?;
    world.cut_off(first);
    world.agree(2, SMALL)?;
    let span = world.draw(2 * world.timeout());
    world.run_for(span)?;
    world.agree(2, SMALL)?;
    let second = world.await_leader()?;
    world.cut_off(second);
    // The third alone: no node that is asked can commit anything.
    let before = world.committed();
    for at in 0..3 {
        let _unknown = world.ask(at, SMALL)?;
    }
    let span = 4 * world.timeout();
    world.run_for(span)?;
    let after = world.committed();
    claim!(world, after == before, "{before} entries were committed, and without a quorum {after}");
    world.mend_all();
    world.agree(3, SMALL).map(|_| ())
}

fn fail_agree(world: &mut World<'_>) -> Checked {
    world.agree(3, SMALL)?;
    let leader = world.await_leader()?;
    let away = (leader + 1 + world.draw(2) as usize) % 3;
    world.cut_off(away);
    for _ in 0..2 {
        world.agree(2, SMALL)?;
    }
    let span = 2 * world.timeout();
    world.run_for(span)?;
    for _ in 0..2 {
        world.agree(2, SMALL)?;
    }
    let last = world.committed();
    claim!(world, world.applied(away) < last, "n{} was cut off and has everything", away + 1);
    world.mend(away);
    world.agree(3, SMALL)?;
    let span = 2 * world.timeout();
    world.run_for(span)?;
    world.agree(3, SMALL).map(|_| ())
}

fn fail_no_agree(world: &mut World<'_>) -> Checked {
    world.agree(5, SMALL)?;
    let leader = world.await_leader()?;
    for step in 1..=3 {
        world.cut_off((leader + step) % 5);
    }
    let tail = nothing_is_committed(world, leader)?;
    claim!(world, tail == 1, "the proposal made {tail} entries");
    let lost = world.last(leader);
    let term = world.term(leader);
    world.mend_all();
    // Of the lost proposal's index and those after it, every later term's leader uses one for an empty entry of its own.
    let index = world.agree(5, SMALL)?;
    let leader = world.await_leader()?;
    let terms = world.term(leader) - term;
    claim!(world, terms > 0, "the leader of term {term} kept it without a quorum");
    claim!(
        world,
        index > lost && index <= lost + 1 + terms,
        "the lost proposal was at {lost}; {terms} terms later the next is at {index}"
    );
    world.agree(5, SMALL).map(|_| ())
}

fn rejoin(world: &mut World<'_>) -> Checked {
    world.agree(3, SMALL)?;
    let first = world.await_leader()?;
    world.cut_off(first);
    let (before, mut asks) = (world.last(first), Vec::new());
    for _ in 0..3 {
        asks.push(world.ask(first, SMALL)?);
    }
    world.agree(2, SMALL)?;
    claim!(world, world.last(first) == before + 3, "n{} did not append what it was asked to", first + 1);

    // The second leader goes, with an entry that the first has not; the first comes back with a tail of its own.
    let second = world.await_leader()?;
    claim!(world, second != first, "n{} leads and is cut off", first + 1);
    world.cut_off(second);
    world.mend(first);
    world.agree(2, SMALL)?;
    world.mend(second);
    world.agree(3, SMALL)?;
    for ask in asks {
        let told = world.told(ask);
        claim!(world, told == Some(Told::Unknown) || told == Some(Told::Refused), "of a lost tail: {told:?}");
    }
    Ok(())
}

/// Entries in each of the runs by which logs differ.
const RUN: usize = 50;

/// Many proposals at a node that leads without a quorum; all of them in its log, none committed.
fn tail_of_its_own(world: &mut World<'_>, leader: usize) -> Checked {
    let (last, before) = (world.last(leader), world.committed());
    for _ in 0..RUN {
        let _lost = world.ask(leader, SMALL)?;
    }
    let span = world.timeout() / 2;
    world.run_for(span)?;
    claim!(world, world.last(leader) >= last + RUN as u64, "n{} did not append its run", leader + 1);
    claim!(world, world.committed() == before, "committed without a quorum");
    Ok(())
}

/// Many proposals, all committed.
fn committed_run(world: &mut World<'_>, expected: usize) -> Checked {
    for _ in 0..RUN {
        world.agree(expected, SMALL)?;
    }
    Ok(())
}

fn backup(world: &mut World<'_>) -> Checked {
    world.agree(5, SMALL)?;
    // The first leader and one follower to themselves: a run that is never committed.
    let first = world.await_leader()?;
    let of = |step: usize| (first + step) % 5;
    let (with_first, others) = (of(1), [of(2), of(3), of(4)]);
    for other in others {
        world.cut_off(other);
    }
    tail_of_its_own(world, first)?;
    // The three others: a run that is.
    world.cut_off(first);
    world.cut_off(with_first);
    for other in others {
        world.mend(other);
    }
    committed_run(world, 3)?;
    // Two of them: another that is not.
    let second = world.await_leader()?;
    let away = *others.iter().find(|at| **at != second).unwrap_or(&others[0]);
    world.cut_off(away);
    tail_of_its_own(world, second)?;
    // The first two come back and meet the third of the others: its log is the latest, so theirs are replaced by it,
    // and then grow.
    for node in 0..5 {
        world.cut_off(node);
    }
    let before = world.tally();
    for node in [first, with_first, away] {
        world.mend(node);
    }
    committed_run(world, 3)?;
    world.mend_all();
    world.agree(5, SMALL)?;
    // Four logs are mended, each over at most a handful of runs. Entry by entry, each would be refused some fifty times.
    let rejects = world.tally().since(&before).rejects;
    world.note(format_args!("{rejects} appends were refused"));
    claim!(world, rejects <= 4 * 3, "{rejects} appends were refused before the logs agreed");
    Ok(())
}

fn count(world: &mut World<'_>) -> Checked {
    // Units are counted: what one node sends another in one turn on one channel, requests and answers alike, heartbeats
    // too. Each would be a message of its own on any network.
    world.await_leader()?;
    let election = world.tally().units;
    world.note(format_args!("the election took {election} messages"));
    claim!(world, (1..=30).contains(&election), "the election took {election} messages");
    world.agree(3, SMALL)?;

    let leader = world.await_leader()?;
    let before = world.tally();
    let mut asks = Vec::new();
    for _ in 0..10 {
        asks.push(world.ask(leader, SMALL)?);
    }
    let mut last = 0;
    for ask in asks {
        let mut told = None;
        world.wait(1_000 * MS, |world| {
            told = world.told(ask);
            told.is_some()
        })?;
        let Some(Told::Applied(index)) = told else {
            return Err(world.broken(format_args!("one of ten proposals: {told:?}")));
        };
        claim!(
            world,
            last == 0 || index == last + 1,
            "ten proposals at once, and {index} comes after {last}"
        );
        last = index;
    }
    let everywhere = world.wait(1_000 * MS, |world| (0..3).all(|at| world.applied(at) >= last))?;
    claim!(world, everywhere, "ten entries are not applied everywhere within a second");
    let entries = world.tally().since(&before).units;
    world.note(format_args!("ten entries took {entries} messages"));
    claim!(world, entries <= 42, "ten entries took {entries} messages");

    // Every group sends its own heartbeats, coalesced into one unit per peer: with one group, to two peers, and back.
    world.run_for(1_000 * MS)?;
    let before = world.tally();
    world.run_for(1_000 * MS)?;
    let idle = world.tally().since(&before);
    let heartbeats = 4 * (1_000 * MS / world.heartbeat() + 1);
    world.note(format_args!("an idle second took {} messages", idle.units));
    claim!(world, idle.units == idle.idle_units, "an idle second has {idle:?}");
    claim!(world, (1..=heartbeats).contains(&idle.units), "an idle second has {} heartbeats", idle.units);
    Ok(())
}
