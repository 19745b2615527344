//! What settles a message: responses, timeouts, aborts.

use super::*;
use crate::charge::content::ContentClass;

#[test]
fn msrp_200_debits() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    assert_eq!(run.debits(), [""; 0]);
    run.event(responded(1, 200), s(2));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn msrp_4xx_debits() {
    for code in [400, 403, 413, 415, 481] {
        let mut run = Run::open();
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, code), s(2));
        assert_eq!(run.debits(), [format!("debit m1 error {code}")]);
    }
}

#[test]
fn msrp_408_debits_as_timeout() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 408), s(2));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

#[test]
fn response_timeout_debits() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    assert_eq!(run.session.deadline(), Some(s(31)));
    run.timer(Time(s(31).0 - 1));
    assert_eq!(run.debits(), [""; 0]);
    run.timer(s(31));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

#[test]
fn silence_debits_when_only_failures_are_reported() {
    for failure_report in [FailureReport::Partial, FailureReport::No] {
        let mut run = Run::open();
        run.sent(Sent { failure_report, ..whole("m1", 1) }, s(1));
        run.timer(s(31));
        assert_eq!(run.debits(), ["debit m1 timeout"]);
    }
}

#[test]
fn first_trigger_decides() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 413), s(2));
    run.event(responded(1, 200), s(3));
    run.timer(s(60));
    run.event(Event::Bye { leg: 1 }, s(61));
    run.settle();
    assert_eq!(run.debits(), ["debit m1 error 413"]);
}

#[test]
fn response_after_deadline_is_ignored() {
    let mut run = Run::open_with(8, policy(|p| p.cases.server_error = Settle::Release));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 501), s(40));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

#[test]
fn msrp_5xx_follows_policy() {
    for code in [501, 506] {
        let mut run = Run::open();
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, code), s(2));
        assert_eq!(run.debits(), [format!("debit m1 error {code}")]);

        let mut run = Run::open_with(8, policy(|p| p.cases.server_error = Settle::Release));
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, code), s(2));
        assert_eq!((run.debits().len(), run.not_charged()), (0, vec!["5xx=release"]));
    }
}

#[test]
fn debit_carries_price_and_octets() {
    let mut run = Run::new(0, "kilobyte:3", Policy::default());
    run.accept();
    run.sent(Sent { octets: 2049, taken: 3, ..whole("m1", 1) }, s(1));
    run.event(responded(1, 200), s(2));
    let operation = run.request.as_ref().map(|request| request.operation.clone());
    let (units, quota) = (Units(9), Quota(3));
    let message_id: Box<str> = "m1".into();
    let trigger = Trigger::Response;
    let wanted = Operation::Debit {
        message_id: message_id.clone(),
        part: 0,
        octets: 2049,
        class: ContentClass::Text,
        units,
        quota,
        trigger,
    };
    assert_eq!(operation, Some(wanted));
    run.accept();
    let balance = Some(7);
    let since = s(2);
    assert!(run.out.contains(&Output::Debited {
        message_id,
        part: 0,
        octets: 2049,
        units,
        quota,
        trigger,
        rule: Rule::DebitOn(DebitOn::Response),
        opened_by: 0,
        class: ContentClass::Text,
        since,
        balance
    }));
}

/// Trigger times of the acknowledged debits.
fn trigger_times(run: &Run) -> Vec<Time> {
    let since = |output: &Output| match output {
        Output::Debited { since, .. } => Some(*since),
        _ => None,
    };
    run.out.iter().filter_map(since).collect()
}

#[test]
fn debit_carries_time_of_trigger() {
    let mut run = Run::open_with(8, policy(|policy| policy.response_timeout = 30));
    (1..=4).for_each(|number| run.sent(whole(["m1", "m2", "m3", "m4"][number - 1], number as u64), s(1)));
    run.event(responded(1, 200), s(2));
    run.accept();
    run.event(responded(2, 415), s(3));
    assert_eq!(run.session.oldest_debit(), Some(s(3)));
    run.accept();
    // Silence ends at its deadline and the session at the BYE, no matter when timer and gate are processed.
    run.sent(whole("m5", 5), s(20));
    run.timer(s(35));
    run.accept();
    run.accept();
    run.event(Event::Bye { leg: 1 }, s(40));
    run.gate_closed(s(41));
    assert_eq!(run.session.oldest_debit(), Some(s(40)));
    run.settle();
    assert_eq!(trigger_times(&run), [s(2), s(3), s(31), s(31), s(40)]);
    // A SEND read after the session was settled.
    run.sent(whole("m6", 6), s(50));
    run.accept();
    assert_eq!(trigger_times(&run).last(), Some(&s(50)));
    assert_eq!(run.session.oldest_debit(), None);
}

#[test]
fn empty_send_is_not_charged() {
    let mut run = Run::open();
    run.event(Event::Activity { connection: SERVER }, s(1));
    run.event(responded(1, 200), s(1));
    run.sent(Sent { taken: 0, ..chunk("m0", 2, 1, 0, Flag::Last) }, s(1));
    run.event(responded(2, 481), s(1));
    run.timer(s(60));
    run.event(Event::Bye { leg: 1 }, s(61));
    run.settle();
    assert_eq!(run.requests(), ["reserve 8", "release"]);
    assert_eq!(run.not_charged(), [""; 0]);
}

#[test]
fn aborted_message_is_not_debited() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(abort("m1", 2), s(2));
    run.event(responded(1, 413), s(3));
    run.event(responded(1, 200), s(3));
    run.timer(s(4));
    assert_eq!((run.debits().len(), run.not_charged()), (0, vec!["abort=release"]));
}

#[test]
fn abort_after_413_is_debited() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    // The order of time counts, not the order of the rings.
    run.sent(abort("m1", 2), s(3));
    run.event(responded(1, 413), s(2));
    run.timer(s(60));
    assert_eq!((run.debits(), run.not_charged().len()), (vec!["debit m1 error 413".to_owned()], 0));
}

#[test]
fn aborting_chunk_with_content_is_not_debited() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::Aborted), s(1));
    run.event(Event::Bye { leg: 1 }, s(1));
    run.settle();
    assert_eq!((run.debits().len(), run.not_charged()), (0, vec!["abort=release"]));
}

#[test]
fn abort_over_another_connection_is_ignored() {
    let foreign = |transaction| Sent { connection: SERVER + 1, ..abort("m1", transaction) };
    for is_read_first in [false, true] {
        let mut run = Run::open();
        if is_read_first {
            run.sent(foreign(2), s(2));
        }
        run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
        if !is_read_first {
            run.sent(foreign(2), s(2));
        }
        run.timer(s(60));
        assert_eq!(
            (run.debits(), run.not_charged().len()),
            (vec!["debit m1 timeout".to_owned()], 0),
            "{is_read_first}"
        );
    }
}

#[test]
fn abort_follows_policy() {
    let mut run = Run::open_with(8, policy(|p| p.cases.abort = Settle::Debit));
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(abort("m1", 2), s(2));
    run.timer(s(4));
    assert_eq!(run.debits(), ["debit m1 close"]);
}

#[test]
fn abort_after_deadline_is_ignored() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(abort("m1", 2), s(40));
    run.timer(s(42));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}
