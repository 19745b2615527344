//! End-to-end tests: the stock Kamailio with the module (and OpenSIPS, see `opensips.rs`), real SIP over UDP, real MSRP
//! over TCP, several workers of each. Each case checks the ledger to the last unit.
//!
//! Needs the module: `make test` builds it and sets IMCHARGE_MODULE to the folder that holds it.

mod accounts;
mod ahead;
mod bad_input;
mod capture;
mod chat;
mod connections;
mod content;
mod crashes;
mod delivered;
mod dialogs;
mod diameter;
mod explain;
mod failover;
mod files;
mod foreign;
mod forged;
mod hostile;
mod ledger;
mod logs;
mod manual;
mod memory;
mod ocs_wire;
mod opensips;
mod outcomes;
mod page;
mod page_groups;
mod page_peers;
mod page_phones;
mod payer;
mod prices;
mod push;
mod raw;
mod reconcile;
mod records;
mod recovery;
mod relay;
mod resume;
mod rpc;
mod security;
mod sessions;
mod shared;
mod trouble;
mod watching;

use imcharge_testkit::parties::client::{ImClient, Options as ClientOptions};
use imcharge_testkit::parties::server::{ImServer, Options as ServerOptions};
use imcharge_testkit::proxy::{Host, Proxy, Setup};
use imcharge_testkit::{Events, unique};
use std::cell::Cell;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;

/// Subscriber charged in most tests.
pub const ALICE: &str = "sip:alice@example.org";

/// Folder of the module. Without it nothing here can be tested, and that is a failure, not a pass.
pub fn module() -> PathBuf {
    let folder = std::env::var_os("IMCHARGE_MODULE").expect("IMCHARGE_MODULE names no folder: run make test");
    PathBuf::from(folder)
}

thread_local! {
    /// Before which proxy the case of this thread runs.
    static HOST: Cell<Host> = const { Cell::new(Host::Kamailio) };
}

/// Runs a case before this proxy.
pub fn before(host: Host, case: fn()) {
    HOST.set(host);
    case();
}

/// The shipped configuration of the case's proxy before this server.
pub fn setup(server: SocketAddr) -> Setup {
    match HOST.get() {
        Host::Kamailio => Setup::new(&module(), server),
        Host::OpenSips => Setup::for_opensips(&opensips::module(), server),
    }
}

/// The variant of the shipped configuration that also relays MSRP of sessions that are not charged.
pub fn mixed(setup: Setup) -> Setup {
    match setup.host {
        Host::Kamailio => setup.defined("WITH_OTHER_MSRP", "1"),
        Host::OpenSips => setup.changed("\"no_session\", \"refuse\"", "\"no_session\", \"pass\""),
    }
}

/// A proxy before an address that is free for a server.
pub struct Stage {
    /// The proxy.
    pub proxy: Proxy,
    /// Address of its IM server; kept, so that no other process takes the port.
    pub place: UdpSocket,
}

impl Stage {
    /// The shipped configuration, changed as the case wants.
    pub fn new(change: impl FnOnce(Setup) -> Setup) -> Stage {
        let place = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = place.local_addr().expect("a bound socket has an address");
        let setup = change(setup(address).defined("RESPONSE_TIMEOUT", "2"));
        let proxy = Proxy::start(setup).unwrap_or_else(|error| panic!("{error}"));
        Stage { proxy, place }
    }

    /// As shipped, but for a short response timeout; Alice has 100.
    pub fn plain() -> Stage {
        let stage = Stage::new(|setup| setup);
        stage.proxy.set_account(ALICE, 100);
        stage
    }

    /// A server with these texts.
    pub fn server(&self, texts: &[&str], change: impl FnOnce(&mut ServerOptions)) -> ImServer {
        let mut options = ServerOptions::new(self.proxy.msrp, texts);
        options.authenticates = HOST.get() == Host::OpenSips;
        change(&mut options);
        ImServer::start(&self.place, options, Events::default()).expect("a server on a free port")
    }

    /// A client of this identity that has not invited yet.
    pub fn client(&self, identity: &str, change: impl FnOnce(&mut ClientOptions)) -> ImClient {
        let mut options = ClientOptions::new(self.proxy.sip, self.proxy.msrp, identity);
        options.authenticates = HOST.get() == Host::OpenSips;
        change(&mut options);
        ImClient::new(options, Events::default()).expect("the relay takes a connection")
    }

    /// A client of Alice whose session is answered and bound.
    pub fn bound(&self, change: impl FnOnce(&mut ClientOptions)) -> ImClient {
        let mut client = self.client(ALICE, change);
        assert_eq!(client.invite(), 200, "{}", self.proxy.log());
        client.bind();
        client
    }

    /// Asserts what an account comes to.
    #[track_caller]
    pub fn expect(&self, id: &str, balance: i64, held: i64, debited: i64) {
        let wanted = Some(imcharge_testkit::proxy::Account { balance, held, debited });
        let found = self.proxy.account_becomes(id, balance, held, debited);
        assert_eq!(found, wanted, "{:?}\n{}", self.proxy.debits(id), self.proxy.log());
    }

    /// Waits until this many messages of an account are debited: what the client answered over TCP may reach the engine
    /// after a BYE over UDP.
    #[track_caller]
    pub fn until_debited(&self, id: &str, count: usize) {
        let done =
            imcharge_testkit::eventually(std::time::Duration::from_secs(15), || self.proxy.debits(id).len() >= count);
        assert!(done, "{} of {count} debited\n{}", self.proxy.debits(id).len(), self.proxy.log());
    }

    /// Triggers of an account's debits, in the order of the messages.
    pub fn triggers(&self, id: &str) -> Vec<String> {
        self.proxy.debits(id).into_iter().map(|debit| debit.trigger).collect()
    }
}

/// An identity that no other case has.
pub fn subscriber() -> String {
    format!("sip:user{}@example.org", unique())
}
