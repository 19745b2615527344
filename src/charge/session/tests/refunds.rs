//! REPORTs as triggers of debits, and refunds with `policy=report=release`.

use super::*;

#[test]
fn failure_report_after_200_is_ignored_by_default() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(2));
    run.event(reported("m1", 1, Some(100), 413), s(3));
    run.timer(s(60));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn report_settles_message() {
    for (code, debit) in [(200, "debit m1 response"), (413, "debit m1 error 413"), (408, "debit m1 timeout")] {
        let mut run = Run::open();
        run.sent(Sent { failure_report: FailureReport::No, ..whole("m1", 1) }, s(1));
        run.event(reported("m1", 1, None, code), s(3));
        assert_eq!(run.debits(), [debit]);
    }
}

fn awaiting_report() -> Run {
    let mut run = Run::open_with(8, policy(|p| p.debit_on = DebitOn::Report));
    run.sent(Sent { success_report: true, ..whole("m1", 1) }, s(1));
    run.event(responded(1, 200), s(2));
    assert_eq!(run.debits(), [""; 0]);
    run
}

#[test]
fn debit_on_report_waits_for_whole_success_report() {
    let mut run = awaiting_report();
    run.event(reported("m1", 1, Some(60), 200), s(3));
    assert_eq!(run.debits(), [""; 0]);
    run.event(reported("m1", 61, Some(100), 200), s(4));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn debit_on_report_debits_on_failure_report() {
    let mut run = awaiting_report();
    run.event(reported("m1", 1, Some(100), 415), s(3));
    assert_eq!(run.debits(), ["debit m1 error 415"]);
}

#[test]
fn debit_on_report_times_out() {
    let mut run = awaiting_report();
    run.timer(Time(s(32).0 - 1));
    assert_eq!(run.debits(), [""; 0]);
    run.timer(s(32));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

#[test]
fn debit_on_report_uses_response_without_report_request() {
    let mut run = Run::open_with(8, policy(|p| p.debit_on = DebitOn::Report));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(2));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn failure_report_after_debit_is_refunded_once() {
    let mut run = debit_pending_with_refunds();
    run.accept();
    for _ in 0..2 {
        run.event(reported("m1", 1, Some(100), 415), s(2));
    }
    assert_eq!(run.pending(), "refund m1");
    let asked = run.request.clone().expect("a refund");
    assert_eq!((asked.number, asked.reservation), (2, Reservation::None));
    run.accept();
    let refunds = run.out.iter().filter_map(|output| match output {
        Output::Refunded { message_id, part, units, balance, .. } => Some((&**message_id, *part, *units, *balance)),
        _ => None,
    });
    assert_eq!(refunds.collect::<Vec<_>>(), [("m1", 0, Units(5), Some(7))]);
    run.event(reported("m1", 1, Some(100), 415), s(3));
    run.event(Event::Bye { leg: 1 }, s(4));
    run.settle();
    assert_eq!(run.requests(), ["reserve 8", "debit m1 response", "refund m1", "release"]);
    assert_eq!(run.session.counts(), Counts { debited: 1, units: Units(5), refunded: 1, not_debited: 0 });
}

#[test]
fn failure_report_cancels_queued_debit() {
    let mut run = debit_pending_with_refunds();
    run.sent(whole("m2", 2), s(1));
    run.event(responded(2, 200), s(1));
    run.event(reported("m2", 1, Some(100), 415), s(1));
    run.accept();
    assert_eq!((run.pending(), run.not_charged()), (String::new(), vec!["report=release"]));
}

#[test]
fn failure_report_refunds_pending_debit_after_its_answer() {
    let mut run = debit_pending_with_refunds();
    run.event(reported("m1", 1, Some(100), 415), s(1));
    assert_eq!(run.pending(), "debit m1 response");
    run.accept();
    assert_eq!(run.pending(), "refund m1");
}

#[test]
fn refund_after_bye_is_retried() {
    let mut run = debit_pending_with_refunds();
    run.accept();
    run.event(Event::Bye { leg: 1 }, s(2));
    run.event(Event::DialogOver { leg: 1 }, s(2));
    run.settle();
    run.event(reported("m1", 1, Some(100), 415), s(3));
    run.answer(Response::Failed(Failure::Silent));
    assert_eq!(run.session.debits_pending(), 1);
    run.timer(s(40));
    assert_eq!(run.request.as_ref().map(|asked| asked.possible_duplicate), Some(true));
    assert_ne!(run.out.last(), Some(&Output::Forget));
    run.accept();
    run.timer(s(80));
    assert_eq!(run.out.last(), Some(&Output::Forget));
}

#[test]
fn debits_without_200_are_not_refunded() {
    let mut run = debit_pending_with_refunds();
    run.accept();
    // A timeout reported by a relay (RFC 4976, 6.4.1), a success, and undefined codes.
    for code in [408, 200, 0, 399, 600] {
        run.event(reported("m1", 1, Some(100), code), s(2));
    }
    run.sent(whole("m2", 2), s(1));
    run.event(responded(2, 415), s(2));
    run.accept();
    run.event(reported("m2", 1, Some(100), 415), s(2));
    assert_eq!(run.pending(), "");
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run.accept();
    run.event(reported("m1", 1, Some(100), 415), s(2));
    assert_eq!(run.pending(), "", "by default the debit is kept");
}

#[test]
fn refused_and_held_back_refunds_are_reported() {
    let mut run = debit_pending_with_refunds();
    run.accept();
    run.event(reported("m1", 1, Some(100), 415), s(2));
    run.answer(Response::Denied(Denial::Refused(5012)));
    let denial = Denial::Refused(5012);
    assert_eq!(run.out.last(), Some(&Output::RefundDenied { message_id: "m1".into(), denial }));
    let both = policy(|p| (p.cases.report, p.resend) = (Settle::Release, Resend::Hold));
    let mut run = Run::open_with(8, both);
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run.accept();
    run.event(reported("m1", 1, Some(100), 415), s(2));
    run.answer(Response::Failed(Failure::Silent));
    assert_eq!(run.session.held_back_message(), Some("m1"));
    assert!(run.session.resolve(false, s(3)));
    assert_eq!(run.session.counts().refunded, 1);
}

#[test]
fn failure_report_cancels_debit_of_lost_reservation() {
    let mut run = debit_pending_with_refunds();
    run.event(reported("m1", 1, Some(100), 415), s(1));
    run.answer(Response::NoReservation);
    assert_eq!((run.pending(), run.not_charged()), ("reserve 7".to_owned(), vec!["report=release"]));
}

#[test]
fn refund_of_free_service_ends() {
    let mut run = debit_pending_with_refunds();
    run.accept();
    run.event(reported("m1", 1, Some(100), 415), s(1));
    run.answer(Response::Free);
    assert_eq!(run.session.debits_pending(), 0);
}
