//! Every level of reading, on real processes: who writes and reads there, and what must hold of what was shown.
//!
//! [`Load`] is a client of many hands, which write, and read at all levels at all nodes, and hand each other their sessions;
//! [`History`] is what it has asked and been told, and the judge of it. What goes wrong meanwhile is the test's choice
//! (`tests/levels.rs`).
//!
//! | rule | what |
//! |---|---|
//! | `acknowledged is kept` | a write stands in the journal where its acknowledgement said, as the line that its reply said |
//! | `refused is refused` | what was refused with certainty is not there; nothing is there twice, or of nobody |
//! | `an answer is of its index` | what was shown is the journal up to the entry that was named: a prefix, and no other |
//! | `kept states stay` | a frozen state answers later as it did at first |
//! | `linearizable` | writes and strong reads, by the simulator's checker |
//! | the others | those of [`raftwerk_sim::levels`], which say of each level what an answer must have seen |
//!
//! There is one clock, this process's. A call is not before it is made here, and what was told was so when it was heard here, so what
//! two lines on pipes take makes no answer look wrong that is right. Clocks of nodes that are given another rate are allowed for by
//! exactly that rate. What is not here: simulated clusters, which have judges of their own.

mod history;
mod load;

pub use history::{History, LEVELS, Look, Outcome, Tally, Write, level_at};
pub use load::{Counts, Load};
