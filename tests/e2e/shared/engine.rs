//! The engine is killed again and again under traffic. CRASHES sets how often (default: five).

use super::store::Store;
use super::traffic::Traffic;
use super::{SOON, node, times};
use imcharge_testkit::eventually;

#[test]
fn a_killed_engine_leaves_database_histories_and_clients_in_agreement() {
    let store = Store::start(1);
    let stage = node(&store, "a", |setup| {
        setup.defined("RESPONSE_TIMEOUT", "2").parameter("default_balance", "1000000").parameter("hold_timeout", "10")
    });
    let nodes = [&stage];
    let traffic = Traffic::new(&nodes);
    traffic.during(|| {
        for _ in 0..times("CRASHES", 5) {
            traffic.until_some_moment(20);
            let engine = stage.proxy.engine_pid().expect("an engine");
            stage.proxy.signal("KILL", Some(engine));
            let back = eventually(SOON, || stage.proxy.engine_pid().is_some_and(|pid| pid != engine));
            assert!(back, "the engine does not come back\n{}", stage.proxy.log());
        }
        traffic.until_further(20);
    });
    traffic.expect_agreement(&store);
    // A restart of the engine alone is no reason to fence its node.
    let epochs = store.sql("SELECT epoch FROM imcharge.nodes").concat();
    assert_eq!((epochs.len(), stage.proxy.statistic("pg_fenced")), (1, 0), "{}", stage.proxy.log());
}
