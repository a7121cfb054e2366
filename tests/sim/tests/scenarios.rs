//! Every named scenario, with a few seeds. Many more: `raftwerk-sim --scenario all`.

use raftwerk_sim::scenario;

const SEEDS: u64 = 2;

#[test]
fn every_scenario_ends_well() {
    let mut broken = Vec::new();
    for scenario in scenario::all() {
        for seed in 0..SEEDS {
            if let Some(violation) = scenario.run(seed, None).violation {
                broken.push(format!(
                    "{} seed {seed}: {}: {}",
                    scenario.name(),
                    violation.invariant,
                    violation.what
                ));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_scenario_repeats_to_the_hash() {
    for scenario in scenario::all().take(3) {
        let (first, second) = (scenario.run(7, None), scenario.run(7, None));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "{}", scenario.name());
        assert_ne!(first.hash, scenario.run(8, None).hash, "{}", scenario.name());
    }
}
