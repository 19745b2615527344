//! SIGKILL at random moments under traffic, with an Online Charging System; afterwards the ledger file, the charging
//! system, the charging records and what the clients saw must agree. CRASHES sets how often (default: five).

use super::diameter::Charged;
use super::records::{Billing, with_records};
use super::{ALICE, subscriber};
use imcharge_testkit::parties::client::{ImClient, Options as ClientOptions};
use imcharge_testkit::parties::server::{Deliveries, Messages};
use imcharge_testkit::proxy::Proxy;
use imcharge_testkit::{Events, eventually};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Clients that retrieve at the same time.
const CLIENTS: usize = 8;

const SOON: Duration = Duration::from_secs(60);

/// How often something is killed.
fn crashes() -> usize {
    std::env::var("CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

/// What the clients have seen: Call-ID and Message-ID of every message that came to one.
pub type Seen = Mutex<Vec<(String, String)>>;

/// Retrieves up to three messages, as the proxy permits.
pub fn retrieve(proxy: SocketAddr, relay: SocketAddr, identity: &str, seen: &Seen) {
    let options = ClientOptions::new(proxy, relay, identity);
    let Ok(mut client) = ImClient::new(options, Events::default()) else {
        // The proxy is being started again.
        return std::thread::sleep(Duration::from_millis(20));
    };
    if client.invite() != 200 {
        return;
    }
    client.bind();
    for _ in 0..3 {
        let Some(frame) = client.next_send(Duration::from_secs(2)) else { return };
        let message = (client.call_id.clone(), frame.header("Message-ID").to_owned());
        seen.lock().expect("no holder panics").push(message);
        client.answer(&frame, 200);
    }
    client.bye();
}

/// Runs traffic while `kill` is called again and again, and compares everything. Of content that was never
/// reported to the server it is unknown whether it passed.
fn reconcile(kill: impl Fn(&mut Proxy)) -> Messages {
    let options = ["--default-balance", "1000000"];
    let folder = tempfile::tempdir().expect("a folder");
    let billing = Billing::new(folder.path());
    let mut charged = Charged::new(&options, |setup| {
        let setup = setup.defined("RESPONSE_TIMEOUT", "2").parameter("hold_timeout", "10");
        with_records(setup, folder.path()).parameter("cdr_file_size", "4096")
    });
    let server = charged.stage.server(&["one", "two", "three"], |_| {});
    let (proxy, relay) = (charged.stage.proxy.sip, charged.stage.proxy.msrp);
    let everyone: Vec<String> = (0..CLIENTS).map(|_| subscriber()).collect();
    let (seen, done) = (Seen::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for identity in &everyone {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    retrieve(proxy, relay, identity, &seen);
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                billing.take();
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        // A panic in here must not leave the clients running.
        let killing = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..crashes() {
                // Some traffic between two of them, and the moment by the clock's last digits.
                let before = seen.lock().expect("no holder panics").len();
                eventually(SOON, || seen.lock().expect("no holder panics").len() > before + 20);
                let nanos = UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
                std::thread::sleep(Duration::from_micros(u64::from(nanos) % 50_000));
                kill(&mut charged.stage.proxy);
            }
        }));
        done.store(true, Ordering::Relaxed);
        killing.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let proxy = &charged.stage.proxy;
    let rests = || proxy.statistic("sessions_active") == 0 && proxy.statistic("outbox_depth") == 0;
    assert!(eventually(SOON, rests), "{}", proxy.log());
    assert!(eventually(SOON, || charged.ocs.sessions().is_empty()), "{:?}", charged.ocs.sessions());
    let ledger = proxy.ledger();
    let seen = seen.into_inner().expect("no holder panics");
    assert!(seen.len() > 20 * crashes(), "{} messages", seen.len());
    for (call_id, message_id) in &seen {
        let sql = "SELECT count(*) FROM debits WHERE call_id=?1 AND message_id=?2";
        let debits: i64 = ledger.query_row(sql, [call_id, message_id], |row| row.get(0)).expect("a count");
        let explained = || proxy.rpc(&["imcharge.explain", call_id]).unwrap_or_else(|error| error);
        assert_eq!(debits, 1, "{call_id} {message_id}\n{}\n{}", explained(), proxy.log());
    }
    for identity in &everyone {
        let history = proxy.debits(identity).len() as i64;
        let account = charged.ocs.account_becomes(identity, (1_000_000 - history, 0, history), SOON);
        assert_eq!(account, (1_000_000 - history, 0, history), "{identity}");
    }
    // What has passed is debited, to a client that is gone as well, like silence; and nothing else is.
    assert!(eventually(SOON, || server.deliveries().is_some()), "the server waits for responses");
    let Deliveries { passed, unanswered } = server.deliveries().unwrap_or_default();
    let debited = debited(&proxy.ledger());
    let (lost, invented): (Vec<_>, Vec<_>) = (
        passed.difference(&debited).collect(),
        debited.iter().filter(|message| !passed.contains(*message) && !unanswered.contains(*message)).collect(),
    );
    assert!(lost.is_empty() && invented.is_empty(), "lost {lost:?}, invented {invented:?}\n{}", proxy.log());
    assert_eq!(charged.ocs.account(ALICE), (100, 0, 0));
    billing.expect_agreement(proxy);
    charged.expect_marked();
    unanswered
}

/// The messages of the history, which has each once: session and Message-ID are its key.
pub fn debited(ledger: &rusqlite::Connection) -> Messages {
    let mut statement = ledger.prepare("SELECT call_id, message_id FROM debits").expect("the history is a table");
    let rows = statement.query_map([], |row| row.try_into()).expect("the history can be read");
    let rows = rows.map(|row| row.expect("a row")).collect::<Vec<(String, String)>>();
    rows.into_iter().map(|(call_id, id)| (call_id.split('@').next().unwrap_or_default().to_owned(), id)).collect()
}

#[test]
fn a_killed_engine_leaves_ledger_ocs_and_clients_in_agreement() {
    let unanswered = reconcile(|proxy| {
        let engine = proxy.engine_pid().expect("an engine");
        proxy.signal("KILL", Some(engine));
        let back = eventually(SOON, || proxy.engine_pid().is_some_and(|pid| pid != engine));
        assert!(back, "the engine does not come back\n{}", proxy.log());
    });
    // The proxy has gone on serving: the server knows of each message whether it has passed.
    assert!(unanswered.is_empty(), "{unanswered:?}");
}

#[test]
fn a_killed_proxy_leaves_ledger_ocs_and_clients_in_agreement() {
    reconcile(|proxy| {
        proxy.kill_all();
        proxy.restart().unwrap_or_else(|error| panic!("{error}"));
    });
}
