//! Runs the examples unchanged, so that what they show works.
#![allow(clippy::duplicate_mod, reason = "each example is a program of its own; two have the same cluster")]

#[path = "../examples/counter.rs"]
mod counter;
#[path = "../examples/inventory.rs"]
mod inventory;
#[path = "../examples/scoreboard.rs"]
mod scoreboard;
#[path = "../examples/three_nodes.rs"]
mod three_nodes;

#[test]
fn a_counter_survives_being_closed() {
    counter::main().unwrap();
}

#[test]
fn a_store_on_three_nodes_survives_a_leader_that_goes_away() {
    three_nodes::main().unwrap();
}

#[test]
fn a_shop_sells_every_piece_once_through_leaders_that_go_away() {
    inventory::main().unwrap();
}

#[test]
fn four_people_read_a_score_each_at_their_level() {
    scoreboard::main().unwrap();
}
