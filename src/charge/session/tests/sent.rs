//! Content that its sender pays for: failures release, silence and aborts debit, and the sender may lie.

use super::*;
use crate::charge::policy::Cases;

const LATER: u64 = 2;

fn open_with(messages: u32, policy: Policy) -> Run {
    let reserve = Reserve { service: Service::Sending, direction: Direction::Push, ..invite(messages) };
    let tariff = "message:5".parse().expect("a tariff");
    let session = Session::open(KEY, &reserve, tariff, policy, 0, s(0));
    let mut run = Run { session, out: Vec::new(), request: None, trace: Vec::new() };
    run.drain();
    run.accept();
    run.event(Event::Answered { leg: 1 }, s(0));
    run
}

fn open() -> Run {
    open_with(8, Policy::default())
}

/// A session in which `m1` was sent and refused with 413, both at second 1.
fn refused() -> Run {
    let mut run = open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 413), s(1));
    run
}

#[test]
fn success_debits_once() {
    let mut run = open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(2));
    run.event(responded(1, 413), s(3));
    assert_eq!((run.debits(), run.not_charged()), (vec!["debit m1 response".to_owned()], vec![]));
}

#[test]
fn failure_releases_after_the_time_of_a_contradiction() {
    for (code, rule) in [(403, "4xx=release"), (413, "4xx=release"), (501, "5xx=release")] {
        let mut run = open();
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, code), s(1));
        assert_eq!(run.not_charged(), [""; 0]);
        run.timer(s(1 + LATER));
        assert_eq!((run.debits(), run.not_charged()), (vec![], vec![rule]), "{code}");
        assert_eq!(run.grants(), [8, 9], "what was taken is available again");
    }
}

#[test]
fn failure_debits_if_the_policy_says_so() {
    let cases = Cases { client_error: Settle::Debit, ..Cases::SENT };
    let mut run = open_with(8, policy(|p| p.sent = cases));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 413), s(1));
    assert_eq!(run.debits(), ["debit m1 error 413"]);
}

#[test]
fn silence_and_request_timeout_debit() {
    let mut run = open();
    run.sent(whole("m1", 1), s(1));
    run.timer(s(31));
    run.accept();
    run.sent(whole("m2", 2), s(32));
    run.event(responded(2, 408), s(33));
    assert_eq!(run.debits(), ["debit m1 timeout", "debit m2 timeout"]);
}

#[test]
fn silence_releases_if_the_policy_says_so_until_a_late_success() {
    let mut run = open_with(8, policy(|p| p.sent = Cases { timeout: Settle::Release, ..Cases::SENT }));
    run.sent(whole("m1", 1), s(1));
    run.timer(s(31));
    assert_eq!((run.debits(), run.not_charged()), (vec![], vec!["timeout=release"]));
    run.event(responded(1, 200), s(31));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn success_after_a_failure_debits_before_and_after_the_release() {
    let mut before = refused();
    before.event(responded(1, 200), s(2));
    let mut after = refused();
    after.timer(s(1 + LATER));
    after.event(responded(1, 200), s(30));
    for run in [before, after] {
        assert_eq!(run.debits(), ["debit m1 response"]);
        assert_eq!(
            run.trace.iter().rfind(|event| event.rule.is_some()).and_then(|event| event.rule),
            Some(Rule::LateSuccess)
        );
    }
}

#[test]
fn success_after_the_end_of_the_session_debits_a_refused_message() {
    let mut run = refused();
    run.event(Event::Bye { leg: 1 }, s(1));
    run.settle();
    assert_eq!((run.debits(), run.not_charged()), (vec![], vec!["4xx=release"]));
    run.event(responded(1, 200), s(2));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn success_long_after_a_failure_is_ignored() {
    let mut run = refused();
    run.timer(s(1 + LATER));
    run.event(responded(1, 200), s(32));
    assert_eq!(run.debits(), [""; 0]);
}

#[test]
fn failures_are_not_believed_after_a_contradicted_one() {
    let mut run = refused();
    run.event(responded(1, 200), s(1));
    run.accept();
    run.sent(whole("m2", 2), s(2));
    run.event(responded(2, 403), s(2));
    assert_eq!(run.debits(), ["debit m1 response", "debit m2 error 403"]);
}

#[test]
fn failure_without_a_possible_success_debits() {
    for failure_report in [FailureReport::Partial, FailureReport::No] {
        let mut run = open();
        run.sent(Sent { failure_report, ..whole("m1", 1) }, s(1));
        run.event(responded(1, 413), s(1));
        assert_eq!(run.debits(), ["debit m1 error 413"]);
    }
}

#[test]
fn failure_report_releases_only_what_nothing_of_was_confirmed() {
    for (is_confirmed, debits, released) in
        [(false, vec![], vec!["4xx=release"]), (true, vec!["debit m1 timeout"], vec![])]
    {
        let mut run = open();
        run.sent(chunk("m1", 1, 1, 100, Flag::More), s(1));
        if is_confirmed {
            run.event(responded(1, 200), s(1));
        }
        run.event(reported("m1", 1, None, 413), s(1));
        run.timer(s(1 + LATER));
        run.timer(s(31));
        assert_eq!((run.debits(), run.not_charged()), (debits.into_iter().map(str::to_owned).collect(), released));
    }
}

#[test]
fn refused_message_is_stopped_and_its_confirmed_chunks_do_not_debit_it() {
    let mut run = open();
    run.sent(chunk("m1", 1, 1, 100, Flag::More), s(1));
    run.event(responded(1, 200), s(1));
    run.sent(chunk("m1", 2, 101, 100, Flag::More), s(1));
    run.sent(chunk("m1", 3, 201, 100, Flag::More), s(1));
    run.event(responded(2, 413), s(1));
    run.event(responded(3, 200), s(1));
    assert!(run.out.contains(&Output::StopMessage { message_id: "m1".into() }));
    run.sent(Sent { taken: 0, ..chunk("m1", 4, 301, 0, Flag::Aborted) }, s(2));
    run.timer(s(1 + LATER));
    assert_eq!((run.debits(), run.not_charged()), (vec![], vec!["4xx=release"]));
}

#[test]
fn success_for_the_refused_chunk_debits_an_unfinished_message() {
    let mut run = open();
    run.sent(chunk("m1", 1, 1, 100, Flag::More), s(1));
    run.event(responded(1, 200), s(1));
    run.sent(chunk("m1", 2, 101, 100, Flag::More), s(1));
    run.event(responded(2, 413), s(1));
    run.event(responded(2, 200), s(2));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn abort_debits_what_has_passed_unless_it_is_refused() {
    for (code, debits) in [(None, vec!["debit m1 close"]), (Some(200), vec!["debit m1 close"]), (Some(413), vec![])] {
        let mut run = open();
        run.sent(chunk("m1", 1, 1, 100, Flag::More), s(1));
        run.sent(abort("m1", 2), s(1));
        if let Some(code) = code {
            run.event(responded(1, code), s(2));
        }
        run.timer(s(4));
        assert_eq!(run.debits(), debits, "{code:?}");
    }
}

#[test]
fn message_id_used_again_is_another_message() {
    let mut run = open();
    run.sent(whole("m1", 1), s(1));
    run.sent(whole("m1", 2), s(2));
    assert_eq!(run.debits(), ["debit m1 close"], "the first is not answered");
    run.accept();
    run.event(responded(2, 200), s(3));
    run.accept();
    run.sent(whole("m1", 3), s(4));
    run.event(responded(3, 200), s(5));
    run.accept();
    assert_eq!(run.debits(), ["debit m1 close", "debit m1 response", "debit m1 response"]);
    let parts = run.out.iter().filter_map(|output| match output {
        Output::Debited { part, .. } => Some(*part),
        _ => None,
    });
    assert_eq!(parts.collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn too_many_released_messages_end_the_release() {
    let mut run = open_with(100, Policy::default());
    let ids: Vec<String> = (0..70).map(|n| format!("m{n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        let sent = Sent { message_id: id, ..whole("", 1 + n as u64) };
        run.sent(sent, s(1));
        run.event(responded(1 + n as u64, 413), s(1));
        run.timer(s(1 + LATER));
    }
    assert_eq!((run.not_charged().len(), run.debits().len()), (64, 1), "one debit is pending, the others wait for it");
}

#[test]
fn refused_message_survives_a_restart() {
    let mut run = refused();
    run.timer(s(1 + LATER));
    let (head, parts) = (run.session.head(), run.session.take_changed_parts());
    let parts = parts.iter().map(|(_, part)| part.as_slice());
    run.session = Session::load(&head, parts).expect("a stored session");
    run.event(responded(1, 200), s(4));
    assert_eq!(run.debits(), ["debit m1 response"]);
}
