//! The examples, run as they are: what is shown to newcomers works.

#[path = "../examples/counter.rs"]
mod counter;
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
