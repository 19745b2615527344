//! Connections that break at the worst moment, and a standby that does not confirm.

use super::store::Store;
use super::traffic::Traffic;
use super::{is_ready, node, times, unready, until_ready, until_replicated};
use crate::{ALICE, subscriber};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::postgres::Wire;
use std::time::{Duration, Instant};

/// Within which a node serves after the end of a fault.
const BACK: Duration = Duration::from_secs(10);

#[test]
fn a_request_whose_answer_is_lost_has_one_effect() {
    let store = Store::start(1);
    let wire = Wire::to(store.cluster.primary().port());
    let stage = unready("a", &[wire.port], &store, |setup| setup.defined("RESPONSE_TIMEOUT", "600"));
    until_ready(&stage);
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    store.expect(ALICE, 90, 10, 0);
    let frame = client.next_send(BACK).expect("a message");
    until_replicated(&store, &stage, 1);
    // The debit is executed; its answer never arrives, and the node asks again through a new connection.
    wire.swallow_answers();
    client.answer(&frame, 200);
    store.expect(ALICE, 90, 9, 1);
    assert!(stage.proxy.statistic("outbox_depth") > 0, "{}", stage.proxy.log());
    wire.pass();
    assert!(eventually(BACK, || stage.proxy.statistic("outbox_depth") == 0), "{}", stage.proxy.log());
    assert!(stage.proxy.statistic("pg_lost") > 0 && stage.proxy.statistic("pg_reconnects") > 0);
    assert_eq!(client.bye(), 200);
    store.expect(ALICE, 99, 0, 1);
    store.expect_at_rest();
}

#[test]
fn connections_cut_in_the_middle_of_a_request_or_an_answer_cost_no_unit() {
    let store = Store::start(1);
    let wire = Wire::to(store.cluster.primary().port());
    let stage = unready("a", &[wire.port], &store, |setup| setup.parameter("default_balance", "1000000"));
    until_ready(&stage);
    let nodes = [&stage];
    let traffic = Traffic::new(&nodes);
    traffic.during(|| {
        for round in 0..times("CUTS", 10) {
            traffic.until_further(10);
            // Some octets of what the node sends, or of what the database answers.
            wire.cut_after(1 + 397 * (round as i64 / 2), round % 2 == 0);
            let cut = wire.connections();
            assert!(eventually(BACK, || wire.connections() > cut && is_ready(&stage)), "{}", stage.proxy.log());
        }
        traffic.until_further(10);
    });
    traffic.expect_agreement(&store);
    assert_eq!(stage.proxy.statistic("pg_fenced"), 0, "{}", stage.proxy.log());
}

#[test]
fn nothing_is_answered_while_no_standby_confirms() {
    let store = Store::start(1);
    let stage = node(&store, "a", |setup| setup.defined("RESPONSE_TIMEOUT", "600"));
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one"], |_| {});
    let mut open = stage.bound(|_| {});
    store.expect(ALICE, 90, 10, 0);
    store.stall_standbys();
    assert_eq!(stage.client(&subscriber(), |_| {}).invite(), 503, "{}", stage.proxy.log());
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 503, "{}", stage.proxy.log());
    let set = stage.proxy.rpc(&["imcharge.account.set", ALICE, "500"]);
    assert!(set.as_ref().is_err_and(|error| error.contains("503")), "{set:?}");
    assert_eq!(open.take(1, Reaction::Answer(200)).len(), 1, "granted messages pass");
    assert!(eventually(BACK, || stage.proxy.statistic("outbox_depth") > 0), "{}", stage.proxy.log());
    store.resume_standbys();
    let since = Instant::now();
    let served = || {
        let mut client = stage.client(ALICE, |_| {});
        client.invite() == 200 && client.bye() == 200
    };
    assert!(eventually(BACK, served), "{}", stage.proxy.log());
    assert!(since.elapsed() < BACK, "served after {:?}", since.elapsed());
    assert!(eventually(BACK, || stage.proxy.statistic("outbox_depth") == 0), "{}", stage.proxy.log());
    assert_eq!(open.bye(), 200);
    // The command may have been executed, although it was not acknowledged: it is so at most once.
    let debited = || store.number(&format!("SELECT debited FROM imcharge.accounts WHERE id='{ALICE}'"));
    assert!(eventually(BACK, || debited() == 1));
    store.expect_at_rest();
}
