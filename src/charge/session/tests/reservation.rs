//! Reservations: requests, grants, renewals and what the enabler reports about them.

use super::*;

#[test]
fn session_reserves_debits_and_releases() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(2));
    run.accept();
    run.event(Event::Bye { leg: 1 }, s(3));
    run.event(Event::DialogOver { leg: 1 }, s(3));
    run.settle();
    assert_eq!(run.requests(), ["reserve 8", "debit m1 response", "release"]);
    assert_eq!(run.closed(), Some("bye"));
    assert_eq!(run.session.counts(), Counts { debited: 1, units: Units(5), refunded: 0, not_debited: 0 });
    run.timer(s(3 + 31));
    assert_ne!(run.out.last(), Some(&Output::Forget));
    run.timer(s(3 + 32));
    assert_eq!(run.out.last(), Some(&Output::Forget));
    assert_eq!(run.session.deadline(), None);
}

#[test]
fn invite_without_number_reserves_window() {
    assert_eq!(Run::new(0, "message:5", Policy::default()).requests(), ["reserve 128"]);
}

#[test]
fn invite_by_kilobyte_reserves_for_first_chunks() {
    assert_eq!(Run::new(0, "kilobyte:5", Policy::default()).requests(), ["reserve 1024"]);
    assert_eq!(Run::new(3, "kilobyte:5", Policy::default()).requests(), ["reserve 48"]);
}

#[test]
fn partial_grant_is_granted() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.answer(Response::granted(Quota(3), Some(0)));
    assert_eq!(run.verdicts(), [(Decision::Granted, 3)]);
    assert_eq!(run.grants(), [3]);
}

#[test]
fn denial_is_not_released() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.answer(Response::Denied(Denial::NoCredit));
    assert_eq!(run.verdicts(), [(Decision::Denied(Denial::NoCredit), 0)]);
    assert_eq!(run.closed(), Some("no-credit"));
    run.event(Event::Failed { code: 402, transaction: None }, s(1));
    run.event(Event::Bye { leg: 1 }, s(1));
    run.sent(whole("m1", 1), s(1));
    run.timer(s(20));
    assert_eq!(run.requests(), ["reserve 8"]);
    assert_eq!(run.grants(), [0; 0]);
    run.timer(s(33));
    assert_eq!(run.out.last(), Some(&Output::Forget));
}

#[test]
fn grant_of_zero_is_denial() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.answer(Response::granted(Quota(0), None));
    assert_eq!(run.verdicts(), [(Decision::Denied(Denial::NoCredit), 0)]);
}

#[test]
fn invite_without_account_fails_without_request() {
    let reserve = Reserve { account: "", ..invite(1) };
    let mut session = Session::open(KEY, &reserve, "message:5".parse().expect("a tariff"), Policy::default(), 0, s(0));
    let failed = Decision::Failed(Failure::NoIdentity);
    let verdict = Verdict { result: failed, granted: Quota(0), balance: None };
    assert_eq!(session.poll(), Some(Output::Verdict(verdict)));
    assert_eq!(session.poll(), Some(Output::Closed { outcome: "no-identity".into() }));
    assert_eq!(session.poll(), None);
}

#[test]
fn response_with_other_number_is_ignored() {
    let mut run = Run::new(1, "message:5", Policy::default());
    run.session.on_response(1, &Response::Denied(Denial::NoCredit), s(0));
    run.drain();
    assert_eq!(run.verdicts(), []);
    run.accept();
    run.session.on_response(0, &Response::Denied(Denial::NoCredit), s(0));
    run.drain();
    assert_eq!(run.verdicts(), [(Decision::Granted, 1)]);
}

#[test]
fn last_debit_ends_reservation_without_release() {
    let mut run = Run::reserving(1);
    run.accept();
    run.event(Event::Answered { leg: 1 }, s(0));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    let asked = run.request.clone().expect("the debit");
    assert_eq!(asked.reservation, Reservation::Last { opened_by: 0, outstanding: Quota(1) });
    run.accept();
    run.event(Event::Bye { leg: 1 }, s(2));
    run.gate_closed(s(5));
    assert!(run.request.is_none() && !run.session.is_open(), "nothing is left to release");
}

#[test]
fn denied_quota_is_retried_with_one() {
    let mut run = Run::reserving(5);
    run.answer(Response::Denied(Denial::NotSoMany));
    assert_eq!(run.session.decision(), None);
    let asked = run.request.clone().expect("a second reservation");
    assert_eq!((asked.operation, asked.reservation), (Operation::Reserve { quota: Quota(1) }, Reservation::None));
    run.answer(Response::Denied(Denial::NoCredit));
    assert_eq!(run.session.decision(), Some(Decision::Denied(Denial::NoCredit)));
    assert!(run.request.is_none() && !run.session.is_open());
}

#[test]
fn free_service_is_granted_and_not_debited() {
    let mut run = Run::reserving(2);
    run.answer(Response::Free);
    assert_eq!(run.session.decision(), Some(Decision::Granted));
    run.event(Event::Answered { leg: 1 }, s(0));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    assert!(run.request.is_none(), "no debit");
    run.event(Event::Bye { leg: 1 }, s(2));
    run.gate_closed(s(5));
    assert!(run.request.is_none() && !run.session.is_open(), "no release");
    assert_eq!(run.session.counts().not_debited, 1);
}

#[test]
fn expired_grant_is_renewed() {
    let mut run = Run::reserving(3);
    run.answer(Response::Granted(Grant { quota: Quota(3), valid_for: Some(60), ..Grant::default() }));
    run.event(Event::Answered { leg: 1 }, s(0));
    run.timer(s(59));
    assert!(run.request.is_none());
    run.timer(s(60));
    let asked = run.request.clone().expect("the renewal");
    assert_eq!(asked.operation, Operation::Reserve { quota: Quota(0) });
    assert_eq!(asked.reservation, Reservation::Open { opened_by: 0, outstanding: Quota(3) });
    run.answer(Response::granted(Quota(0), None));
    assert!(run.request.is_none() && run.session.granted() == Quota(3));
}

#[test]
fn enabler_can_request_renewal_and_end_session() {
    let mut run = Run::open();
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    assert_eq!(run.request.as_ref().map(|asked| &asked.operation), Some(&Operation::Reserve { quota: Quota(0) }));
    run.answer(Response::granted(Quota(0), None));
    run.event(Event::Abort, s(2));
    run.gate_closed(s(5));
    assert_eq!(run.request.as_ref().map(|asked| &asked.operation), Some(&Operation::Release));
    assert_eq!(run.session.end_reason(), Some(EndReason::EnablerEnded));
}

#[test]
fn reauthorization_does_not_keep_session_alive() {
    let mut run = Run::open_with(5, policy(|p| p.hold_timeout = 20));
    for second in 1..20 {
        run.event(Event::Reauthorize { opened_by: 0 }, s(second));
        run.answer(Response::granted(Quota(0), None));
    }
    run.timer(s(20));
    run.gate_closed(s(20));
    assert_eq!(run.session.end_reason(), Some(EndReason::Idle));
    assert_eq!(run.request.as_ref().map(|asked| &asked.operation), Some(&Operation::Release));
}

#[test]
fn final_units_stop_further_requests() {
    let mut run = Run::reserving(0);
    run.answer(Response::Granted(Grant { quota: Quota(1), last: true, ..Grant::default() }));
    run.event(Event::Answered { leg: 1 }, s(0));
    run.sent(whole("m1", 1), s(1));
    assert!(run.request.is_none(), "no more is granted after final units");
    run.event(Event::Stopped { message_id: "m2", why: Stop::Beyond, quota: 0 }, s(2));
    assert!(run.request.is_none(), "a stopped message requests nothing");
    // The account was topped up, and the enabler requests a renewal.
    run.event(Event::Reauthorize { opened_by: 0 }, s(3));
    run.answer(Response::Granted(Grant { quota: Quota(0), ..Grant::default() }));
    assert!(
        matches!(pending_operation(&run).0, Operation::Reserve { quota: Quota(1..) }),
        "requests continue after the renewal"
    );
}

#[test]
fn reduced_or_refused_renewal_shrinks_grant() {
    for (answer, left) in [
        (granted(5), 5),
        (granted(2), 2),
        (granted(0), 0),
        (Response::Denied(Denial::NoCredit), 0),
        (Response::Denied(Denial::UnknownSubscriber), 0),
    ] {
        let mut run = Run::open_with(5, Policy::default());
        run.event(Event::Reauthorize { opened_by: 0 }, s(1));
        run.answer(answer);
        assert_eq!(run.session.granted(), Quota(left));
        assert_eq!(run.grants().last(), Some(&left), "the gate gets the reduced grant");
        let open = Reservation::Open { opened_by: 0, outstanding: Quota(left) };
        assert_eq!(run.pending() == "release", left == 0, "an empty reservation is released at once");
        run.event(Event::Bye { leg: 1 }, s(2));
        run.gate_closed(s(5));
        assert_eq!(pending_operation(&run), (Operation::Release, open));
    }
}

#[test]
fn unanswered_renewal_is_retried() {
    let mut run = Run::open_with(5, Policy::default());
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    run.answer(Response::Failed(Failure::Unreachable));
    assert_eq!((run.session.granted(), run.pending()), (Quota(5), String::new()));
    run.timer(s(6));
    assert_eq!(run.pending(), "reserve 0");
}

#[test]
fn debit_can_shrink_reservation() {
    let mut run = Run::open_with(5, Policy::default());
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    let rest = Some(Grant { reserved: Some(Quota(1)), last: true, valid_for: Some(30), ..Grant::default() });
    run.answer(Response::Debited { balance: None, ended: false, rest });
    assert_eq!(run.session.granted(), Quota(2), "one is used and one is left");
    run.timer(s(30));
    let open = Reservation::Open { opened_by: 0, outstanding: Quota(1) };
    assert_eq!(pending_operation(&run), (Operation::Reserve { quota: Quota(0) }, open));
}

#[test]
fn lost_reservation_is_requested_anew_with_its_rest() {
    let mut run = Run::open_with(8, Policy::default());
    for (id, transaction) in [("m1", 1), ("m2", 2), ("m3", 3), ("m4", 4), ("m5", 5), ("m6", 6)] {
        run.sent(whole(id, transaction), s(1));
    }
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    run.answer(Response::NoReservation);
    assert_eq!(pending_operation(&run), (Operation::Reserve { quota: Quota(8) }, Reservation::None));
    assert_eq!(run.session.granted(), Quota(0), "nothing passes until it is granted");
    run.accept();
    assert_eq!(run.session.granted(), Quota(8));
}

#[test]
fn ended_reservation_is_not_renewed() {
    let mut run = Run::open_with(1, Policy::default());
    run.session.credit.is_last_grant = true;
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    let last = Reservation::Last { opened_by: 0, outstanding: Quota(1) };
    assert_eq!(pending_operation(&run).1, last);
    run.answer(Response::Debited { balance: None, ended: true, rest: None });
    assert!(run.request.is_none(), "{:?}", run.request);
}

#[test]
fn reauthorization_is_ignored_while_update_is_pending() {
    let mut run = Run::open();
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    assert!(run.session.is_updating(0));
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    run.accept();
    assert!(run.request.is_none() && !run.session.is_updating(0), "one UPDATE serves both");
    run.event(Event::Reauthorize { opened_by: 0 }, s(2));
    assert!(run.request.is_some());
    run.accept();
    // A pending request of another reservation does not renew this one.
    run.session.on_late_grant(7, None, s(3));
    run.drain();
    assert_eq!((run.pending(), run.session.is_updating(0)), ("release".to_owned(), false));
    run.event(Event::Reauthorize { opened_by: 0 }, s(3));
    run.accept();
    assert!(run.request.is_some(), "it is renewed afterwards");
}

#[test]
fn server_binding_is_sent_with_every_request_of_reservation() {
    let mut run = Run::reserving(3);
    let grant = Grant { quota: Quota(3), server_binding: Some("ocs1".into()), ..Grant::default() };
    run.answer(Response::Granted(grant));
    run.event(Event::Answered { leg: 1 }, s(0));
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    run.answer(Response::Denied(Denial::NoCredit));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    assert_eq!(run.request.as_ref().and_then(|asked| asked.server_binding.as_deref()), Some("ocs1"));
    run.answer(Response::NoReservation);
    assert_eq!(
        run.request.as_ref().map(|asked| asked.server_binding.clone()),
        Some(None),
        "a new reservation may use any server"
    );
}

#[test]
fn new_server_binding_applies_from_next_request() {
    let mut run = Run::reserving(3);
    run.answer(Response::Granted(Grant { quota: Quota(3), server_binding: Some("ocs1".into()), ..Grant::default() }));
    run.event(Event::Answered { leg: 1 }, s(0));
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    // The pending request keeps its binding.
    run.session.set_server_binding(0, "ocs1!5::s".into());
    run.session.set_server_binding(7, "another's".into());
    let binding = |run: &Run| run.request.as_ref().and_then(|asked| asked.server_binding.clone());
    assert_eq!(binding(&run).as_deref(), Some("ocs1"));
    run.answer(Response::Denied(Denial::NoCredit));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    assert_eq!(binding(&run).as_deref(), Some("ocs1!5::s"));
}

#[test]
fn grant_after_end_of_session_is_released() {
    for event in [Event::Abort, Event::End { reason: "script" }, Event::Cancelled { transaction: None }] {
        let mut run = Run::reserving(3);
        run.event(event, s(1));
        run.gate_closed(s(1));
        run.accept();
        assert_eq!(run.verdicts(), [(Decision::Failed(Failure::Ended), 0)]);
        assert_eq!((run.grants(), run.pending()), (vec![], "release".to_owned()));
    }
    let mut run = Run::reserving(3);
    run.event(Event::Cancelled { transaction: None }, s(1));
    run.answer(Response::Denied(Denial::NotSoMany));
    assert!(run.request.is_none(), "nothing is requested for a cancelled INVITE");
}
