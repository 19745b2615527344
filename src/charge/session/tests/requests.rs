//! One pending request: resending, possible duplicates, holding back.

use super::*;

#[test]
fn one_request_is_pending_and_numbers_count_up() {
    let mut run = Run::open();
    for (id, transaction) in [("m1", 1), ("m2", 2), ("m3", 3)] {
        run.sent(whole(id, transaction), s(1));
        run.event(responded(transaction, 200), s(1));
    }
    assert_eq!(run.debits().len(), 1);
    run.event(Event::Bye { leg: 1 }, s(2));
    run.settle();
    let number = |output: &Output| match output {
        Output::Ask(request) => Some(request.number),
        _ => None,
    };
    assert_eq!(run.out.iter().filter_map(number).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(run.requests().last().map(String::as_str), Some("release"));
}

#[test]
fn unanswered_debit_is_resent_with_its_number() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(0));
    run.event(responded(1, 200), s(0));
    let mut waits = Vec::new();
    for _ in 0..8 {
        let number = run.request.as_ref().map(|request| request.number);
        assert_eq!(number, Some(1));
        run.answer(Response::Failed(Failure::Enabler));
        assert_eq!(run.out.last(), Some(&Output::EnablerFailed(Failure::Enabler)));
        let deadline = run.session.deadline().expect("a retry time");
        waits.push(deadline.micros_since(s(0)) / 1_000_000);
        run.timer(deadline);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    run.accept();
    assert_eq!(run.session.counts().debited, 1);
}

#[test]
fn unanswered_release_is_resent() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(0));
    run.session.on_gate_closed(0, s(0));
    run.drain();
    run.answer(Response::Failed(Failure::Enabler));
    run.timer(s(1));
    assert_eq!(run.closed(), None);
    run.accept();
    assert_eq!(run.closed(), Some("bye"));
}

#[test]
fn refused_debit_is_reported() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(0));
    run.event(responded(1, 200), s(0));
    run.answer(Response::Denied(Denial::UnknownSubscriber));
    assert_eq!(run.not_charged(), ["unknown-subscriber"]);
}

#[test]
fn debit_of_lost_reservation_is_requested_without_one() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    let first = run.request.clone().expect("the debit");
    run.answer(Response::NoReservation);
    // More is requested first; the debit then uses that reservation.
    assert_eq!(pending_operation(&run), (Operation::Reserve { quota: Quota(8) }, Reservation::None));
    run.answer(Response::Denied(Denial::NoCredit));
    let second = run.request.clone().expect("the second debit");
    assert_eq!((second.operation, second.reservation), (first.operation, Reservation::None));
    assert_eq!(second.number, first.number + 2);
}

#[test]
fn resent_debit_is_marked_possible_duplicate() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    let first = run.request.clone().expect("the debit");
    assert!(!first.possible_duplicate);
    run.answer(Response::Failed(Failure::Silent));
    run.timer(s(60));
    assert_eq!(run.request, Some(Request { possible_duplicate: true, rate_limited: true, ..first }));
}

#[test]
fn debit_that_may_be_executed_twice_is_held_back() {
    let policy = Policy { resend: Resend::Hold, ..Policy::default() };
    for again in [true, false] {
        let mut run = Run::open_with(8, policy);
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, 200), s(1));
        let first = run.request.clone().expect("the debit");
        // A request that was never sent is sent again.
        run.answer(Response::Failed(Failure::Unreachable));
        run.timer(s(10));
        assert_eq!(run.request, Some(Request { rate_limited: true, ..first.clone() }));
        run.answer(Response::Failed(Failure::Silent));
        run.timer(s(600));
        assert_eq!((run.request.clone(), run.session.held_back_message()), (None, Some("m1")));
        run.session.repeat_outputs(s(1));
        run.drain();
        assert!(run.request.is_none(), "held back after a restart as well");
        assert!(run.session.resolve(again, s(601)));
        run.drain();
        assert!(!run.session.resolve(again, s(601)));
        if again {
            assert_eq!(run.request, Some(Request { possible_duplicate: true, rate_limited: true, ..first }));
            run.accept();
        }
        assert_eq!((run.session.counts().debited, run.session.held_back_message()), (1, None));
    }
}

#[test]
fn late_answer_settles_retried_and_held_back_debits() {
    for resend in [Resend::Again, Resend::Hold] {
        let mut run = Run::open_with(8, policy(|policy| policy.resend = resend));
        run.sent(whole("m1", 1), s(0));
        run.event(responded(1, 200), s(0));
        let asked = run.request.clone().expect("the debit");
        run.answer(Response::Failed(Failure::Silent));
        assert_eq!(run.session.held_back_message().is_some(), resend == Resend::Hold);
        let again = run.session.pending_request(asked.number).expect("the debit is pending");
        assert_eq!((again.number, &again.operation), (asked.number, &asked.operation));
        assert_eq!(run.session.pending_request(asked.number + 1), None);
        run.session.on_response(asked.number, &Response::debited(None), s(1));
        assert_eq!((run.session.counts().debited, run.session.held_back_message()), (1, None));
        assert_eq!(run.session.pending_request(asked.number), None);
        assert!(!run.session.resolve(true, s(1)), "nothing is held back");
    }
}

#[test]
fn request_lost_at_other_peer_is_resent_as_possible_duplicate() {
    for (resend, held) in [(Resend::Again, false), (Resend::Hold, true)] {
        let mut run = Run::open_with(8, policy(|p| p.resend = resend));
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, 200), s(1));
        run.session.on_request_lost(1, &"~ocs1".into());
        run.answer(Response::Failed(Failure::Undeliverable));
        assert_eq!(run.session.held_back_message().is_some(), held);
        run.timer(s(10));
        assert_eq!(run.request.as_ref().is_some_and(|asked| asked.possible_duplicate), !held);
    }
    // A reservation may have been opened as well.
    let mut run = Run::reserving(3);
    run.session.on_request_lost(0, &"~ocs1".into());
    run.answer(Response::Failed(Failure::Busy));
    assert_eq!(run.pending(), "release");
}

#[test]
fn resent_debit_of_unknown_reservation_is_held_back() {
    for (again, debited) in [(false, 1), (true, 1)] {
        let mut run = Run::open_with(8, Policy::default());
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, 200), s(1));
        run.answer(Response::Failed(Failure::Silent));
        run.timer(s(2));
        run.answer(Response::NoReservation);
        assert_eq!((run.request.clone(), run.session.held_back_message()), (None, Some("m1")));
        assert!(run.out.contains(&Output::HeldBack { message_id: "m1".into() }));
        assert!(run.session.resolve(again, s(3)));
        run.drain();
        if again {
            assert_eq!(pending_operation(&run).1, Reservation::None);
            run.accept();
        }
        assert_eq!(run.session.counts().debited, debited);
    }
}

#[test]
fn refused_debit_ends_session() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    let denial = Denial::Refused(5012);
    run.answer(Response::Denied(denial));
    assert!(run.out.contains(&Output::DebitDenied { message_id: "m1".into(), denial }));
    assert!(run.is_gate_closing());
    run.settle();
    assert_eq!(run.requests(), ["reserve 8", "debit m1 response", "release"]);
}

#[test]
fn request_numbers_start_at_given_number() {
    let tariff = "message:5".parse().expect("a tariff");
    let mut session = Session::open(KEY, &invite(3), tariff, Policy::default(), 70, s(0));
    let Some(Output::Ask(request)) = session.poll() else { panic!("nothing is requested") };
    assert_eq!((request.number, request.reservation), (70, Reservation::None));
    session.on_response(70, &Response::granted(Quota(3), None), s(1));
    session.on_event(&Event::Bye { leg: 1 }, s(2));
    session.on_gate_closed(0, s(2));
    let asked = std::iter::from_fn(|| session.poll()).find_map(|output| match output {
        Output::Ask(request) => Some((request.number, request.reservation)),
        _ => None,
    });
    assert_eq!(asked, Some((71, Reservation::Open { opened_by: 70, outstanding: Quota(3) })));
}
