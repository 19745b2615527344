//! Chat of user agents that are driven step by step: the called party offers, an INVITE arrives by two paths or is answered
//! by two parties, and messages cross.

use super::{ALICE, BOB, Stage, stage};
use crate::dialogs::{Agent, Call, From};
use imcharge_testkit::unique;

/// A chat from Alice to Bob that is not answered yet.
fn invited(stage: &Stage) -> Call<'_> {
    let port = stage.place.local_addr().expect("a bound socket has an address").port();
    let mut call = Call::new(stage).to(&format!("{BOB}:{port}"));
    call.invite();
    call
}

/// Both parties send a message, and each pays for its own.
#[track_caller]
fn exchange(stage: &Stage, call: &mut Call<'_>) {
    let before = [ALICE, BOB].map(|name| stage.proxy.debits(name).len());
    let (to_alice, to_bob) = (call.client.path(), call.server.path());
    assert_eq!(call.client.deliver(&to_bob, "from alice"), 200, "{}", stage.proxy.log());
    assert_eq!(call.server.take().as_deref(), Some("from alice"));
    assert_eq!(call.server.deliver(&to_alice, "from bob"), 200, "{}", stage.proxy.log());
    assert_eq!(call.client.take().as_deref(), Some("from bob"));
    stage.until_debited(ALICE, before[0] + 1);
    stage.until_debited(BOB, before[1] + 1);
}

/// Sends the INVITE of a call by a second path, which must be refused.
#[track_caller]
fn invite_by_a_second_path(stage: &Stage, call: &Call<'_>) {
    let other = Agent::anywhere(stage);
    let mut copy = call.invite.clone();
    let via = copy.headers.iter_mut().find(|(name, _)| name == "Via").expect("a Via header");
    via.1 = format!("SIP/2.0/UDP {};branch=z9hG4bK{};rport", other.transport.address(), unique());
    other.send(&copy, other.proxy);
    other.expect_reply(482, 1, "INVITE");
}

#[test]
fn offer_of_the_called_party_changes_no_payer() {
    let stage = stage("both", [100, 100]);
    let mut call = invited(&stage);
    call.answer("one");
    exchange(&stage, &mut call);
    for offerer in [From::Server, From::Client, From::Server] {
        call.server.move_on();
        call.client.move_on();
        let (server, client) = (call.server.description(), call.client.description());
        let (offer, answer) = if offerer == From::Server { (server, client) } else { (client, server) };
        call.transact(offerer, "INVITE", "one", &offer, &answer);
        exchange(&stage, &mut call);
    }
    call.bye(From::Server, "one");
    stage.expect(ALICE, 96, 0, 4);
    stage.expect(BOB, 96, 0, 4);
    assert_eq!(stage.proxy.statistic("frames_forged"), 0);
}

#[test]
fn chat_invited_by_two_paths_is_charged_once() {
    let stage = stage("both", [100, 100]);
    let mut call = invited(&stage);
    invite_by_a_second_path(&stage, &call);
    call.answer("one");
    invite_by_a_second_path(&stage, &call);
    exchange(&stage, &mut call);
    call.bye(From::Client, "one");
    stage.expect(ALICE, 99, 0, 1);
    stage.expect(BOB, 99, 0, 1);
    assert_eq!(stage.proxy.count("SELECT count(*) FROM sessions"), 2);
    assert_eq!(stage.proxy.statistic("reserves_failed"), 2);
}

#[test]
fn parties_of_a_forked_chat_pay_for_what_they_send_in_each_dialog() {
    let stage = stage("both", [100, 100]);
    let mut call = invited(&stage);
    call.answer("one");
    exchange(&stage, &mut call);
    let first = std::mem::replace(&mut call.server, Agent::new(&stage, &stage.place));
    let description = call.server.description();
    call.reply(200, "two", &description);
    call.acknowledge("two", "");
    exchange(&stage, &mut call);
    call.bye(From::Client, "two");
    let ended = std::mem::replace(&mut call.server, first);
    // While a dialog is open, content for the ended one is charged as well.
    assert_eq!(call.client.deliver(&ended.path(), "after its end"), 200, "{}", stage.proxy.log());
    exchange(&stage, &mut call);
    call.bye(From::Client, "one");
    stage.expect(ALICE, 96, 0, 4);
    stage.expect(BOB, 97, 0, 3);
}

#[test]
fn sends_that_cross_with_equal_ids_are_charged_to_their_senders() {
    let stage = stage("both", [100, 100]);
    let mut call = invited(&stage);
    call.answer("one");
    exchange(&stage, &mut call);
    let (to_alice, to_bob) = (call.client.path(), call.server.path());
    for n in 0..20 {
        let (transaction, message_id) = (format!("same{n}tr"), format!("same{n}id"));
        call.client.send_text(&to_bob, (&transaction, &message_id), "from alice");
        call.server.send_text(&to_alice, (&transaction, &message_id), "from bob");
        assert_eq!(call.client.take().as_deref(), Some("from bob"), "{n}\n{}", stage.proxy.log());
        assert_eq!(call.server.take().as_deref(), Some("from alice"), "{n}\n{}", stage.proxy.log());
    }
    stage.until_debited(ALICE, 21);
    stage.until_debited(BOB, 21);
    call.bye(From::Client, "one");
    stage.expect(ALICE, 79, 0, 21);
    stage.expect(BOB, 79, 0, 21);
    assert_eq!([ALICE, BOB].map(|name| stage.triggers(name).iter().filter(|t| *t != "response").count()), [0, 0]);
}
