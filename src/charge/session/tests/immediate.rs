//! Charging without reservations (`model=immediate`).

use super::*;

fn immediate(messages: u32) -> Run {
    let mut run = Run::new(messages, "message:5", policy(|p| p.model = Model::Immediate));
    run.event(Event::Answered { leg: 1 }, s(0));
    run
}

#[test]
fn immediate_model_debits_each_message_without_reservation() {
    let mut run = immediate(2);
    assert_eq!(run.verdicts(), [(Decision::Granted, 2)]);
    for (id, transaction) in [("m1", 1), ("m2", 2), ("m3", 3)] {
        run.sent(whole(id, transaction), s(1));
        run.event(responded(transaction, 200), s(1));
        assert_eq!(run.request.as_ref().map(|asked| asked.reservation), Some(Reservation::None));
        run.accept();
    }
    assert_eq!(run.session.granted(), Quota(5), "each paid message allows another");
    run.event(Event::Bye { leg: 1 }, s(2));
    run.settle();
    assert_eq!(run.requests(), ["debit m1 response", "debit m2 response", "debit m3 response"]);
    assert_eq!(run.closed(), Some("bye"));
}

#[test]
fn immediate_model_ends_session_on_refused_debit() {
    let mut run = immediate(5);
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run.answer(Response::Denied(Denial::NoCredit));
    assert!(run.is_gate_closing());
    run.settle();
    assert_eq!((run.not_charged(), run.closed()), (vec!["no-credit"], Some("no-credit")));
}

#[test]
fn immediate_model_limits_unpaid_messages() {
    let mut run = immediate(1);
    run.sent(whole("m1", 1), s(1));
    run.event(Event::Stopped { message_id: "m2", why: Stop::Beyond, quota: 0 }, s(3));
    assert_eq!(run.session.granted(), Quota(1), "nothing is answered");
    run.event(responded(1, 200), s(4));
    run.answer(Response::Failed(Failure::Silent));
    run.event(Event::Stopped { message_id: "m2", why: Stop::Beyond, quota: 0 }, s(5));
    assert_eq!(run.session.granted(), Quota(1), "the debit is not acknowledged");
    run.timer(s(60));
    run.accept();
    assert_eq!(run.session.granted(), Quota(2));
}

#[test]
fn immediate_model_debits_nothing_once_service_is_free() {
    let mut run = immediate(5);
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run.answer(Response::Free);
    run.sent(whole("m2", 2), s(1));
    run.event(responded(2, 200), s(1));
    assert_eq!((run.pending(), run.not_charged()), (String::new(), vec!["free-of-charge"; 2]));
}
