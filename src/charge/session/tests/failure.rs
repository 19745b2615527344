//! What happens while the enabler fails, and reservations whose outcome is unknown.

use super::*;

#[test]
fn enabler_failure_denies_by_default() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.answer(Response::Failed(Failure::Enabler));
    assert_eq!(run.verdicts(), [(Decision::Failed(Failure::Enabler), 0)]);
    assert_eq!(run.closed(), Some("enabler-failed"));
    assert!(run.out.contains(&Output::EnablerFailed(Failure::Enabler)));
    assert_eq!(run.requests(), ["reserve 8"]);
}

#[test]
fn enabler_failure_grants_by_policy() {
    let mut run = Run::new(8, "message:5", policy(|p| p.on_failure = OnFailure::Grant));
    run.answer(Response::Failed(Failure::Enabler));
    assert_eq!(run.verdicts(), [(Decision::Granted, 8)]);
    assert_eq!(run.grants(), [8]);
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(2));
    run.event(Event::Bye { leg: 1 }, s(3));
    run.settle();
    // Nothing is reserved at the enabler, so nothing is released.
    assert_eq!(run.requests(), ["reserve 8", "debit m1 response"]);
    assert_eq!(run.closed(), Some("bye"));
}

#[test]
fn unanswered_reservation_is_released() {
    let mut run = Run::reserving(2);
    run.answer(Response::Failed(Failure::Silent));
    assert_eq!(run.session.decision(), Some(Decision::Failed(Failure::Silent)));
    let asked = run.request.clone().expect("the release of a possible reservation");
    assert_eq!(asked.operation, Operation::Release);
    assert_eq!(asked.reservation, Reservation::Open { opened_by: 0, outstanding: Quota(0) });
    run.answer(Response::NoReservation);
    assert!(!run.session.is_open());
}

#[test]
fn unsent_reservation_is_not_released() {
    let mut run = Run::reserving(2);
    run.answer(Response::Failed(Failure::Unreachable));
    assert!(run.request.is_none() && !run.session.is_open());
}

#[test]
fn uncovered_grant_is_reported_until_settled() {
    let mut run = Run::new(3, "message:5", Policy { on_failure: OnFailure::Grant, ..Policy::default() });
    run.answer(Response::Failed(Failure::Unreachable));
    assert_eq!((run.session.decision(), run.session.uncovered()), (Some(Decision::Granted), Quota(3)));
    run.event(Event::Answered { leg: 1 }, s(0));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    assert_eq!(run.request.as_ref().map(|asked| asked.reservation), Some(Reservation::None));
    run.accept();
    run.event(Event::Bye { leg: 1 }, s(2));
    run.gate_closed(s(5));
    assert!(run.request.is_none() && run.session.uncovered() == Quota(0));
}

#[test]
fn enabler_can_override_on_failure() {
    for (configured, said, granted) in [
        (OnFailure::Deny, None, 2),
        (OnFailure::Deny, Some(OnFailure::Grant), 4),
        (OnFailure::Grant, Some(OnFailure::Deny), 2),
        (OnFailure::Grant, None, 4),
    ] {
        let mut run = Run::new(4, "message:5", policy(|p| p.on_failure = configured));
        run.answer(Response::Granted(Grant { quota: Quota(2), on_failure: said, ..Grant::default() }));
        run.event(Event::Answered { leg: 1 }, s(0));
        run.sent(whole("m1", 1), s(1));
        run.sent(whole("m2", 2), s(1));
        assert_eq!(run.pending(), "reserve 2");
        run.answer(Response::Failed(Failure::Unreachable));
        assert_eq!(run.session.granted(), Quota(granted), "{configured:?} {said:?}");
        assert_eq!(run.session.uncovered(), Quota(granted - 2));
    }
}

#[test]
fn late_grant_is_released_again() {
    let mut run = Run::reserving(3);
    run.answer(Response::Failed(Failure::Silent));
    assert_eq!(run.pending(), "release");
    run.answer(Response::NoReservation);
    assert!(run.request.is_none() && !run.session.is_open());
    run.session.on_late_grant(0, Some("*ocs2".into()), s(2));
    run.drain();
    let again = run.request.clone().expect("a second release");
    assert_eq!(again.reservation, Reservation::Open { opened_by: 0, outstanding: Quota(0) });
    assert_eq!((again.operation, again.server_binding.as_deref()), (Operation::Release, Some("*ocs2")));
    run.accept();
    // A reservation that the session holds is ignored.
    let mut run = Run::open();
    run.session.on_late_grant(0, None, s(2));
    run.drain();
    assert!(run.request.is_none());
}

#[test]
fn possible_reservation_is_released_at_its_server() {
    let mut run = Run::reserving(3);
    run.session.on_request_lost(7, &"~another's".into());
    run.session.on_request_lost(0, &"~ocs2".into());
    run.answer(Response::Failed(Failure::Silent));
    let release = run.request.clone().expect("a release");
    assert_eq!((release.operation, release.server_binding.as_deref()), (Operation::Release, Some("~ocs2")));
    // The server binding of the grant takes precedence.
    let mut run = Run::reserving(3);
    let grant = Grant { quota: Quota(3), server_binding: Some("ocs1".into()), ..Grant::default() };
    run.answer(Response::Granted(grant));
    run.event(Event::Bye { leg: 1 }, s(1));
    run.gate_closed(s(1));
    run.session.on_request_lost(1, &"~ocs2".into());
    run.answer(Response::Failed(Failure::Silent));
    run.timer(s(10));
    assert_eq!(run.request.as_ref().and_then(|asked| asked.server_binding.as_deref()), Some("ocs1"));
}

#[test]
fn on_failure_cap_limits_uncovered_grant() {
    for (left, given) in [(5, Some(5)), (0, None)] {
        let mut run = Run::new(8, "message:5", policy(|p| p.on_failure = OnFailure::Grant));
        run.session.set_on_failure_cap(left);
        run.answer(Response::Failed(Failure::Unreachable));
        let verdict = match given {
            Some(given) => (Decision::Granted, given),
            None => (Decision::Failed(Failure::Unreachable), 0),
        };
        assert_eq!(run.verdicts(), [verdict]);
    }
}

#[test]
fn session_continues_while_debit_is_retried() {
    for (on_failure, granted) in [(OnFailure::Grant, 5), (OnFailure::Deny, 2)] {
        let mut run = Run::open_with(2, policy(|policy| (policy.on_failure, policy.on_failure_cap) = (on_failure, 3)));
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, 200), s(1));
        run.answer(Response::Failed(Failure::Unreachable));
        run.sent(whole("m2", 2), s(1));
        run.event(Event::Stopped { message_id: "m3", why: Stop::Beyond, quota: 0 }, s(1));
        // No more is granted beyond the cap.
        assert_eq!(run.session.granted(), Quota(granted));
        assert_eq!(run.session.uncovered(), Quota(granted - 2));
        run.event(Event::Stopped { message_id: "m9", why: Stop::Beyond, quota: 0 }, s(2));
        assert_eq!(run.session.granted(), Quota(granted));
    }
}
