//! The second half: retrievals with messages over real MSRP, paid for at a charging system. Everything that a session
//! with messages leaves behind is looked at here; the calls of the first half carry none.

use super::State;
use imcharge_testkit::ocs::{self, Ocs};
use imcharge_testkit::parties::client::{ImClient, Options as ClientOptions, Reaction};
use imcharge_testkit::parties::server::{ImServer, Options as ServerOptions};
use imcharge_testkit::proxy::{Proxy, Setup};
use imcharge_testkit::{Events, eventually};
use std::error::Error;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Retrievals a second: about half of what such a machine can do. As many sessions as come in 32 s are kept at a time,
/// so it has to be the same before both looks.
const RATE: u32 = 250;

/// Clients that retrieve at the same time, each for a subscriber of its own.
const CLIENTS: u32 = 8;

/// What waits for each of them.
const MESSAGES: [&str; 3] = ["one", "two", "three"];

/// What each account has at the beginning.
const BALANCE: i64 = 1_000_000_000;

/// The charging system, the proxy before it, and where the IM server takes SIP.
struct Scene {
    proxy: Proxy,
    ocs: Ocs,
    place: UdpSocket,
}

/// So many retrievals, after as many that bring everything to its size: the engine's caches go on filling for longer
/// than closed sessions stay.
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
        let place = UdpSocket::bind("127.0.0.1:0")?;
        let mut setup = Setup::new(folder, place.local_addr()?).defined("WITH_DIAMETER", "1");
        setup.arguments = super::ARGUMENTS.to_vec();
        // Each process would keep descriptors of connections that are gone, until it needs their places.
        let setup = setup.changed("#!KAMAILIO", "#!KAMAILIO\ntcp_fd_cache=no");
        let peer = format!("\"host=ocs.example.com;address={}\"", ocs.diameter);
        let proxy = Proxy::start(setup.defined("OCS_PEER", peer))?;
        if !eventually(Duration::from_secs(20), || ocs.command("connections").len() == 1) {
            return Err(format!("the charging system is not reached\n{}", proxy.log()).into());
        }
        Ok(Scene { proxy, ocs, place })
    }

    /// So many retrievals by all clients together; how many a second. The server has gone when it returns, and its
    /// connections with it.
    fn retrieve(&self, count: u32) -> Result<f64, Box<dyn Error>> {
        let (sip, msrp, started) = (self.proxy.sip, self.proxy.msrp, Instant::now());
        let _server = ImServer::start(&self.place, ServerOptions::new(msrp, &MESSAGES), Events::default())?;
        let begun = AtomicU32::new(0);
        let client = |number: u32| -> Result<(), String> {
            loop {
                let next = begun.fetch_add(1, Ordering::Relaxed);
                if next >= count {
                    return Ok(());
                }
                let due = started + Duration::from_secs_f64(f64::from(next) / f64::from(RATE));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let options = ClientOptions::new(sip, msrp, &identity(number));
                let client = ImClient::new(options, Events::default());
                let mut client = client.map_err(|error| format!("the relay takes no connection: {error}"))?;
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

    /// Each message is paid for once, at the charging system and in the history, and nothing is held.
    fn reconcile(&self, messages: i64) -> Result<(), Box<dyn Error>> {
        let left = self.ocs.sessions();
        if !left.is_empty() {
            return Err(format!("{} sessions are open at the charging system, {:?} first", left.len(), left[0]).into());
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
                return Err(
                    format!("{who}: {history} messages in the history, (free, held, debited) {account:?}").into()
                );
            }
            debited += history;
        }
        println!("{messages} messages, {debited} debited, nothing held");
        if debited == messages { Ok(()) } else { Err("not every message is debited once".into()) }
    }
}
