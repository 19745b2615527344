//! What becomes of a message, and what it costs.

use super::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;
use std::time::Duration;

const LONG: usize = 25_000;

#[test]
pub fn answered_200_is_debited_once_and_the_rest_released() {
    let stage = Stage::plain();
    let server = stage.server(&["one", "two", "three"], |_| {});
    let mut client = stage.bound(|_| {});
    let got = client.take(3, Reaction::Answer(200));
    assert_eq!(got.iter().map(|(_, octets)| *octets).collect::<Vec<_>>(), [3, 3, 5]);
    stage.until_debited(ALICE, 3);
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 97, 0, 3);
    assert_eq!(stage.triggers(ALICE), ["response"; 3]);
    let debited: Vec<_> = stage.proxy.debits(ALICE).into_iter().map(|debit| debit.message_id).collect();
    assert_eq!(debited, server.message_ids());
    assert_eq!(stage.proxy.statistic("debits_on_response"), 3);
    assert_eq!(stage.proxy.statistic("sessions_active"), 0);
}

#[test]
pub fn a_4xx_a_5xx_and_a_413_before_the_end_are_debited() {
    let stage = Stage::plain();
    let _server = stage.server(&["one"], |_| {});
    for (code, debited) in [(415, 1), (481, 2), (506, 3)] {
        let mut client = stage.bound(|_| {});
        client.take(1, Reaction::Answer(code));
        stage.until_debited(ALICE, debited as usize);
        client.bye();
        stage.expect(ALICE, 100 - debited, 0, debited);
    }
    drop(_server);
    let _server = stage.server(&[&"x".repeat(LONG)], |options| options.chunk = 9000);
    let mut client = stage.bound(|_| {});
    let first = client.next_send(Duration::from_secs(5)).expect("a chunk");
    assert_eq!(first.flag, '+');
    client.answer(&first, 413);
    stage.expect(ALICE, 87, 9, 4);
    client.bye();
    stage.expect(ALICE, 96, 0, 4);
    let codes: Vec<_> = stage.proxy.debits(ALICE).into_iter().map(|debit| (debit.trigger, debit.code)).collect();
    assert_eq!(codes, [415, 481, 506, 413].map(|code| ("error".to_owned(), code)));
}

#[test]
pub fn failure_report_after_200_is_refunded_by_policy() {
    let stage = Stage::new(|setup| setup.parameter("policy", "\"report=release\""));
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one", "two"], |_| {});
    let mut client = stage.bound(|_| {});
    let taken = client.take(2, Reaction::Answer(200));
    stage.until_debited(ALICE, 2);
    let (message_id, octets) = &taken[0];
    (0..2).for_each(|_| client.report(message_id, *octets, 415));
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
    let refunded = "SELECT count(*) FROM debits WHERE refunded_at IS NOT NULL AND message_id=";
    assert_eq!(stage.proxy.count(&format!("{refunded}'{message_id}'")), 1);
    assert_eq!(stage.proxy.statistic("refunds"), 1);
}

#[test]
pub fn message_answered_5xx_is_released_by_policy() {
    let stage = Stage::new(|setup| setup.parameter("policy", "\"5xx=release\""));
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(506));
    let settled =
        || stage.proxy.rpc(&["imcharge.explain", &client.call_id]).unwrap_or_default().contains("not-debited");
    assert!(eventually(Duration::from_secs(5), settled), "{}", stage.proxy.log());
    client.bye();
    stage.expect(ALICE, 100, 0, 0);
}

#[test]
pub fn silence_is_debited_when_the_response_does_not_come_in_time() {
    let stage = Stage::plain();
    let _server = stage.server(&["one", "two"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(2, Reaction::Silence);
    stage.expect(ALICE, 90, 8, 2);
    assert_eq!(stage.triggers(ALICE), ["timeout"; 2]);
    client.bye();
    stage.expect(ALICE, 98, 0, 2);
}

#[test]
pub fn messages_that_want_no_response_are_debited_by_the_own_timer() {
    for report in ["no", "partial"] {
        let stage = Stage::plain();
        let _server = stage.server(&["one"], |options| options.failure_report = Some(report));
        let mut client = stage.bound(|_| {});
        assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
        stage.expect(ALICE, 90, 9, 1);
        assert_eq!(stage.triggers(ALICE), ["timeout"]);
        client.bye();
        stage.expect(ALICE, 99, 0, 1);
    }
}

#[test]
pub fn bye_after_a_send_and_before_its_response_is_debited() {
    let stage = Stage::plain();
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    assert!(client.next_send(Duration::from_secs(5)).is_some());
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 99, 0, 1);
    assert_eq!(stage.triggers(ALICE), ["close"]);
}

#[test]
pub fn a_dropped_connection_is_debited_at_once() {
    let stage = Stage::new(|setup| setup.defined("RESPONSE_TIMEOUT", "600"));
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    assert!(client.next_send(Duration::from_secs(5)).is_some());
    client.drop_connection();
    stage.expect(ALICE, 90, 9, 1);
    assert_eq!(stage.triggers(ALICE), ["close"]);
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
}

#[test]
pub fn a_session_without_content_costs_nothing() {
    let stage = Stage::plain();
    let _server = stage.server(&[], |_| {});
    let mut client = stage.bound(|_| {});
    stage.expect(ALICE, 90, 10, 0);
    client.bye();
    stage.expect(ALICE, 100, 0, 0);
    assert_eq!(stage.proxy.statistic("releases"), 1);
}

#[test]
pub fn chunks_are_one_message_in_whatever_order() {
    for backwards in [false, true] {
        let stage = Stage::plain();
        let text = "y".repeat(LONG);
        let _server = stage.server(&[&text], |options| {
            (options.chunk, options.backwards, options.pipeline) = (4000, backwards, true);
        });
        let mut client = stage.bound(|_| {});
        let mut octets = 0;
        while octets < LONG {
            let frame = client.next_send(Duration::from_secs(5)).expect("a chunk");
            octets += frame.body.as_ref().map_or(0, Vec::len);
            assert!(stage.proxy.debits(ALICE).is_empty(), "debited before the message was whole");
            client.answer(&frame, 200);
        }
        stage.expect(ALICE, 90, 9, 1);
        let debit = stage.proxy.debits(ALICE).remove(0);
        assert_eq!((debit.octets, debit.trigger.as_str()), (LONG as i64, "response"));
        client.bye();
        stage.expect(ALICE, 99, 0, 1);
    }
}

#[test]
pub fn a_message_that_the_server_gives_up_costs_nothing() {
    let stage = Stage::plain();
    let text = "y".repeat(LONG);
    let _server = stage.server(&[&text], |options| options.abort = true);
    let mut client = stage.bound(|_| {});
    let first = client.next_send(Duration::from_secs(5)).expect("a chunk");
    client.answer(&first, 200);
    assert_eq!(client.next_send(Duration::from_secs(5)).map(|frame| frame.flag), Some('#'));
    client.bye();
    stage.expect(ALICE, 100, 0, 0);
}

#[test]
pub fn the_same_message_again_is_one_debit() {
    let stage = Stage::plain();
    let _server = stage.server(&["one"], |options| options.twice = true);
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(2, Reaction::Answer(200)).len(), 1);
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
}

#[test]
pub fn messages_beyond_the_grant_are_stopped() {
    let stage = Stage::new(|setup| setup);
    stage.proxy.set_account(ALICE, 2);
    let server = stage.server(&["one", "two", "three"], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(2, Reaction::Answer(200)).len(), 2);
    assert!(eventually(Duration::from_secs(5), || server.refused() == 1), "the third was not refused");
    client.bye();
    stage.expect(ALICE, 0, 0, 2);
}

#[test]
pub fn a_tariff_by_the_started_kilobyte() {
    let stage = Stage::new(|setup| setup.defined("TARIFF", "\"kilobyte:3\"").parameter("unit", "\"money\""));
    stage.proxy.set_account(ALICE, 10_000);
    let _server = stage.server(&["small", &"z".repeat(2049)], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(2, Reaction::Answer(200)).len(), 2);
    client.bye();
    stage.expect(ALICE, 10_000 - 12, 0, 12);
    assert_eq!(stage.proxy.debits(ALICE).iter().map(|debit| debit.units).collect::<Vec<_>>(), [3, 9]);
}

#[test]
pub fn debit_waits_for_the_report_if_configured() {
    let stage = Stage::new(|setup| setup.parameter("debit_on", "\"report\"").defined("RESPONSE_TIMEOUT", "600"));
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one"], |options| options.success_report = true);
    let mut client = stage.bound(|_| {});
    let got = client.take(1, Reaction::Answer(200));
    assert!(stage.proxy.debits(ALICE).is_empty(), "a 200 debits although the REPORT is to come");
    client.report(&got[0].0, got[0].1, 200);
    stage.expect(ALICE, 90, 9, 1);
    assert_eq!(stage.triggers(ALICE), ["response"]);
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
}
