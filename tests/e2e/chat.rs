//! Content that its sender pays for: chat, in which each party pays for what it sends, and large messages of the inviting
//! party.

mod dialogs;
mod ocs;

use super::sessions::in_lua;
use super::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::{ImClient, Reaction};
use imcharge_testkit::parties::server::{ImServer, Options as ServerOptions};
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

/// Called subscriber.
pub const BOB: &str = "sip:bob@127.0.0.1";

/// A proxy that charges this content of chats; both parties have this credit.
fn stage(content: &str, [alice, bob]: [i64; 2]) -> Stage {
    let stage = Stage::new(|setup| setup.defined("WITH_CHAT", "1").defined("CHAT_CONTENT", format!("\"{content}\"")));
    stage.proxy.set_account(ALICE, alice);
    stage.proxy.set_account(BOB, bob);
    stage
}

/// Alice, who has called Bob and bound the MSRP session.
pub fn call(stage: &Stage) -> ImClient {
    let mut alice = caller(stage);
    assert_eq!(alice.invite(), 200, "{}", stage.proxy.log());
    alice.bind();
    alice
}

fn caller(stage: &Stage) -> ImClient {
    let port = stage.place.local_addr().expect("a bound socket has an address").port();
    stage.client(ALICE, |options| options.request_uri = format!("{BOB}:{port}"))
}

fn bob(stage: &Stage, texts: &[&str], change: impl FnOnce(&mut ServerOptions)) -> ImServer {
    stage.server(texts, change)
}

/// Waits until the responses of the called party have reached the engine.
fn wait_for_responses() {
    std::thread::sleep(Duration::from_secs(1));
}

/// Bob sends one message and Alice two; all are debited, and Alice hangs up.
#[track_caller]
fn converse(stage: &Stage, alice: &mut ImClient) {
    assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1, "{}", stage.proxy.log());
    for message in ["alice1", "alice2"] {
        assert_eq!(alice.deliver(message, b"from alice"), 200, "{}", stage.proxy.log());
    }
    stage.until_debited(ALICE, 2);
    stage.until_debited(BOB, 1);
    assert_eq!(alice.bye(), 200);
}

#[test]
pub fn each_party_pays_for_what_it_sends() {
    let stage = stage("both", [100, 100]);
    let _bob = bob(&stage, &["from bob"], |_| {});
    let mut alice = call(&stage);
    converse(&stage, &mut alice);
    stage.expect(ALICE, 98, 0, 2);
    stage.expect(BOB, 99, 0, 1);
    assert_eq!(stage.triggers(ALICE), ["response"; 2]);
    assert_eq!(stage.triggers(BOB), ["response"]);
}

#[test]
fn each_party_pays_for_what_it_sends_in_lua() {
    let stage = Stage::new(|setup| in_lua(setup).defined("WITH_CHAT", "1"));
    [ALICE, BOB].iter().for_each(|account| stage.proxy.set_account(account, 100));
    let _bob = bob(&stage, &["from bob"], |_| {});
    let mut alice = call(&stage);
    assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1, "{}", stage.proxy.log());
    assert_eq!(alice.deliver("alice1", b"from alice"), 200, "{}", stage.proxy.log());
    stage.until_debited(ALICE, 1);
    stage.until_debited(BOB, 1);
    assert_eq!(alice.bye(), 200);
    stage.expect(ALICE, 99, 0, 1);
    stage.expect(BOB, 99, 0, 1);
}

#[test]
pub fn equal_message_ids_of_both_parties_are_different_messages() {
    let stage = stage("both", [100, 100]);
    let same = |options: &mut ServerOptions| options.messages = vec![("same".into(), b"from bob".to_vec())];
    let _bob = bob(&stage, &[], same);
    let mut alice = call(&stage);
    assert_eq!(alice.deliver("same", b"from alice"), 200, "{}", stage.proxy.log());
    assert_eq!(alice.take(1, Reaction::Answer(415)).len(), 1);
    stage.until_debited(ALICE, 1);
    assert_eq!(alice.bye(), 200);
    stage.expect(ALICE, 99, 0, 1);
    stage.expect(BOB, 100, 0, 0);
}

#[test]
pub fn party_without_credit_can_read_and_not_write() {
    let poor_bob = stage("both", [100, 0]);
    let called = bob(&poor_bob, &["from bob"], |_| {});
    let mut alice = call(&poor_bob);
    assert_eq!(alice.deliver("alice1", b"from alice"), 200, "{}", poor_bob.proxy.log());
    assert!(eventually(Duration::from_secs(5), || called.refused() == 1), "{}", poor_bob.proxy.log());
    poor_bob.until_debited(ALICE, 1);
    assert_eq!(alice.bye(), 200);
    poor_bob.expect(ALICE, 99, 0, 1);
    poor_bob.expect(BOB, 0, 0, 0);

    let poor_alice = stage("both", [0, 100]);
    let _called = bob(&poor_alice, &["from bob"], |_| {});
    let mut alice = call(&poor_alice);
    assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1, "{}", poor_alice.proxy.log());
    assert_eq!(alice.deliver("alice1", b"from alice"), 403);
    poor_alice.until_debited(BOB, 1);
    assert_eq!(alice.bye(), 200);
    poor_alice.expect(ALICE, 0, 0, 0);
    poor_alice.expect(BOB, 99, 0, 1);
}

#[test]
pub fn chat_of_two_parties_without_credit_is_refused() {
    let stage = stage("both", [0, 0]);
    let _bob = bob(&stage, &[], |_| {});
    assert_eq!(caller(&stage).invite(), 402, "{}", stage.proxy.log());
}

/// Messages of each party in a long chat.
const LONG: usize = 1000;

/// Alice and Bob send messages in turns and end the call. No faster than the engine can grant credit ahead. Returns the
/// Call-ID.
pub fn long_chat(stage: &Stage) -> String {
    let texts: Vec<String> = (0..LONG).map(|n| format!("bob {n}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let _bob = bob(stage, &texts, |options| options.pace = Duration::from_millis(5));
    let mut alice = call(stage);
    for n in 0..LONG {
        assert_eq!(alice.deliver(&format!("alice{n}"), b"from alice"), 200, "message {n}\n{}", stage.proxy.log());
        assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1, "message {n}");
    }
    stage.until_debited(ALICE, LONG);
    stage.until_debited(BOB, LONG);
    assert_eq!(alice.bye(), 200);
    alice.call_id.clone()
}

#[test]
pub fn long_chat_is_charged_to_the_last_message() {
    let stage = stage("both", [1200, 1100]);
    long_chat(&stage);
    stage.expect(ALICE, 200, 0, 1000);
    stage.expect(BOB, 100, 0, 1000);
}

#[test]
fn chat_outlives_the_engine() {
    let stage = stage("both", [100, 100]);
    let _bob = bob(&stage, &["from bob"], |_| {});
    let mut alice = call(&stage);
    assert_eq!(alice.deliver("alice1", b"from alice"), 200);
    stage.proxy.signal("KILL", stage.proxy.engine_pid());
    assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1, "{}", stage.proxy.log());
    assert_eq!(alice.deliver("alice2", b"from alice"), 200);
    stage.until_debited(ALICE, 2);
    stage.until_debited(BOB, 1);
    assert_eq!(alice.bye(), 200);
    stage.expect(ALICE, 98, 0, 2);
    stage.expect(BOB, 99, 0, 1);
}

#[test]
fn sent_content_follows_the_response_of_its_receiver() {
    for (answers, debited, trigger) in [(200, 1, &["response"][..]), (403, 0, &[]), (413, 0, &[]), (501, 0, &[])] {
        let stage = stage("sent", [100, 100]);
        let _bob = bob(&stage, &["from bob"], |options| options.answers = answers);
        let mut alice = call(&stage);
        assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1, "what the called party sends is free");
        let status = alice.deliver_in_chunks("large", "text/plain", &[b'x'; 9000], 3);
        // The rest of a refused message is stopped, unless all of it has passed before.
        assert!(status == 200 || answers != 200 && status == 403, "{status}\n{}", stage.proxy.log());
        wait_for_responses();
        assert_eq!(alice.bye(), 200);
        stage.expect(ALICE, 100 - debited, 0, debited);
        stage.expect(BOB, 100, 0, 0);
        assert_eq!(stage.triggers(ALICE), trigger, "{answers}");
    }
}

#[test]
fn sent_content_without_a_response_is_debited() {
    let stage = stage("sent", [100, 100]);
    let _bob = bob(&stage, &[], |options| options.answers = 0);
    let mut alice = call(&stage);
    assert_eq!(alice.deliver("alice1", b"from alice"), 200);
    stage.until_debited(ALICE, 1);
    assert_eq!(stage.triggers(ALICE), ["timeout"]);
    assert_eq!(alice.bye(), 200);
    stage.expect(ALICE, 99, 0, 1);
}

#[test]
pub fn recipients_multiply_the_price() {
    let stage = stage("sent;recipients=12", [100, 100]);
    let _bob = bob(&stage, &[], |_| {});
    let mut alice = call(&stage);
    assert_eq!(alice.deliver("alice1", b"to twelve"), 200, "{}", stage.proxy.log());
    stage.until_debited(ALICE, 1);
    assert_eq!(alice.bye(), 200);
    stage.expect(ALICE, 88, 0, 12);
}

#[test]
fn message_id_used_again_is_paid_for_again() {
    let stage = stage("sent", [100, 100]);
    let _bob = bob(&stage, &[], |_| {});
    let mut alice = call(&stage);
    for _ in 0..3 {
        assert_eq!(alice.deliver("same", b"another text"), 200, "{}", stage.proxy.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    stage.until_debited(ALICE, 3);
    assert_eq!(alice.bye(), 200);
    stage.expect(ALICE, 97, 0, 3);
}

#[test]
fn reinvite_of_a_chat_moves_both_directions() {
    let stage = stage("both", [100, 100]);
    let _bob = bob(&stage, &["from bob"], |_| {});
    let mut alice = call(&stage);
    assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1);
    assert_eq!(alice.deliver("alice1", b"from alice"), 200);
    let own = alice.msrp_paths().0.to_owned();
    assert_eq!(alice.reinvite_with_path(&own.replace("/C", "/D")), 200);
    alice.bind();
    assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1, "{}", stage.proxy.log());
    assert_eq!(alice.deliver("alice2", b"from alice"), 200, "{}", stage.proxy.log());
    stage.until_debited(ALICE, 2);
    stage.until_debited(BOB, 2);
    assert_eq!(alice.bye(), 200);
    stage.expect(ALICE, 98, 0, 2);
    stage.expect(BOB, 98, 0, 2);
}

#[test]
fn failure_in_the_receivers_name_does_not_make_a_message_free() {
    let stage = stage("sent", [100, 100]);
    let bob = bob(&stage, &[], |options| options.answers = 0);
    let mut alice = call(&stage);
    let (own, path) = alice.msrp_paths();
    let (relay, bobs) = path.split_once(' ').expect("the relay comes before Bob");
    let send = |id: &str| {
        format!(
            "MSRP {id} SEND\r\nTo-Path: {path}\r\nFrom-Path: {own}\r\nMessage-ID: {id}\r\nByte-Range: 1-5/5\r\n\
             Content-Type: text/plain\r\n\r\nhello\r\n-------{id}$\r\n"
        )
    };
    let response = |id: &str, code: u16| {
        format!("MSRP {id} {code} -\r\nTo-Path: {relay}\r\nFrom-Path: {bobs}\r\n-------{id}$\r\n")
    };
    // Over the sender's own connection.
    alice.write_raw(send("trown").as_bytes());
    alice.write_raw(response("trown", 413).as_bytes());
    assert!(
        eventually(Duration::from_secs(5), || stage.proxy.statistic("frames_forged") == 1),
        "{}",
        stage.proxy.log()
    );
    // Over another one, before the receiver confirms.
    let mut other = TcpStream::connect(stage.proxy.msrp).expect("the relay takes a connection");
    alice.write_raw(send("trother").as_bytes());
    std::thread::sleep(Duration::from_millis(200));
    other.write_all(response("trother", 413).as_bytes()).expect("the relay reads");
    std::thread::sleep(Duration::from_millis(500));
    bob.write_raw(response("trother", 200).as_bytes()).expect("the relay reads");
    stage.until_debited(ALICE, 2);
    assert_eq!(stage.triggers(ALICE), ["response", "timeout"], "in the order of the debits");
    assert_eq!(stage.proxy.statistic("failures_contradicted"), 1);
    assert_eq!(alice.bye(), 200);
    stage.expect(ALICE, 98, 0, 2);
}

#[test]
fn cancelled_chat_holds_nothing() {
    let stage = stage("both", [100, 100]);
    let _bob = bob(&stage, &[], |options| options.rings = true);
    let alice = caller(&stage);
    alice.send_invite();
    assert!(alice.ringing(Duration::from_secs(5)), "{}", stage.proxy.log());
    alice.cancel();
    stage.expect(ALICE, 100, 0, 0);
    stage.expect(BOB, 100, 0, 0);
}
