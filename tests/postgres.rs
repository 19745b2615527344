//! tests of the schema
use imcharge_testkit::postgres::{Cluster, DATABASE, Setup};

#[test]
fn starts() {
    let t = std::time::Instant::now();
    let mut cluster = Cluster::new(Setup { standbys: 2, ..Setup::default() });
    println!("{:?}", t.elapsed());
    println!(
        "{:?}",
        cluster.primary().query(DATABASE, "SELECT application_name, sync_state, state FROM pg_stat_replication")
    );
    cluster.primary().client(DATABASE);
    cluster.kill_primary();
    cluster.promote();
    println!(
        "{} {:?}",
        cluster.primary().name(),
        cluster.primary().query(DATABASE, "SELECT application_name, sync_state, state FROM pg_stat_replication")
    );
    cluster.rebuild(0);
    println!(
        "{:?}",
        cluster.primary().query(DATABASE, "SELECT application_name, sync_state, state FROM pg_stat_replication")
    );
    println!("{:?}", t.elapsed());
}
