//! Every named scenario, with a few seeds. Many more: `raftwerk-sim --scenario all`.

use raftwerk_sim::scenario::{self, Scenario};
use raftwerk_sim::{Quarry, hunt_by};

const SEEDS: u64 = 2;

#[test]
fn every_scenario_ends_well() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let quarry = Quarry { from: 0, to: Some(SEEDS), at_most: None, threads, violations_max: usize::MAX };
    let mut broken = Vec::new();
    for scenario in scenario::all() {
        let found = hunt_by(quarry, |seed| scenario.run(seed, None), |_| ());
        assert_eq!(found.seeds, SEEDS, "{}", scenario.name());
        broken.extend(found.violations.into_iter().map(|violation| (scenario.name(), violation)));
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_scenario_repeats_to_the_hash() {
    for name in ["many-elections", "persist-1", "snapshot-install"] {
        let scenario = Scenario::named(name).expect("it is one of them");
        let (first, second) = (scenario.run(7, None), scenario.run(7, None));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "{name}");
        assert_ne!(first.hash, scenario.run(8, None).hash, "{name}");
    }
}

#[test]
fn snapshots_are_installed_where_a_scenario_needs_them() {
    let installed = |name| Scenario::named(name).map(|scenario| scenario.run(0, None).installed);
    assert_eq!(installed("snapshot-basic"), Some(0));
    assert!(installed("snapshot-install") > Some(0));
}
