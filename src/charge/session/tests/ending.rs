//! How a session ends, and how long it keeps the gate closed.

use super::*;

#[test]
fn session_without_content_is_released() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(1));
    assert!(run.is_gate_closing());
    assert_eq!(run.pending(), "");
    run.settle();
    assert_eq!(run.requests(), ["reserve 8", "release"]);
    assert_eq!(run.closed(), Some("bye"));
}

#[test]
fn bye_before_response_debits() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(Event::Bye { leg: 1 }, s(2));
    run.settle();
    assert_eq!(run.requests(), ["reserve 8", "debit m1 close", "release"]);
}

#[test]
fn bye_before_response_follows_policy() {
    let mut run = Run::open_with(8, policy(|p| p.cases.close = Settle::Release));
    run.sent(whole("m1", 1), s(1));
    run.event(Event::Bye { leg: 1 }, s(2));
    run.settle();
    assert_eq!(run.requests(), ["reserve 8", "release"]);
    assert_eq!(run.not_charged(), ["close=release"]);
}

#[test]
fn host_stop_ends_session() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(Event::HostStopped, s(2));
    run.settle();
    assert_eq!(run.debits(), ["debit m1 close"]);
    assert_eq!(run.closed(), Some("host-stopped"));
}

#[test]
fn script_reason_is_outcome() {
    let mut run = Run::open();
    run.event(Event::End { reason: "moved-away" }, s(2));
    run.event(Event::End { reason: "again" }, s(2));
    run.settle();
    assert_eq!(run.closed(), Some("moved-away"));
}

#[test]
fn idle_session_is_settled() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(10));
    run.event(responded(1, 200), s(10));
    run.timer(s(40));
    run.accept();
    assert_eq!(run.session.deadline(), Some(s(310)));
    run.timer(s(310));
    run.settle();
    assert_eq!(run.requests(), ["reserve 8", "debit m1 timeout", "release"]);
    assert_eq!(run.closed(), Some("idle"));
}

#[test]
fn activity_keeps_session_open() {
    let mut run = Run::open();
    run.event(Event::Activity { connection: 0 }, s(299));
    run.timer(s(300));
    assert_eq!(run.session.phase(), "open");
}

#[test]
fn lost_connection_settles_open_messages_and_keeps_session() {
    for connection in [SERVER, CLIENT] {
        let mut run = Run::open();
        run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
        run.event(responded(1, 200), s(1));
        run.event(Event::ConnectionLost { connection }, s(2));
        run.accept();
        run.sent(Sent { taken: 0, connection: 11, ..whole("m1", 5) }, s(5));
        run.sent(Sent { connection: 11, ..whole("m2", 6) }, s(5));
        run.event(responded(6, 200), s(6));
        assert_eq!(run.debits(), ["debit m1 close", "debit m2 response"]);
        assert_eq!(run.session.phase(), "open");
    }
}

#[test]
fn lost_connection_of_other_session_is_ignored() {
    for connection in [0, 99] {
        let mut run = Run::open();
        run.sent(Sent { connection: 0, ..whole("m1", 1) }, s(1));
        run.event(Event::ConnectionLost { connection }, s(2));
        assert_eq!(run.debits(), [""; 0]);
    }
}

#[test]
fn unanswered_bye_keeps_gate_closed_for_an_hour() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(1));
    run.settle();
    run.timer(s(40));
    assert_ne!(run.out.last(), Some(&Output::Forget), "the BYE may not have reached the server");
    run.event(Event::DialogOver { leg: 1 }, s(41));
    run.timer(s(73));
    assert_eq!(run.out.last(), Some(&Output::Forget));
}

#[test]
fn closed_session_with_living_dialog_keeps_gate_closed() {
    let mut run = Run::open();
    run.event(Event::Abort, s(1));
    run.settle();
    run.timer(s(40));
    assert_ne!(run.out.last(), Some(&Output::Forget), "messages would pass unpaid");
    run.event(Event::Stopped { message_id: "m1", why: Stop::Beyond, quota: 0 }, s(3000));
    run.timer(s(3601));
    assert_ne!(run.out.last(), Some(&Output::Forget), "SENDs still arrive");
    run.event(Event::Bye { leg: 1 }, s(3700));
    run.event(Event::DialogOver { leg: 1 }, s(3700));
    run.event(Event::Stopped { message_id: "m1", why: Stop::Beyond, quota: 0 }, s(3710));
    run.timer(s(3741));
    assert_ne!(run.out.last(), Some(&Output::Forget), "late frames must find a closed gate");
    run.timer(s(3742));
    assert_eq!(run.out.last(), Some(&Output::Forget));
}

#[test]
fn failed_invite_after_script_end_frees_gate() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.accept();
    run.event(Event::End { reason: "" }, s(1));
    run.settle();
    run.timer(s(33));
    assert_ne!(run.out.last(), Some(&Output::Forget), "a 2xx may still arrive");
    run.event(Event::Failed { code: 486, transaction: None }, s(60));
    run.timer(s(92));
    assert_eq!(run.out.last(), Some(&Output::Forget));
}
