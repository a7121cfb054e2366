//! Logs that stay short, and which followers get a snapshot instead.

use super::{Scenario, claim};
use crate::watch::Checked;
use crate::world::World;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new("snapshot-basic", &[3], "thirty rounds, a snapshot about every ten entries", |world| {
        rounds(world, Trouble::None)
    })
    .with_checkpoints(CHECKPOINT),
    Scenario::new(
        "snapshot-install",
        &[3],
        "the same with somebody cut off in every round, for long enough to need a snapshot",
        |world| rounds(world, Trouble::Cut),
    )
    .with_checkpoints(CHECKPOINT),
    Scenario::new("snapshot-unreliable", &[3], "the same in foul weather", |world| {
        rounds(world, Trouble::Cut)
    })
    .with_checkpoints(CHECKPOINT)
    .in_foul_weather(),
    Scenario::new("snapshot-crash", &[3], "the same with somebody crashed in every round", |world| {
        rounds(world, Trouble::Crash)
    })
    .with_checkpoints(CHECKPOINT),
];

const SMALL: usize = 32;
/// A checkpoint's worth of log: ten entries of this size, each in a frame of its own.
const CHECKPOINT: u64 = 10 * 96;
/// A leader keeps up to four checkpoints' worth for followers that are behind; one more is on its way to be compacted.
const LOG_MAX: u64 = 5 * CHECKPOINT;
/// Entries of a round.
const INTERVAL: u64 = 10;

/// The fault of a follower in every round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    Cut,
    Crash,
}

fn rounds(world: &mut World<'_>, trouble: Trouble) -> Checked {
    let mut last = world.agree(3, SMALL)?;
    let mut longest = 0;
    for round in 0..30 {
        // A follower, and every third time the leader.
        let leader = world.await_leader()?;
        let victim = if round % 3 == 1 { leader } else { (leader + 1) % 3 };
        match trouble {
            Trouble::None => {}
            Trouble::Cut => world.cut_off(victim),
            Trouble::Crash => world.crash(victim)?,
        }
        let left = if trouble == Trouble::None { 3 } else { 2 };
        world.agree(left, SMALL)?;
        if trouble != Trouble::None {
            // Long enough that no leader puts off its compaction for it.
            let span = 3 * world.timeout();
            world.run_for(span)?;
        }
        for _ in 0..INTERVAL / 2 + world.draw(INTERVAL) {
            world.agree(left, SMALL)?;
        }
        match trouble {
            Trouble::None => {}
            Trouble::Cut => world.mend(victim),
            Trouble::Crash => world.revive(victim)?,
        }
        let index = world.agree(3, SMALL)?;
        claim!(world, index > last, "{index} was committed before, up to {last}");
        last = index;
        longest = longest.max(world.log_bytes());
        claim!(world, longest <= LOG_MAX, "a log of {longest} bytes, checkpoints every {CHECKPOINT}");
    }
    for at in 0..3 {
        let begins = world.compacted(at);
        claim!(world, begins + 8 * INTERVAL >= last, "n{}'s log goes from {begins} to {last}", at + 1);
    }
    let installs = world.installs();
    world.note(format_args!("{installs} installed, at most {longest} bytes"));
    claim!(world, (installs > 0) == (trouble != Trouble::None), "{installs} snapshots were installed");
    Ok(())
}
