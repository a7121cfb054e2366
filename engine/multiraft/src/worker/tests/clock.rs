//! A clock that has just begun to run: 0 is a time like any other, and no event is dated there.

use super::reads::follower;
use super::*;

#[test]
fn a_leader_that_leads_no_longer_is_voted_for_however_young_the_clock_is() {
    let mut node = follower(|_| ());
    assert!(node.now < Time(0) + TIMEOUT);
    // Node 2 campaigns itself, so it does not lead any more and its follower need not wait for it.
    node.hear(2, Message::PreVote { term: Term(2), last: EntryId::default() });
    node.settle();
    let granted =
        node.said().into_iter().any(|said| said == Message::PreVoteReply { term: Term(2), granted: true });
    assert!(granted);
}
