//! Events read in another order than they happened.

use super::*;

#[test]
fn response_read_before_send_is_kept() {
    let mut run = Run::open();
    run.event(responded(1, 200), s(2));
    run.sent(whole("m1", 1), s(1));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn early_responses_beyond_limit_are_dropped() {
    let mut run = Run::open();
    for transaction in 1..=17 {
        run.event(responded(transaction, 200), s(1));
    }
    run.sent(whole("m1", 1), s(1));
    assert_eq!(run.debits(), [""; 0]);
    run.sent(whole("m2", 2), s(1));
    assert_eq!(run.debits(), ["debit m2 response"]);
}

#[test]
fn report_read_before_send_is_kept() {
    let mut run = Run::open_with(8, policy(|p| p.debit_on = DebitOn::Report));
    run.event(reported("m1", 1, Some(100), 200), s(2));
    run.sent(Sent { success_report: true, ..whole("m1", 1) }, s(1));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn closed_gate_waits_for_sends_of_other_rings() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(5));
    run.session.on_gate_closed(1, s(5));
    run.drain();
    assert_eq!(run.pending(), "");
    run.sent(whole("m1", 1), s(4));
    assert_eq!(run.pending(), "debit m1 close");
}

#[test]
fn closed_gate_waits_two_seconds_at_most() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(5));
    run.session.on_gate_closed(1, s(5));
    run.drain();
    assert_eq!(run.session.deadline(), Some(s(7)));
    run.timer(s(7));
    assert_eq!(run.pending(), "release");
}

#[test]
fn send_read_after_end_is_debited_at_once() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(5));
    run.event(Event::DialogOver { leg: 1 }, s(5));
    run.session.on_gate_closed(2, s(5));
    run.drain();
    run.timer(s(7));
    run.sent(whole("m1", 1), s(4));
    run.accept();
    assert_eq!(run.pending(), "debit m1 close");
    run.accept();
    assert_eq!(run.closed(), Some("bye"));
    run.sent(whole("m2", 2), s(4));
    run.sent(whole("m2", 2), s(4));
    // A pending debit keeps the session beyond the linger time.
    run.timer(s(200));
    assert!(!run.out.contains(&Output::Forget));
    run.accept();
    run.timer(s(200));
    assert_eq!(run.requests(), ["reserve 8", "release", "debit m1 close", "debit m2 close"]);
    assert_eq!(run.out.last(), Some(&Output::Forget));
}

#[test]
fn bye_answer_read_before_bye_ends_session() {
    let mut run = Run::open();
    run.event(Event::DialogOver { leg: 1 }, s(1));
    run.event(Event::Bye { leg: 1 }, s(1));
    run.settle();
    assert_eq!(run.closed(), Some("bye"));
    run.timer(s(40));
    assert_eq!(run.out.last(), Some(&Output::Forget));
}

#[test]
fn late_2xx_of_fork_keeps_gate_closed() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(1));
    run.event(Event::DialogOver { leg: 1 }, s(1));
    run.event(Event::Answered { leg: 2 }, s(2));
    run.settle();
    run.timer(s(40));
    assert_ne!(run.out.last(), Some(&Output::Forget), "messages of the fork would pass unpaid");
}

#[test]
fn bye_read_before_2xx_ends_dialog() {
    for ends_by_script in [false, true] {
        let mut run = Run::new(8, "message:5", Policy::default());
        run.accept();
        if ends_by_script {
            run.event(Event::End { reason: "" }, s(1));
        }
        run.event(Event::Bye { leg: 1 }, s(2));
        run.event(Event::DialogOver { leg: 1 }, s(2));
        run.event(Event::Answered { leg: 1 }, s(1));
        run.settle();
        run.timer(s(40));
        assert_eq!(run.out.last(), Some(&Output::Forget), "the session would keep its gate slot for an hour");
    }
}
