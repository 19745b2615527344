//! The primary is killed under traffic, and a standby is promoted. ROUNDS sets how often (default: five).

use super::store::Store;
use super::traffic::Traffic;
use super::{giving, node, times, until_granted};
use std::time::Duration;

/// Within which an INVITE is granted after a promotion.
const BACK: Duration = Duration::from_secs(5);

#[test]
fn nothing_that_was_answered_is_lost_when_the_primary_is_killed_and_a_standby_promoted() {
    let mut store = Store::start(2);
    let [one, two] = ["a", "b"].map(|name| node(&store, name, giving));
    let nodes = [&one, &two];
    let traffic = Traffic::new(&nodes);
    let mut longest = Duration::ZERO;
    for round in 0..times("ROUNDS", 5) {
        traffic.during(|| {
            traffic.until_some_moment(20);
            store.fail_over();
            for stage in nodes {
                longest = longest.max(until_granted(stage, BACK * 6));
            }
            traffic.until_further(5);
        });
        traffic.expect_agreement(&store);
        assert!(longest <= BACK, "round {round}: the first INVITE was granted {longest:?} after the promotion");
        store.complete();
    }
    println!("an INVITE was granted {longest:?} after a promotion, at the latest");
}

/// The comparison of the test above is able to find a loss.
#[test]
fn what_an_asynchronous_standby_has_not_received_is_found_missing() {
    let mut store = Store::start_async(1);
    let one = node(&store, "a", |setup| giving(setup).parameter("postgres_async", "\"yes\""));
    let nodes = [&one];
    let traffic = Traffic::new(&nodes);
    traffic.during(|| {
        traffic.until_further(10);
        store.disconnect_standbys();
        traffic.until_further(20);
        store.fail_over();
        until_granted(&one, BACK * 6);
    });
    let answered = traffic.histories();
    let debited = store.debited();
    let lost = answered.difference(&debited).count();
    assert!(lost > 0, "all {} debits that were answered are at the promoted server", answered.len());
}
