//! Retrievals, MESSAGEs and chats that are charged on a shared ledger, through one proxy and through two.

use super::store::Store;
use super::{is_at_rest, node, until_at_rest};
use crate::chat::{BOB, call};
use crate::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::{ImClient, Reaction};
use imcharge_testkit::parties::page::{PageReceiver, PageSender};
use imcharge_testkit::proxy::Setup;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

/// Rounds in which two proxies ask for the same last unit.
const RACES: usize = 50;

/// A database without standbys, and one proxy. Alice has 100.
fn single(change: impl FnOnce(Setup) -> Setup) -> (Store, Stage) {
    let store = Store::start(1);
    let stage = node(&store, "a", change);
    stage.proxy.set_account(ALICE, 100);
    (store, stage)
}

/// A database, and two proxies. Alice has 100.
fn pair(change: impl Fn(Setup) -> Setup) -> (Store, Stage, Stage) {
    let (store, one) = single(&change);
    let two = node(&store, "b", &change);
    (store, one, two)
}

#[test]
fn each_outcome_of_a_retrieval_costs_what_it_costs_on_the_ledger() {
    let (store, stage) = single(|setup| setup);
    let server = stage.server(&["one", "two", "three"], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(3, Reaction::Answer(200)).len(), 3);
    stage.until_debited(ALICE, 3);
    store.expect(ALICE, 90, 7, 3);
    client.bye();
    store.expect(ALICE, 97, 0, 3);
    drop(server);
    let _server = stage.server(&["one"], |_| {});
    for (reaction, debited) in [(Reaction::Answer(415), 4), (Reaction::Silence, 5)] {
        let mut client = stage.bound(|_| {});
        client.take(1, reaction);
        store.expect(ALICE, 100 - debited - 9, 9, debited);
        client.bye();
        store.expect(ALICE, 100 - debited, 0, debited);
    }
    assert_eq!(stage.triggers(ALICE), ["response", "response", "response", "error", "timeout"]);
    let triggers = store.sql("SELECT trigger FROM imcharge.debits ORDER BY at");
    assert_eq!(triggers.concat(), stage.triggers(ALICE));
    until_at_rest(&stage);
    store.expect_at_rest();
}

#[test]
fn subscriber_without_credit_or_account_is_refused_and_nothing_is_held() {
    let (store, stage) = single(|setup| setup);
    let _server = stage.server(&["one"], |_| {});
    stage.proxy.set_account(ALICE, 0);
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 402);
    assert_eq!(stage.client("sip:unknown@example.org", |_| {}).invite(), 402);
    let log = stage.proxy.log();
    for reason in ["refused: no-credit", "refused: unknown-subscriber"] {
        assert!(log.contains(reason), "{reason}\n{log}");
    }
    until_at_rest(&stage);
    store.expect_at_rest();
    assert_eq!(store.number("SELECT count(*) FROM imcharge.accounts"), 1);
}

#[test]
fn message_is_debited_by_its_final_response() {
    let (store, stage) = single(crate::page::impatient);
    let receiver = PageReceiver::start(&stage.place);
    let sender = PageSender::new(stage.proxy.sip, ALICE);
    let text = |user: &str| sender.text(&format!("sip:{user}@im.example.org"), "hello");
    assert_eq!(["bob", "202", "404", "silent"].map(text), [200, 202, 404, 408], "{}", stage.proxy.log());
    store.expect(ALICE, 97, 0, 3);
    stage.proxy.set_account(ALICE, 0);
    assert_eq!(text("bob"), 402);
    assert_eq!(receiver.texts().len(), 4);
    until_at_rest(&stage);
    store.expect_at_rest();
}

#[test]
fn each_party_of_a_chat_pays_for_what_it_sends() {
    let (store, stage) = single(|setup| setup.defined("WITH_CHAT", "1"));
    stage.proxy.set_account(BOB, 100);
    let _bob = stage.server(&["from bob"], |_| {});
    let mut alice = call(&stage);
    assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1, "{}", stage.proxy.log());
    for message in ["alice1", "alice2"] {
        assert_eq!(alice.deliver(message, b"from alice"), 200, "{}", stage.proxy.log());
    }
    stage.until_debited(ALICE, 2);
    stage.until_debited(BOB, 1);
    assert_eq!(alice.bye(), 200);
    store.expect(ALICE, 98, 0, 2);
    store.expect(BOB, 99, 0, 1);
    until_at_rest(&stage);
    store.expect_at_rest();
}

#[test]
fn two_proxies_charge_one_account() {
    let (store, one, two) = pair(|setup| setup);
    let servers = [&one, &two].map(|stage| stage.server(&["one", "two"], |_| {}));
    let mut open: Vec<ImClient> = [&one, &two].map(|stage| stage.bound(|_| {})).into();
    for client in &mut open {
        assert_eq!(client.take(2, Reaction::Answer(200)).len(), 2);
    }
    // Each proxy has ten reserved and two of them debited.
    store.expect(ALICE, 80, 16, 4);
    for stage in [&one, &two] {
        let shown = stage.proxy.rpc(&["imcharge.account.get", ALICE]).expect("the account");
        for field in ["balance: 80", "held: 16", "debited: 4"] {
            assert!(shown.contains(field), "{field} in {shown}");
        }
    }
    for client in &mut open {
        assert_eq!(client.bye(), 200);
    }
    store.expect(ALICE, 96, 0, 4);
    assert_eq!((one.proxy.debits(ALICE).len(), two.proxy.debits(ALICE).len()), (2, 2));
    for stage in [&one, &two] {
        until_at_rest(stage);
    }
    store.expect_at_rest();
    drop(servers);
}

#[test]
fn two_proxies_race_for_the_last_unit_and_one_is_granted() {
    let (store, one, two) = pair(|setup| setup);
    let _servers = [&one, &two].map(|stage| stage.server(&[], |_| {}));
    let mut winners = [0; 2];
    for round in 0..RACES {
        one.proxy.set_account(ALICE, 1);
        let mut clients = [&one, &two].map(|stage| stage.client(ALICE, |_| {}));
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let invites = clients.each_mut().map(|client| scope.spawn(|| client.invite()));
            invites.into_iter().map(|invite| invite.join().expect("a status")).collect()
        });
        let winner = statuses.iter().position(|status| *status == 200);
        let mut sorted = statuses.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [200, 402], "round {round}\n{}\n{}", one.proxy.log(), two.proxy.log());
        let winner = winner.expect("one is granted");
        winners[winner] += 1;
        assert_eq!(clients[winner].bye(), 200);
        store.expect(ALICE, 1, 0, 0);
    }
    assert!(winners.iter().all(|won| *won > 0), "the proxies did not race: {winners:?}");
    assert!(eventually(SOON, || is_at_rest(&one) && is_at_rest(&two)));
    store.expect_at_rest();
}
