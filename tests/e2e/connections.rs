//! What MSRP connections, paths and identities do to the money.

use super::{ALICE, Stage, subscriber};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::{Options as ClientOptions, Reaction};
use std::time::Duration;

#[test]
pub fn sessions_on_one_connection_are_charged_each_for_itself_and_lost_together() {
    let stage = Stage::new(|setup| setup.defined("RESPONSE_TIMEOUT", "600"));
    let _server = stage.server(&["one"], |_| {});
    let (first, second, third) = (subscriber(), subscriber(), subscriber());
    [&first, &second, &third].iter().for_each(|id| stage.proxy.set_account(id, 100));
    let options = |id: &str| ClientOptions::new(stage.proxy.sip, stage.proxy.msrp, id);
    let mut answering = stage.client(&first, |_| {});
    let mut silent = answering.on_same_connection(options(&second)).expect("the same connection");
    let mut idle = answering.on_same_connection(options(&third)).expect("the same connection");
    for (client, reaction) in [(&mut answering, Reaction::Answer(200)), (&mut silent, Reaction::Silence)] {
        assert_eq!(client.invite(), 200, "{}", stage.proxy.log());
        client.bind();
        assert_eq!(client.take(1, reaction).len(), 1, "{}", stage.proxy.log());
    }
    assert_eq!(idle.invite(), 200);
    stage.expect(&first, 90, 9, 1);
    stage.expect(&second, 90, 10, 0);
    answering.drop_connection();
    stage.expect(&second, 90, 9, 1);
    assert_eq!(stage.triggers(&first), ["response"]);
    assert_eq!(stage.triggers(&second), ["close"]);
    for (client, id, debited) in [(&mut answering, &first, 1), (&mut silent, &second, 1), (&mut idle, &third, 0)] {
        assert_eq!(client.bye(), 200);
        stage.expect(id, 100 - debited, 0, debited);
    }
}

#[test]
fn early_413_and_abort_of_the_server_are_one_debit() {
    // Only responses along the whole path tell the server of the 413.
    let reply = "    if ($msrp(method) == \"SEND\" && !($hdr(Failure-Report) =~ \"^(no|partial)$\")) \
                 msrp_reply(\"200\", \"OK\");\n";
    let stage = Stage::new(|setup| setup.changed(reply, ""));
    stage.proxy.set_account(ALICE, 100);
    let server = stage.server(&[&"x".repeat(25_000)], |options| options.chunk = 9000);
    let mut client = stage.bound(|options| options.whole_path = true);
    let chunk = client.next_send(Duration::from_secs(5)).expect("a chunk");
    assert_eq!(chunk.flag, '+');
    client.answer(&chunk, 413);
    let end = client.next_send(Duration::from_secs(5)).expect("the server gives the message up");
    assert_eq!((end.flag, end.header("Message-ID")), ('#', chunk.header("Message-ID")));
    client.answer(&end, 200);
    assert_eq!(server.refused(), 1);
    stage.until_debited(ALICE, 1);
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 99, 0, 1);
    let debit = stage.proxy.debits(ALICE).remove(0);
    assert_eq!((debit.trigger.as_str(), debit.code), ("error", 413));
}

#[test]
pub fn a_late_response_after_the_time_out_is_not_debited_again() {
    let stage = Stage::plain();
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    let frame = client.next_send(Duration::from_secs(5)).expect("a message");
    stage.until_debited(ALICE, 1);
    let seen = stage.proxy.statistic("frames");
    client.answer(&frame, 200);
    client.answer(&frame, 415);
    assert!(eventually(Duration::from_secs(5), || stage.proxy.statistic("frames") == seen + 2));
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
    assert_eq!(stage.triggers(ALICE), ["timeout"]);
}

#[test]
pub fn caller_without_asserted_identity_is_refused() {
    let stage = Stage::plain();
    let server = stage.server(&["one"], |_| {});
    let mut client = stage.client(ALICE, |options| options.asserted = false);
    let status = client.invite();
    assert!((400..600).contains(&status), "an unverified From is let through: {status}");
    assert_eq!(server.invites(), 0);
    stage.expect(ALICE, 100, 0, 0);
    assert_eq!(stage.proxy.count("SELECT count(*) FROM holds"), 0);
}
