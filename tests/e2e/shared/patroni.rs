//! PostgreSQL under Patroni, whose leader is lost under traffic (`make patroni`).

use super::store::{Database, Store};
use super::traffic::Traffic;
use super::{giving, node, until_granted};
use imcharge_testkit::eventually;
use imcharge_testkit::postgres::patroni::Patroni;
use imcharge_testkit::postgres::{DATABASE, PASSWORD, schema_file};
use std::time::{Duration, Instant};

/// Within which service is back after the loss of the leader, with Patroni's default TTL of 30 s.
const BACK: Duration = Duration::from_secs(45);

/// Longer than that, so that the nodes are not fenced.
const LEASE_SECONDS: &str = "60";

fn store() -> Store<Patroni> {
    let patroni = Patroni::start();
    let created = patroni.sql("postgres", &format!("CREATE DATABASE {DATABASE}"));
    created.unwrap_or_else(|error| panic!("{error}"));
    patroni.run_file(DATABASE, &schema_file());
    let store = Store::of(patroni);
    store.sql(&format!("ALTER ROLE imcharge PASSWORD '{PASSWORD}'"));
    store
}

#[test]
#[ignore = "takes minutes, and needs the packages patroni and etcd-server: make patroni"]
fn service_is_back_within_45_seconds_of_the_loss_of_patronis_leader_and_nothing_is_lost() {
    let mut store = store();
    let longer = format!("\"lease\", {LEASE_SECONDS}");
    let [one, two] = ["a", "b"].map(|name| node(&store, name, |setup| giving(setup).changed("\"lease\", 10", &longer)));
    let nodes = [&one, &two];
    let traffic = Traffic::new(&nodes);
    traffic.during(|| {
        traffic.until_some_moment(50);
        let killed = Instant::now();
        store.cluster.kill_leader();
        for stage in nodes {
            until_granted(stage, BACK * 2);
        }
        let absence = killed.elapsed();
        println!("service was back after {absence:?}");
        assert!(absence <= BACK, "service was back after {absence:?}\n{}", store.cluster.log());
        traffic.until_further(50);
    });
    assert!(eventually(BACK, || !store.cluster.query("SELECT 1").is_empty()));
    traffic.expect_agreement(&store);
    assert_eq!((one.proxy.statistic("pg_fenced"), two.proxy.statistic("pg_fenced")), (0, 0));
}
