//! Protocol stories as text: commands to a small cluster, and what it answers.
//!
//! A script is a text file. Lines that begin with `#` are prose. A block is one command or more, a line `----`, and
//! the output, which ends at an empty line:
//! ```text
//! # Node 1 is the first whose patience ends (paper, section 5.2).
//! timeout 1
//! deliver to=2
//! ----
//! 1 is candidate in t1
//! 1 writes t1 vote 1
//! 1->2 vote t1 log 0@0
//! 1->3 vote t1 log 0@0
//! 1=>2 vote t1 log 0@0
//!   2 writes t1 vote 1
//!   2->1 vote yes t1
//! ```
//! `1->2` is a message that leaves, `1=>2` one that arrives, with its consequences indented below; `1-x2` one that is
//! lost. `7@3` is the entry at index 7, created in term 3; `4..7@3` are four entries of one term. An append shows what
//! it carries in brackets.
//!
//! The replicas are real groups of `raftwerk-raft`. Disks, wire, clock and state machines are models: a disk knows
//! what is written and what is durable, a state machine is the list of payloads it was given. After every step the
//! rules of [`raftwerk_raft::invariant`] are checked, and that no two replicas apply different entries at an index; a
//! script that breaks one fails, whatever it expects.
//!
//! # Commands
//! Nodes are numbers. Every command may end with `quiet`: then messages are left out of its output.
//!
//! | command | what happens |
//! |---|---|
//! | `cluster nodes=3 [option…]` | a new cluster of empty replicas; see below |
//! | `given 2 term=3 [vote=1] log=1,1,2` | node 2 starts anew from a disk with entries of these terms |
//! | `timeout 1` | time passes until node 1's deadline, and only its timer fires |
//! | `heartbeat 1` | the same, for a leader |
//! | `campaign 1` | node 1 is told to campaign |
//! | `advance 500` | 500 ms pass; timers fire, no message arrives |
//! | `run 3000` | 3000 ms pass; timers fire, and messages arrive at once |
//! | `wait 500` | 500 ms pass and nobody notices: late timers |
//! | `propose 1 a b c` | payloads for node 1, in one input |
//! | `read 1 [3]` | that many linearizable reads at node 1, in one turn |
//! | `read-anywhere 2 [3]` | the same, at a follower, too |
//! | `deliver [from=1] [to=2] [n]` | what is on the wire now, at most n messages, arrives in order |
//! | `drop [from=1] [to=2] [n]` | messages are lost |
//! | `duplicate [from=1] [to=2] [n]` | copies of messages come after all others |
//! | `deliver from=1 last` | only the last that matches; so for `drop` and `duplicate` |
//! | `deliver #7`, `drop #7`, `duplicate #7` | one message, by its number in `messages`, for trying things out |
//! | `hold [from=1] [to=2]` | matching messages stay on the wire, except if named by number |
//! | `release [from=1] [to=2]` | what was held by just these words is no longer; without any, nothing is |
//! | `durability manual` | from now on batches wait for `durable`; `durability auto`: no more of them do |
//! | `partition 1 2 / 3 4 5` | messages between the sides are lost, also those already on the wire |
//! | `isolate 1` | node 1 on one side, all others on the other |
//! | `heal` | no link is cut any longer |
//! | `stabilize` | messages arrive until none is left |
//! | `durable 2 [n]` | the n oldest batches of node 2 become durable; all, without n |
//! | `crash 2`, `restart 2` | what is not durable is gone; the replica starts from its disk |
//! | `compact 1 to=5` | checkpoint, and the log begins after 5 |
//! | `snapshot-failed 1 to=2` | node 1 learns that its transfer broke |
//! | `unreachable 1 to=2` | node 1 learns that its connection broke |
//! | `reconfigure 1 v4 l5 r2 w6 x7 [option…]` | voter 4, learner 5, away with 2, witness 6, learner 7 that is a witness; all in one change; see below |
//! | `transfer 1 to=2` | node 1 is told to hand its lead over |
//! | `join 4 [witness]` | a new node with an empty replica that knows nobody |
//! | `priority 2 0` | how willing node 2 is to lead: 3 is usual, 0 never |
//! | `configuration [1]` | who takes part, as each replica knows it |
//! | `status [1]`, `log [1]`, `progress 1`, `state [1]`, `messages` | look at things |
//!
//! Options of `cluster`: `durability=manual` (default `auto`: what a turn writes is durable at its end),
//! `pre-vote=on`, `check-quorum=on` (default off, as in the paper), `opening=driver` (a term is opened by the first
//! proposal, not by the core), `append=n` entries in one message (64),
//! `window=n` entries (256) and `messages=n` (64) on their way to one peer, `uncommitted=n` entries that may wait for a
//! quorum (1000), `learners=n` more replicas that do not vote, `witnesses=n` of the voters, the last ones, that hold no payloads. An entry weighs one byte. The election timeout T is 1000 ms, the heartbeat interval 100 ms.
//!
//! Options of `reconfigure`: `route=joint` (default `auto`: one voter goes the short way), `route=held` (joint until a
//! `reconfigure` without changes), `newcomers=unchecked` or `awaited` (default `checked`: new voters must have caught
//! up), `seen=n` (the configuration that was looked at), `dry-run`. A configuration is shown as `{1 2 3}`, joint as
//! `{new}&{old}`, learners as `+4`, voters that are about to be learners as `~3`, witnesses as `3w`. What a witness is not told
//! is shown as `?`.
//!
//! Where to go next: `runner` for the commands, `cluster` for turns and the wire, `replica` and `image` for what a
//! driver owes the core, `text` for the file format.

mod arguments;
mod cluster;
mod image;
mod look;
mod outcome;
mod replica;
mod runner;
mod text;
mod trace;
mod wire;

pub use runner::{Failure, first_difference, run};
