//! Limits of a session, and its size.

use super::*;

#[test]
fn settled_messages_are_remembered_up_to_limit() {
    let mut run = Run::open();
    for number in 0..5000 {
        let id = format!("m{number}");
        run.event(Event::Sent(Sent { message_id: &id, ..whole("", number) }), s(1));
        run.event(responded(number, 200), s(1));
        while run.request.is_some() {
            run.accept();
        }
    }
    assert_eq!(run.session.messages.settled.len(), settled::SETTLED_MESSAGES_MAX);
    assert_eq!(run.session.counts().debited, 5000);
}

#[test]
fn open_messages_beyond_limit_end_session() {
    let mut run = Run::open_with(5000, Policy::default());
    let most = messages::OPEN_MESSAGES_MAX as u64;
    for number in 0..=most {
        assert!(!run.is_gate_closing(), "{number}");
        let id = format!("m{number}");
        run.event(Event::Sent(Sent { message_id: &id, ..whole("", number) }), s(1));
    }
    assert!(run.is_gate_closing());
    run.settle();
    assert_eq!(run.closed(), Some("too-many-open"));
    assert_eq!(run.session.counts().debited as u64, most + 1, "all messages that passed are settled");
}

#[test]
fn extreme_numbers_do_not_overflow() {
    let mut run = Run::open();
    run.sent(Sent { start: 0, octets: u64::MAX, taken: u32::MAX, ..whole("m1", 1) }, s(1));
    run.sent(Sent { start: u64::MAX, octets: u64::MAX, taken: u32::MAX, ..whole("m1", 2) }, s(1));
    run.event(reported("m1", 0, Some(0), 200), s(1));
    run.event(reported("m1", u64::MAX, None, 200), s(1));
    run.event(responded(1, u16::MAX), Time(u64::MAX));
    run.timer(Time(u64::MAX));
    run.settle();
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

#[test]
fn open_session_is_small() {
    let mut run = Run::open();
    run.sent(whole("87652491", 1), s(1));
    let session = &run.session;
    let texts = session.common.text_octets() + "87652491".len();
    let heap = session.common.text_octets()
        + session.dialog.heap_octets()
        + session.credit.reservations.heap_octets()
        + session.messages.heap_octets();
    let whole = size_of::<Session>() + heap;
    assert!(whole - texts < 816, "{whole} octets, {texts} of them text");
    let stored = session.head();
    assert!(stored.len() < 310, "{} octets in the store", stored.len());
}
