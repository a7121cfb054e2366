//! A clock that has only just begun to run: 0 is a time like any other, and nothing happened there.

use super::reads::follower;
use super::*;

#[test]
fn a_leader_that_leads_no_longer_is_voted_for_however_young_the_clock_is() {
    let mut node = follower(|_| ());
    assert!(node.now < Time(0) + TIMEOUT);
    // Its own campaign says that node 2 does not lead any more, so it is waited for no longer.
    node.hear(2, Message::PreVote { term: Term(2), last: EntryId::default() });
    node.settle();
    let granted =
        node.said().into_iter().any(|said| said == Message::PreVoteReply { term: Term(2), granted: true });
    assert!(granted);
}
