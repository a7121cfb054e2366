//! A key-value store and its clients: whatever happens, what they see is linearizable.
//!
//! The verdict on what they saw comes with the ending, as after every run.

use super::{MS, Scenario, claim};
use crate::watch::Checked;
use crate::world::World;

/// A checkpoint's worth of log.
const CHECKPOINT: u64 = 4 << 10;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new("kv-concurrent", &[3, 5, 7], "five clients at once", |world| live(world, 3, Trouble::NONE))
        .with_clients(5),
    Scenario::new("kv-unreliable", &[3, 5, 7], "five clients in foul weather", |world| {
        live(world, 5, Trouble::NONE)
    })
    .with_clients(5)
    .in_foul_weather(),
    Scenario::new(
        "kv-partitions",
        &[3, 5, 7],
        "five clients, the network divided anew every second",
        |world| live(world, 5, Trouble { divides: true, restarts: false }),
    )
    .with_clients(5),
    Scenario::new("kv-restarts", &[3, 5, 7], "five clients, everybody crashes and comes back", |world| {
        live(world, 3, Trouble { divides: false, restarts: true })
    })
    .with_clients(5),
    Scenario::new(
        "kv-snapshots",
        &[3, 5, 7],
        "five clients, foul weather, divided networks, crashes, and logs that stay short",
        |world| {
            live(world, 3, Trouble { divides: true, restarts: true })?;
            logs_stay_short(world)
        },
    )
    .with_clients(5)
    .with_checkpoints(CHECKPOINT)
    .in_foul_weather(),
];

/// What happens in every round.
#[derive(Clone, Copy)]
struct Trouble {
    divides: bool,
    restarts: bool,
}

impl Trouble {
    const NONE: Self = Self { divides: false, restarts: false };
}

fn live(world: &mut World<'_>, rounds: usize, trouble: Trouble) -> Checked {
    world.await_leader()?;
    let count = world.count_nodes();
    for _ in 0..rounds {
        if trouble.divides {
            let side = (0..count).map(|_| world.draw(2)).collect();
            world.divide(side);
        }
        let span = 2 * world.timeout() + world.draw(400 * MS);
        world.run_for(span)?;
        if trouble.restarts {
            world.mend_all();
            for node in 0..count {
                world.crash(node)?;
            }
            let pause = world.draw(world.timeout());
            world.run_for(pause)?;
            for node in 0..count {
                world.revive(node)?;
            }
        }
    }
    world.mend_all();
    world.await_leader()?;
    let before = world.answers();
    let served = world.wait(10_000 * MS, |world| world.answers() >= before + 20)?;
    claim!(world, served, "{} calls were answered in ten seconds of peace", world.answers() - before);
    Ok(())
}

/// A group with a snapshot on its way keeps its log until the receiver has caught up, however long that takes in foul
/// weather; so a log may be long at times, and has to become short again.
fn logs_stay_short(world: &mut World<'_>) -> Checked {
    for _ in 0..5 {
        let span = world.timeout();
        world.run_for(span)?;
        let longest = world.log_bytes();
        world.note(format_args!("the longest log has {longest} bytes"));
        let is_short = world.wait(20_000 * MS, |world| world.log_bytes() <= 8 * CHECKPOINT)?;
        let longest = world.log_bytes();
        claim!(world, is_short, "a log of {longest} bytes for 20 s, checkpoints every {CHECKPOINT}");
    }
    Ok(())
}
