//! Sessions that another node has taken over, and sessions of a dead node.

use super::page::{delivered, granted_page, page, prepay};
use super::*;

/// What the session requests after the takeover: operation, number, reservation.
fn asked(run: &Run) -> Option<(String, u32, Reservation)> {
    let describe_request = |request: &Request| (describe(&request.operation), request.number, request.reservation);
    run.request.as_ref().map(describe_request)
}

fn has_trace(run: &Run, kind: TraceEventKind) -> bool {
    run.trace.iter().any(|event| event.kind == kind)
}

#[test]
fn waiting_invite_fails_and_nothing_is_released() {
    let mut run = Run::reserving(3);
    run.taken_over(s(1));
    assert_eq!(run.verdicts(), [(Decision::Failed(Failure::Enabler), 0)]);
    assert_eq!((asked(&run), run.closed().is_some()), (None, true));
    assert!(run.session.is_settled() && run.session.is_taken_over());
    // The answer of the request that is not awaited any more.
    run.session.on_response(0, &granted(3), s(2));
    run.drain();
    assert_eq!((asked(&run), run.grants()), (None, vec![]));
}

#[test]
fn cancelled_invite_gets_its_verdict_although_its_reservation_is_dropped() {
    let mut run = Run::reserving(3);
    run.event(Event::Cancelled { transaction: None }, s(1));
    run.gate_closed(s(1));
    run.taken_over(s(2));
    assert_eq!(run.verdicts(), [(Decision::Failed(Failure::Enabler), 0)]);
    assert_eq!((asked(&run), run.closed()), (None, Some("cancelled")));
}

#[test]
fn open_session_closes_its_gate_and_debits_without_a_reservation() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.sent(whole("m2", 2), s(2));
    run.event(responded(1, 200), s(3));
    run.accept();
    run.taken_over(s(4));
    assert!(run.is_gate_closing() && has_trace(&run, TraceEventKind::TakenOver));
    run.gate_closed(s(4));
    assert_eq!(asked(&run), Some(("debit m2 close".into(), 2, Reservation::None)));
    assert_eq!(run.session.reserved(), Units(0));
    run.accept();
    assert_eq!((run.closed(), run.session.counts().debited), (Some("taken-over"), 2));
    assert_eq!(run.requests(), ["reserve 8", "debit m1 response", "debit m2 close"], "nothing is released");
    // A SEND that had passed and was read late.
    run.sent(whole("m3", 3), s(5));
    assert_eq!(asked(&run), Some(("debit m3 close".into(), 3, Reservation::None)));
}

#[test]
fn close_policy_decides_about_outstanding_messages() {
    let mut run = Run::open_with(8, policy(|p| p.cases.close = Settle::Release));
    run.sent(whole("m1", 1), s(1));
    run.taken_over(s(2));
    run.gate_closed(s(2));
    assert_eq!((asked(&run), run.not_charged(), run.closed()), (None, vec!["close=release"], Some("taken-over")));
}

#[test]
fn pending_debit_is_requested_again_under_its_number() {
    let mut run = debit_pending_with_refunds();
    let pending = run.request.clone().expect("the debit");
    assert_ne!(pending.reservation, Reservation::None);
    run.taken_over(s(2));
    let again = Request {
        reservation: Reservation::None,
        sequence: pending.sequence,
        possible_duplicate: true,
        rate_limited: true,
        ..pending
    };
    assert_eq!(run.request.as_ref().map(|request| request.number), Some(again.number));
    assert_eq!(run.request.as_ref().map(|request| request.reservation), Some(Reservation::None));
    run.gate_closed(s(2));
    // A second takeover, before the answer: the enabler has dropped the request once more.
    run.taken_over(s(3));
    assert_eq!(run.request.as_ref().map(|request| request.number), Some(again.number));
    run.accept();
    assert_eq!((run.session.counts().debited, run.closed()), (1, Some("taken-over")));
    // A debit that is acknowledged may still be refunded.
    run.event(reported("m1", 1, None, 413), s(4));
    assert_eq!(asked(&run), Some(("refund m1".into(), again.number + 1, Reservation::None)));
}

#[test]
fn debit_that_waits_for_its_retry_is_requested_at_once_without_its_reservation() {
    let mut run = debit_pending_with_refunds();
    run.answer(Response::Failed(Failure::Unreachable));
    run.taken_over(s(2));
    assert_eq!(asked(&run), Some(("debit m1 response".into(), 1, Reservation::None)));
}

#[test]
fn pending_release_is_dropped() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(1));
    run.gate_closed(s(1));
    assert_eq!(run.pending(), "release");
    run.taken_over(s(2));
    assert_eq!((asked(&run), run.closed()), (None, Some("bye")));
    assert!(run.session.is_settled());
}

#[test]
fn closed_session_keeps_its_late_debit() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(1));
    run.settle();
    run.sent(whole("m1", 1), s(2));
    let number = run.request.as_ref().map(|request| request.number);
    run.taken_over(s(3));
    assert_eq!(run.request.as_ref().map(|request| request.number), number);
    run.accept();
    assert!(run.session.is_settled());
    assert_eq!(run.out.iter().filter(|output| matches!(output, Output::Closed { .. })).count(), 1);
}

#[test]
fn held_debit_stays_with_the_operator() {
    let mut run = Run::open_with(8, policy(|p| p.resend = Resend::Hold));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run.answer(Response::Failed(Failure::Silent));
    assert_eq!(run.session.held_back_message(), Some("m1"));
    run.taken_over(s(2));
    assert_eq!((asked(&run), run.session.held_back_message()), (None, Some("m1")));
    run.session.resolve(true, s(3));
    run.drain();
    assert_eq!(asked(&run), Some(("debit m1 response".into(), 1, Reservation::None)));
}

#[test]
fn unprotected_grants_end_as_well() {
    let mut run = Run::new(3, "message:5", policy(|p| p.on_failure = OnFailure::Grant));
    run.answer(Response::Failed(Failure::Unreachable));
    assert!(run.session.is_served());
    run.taken_over(s(1));
    assert!(!run.session.is_served() && run.is_gate_closing());
}

#[test]
fn message_is_settled_as_without_a_final_response() {
    for (settle, wanted) in [(Settle::Debit, Some("debit msg timeout")), (Settle::Release, None)] {
        let mut run = granted_page(policy(|p| p.message_timeout = settle));
        run.taken_over(s(1));
        assert_eq!(asked(&run).map(|asked| (asked.0, asked.2)), wanted.map(|ask| (ask.into(), Reservation::None)));
        // The 2xx that follows debits what was released.
        run.event(delivered(200), s(2));
        let paid = if wanted.is_some() { "debit msg timeout" } else { "debit msg response" };
        run.accept();
        assert_eq!((run.debits(), run.closed()), (vec![paid.to_owned()], Some("taken-over")));
    }
}

#[test]
fn waiting_message_fails_and_what_it_has_paid_is_refunded() {
    let mut run = page(Policy::default());
    run.taken_over(s(1));
    assert_eq!((run.verdicts(), asked(&run)), (vec![(Decision::Failed(Failure::Enabler), 0)], None));
    let mut run = page(prepay());
    run.taken_over(s(1));
    assert_eq!(run.verdicts(), [(Decision::Failed(Failure::Enabler), 0)]);
    assert_eq!(asked(&run), Some(("debit msg prepay".into(), 0, Reservation::None)));
    run.accept();
    assert_eq!(run.pending(), "refund msg");
    run.accept();
    assert!(run.session.is_settled());
}

/// A copy of the session at a node whose clock shows `now`.
fn adopted(run: &Run, now: Time) -> Run {
    let mut original = run.session.clone();
    let parts = original.take_changed_parts();
    let session = Session::load(&original.head(), parts.iter().map(|(_, part)| part.as_slice())).expect("a state");
    let mut copy = Run { session, out: Vec::new(), request: None, trace: run.trace.clone() };
    copy.session.adopt(now);
    copy.drain();
    copy
}

/// Clocks that are behind and ahead of that of the dead node.
fn clocks() -> [Time; 3] {
    [Time(30_000_000), s(70), Time(s(0).0 * 1000)]
}

#[test]
fn adopted_session_is_settled_by_policy_and_releases_its_reservation() {
    for now in clocks() {
        let mut run = Run::open_with(8, policy(|p| p.cases.timeout = Settle::Release));
        run.sent(whole("m1", 1), s(20));
        run.sent(whole("m2", 2), s(21));
        run.event(responded(1, 200), s(22));
        let pending = run.request.as_ref().map(|request| request.number);
        let mut copy = adopted(&run, now);
        assert_eq!(copy.pending(), "debit m1 response");
        assert_eq!(copy.request.as_ref().map(|request| request.number), pending);
        assert!(copy.request.as_ref().is_some_and(|request| request.possible_duplicate));
        copy.gate_closed(now);
        while copy.request.is_some() {
            copy.accept();
        }
        // It died when it was last active, long before the response of the second message was due.
        assert_eq!(copy.requests(), ["debit m1 response", "debit m2 close", "release"], "{now:?}");
        assert_eq!((copy.closed(), copy.session.is_taken_over()), (Some("host-stopped"), false));
        let lived = copy.trace.iter().find(|event| event.kind == TraceEventKind::Adopted).map(|event| event.micros);
        assert_eq!(lived, Some(22_000_000), "{now:?}");
    }
}

#[test]
fn adopted_request_that_waited_for_its_retry_is_sent_at_once() {
    let mut run = debit_pending_with_refunds();
    run.answer(Response::Failed(Failure::Unreachable));
    let copy = adopted(&run, s(5));
    assert_eq!(asked(&copy).map(|asked| asked.1), Some(1));
}

#[test]
fn adopted_invite_that_waits_is_asked_for_again_and_released() {
    let run = Run::reserving(3);
    let mut copy = adopted(&run, s(70));
    copy.gate_closed(s(70));
    assert_eq!(copy.pending(), "reserve 3");
    copy.accept();
    assert_eq!(copy.pending(), "release");
    copy.accept();
    assert!(copy.session.is_settled());
}

#[test]
fn adopted_message_is_settled_as_without_a_final_response() {
    let run = granted_page(Policy::default());
    let mut copy = adopted(&run, Time(1));
    assert_eq!(copy.pending(), "debit msg timeout");
    copy.accept();
    assert_eq!(copy.closed(), Some("host-stopped"));
}

/// Parts that hold nothing any more are named, so that a copy that still has them loses them.
#[test]
fn all_parts_of_a_session_include_empty_ones_on_demand() {
    const IDS: [&str; 40] = [
        "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19",
        "20", "21", "22", "23", "24", "25", "26", "27", "28", "29", "30", "31", "32", "33", "34", "35", "36", "37",
        "38", "39",
    ];
    let mut run = Run::open_with(100, policy(|p| p.cases.client_error = Settle::Release));
    for (transaction, id) in IDS.into_iter().enumerate() {
        run.sent(whole(id, transaction as u64), s(1));
        run.event(responded(transaction as u64, 413), s(1));
    }
    assert_eq!(run.session.all_parts(false), []);
    assert_eq!(run.session.all_parts(true), [(1, vec![]), (2, vec![])]);
    run.sent(whole("last", 99), s(1));
    let [(part, form)] = &run.session.all_parts(false)[..] else { panic!("one part") };
    assert_eq!((*part, &run.session.all_parts(true)), (2, &vec![(1, vec![]), (2, form.clone())]));
    let parts = [form.as_slice()];
    assert_eq!(Session::load(&run.session.head(), parts).map(|copy| copy.open_messages()), Some(1));
}
