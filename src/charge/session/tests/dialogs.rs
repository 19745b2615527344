//! CANCEL, failure responses and forked dialogs.

use super::*;

#[test]
fn cancel_during_reservation_releases_grant() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.event(Event::Cancelled { transaction: None }, s(1));
    run.event(Event::Failed { code: 487, transaction: None }, s(1));
    run.session.on_gate_closed(0, s(1));
    run.drain();
    assert_eq!(run.requests(), ["reserve 8"]);
    run.accept();
    // The suspended INVITE is resumed, but the closed gate gets no grant.
    assert_eq!((run.verdicts().len(), run.grants().len()), (1, 0));
    run.accept();
    assert_eq!(run.requests(), ["reserve 8", "release"]);
    assert_eq!(run.closed(), Some("cancelled"));
}

#[test]
fn invite_failure_during_reservation_releases_grant() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.event(Event::Failed { code: 408, transaction: None }, s(1));
    run.settle();
    assert_eq!(run.requests(), ["reserve 8", "release"]);
    assert_eq!(run.closed(), Some("invite-failed"));
    assert_eq!(run.session.end_reason(), Some(EndReason::InviteFailed(408)));
}

#[test]
fn denial_after_cancel_is_not_released() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.event(Event::Cancelled { transaction: None }, s(1));
    run.answer(Response::Denied(Denial::NoCredit));
    run.session.on_gate_closed(0, s(1));
    run.drain();
    assert_eq!(run.requests(), ["reserve 8"]);
    assert_eq!(run.closed(), Some("cancelled"));
}

#[test]
fn cancel_after_grant_releases_on_487() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.accept();
    run.event(Event::Cancelled { transaction: None }, s(1));
    assert!(!run.is_gate_closing());
    run.event(Event::Failed { code: 487, transaction: None }, s(2));
    run.settle();
    assert_eq!(run.requests(), ["reserve 8", "release"]);
    assert_eq!(run.closed(), Some("cancelled"));
}

#[test]
fn cancel_after_grant_releases_without_reply() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.accept();
    run.event(Event::Cancelled { transaction: None }, s(1));
    assert_eq!(run.session.deadline(), Some(s(33)));
    run.timer(s(33));
    run.settle();
    assert_eq!(run.requests(), ["reserve 8", "release"]);
}

#[test]
fn sip_2xx_overrides_crossing_cancel() {
    for answered_first in [true, false] {
        let mut run = Run::new(8, "message:5", Policy::default());
        run.accept();
        let (first, second) = if answered_first {
            (Event::Answered { leg: 1 }, Event::Cancelled { transaction: None })
        } else {
            (Event::Cancelled { transaction: None }, Event::Answered { leg: 1 })
        };
        run.event(first, s(1));
        run.event(second, s(1));
        run.event(Event::Failed { code: 487, transaction: None }, s(2));
        run.timer(s(20));
        assert_eq!((run.session.phase(), run.is_gate_closing()), ("open", false));
        run.event(Event::Bye { leg: 1 }, s(21));
        run.settle();
        assert_eq!(run.requests(), ["reserve 8", "release"]);
    }
}

#[test]
fn failed_invite_is_released() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.accept();
    run.event(Event::Failed { code: 486, transaction: None }, s(1));
    run.settle();
    assert_eq!(run.requests(), ["reserve 8", "release"]);
    assert_eq!(run.closed(), Some("invite-failed"));
}

#[test]
fn bye_of_last_leg_ends_session() {
    let mut run = Run::open();
    run.event(Event::Answered { leg: 2 }, s(1));
    run.event(Event::Answered { leg: 2 }, s(1));
    run.event(Event::Bye { leg: 2 }, s(2));
    run.event(Event::DialogOver { leg: 2 }, s(2));
    assert_eq!((run.session.phase(), run.is_gate_closing()), ("open", false));
    let answered = run.trace.iter().filter(|event| event.kind == TraceEventKind::Answered);
    assert_eq!(answered.count(), 2, "a retransmitted 2xx is not traced");
    run.event(Event::Bye { leg: 1 }, s(3));
    run.settle();
    assert_eq!(run.closed(), Some("bye"));
}

#[test]
fn early_dialogs_count_until_one_is_confirmed() {
    let mut run = Run::reserving(8);
    run.accept();
    (1..=3).for_each(|leg| run.event(Event::EarlyDialog { leg }, s(1)));
    run.event(Event::Bye { leg: 1 }, s(2));
    assert!(!run.is_gate_closing(), "two early dialogs are left");
    run.event(Event::Answered { leg: 2 }, s(3));
    run.event(Event::Bye { leg: 2 }, s(4));
    run.settle();
    assert_eq!(run.closed(), Some("bye"), "the unconfirmed dialog ends by itself");
}
