//! The network between one node and the database swallows everything, as a firewall that drops its state does. CUT sets for
//! how many seconds (default: 30).

use super::store::Store;
use super::{LEASE, SOON, is_at_rest, node, times, unready, until_ready};
use crate::{ALICE, Stage, subscriber};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::{ImClient, Reaction};
use imcharge_testkit::parties::server::ImServer;
use imcharge_testkit::postgres::Wire;
use imcharge_testkit::proxy::Setup;
use std::time::{Duration, Instant};

/// Within which the outbox is empty after the network is back.
const HEALED: Duration = Duration::from_secs(10);

/// A message each time that this has passed.
const PACE: Duration = Duration::from_millis(500);

/// A database, a node behind a network that can swallow, and a node that is not affected.
struct Scene {
    store: Store,
    wire: Wire,
    cut_off: Stage,
    other: Stage,
    /// IM servers of both, with more messages than arrive until the end of the lease.
    _servers: [ImServer; 2],
}

fn scene(change: impl Fn(Setup) -> Setup) -> Scene {
    let store = Store::start(1);
    let wire = Wire::to(store.cluster.primary().port());
    // A session has credit for more messages than arrive until the end of the lease.
    let change = |setup: Setup| {
        let setup = setup.changed("imcharge_reserve(\"CHARGED\", \"10\")", "imcharge_reserve(\"CHARGED\", \"100\")");
        change(setup.defined("RESPONSE_TIMEOUT", "600").parameter("default_balance", "100"))
    };
    let cut_off = unready("a", &[wire.port], &store, change);
    until_ready(&cut_off);
    let other = node(&store, "b", change);
    cut_off.proxy.set_account(ALICE, 1000);
    let _servers = [&cut_off, &other].map(|stage| stage.server(&["text"; 50], |options| options.pace = PACE));
    Scene { store, wire, cut_off, other, _servers }
}

/// Receives messages until none has come for three seconds. Returns when each came.
fn receive_all(client: &mut ImClient) -> Vec<Instant> {
    let mut at = Vec::new();
    while let Some(frame) = client.next_send(Duration::from_secs(3)) {
        at.push(Instant::now());
        client.answer(&frame, 200);
    }
    at
}

/// Cuts the node off in the middle of a session while `during` runs, and lets the network be back. Then each message that has
/// passed is debited once. Returns how long after the cut the last message passed.
fn cut_off_and_heal(scene: &Scene, during: impl Fn(&Scene) + Sync) -> Duration {
    let Scene { store, wire, cut_off, other, .. } = scene;
    let mut client = cut_off.bound(|_| {});
    assert_eq!(client.take(2, Reaction::Answer(200)).len(), 2);
    wire.swallow();
    let cut = Instant::now();
    let passed = std::thread::scope(|scope| {
        scope.spawn(|| during(scene));
        receive_all(&mut client)
    });
    let last = passed.last().expect("messages pass during the lease").duration_since(cut);
    let cut_for = Duration::from_secs(times("CUT", 30) as u64);
    std::thread::sleep(cut_for.saturating_sub(cut.elapsed()));
    wire.pass();
    let rests = eventually(HEALED, || cut_off.proxy.statistic("outbox_depth") == 0);
    assert!(rests, "{} in the outbox\n{}", cut_off.proxy.statistic("outbox_depth"), cut_off.proxy.log());
    until_ready(cut_off);
    // The other node has taken over the session, without knowing of the latest messages.
    let debited = 2 + passed.len() as i64;
    store.expect(ALICE, 1000 - debited, 0, debited);
    assert_eq!(other.proxy.statistic("takeovers"), 1, "{}", other.proxy.log());
    client.bye();
    assert!(eventually(SOON, || is_at_rest(cut_off) && is_at_rest(other)), "{}", cut_off.proxy.log());
    store.expect_at_rest();
    last
}

/// Returns the status of an INVITE, and the messages that came, at most three.
fn retrieve(stage: &Stage, identity: &str) -> (u16, usize) {
    let mut client = stage.client(identity, |_| {});
    let outcome = client.retrieve(3, Reaction::Answer(200));
    (outcome.status, outcome.messages.len())
}

#[test]
fn proxy_without_its_database_refuses_new_sessions_and_serves_open_ones_until_its_lease_ends() {
    let scene = scene(|setup| setup);
    let last = cut_off_and_heal(&scene, |scene| {
        let status = retrieve(&scene.cut_off, &subscriber()).0;
        assert_eq!(status, 503, "{}", scene.cut_off.proxy.log());
        assert_eq!(retrieve(&scene.other, &subscriber()), (200, 3), "{}", scene.other.proxy.log());
    });
    let log = scene.cut_off.proxy.log();
    assert!((LEASE / 2..LEASE).contains(&last), "the last message passed {last:?} after the cut\n{log}");
    assert!(scene.cut_off.proxy.statistic("frames_lease_over") > 0, "{log}");
    assert!(log.contains("refused: enabler-silent") || log.contains("refused: enabler-unreachable"), "{log}");
    assert_eq!(retrieve(&scene.cut_off, &subscriber()), (200, 3), "{}", scene.cut_off.proxy.log());
}

#[test]
fn proxy_that_grants_on_failure_serves_new_sessions_up_to_the_cap_and_open_ones_beyond_its_lease() {
    let scene = scene(|setup| setup.parameter("on_failure", "\"grant\"").parameter("on_failure_cap", "3"));
    let identity = subscriber();
    let last = cut_off_and_heal(&scene, |scene| {
        assert_eq!(retrieve(&scene.cut_off, &identity), (200, 3), "{}", scene.cut_off.proxy.log());
        assert_eq!(retrieve(&scene.cut_off, &identity).0, 503, "{}", scene.cut_off.proxy.log());
    });
    assert!(last > LEASE, "the last message passed {last:?} after the cut\n{}", scene.cut_off.proxy.log());
    scene.store.expect(&identity, 97, 0, 3);
}
