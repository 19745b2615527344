//! Second part of the soak test: retrievals with messages over MSRP, charged at the OCS simulator.

use super::State;
use imcharge_testkit::ocs::{self, Ocs};
use imcharge_testkit::parties::client::{ImClient, Options as ClientOptions, Reaction};
use imcharge_testkit::parties::server::{ImServer, Options as ServerOptions};
use imcharge_testkit::proxy::{LARGE_MEMORY, Proxy, Setup};
use imcharge_testkit::{Events, eventually};
use std::error::Error;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Rate of the retrievals: about half the capacity of a machine with two cores. Equal in both runs, because the module
/// keeps the sessions of the last 32 s.
const RETRIEVALS_PER_SECOND: u32 = 250;

/// Concurrent clients, each with its own subscriber.
const CLIENTS: u32 = 8;

/// Stored messages.
const MESSAGES: [&str; 3] = ["one", "two", "three"];

/// Initial balance of each account.
const BALANCE: i64 = 1_000_000_000;

/// The OCS simulator, the proxy, and the SIP socket of the IM server.
struct Scene {
    proxy: Proxy,
    ocs: Ocs,
    server_socket: UdpSocket,
}

/// Runs the retrievals twice, because the engine's caches fill for longer than closed sessions are kept, and checks the
/// second run.
pub fn soak(folder: &Path, retrievals: u32) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(folder)?;
    scene.retrieve(retrievals)?;
    let before = State::at_rest(&scene.proxy)?;
    println!("after {retrievals} retrievals: {before:?}");
    let rate = scene.retrieve(retrievals)?;
    let after = State::at_rest(&scene.proxy)?;
    println!("after {retrievals} more:  {after:?}; {rate:.0} a second");
    after.compare(&before, 0)?;
    scene.reconcile(i64::from(2 * retrievals) * MESSAGES.len() as i64)
}

fn identity(number: u32) -> String {
    format!("sip:reader{number}@example.org")
}

impl Scene {
    fn new(folder: &Path) -> Result<Scene, Box<dyn Error>> {
        let program = ocs::program()?;
        let ocs = Ocs::start(&program, &["--default-balance", &BALANCE.to_string()]);
        let server_socket = UdpSocket::bind("127.0.0.1:0")?;
        let mut setup = Setup::new(folder, server_socket.local_addr()?).defined("WITH_DIAMETER", "1");
        setup.arguments = LARGE_MEMORY.to_vec();
        // Without this, each process keeps descriptors of closed connections until it reuses their slots.
        let setup = setup.changed("#!KAMAILIO", "#!KAMAILIO\ntcp_fd_cache=no");
        let peer = format!("\"host=ocs.example.com;address={}\"", ocs.diameter);
        let proxy = Proxy::start(setup.defined("OCS_PEER", peer))?;
        if !eventually(Duration::from_secs(20), || ocs.command("connections").len() == 1) {
            return Err(format!("the proxy has not connected to the OCS simulator\n{}", proxy.log()).into());
        }
        Ok(Scene { proxy, ocs, server_socket })
    }

    /// Runs this many retrievals, spread over the clients. Returns the rate per second. Server and connections are closed
    /// when it returns.
    fn retrieve(&self, count: u32) -> Result<f64, Box<dyn Error>> {
        let (sip, msrp, started) = (self.proxy.sip, self.proxy.msrp, Instant::now());
        let _server = ImServer::start(&self.server_socket, ServerOptions::new(msrp, &MESSAGES), Events::default())?;
        let started_count = AtomicU32::new(0);
        let client = |number: u32| -> Result<(), String> {
            loop {
                let next = started_count.fetch_add(1, Ordering::Relaxed);
                if next >= count {
                    return Ok(());
                }
                let due = started + Duration::from_secs_f64(f64::from(next) / f64::from(RETRIEVALS_PER_SECOND));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let options = ClientOptions::new(sip, msrp, &identity(number));
                let client = ImClient::new(options, Events::default());
                let mut client = client.map_err(|error| format!("the relay accepts no connection: {error}"))?;
                let outcome = client.retrieve(MESSAGES.len(), Reaction::Answer(200));
                let whole = outcome.messages.iter().filter(|message| message.complete).count();
                if (outcome.status, whole, outcome.bye) != (200, MESSAGES.len(), 200) {
                    return Err(format!("{}: {outcome:?}", client.call_id));
                }
            }
        };
        let client = &client;
        let results: Vec<_> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
            clients.into_iter().map(|client| client.join().expect("no client panics")).collect()
        });
        let result: Result<(), String> = results.into_iter().collect();
        result.map_err(|error| format!("{error}\n{}", self.proxy.log()))?;
        Ok(f64::from(count) / started.elapsed().as_secs_f64())
    }

    /// Checks that the OCS and the history have exactly one debit per message and that nothing is held.
    fn reconcile(&self, messages: i64) -> Result<(), Box<dyn Error>> {
        let left = self.ocs.sessions();
        if !left.is_empty() {
            return Err(format!("{} sessions are still open at the OCS, first {:?}", left.len(), left[0]).into());
        }
        let mut debited = 0;
        for number in 0..CLIENTS {
            let account = self.ocs.account(&identity(number));
            let history = self.proxy.count(&format!(
                "SELECT count(DISTINCT call_id || ' ' || message_id) FROM debits WHERE account='{}'",
                identity(number)
            ));
            if account != (BALANCE - history, 0, history) {
                let who = identity(number);
                return Err(format!(
                    "{who}: {history} debits in the history, but (balance, held, debited) at the OCS is {account:?}"
                )
                .into());
            }
            debited += history;
        }
        println!("{messages} messages, {debited} debited, nothing held");
        if debited == messages { Ok(()) } else { Err("the number of debits differs from that of messages".into()) }
    }
}
