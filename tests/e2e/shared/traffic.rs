//! Traffic through several nodes, and the comparison of all that is known about it afterwards.

use super::store::{Database, Store};
use super::{SOON, until_at_rest};
use crate::reconcile::{Seen, debited, retrieve};
use crate::{Stage, subscriber};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::server::{Deliveries, ImServer, Messages};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Clients at each node that retrieve at the same time. Each subscriber has one client at every node.
const CLIENTS: usize = 4;

/// Nodes with an IM server each, and what their clients have seen.
pub struct Traffic<'a> {
    pub nodes: &'a [&'a Stage],
    servers: Vec<ImServer>,
    seen: Seen,
}

impl<'a> Traffic<'a> {
    /// No traffic yet. The nodes give new subscribers a balance (`default_balance`).
    pub fn new(nodes: &'a [&'a Stage]) -> Traffic<'a> {
        let servers = nodes.iter().map(|stage| stage.server(&["one", "two", "three"], |_| {})).collect();
        Traffic { nodes, servers, seen: Seen::default() }
    }

    /// Runs `work` under traffic.
    pub fn during<R>(&self, work: impl FnOnce() -> R) -> R {
        let everyone: Vec<String> = (0..CLIENTS).map(|_| subscriber()).collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for stage in self.nodes {
                for identity in &everyone {
                    let (proxy, relay, done) = (stage.proxy.sip, stage.proxy.msrp, &done);
                    scope.spawn(move || {
                        while !done.load(Ordering::Relaxed) {
                            retrieve(proxy, relay, identity, &self.seen);
                        }
                    });
                }
            }
            // A panic in here must not leave the clients running.
            let result = catch_unwind(AssertUnwindSafe(work));
            done.store(true, Ordering::Relaxed);
            result.unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Waits until the clients have seen this many further messages.
    #[track_caller]
    pub fn until_further(&self, count: usize) {
        let seen = || self.seen.lock().expect("no holder panics").len();
        let before = seen();
        let flows = eventually(SOON, || seen() >= before + count);
        let logs = || self.nodes.iter().map(|stage| stage.proxy.log()).collect::<String>();
        assert!(flows, "{} messages instead of {count}\n{}", seen() - before, logs());
    }

    /// Waits for traffic, and then until a moment that the clock's last digits choose.
    #[track_caller]
    pub fn until_some_moment(&self, count: usize) {
        self.until_further(count);
        let nanos = UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
        std::thread::sleep(Duration::from_micros(u64::from(nanos) % 50_000));
    }

    /// Returns the messages that came to the clients.
    fn seen(&self) -> Messages {
        let seen = self.seen.lock().expect("no holder panics");
        seen.iter().map(|(call_id, id)| (local_part(call_id), id.clone())).collect()
    }

    /// Returns the messages that the histories of all nodes have as debited.
    pub fn histories(&self) -> Messages {
        self.nodes.iter().flat_map(|stage| debited(&stage.proxy.ledger())).collect()
    }

    /// Waits until the nodes are at rest. Then compares, message by message, the database with the clients, the IM servers
    /// and the histories of the nodes.
    #[track_caller]
    pub fn expect_agreement<D: Database>(&self, store: &Store<D>) {
        self.nodes.iter().for_each(|stage| until_at_rest(stage));
        store.expect_at_rest();
        let debited = store.debited();
        let logs = || self.nodes.iter().map(|stage| stage.proxy.log()).collect::<String>();
        let unpaid: Vec<_> = self.seen().difference(&debited).cloned().collect();
        assert!(unpaid.is_empty(), "clients have {unpaid:?}, which are not debited\n{}", logs());
        let histories = self.histories();
        let differing: Vec<_> = histories.symmetric_difference(&debited).collect();
        assert!(differing.is_empty(), "histories and database differ in {differing:?}\n{}", logs());
        let (mut passed, mut unanswered) = (Messages::new(), Messages::new());
        for server in &self.servers {
            assert!(eventually(SOON, || server.deliveries().is_some()), "the server waits for responses");
            let deliveries: Deliveries = server.deliveries().unwrap_or_default();
            passed.extend(deliveries.passed);
            unanswered.extend(deliveries.unanswered);
        }
        let lost: Vec<_> = passed.difference(&debited).collect();
        let is_invented = |message: &&(String, String)| !passed.contains(*message) && !unanswered.contains(*message);
        let invented: Vec<_> = debited.iter().filter(is_invented).collect();
        assert!(lost.is_empty() && invented.is_empty(), "lost {lost:?}, invented {invented:?}\n{}", logs());
    }
}

/// Returns the part of a Call-ID before the `@`.
fn local_part(call_id: &str) -> String {
    call_id.split('@').next().unwrap_or_default().to_owned()
}
