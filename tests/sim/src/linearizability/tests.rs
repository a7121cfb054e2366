//! Histories made by hand, and a checker that simply tries every order.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

type RegisterCall = Call<RegisterInput, RegisterOutput>;

const BUDGET: u64 = 1_000_000;

fn call<I, O>(client: u32, called: u64, returned: Option<u64>, input: I, output: Option<O>) -> Call<I, O> {
    Call { client, called, returned, input, output }
}

fn write(called: u64, returned: u64, value: i64) -> RegisterCall {
    call(1, called, Some(returned), RegisterInput::Write(value), Some(RegisterOutput::Written))
}

fn lost_write(called: u64, value: i64) -> RegisterCall {
    call(2, called, None, RegisterInput::Write(value), None)
}

fn read(called: u64, returned: u64, value: Option<i64>) -> RegisterCall {
    call(3, called, Some(returned), RegisterInput::Read, Some(RegisterOutput::Holds(value)))
}

fn swap(called: u64, returned: u64, expected: i64, new: i64, swapped: bool) -> RegisterCall {
    let input = RegisterInput::CompareAndSet { expected, new };
    call(4, called, Some(returned), input, Some(RegisterOutput::Swapped(swapped)))
}

fn verdict(history: &[RegisterCall]) -> Verdict {
    check(&Register, history, BUDGET)
}

fn stuck(history: &[RegisterCall]) -> usize {
    match verdict(history) {
        Verdict::Violation(violation) => violation.stuck,
        other => panic!("expected a violation, found {other:?}"),
    }
}

#[test]
fn nothing_happened_and_that_is_fine() {
    assert_eq!(verdict(&[]), Verdict::Linearizable);
}

#[test]
fn a_read_during_a_write_may_see_either_value() {
    for seen in [None, Some(1)] {
        assert_eq!(verdict(&[write(1, 4, 1), read(2, 3, seen)]), Verdict::Linearizable);
    }
    assert_eq!(stuck(&[write(1, 4, 1), read(2, 3, Some(2))]), 1);
}

#[test]
fn a_read_after_a_write_must_see_it() {
    let stale = [write(1, 2, 1), write(3, 4, 2), read(5, 6, Some(1))];
    assert_eq!(stuck(&stale), 2);
}

#[test]
fn a_value_once_seen_does_not_go_back() {
    // Both reads run while the write does, one after the other: new, then old.
    assert_eq!(stuck(&[write(1, 2, 1), write(3, 10, 2), read(4, 5, Some(2)), read(6, 7, Some(1))]), 3);
    let fine = [write(1, 2, 1), write(3, 10, 2), read(4, 5, Some(1)), read(6, 7, Some(2))];
    assert_eq!(verdict(&fine), Verdict::Linearizable);
}

#[test]
fn equal_times_overlap_and_order_in_the_list_means_nothing() {
    assert_eq!(verdict(&[read(2, 3, None), write(1, 2, 1)]), Verdict::Linearizable);
    assert_eq!(stuck(&[read(3, 4, None), write(1, 2, 1)]), 0);
}

#[test]
fn an_unknown_write_may_take_effect_late_once_or_never() {
    let lost = lost_write(1, 7);
    assert_eq!(verdict(&[lost.clone(), read(2, 3, None), read(4, 5, Some(7))]), Verdict::Linearizable);
    assert_eq!(verdict(&[lost.clone(), read(2, 3, None), read(4, 5, None)]), Verdict::Linearizable);
    let twice = [lost.clone(), read(2, 3, Some(7)), write(4, 5, 1), read(6, 7, Some(7))];
    assert_eq!(stuck(&twice), 3);
    assert_eq!(stuck(&[read(1, 2, Some(7)), lost_write(3, 7)]), 0, "not before it was made");
}

#[test]
fn each_of_two_equal_unknown_writes_may_take_effect() {
    let twice = [
        lost_write(1, 7),
        lost_write(5, 7),
        read(2, 3, Some(7)),
        write(6, 7, 1),
        read(8, 9, Some(7)),
        write(10, 11, 1),
        read(12, 13, Some(1)),
    ];
    assert_eq!(verdict(&twice), Verdict::Linearizable);
    let thrice = [&twice[..], &[read(14, 15, Some(7))]].concat();
    assert_eq!(stuck(&thrice), 7);
}

#[test]
fn a_call_that_returned_has_happened_even_if_its_answer_is_unknown() {
    let returned = call(1, 1, Some(2), RegisterInput::Write(1), None);
    assert_eq!(stuck(&[returned.clone(), read(3, 4, None)]), 1);
    assert_eq!(verdict(&[returned, read(3, 4, Some(1))]), Verdict::Linearizable);
}

#[test]
fn an_unknown_swap_only_changes_what_it_expected() {
    let lost = call(2, 1, None, RegisterInput::CompareAndSet { expected: 1, new: 2 }, None);
    let fine = [lost.clone(), write(2, 3, 1), read(4, 5, Some(2))];
    assert_eq!(verdict(&fine), Verdict::Linearizable);
    assert_eq!(stuck(&[lost, write(2, 3, 3), read(4, 5, Some(2))]), 2);
}

#[test]
fn of_two_swaps_from_one_value_one_must_fail() {
    let both = [write(1, 2, 0), swap(3, 6, 0, 1, true), swap(4, 5, 0, 2, true)];
    assert!(matches!(verdict(&both), Verdict::Violation(_)));
    let one = [write(1, 2, 0), swap(3, 6, 0, 1, true), swap(4, 5, 0, 2, false)];
    assert_eq!(verdict(&one), Verdict::Linearizable);
}

#[test]
fn without_steps_there_is_no_verdict() {
    assert_eq!(check(&Register, &[write(1, 2, 1)], 0), Verdict::OutOfBudget);
    // Concurrent writes and a read of what no call wrote: every order must be tried.
    let mut hard: Vec<_> = (0..16).map(|n| write(1, 100, n)).collect();
    hard.push(read(1, 100, Some(99)));
    assert_eq!(check(&Register, &hard, 10_000), Verdict::OutOfBudget);
}

#[test]
fn a_violation_is_told_in_a_few_lines() {
    let mut history: Vec<_> = (0..40).map(|n| write(n * 2 + 1, n * 2 + 2, n as i64)).collect();
    history.push(read(100, 101, Some(7)));
    let Verdict::Violation(violation) = verdict(&history) else { panic!("a stale read") };
    assert_eq!(violation.linearized, (0..40).collect::<Vec<_>>());
    let told = violation.describe(&history);
    assert!(told.lines().count() <= 16, "{told}");
    assert!(told.contains("28 calls, then") && told.contains("leave Some(39)"), "{told}");
    assert!(told.ends_with("does not fit: client 3, 100..101: Read -> Holds(Some(7))\n"), "{told}");
}

fn kv(called: u64, returned: u64, input: KvInput, output: KvOutput) -> Call<KvInput, KvOutput> {
    call(1, called, Some(returned), input, Some(output))
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn keys_are_judged_one_by_one() {
    let put = |key| KvInput::Put { key: text(key), value: text("v") };
    let get = |key| KvInput::Get { key: text(key) };
    let found = |value: Option<&'static str>| KvOutput::Found(value.map(text));
    let mut history = vec![
        kv(1, 2, put("a"), KvOutput::Done),
        kv(3, 4, get("b"), found(None)),
        kv(5, 6, get("a"), found(Some("v"))),
    ];
    assert_eq!(check(&KeyValue::default(), &history, BUDGET), Verdict::Linearizable);
    history.push(kv(7, 8, get("b"), found(Some("v"))));
    let Verdict::Violation(violation) = check(&KeyValue::default(), &history, BUDGET) else {
        panic!("nobody wrote to b")
    };
    assert_eq!((&violation.key[..], &violation.linearized[..], violation.stuck), (&b"b"[..], &[1][..], 3));
}

#[test]
fn a_hard_key_does_not_hide_what_is_wrong_with_an_easy_one() {
    let append = |n: u8| KvInput::Append { key: text("hard"), value: Bytes::copy_from_slice(&[n]) };
    let mut history: Vec<_> = (0..30).map(|n| kv(1, 100, append(n), KvOutput::Done)).collect();
    let none_of_them = KvOutput::Found(Some(text("x")));
    history.push(kv(1, 100, KvInput::Get { key: text("hard") }, none_of_them.clone()));
    assert_eq!(check(&KeyValue::default(), &history, BUDGET / 10), Verdict::OutOfBudget);
    history.push(kv(1, 2, KvInput::Get { key: text("easy") }, none_of_them));
    let found = check(&KeyValue::default(), &history, BUDGET / 10);
    assert!(matches!(found, Verdict::Violation(Violation { stuck: 31, .. })), "{found:?}");
}

#[test]
fn every_operation_of_the_map_is_held_to_its_answer() {
    let key = || text("k");
    let swap = |expected: Option<&'static str>, new: Option<&'static str>| KvInput::CompareAndSet {
        key: key(),
        expected: expected.map(text),
        new: new.map(text),
    };
    let get = || KvInput::Get { key: key() };
    let story = [
        (KvInput::Delete { key: key() }, KvOutput::Existed(false)),
        (swap(None, Some("a")), KvOutput::Swapped),
        (swap(None, Some("b")), KvOutput::Refused(Some(text("a")))),
        (KvInput::Append { key: key(), value: text("b") }, KvOutput::Done),
        (get(), KvOutput::Found(Some(text("ab")))),
        (swap(Some("ab"), None), KvOutput::Swapped),
        (get(), KvOutput::Found(None)),
        (KvInput::Append { key: key(), value: text("c") }, KvOutput::Done),
        (KvInput::Delete { key: key() }, KvOutput::Existed(true)),
    ];
    let history: Vec<_> = (0..)
        .zip(&story)
        .map(|(n, (input, output))| kv(n * 2, n * 2 + 1, input.clone(), output.clone()))
        .collect();
    assert_eq!(check(&KeyValue::default(), &history, BUDGET), Verdict::Linearizable);
    let wrong = [
        (0, KvOutput::Existed(true)),
        (1, KvOutput::Refused(None)),
        (2, KvOutput::Swapped),
        (2, KvOutput::Refused(None)),
        (4, KvOutput::Found(Some(text("ba")))),
        (5, KvOutput::Refused(Some(text("ab")))),
        (6, KvOutput::Found(Some(text("")))),
        (7, KvOutput::Existed(true)),
        (8, KvOutput::Existed(false)),
    ];
    for (at, output) in wrong {
        let mut history = history.clone();
        history[at].output = Some(output.clone());
        let Verdict::Violation(violation) = check(&KeyValue::default(), &history, BUDGET) else {
            panic!("{output:?} at {at} was let through")
        };
        assert_eq!(violation.stuck, at, "{output:?}");
    }
}

/// Every order of every subset that has the calls that returned: slow, and simple enough to be believed.
fn has_an_order<M: Model>(
    model: &M,
    history: &[Call<M::Input, M::Output>],
    taken: u32,
    state: &M::State,
) -> bool {
    let is_taken = |at: usize| taken >> at & 1 == 1;
    if (0..history.len()).all(|at| is_taken(at) || history[at].returned.is_none()) {
        return true;
    }
    (0..history.len()).filter(|&at| !is_taken(at)).any(|at| {
        let next = &history[at];
        let may_be_next = (0..history.len())
            .filter(|&other| !is_taken(other))
            .all(|other| history[other].returned.is_none_or(|returned| returned >= next.called));
        let after = match model.step(state, &next.input, next.output.as_ref()) {
            Step::Illegal => return false,
            Step::Unchanged => state.clone(),
            Step::Next(after) => after,
        };
        may_be_next && has_an_order(model, history, taken | 1 << at, &after)
    })
}

fn any_call() -> impl Strategy<Value = RegisterCall> {
    let asked = prop_oneof![
        3 => prop::option::of(0..3i64)
            .prop_map(|value| (RegisterInput::Read, RegisterOutput::Holds(value))),
        2 => (0..3i64).prop_map(|value| (RegisterInput::Write(value), RegisterOutput::Written)),
        2 => (0..3i64, 0..3i64, any::<bool>()).prop_map(|(expected, new, swapped)| {
            (RegisterInput::CompareAndSet { expected, new }, RegisterOutput::Swapped(swapped))
        }),
    ];
    (asked, 0..16u64, 0..7u64, prop::bool::weighted(0.75), prop::bool::weighted(0.9)).prop_map(
        |((input, output), called, length, returns, answers)| {
            let returned = returns.then_some(called + length);
            call(0, called, returned, input, (returns && answers).then_some(output))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_agrees_with_trying_every_order(history in prop::collection::vec(any_call(), 0..8)) {
        let expected = has_an_order(&Register, &history, 0, &None);
        match verdict(&history) {
            Verdict::Linearizable => prop_assert!(expected, "{history:#?}"),
            Verdict::OutOfBudget => prop_assert!(false, "so few calls, so many steps"),
            Verdict::Violation(violation) => {
                prop_assert!(!expected, "{history:#?}");
                explains(&history, &violation)?;
            }
        }
    }
}

/// A violation names where a history stops having an order: with the stuck call's end it has none, before it has one, the
/// one that is named.
fn explains(history: &[RegisterCall], violation: &Violation) -> Result<(), TestCaseError> {
    let end = history[violation.stuck].returned.expect("only a call that returned can be stuck");
    let is_before =
        |at: usize| history[at].returned.is_some_and(|returned| (returned, at) < (end, violation.stuck));
    let until = |is_stuck_in: bool| -> Vec<RegisterCall> {
        let cut = history.iter().enumerate().filter(|(_, call)| call.called <= end).map(|(at, call)| {
            let is_ended = is_before(at) || is_stuck_in && at == violation.stuck;
            Call { returned: call.returned.filter(|_| is_ended), ..call.clone() }
        });
        cut.collect()
    };
    prop_assert!(has_an_order(&Register, &until(false), 0, &None), "there is none before {history:#?}");
    prop_assert!(!has_an_order(&Register, &until(true), 0, &None), "it has a place in {history:#?}");
    let mut state = None;
    for &at in &violation.linearized {
        match Register.step(&state, &history[at].input, history[at].output.as_ref()) {
            Step::Illegal => prop_assert!(false, "{at} is out of place in {violation:?} of {history:#?}"),
            Step::Unchanged => {}
            Step::Next(next) => state = next,
        }
    }
    prop_assert_eq!(format!("{state:?}"), &violation.state[..]);
    for at in (0..history.len()).filter(|&at| is_before(at)) {
        prop_assert!(
            violation.linearized.contains(&at),
            "{at} is missing from {violation:?} of {history:#?}"
        );
    }
    Ok(())
}
