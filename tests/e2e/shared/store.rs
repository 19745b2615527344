//! The database of a shared ledger, as its tables show it.

use super::SOON;
use imcharge_testkit::eventually;
use imcharge_testkit::parties::server::Messages;
use imcharge_testkit::postgres::patroni::Patroni;
use imcharge_testkit::postgres::{Cluster, DATABASE, PASSWORD, Server, Setup};
use imcharge_testkit::proxy::Account;
use std::path::Path;

/// Servers of which one is the primary.
pub trait Database {
    /// Returns the ports of all servers.
    fn ports(&self) -> Vec<u16>;

    /// Executes statements on the primary as superuser. Returns the rows as text, NULL as `NULL`.
    fn query(&self, sql: &str) -> Vec<Vec<String>>;
}

impl Database for Cluster {
    fn ports(&self) -> Vec<u16> {
        self.servers().iter().map(Server::port).collect()
    }

    fn query(&self, sql: &str) -> Vec<Vec<String>> {
        self.primary().query(DATABASE, sql)
    }
}

impl Database for Patroni {
    fn ports(&self) -> Vec<u16> {
        Patroni::ports(self)
    }

    fn query(&self, sql: &str) -> Vec<Vec<String>> {
        self.sql(DATABASE, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}

/// PostgreSQL servers with the schema of the shared ledger: one primary and its standbys.
pub struct Store<D = Cluster> {
    pub cluster: D,
    password_file: tempfile::NamedTempFile,
}

impl Store {
    /// Starts a primary with this many synchronous standbys, of which any one confirms a commit.
    pub fn start(standbys: usize) -> Store {
        Store::with(Setup { standbys, ..Setup::default() })
    }

    /// Starts a primary with this many standbys that no commit waits for.
    pub fn start_async(standbys: usize) -> Store {
        Store::with(Setup { standbys, synchronous: false, ..Setup::default() })
    }

    fn with(setup: Setup) -> Store {
        Store::of(Cluster::new(setup))
    }

    /// Kills the primary with all its processes, and promotes the standby that has received most.
    pub fn fail_over(&mut self) {
        self.cluster.kill_primary();
        self.cluster.promote();
    }

    /// Makes the servers that are dead standbys of the primary.
    pub fn complete(&mut self) {
        let dead = |(at, server): (usize, &Server)| (!server.is_running()).then_some(at);
        let dead: Vec<usize> = self.cluster.servers().iter().enumerate().filter_map(dead).collect();
        dead.into_iter().for_each(|at| self.cluster.rebuild(at));
        let standbys = self.cluster.standbys().count() as i64;
        let following = || self.number("SELECT count(*) FROM pg_stat_replication WHERE state='streaming'");
        assert!(eventually(SOON, || following() == standbys), "{} of {standbys} standbys follow", following());
    }

    /// Stops the processes of all standbys: none confirms a commit.
    pub fn stall_standbys(&self) {
        self.cluster.standbys().for_each(Server::stall);
    }

    /// Continues the processes of all standbys.
    pub fn resume_standbys(&self) {
        self.cluster.standbys().for_each(Server::resume);
    }

    /// Disconnects all standbys from the primary: they receive nothing from now on.
    pub fn disconnect_standbys(&self) {
        for standby in self.cluster.standbys() {
            standby.execute(DATABASE, "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'");
            standby.execute(DATABASE, "SELECT pg_reload_conf()");
        }
        let following = || self.number("SELECT count(*) FROM pg_stat_replication");
        assert!(eventually(SOON, || following() == 0), "a standby still follows");
    }
}

impl<D: Database> Store<D> {
    /// These servers, which have the schema.
    pub fn of(cluster: D) -> Store<D> {
        let password_file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(password_file.path(), format!("{PASSWORD}\n")).expect("a file of this test");
        Store { cluster, password_file }
    }

    /// Returns the ports of all servers.
    pub fn ports(&self) -> Vec<u16> {
        self.cluster.ports()
    }

    /// Returns the file with the password of the role that proxies use.
    pub fn password_file(&self) -> &Path {
        self.password_file.path()
    }

    /// Executes statements on the primary as superuser. Returns the rows as text, NULL as `NULL`.
    #[track_caller]
    pub fn sql(&self, text: &str) -> Vec<Vec<String>> {
        self.cluster.query(text)
    }

    /// Returns the single number that a query yields.
    #[track_caller]
    pub fn number(&self, query: &str) -> i64 {
        let rows = self.sql(query);
        let first = rows.first().and_then(|row| row.first()).and_then(|text| text.parse().ok());
        first.unwrap_or_else(|| panic!("{query}: {rows:?}"))
    }

    /// Returns an account.
    pub fn account(&self, id: &str) -> Option<Account> {
        let rows = self.sql(&format!("SELECT balance, held, debited FROM imcharge.accounts WHERE id='{id}'"));
        let row = rows.first()?;
        let number = |at: usize| row.get(at).and_then(|text| text.parse().ok());
        Some(Account { balance: number(0)?, held: number(1)?, debited: number(2)? })
    }

    /// Asserts that an account becomes this.
    #[track_caller]
    pub fn expect(&self, id: &str, balance: i64, held: i64, debited: i64) {
        let wanted = Some(Account { balance, held, debited });
        let mut found = None;
        eventually(SOON, || {
            found = self.account(id);
            found == wanted
        });
        let debits = || self.sql(&format!("SELECT * FROM imcharge.debits WHERE account='{id}'"));
        assert_eq!(found, wanted, "{id}: {:?}", debits());
    }

    /// Returns the debited messages. Each is there once: session and Message-ID are the key, and a Call-ID of the test
    /// parties has one session.
    #[track_caller]
    pub fn debited(&self) -> Messages {
        let rows = self.sql("SELECT split_part(call_id, '@', 1), message_id FROM imcharge.debits");
        let count = rows.len();
        let pair = |row: Vec<String>| <[String; 2]>::try_from(row).map(|[call, message]| (call, message)).expect("two");
        let debited: Messages = rows.into_iter().map(pair).collect();
        assert_eq!(debited.len(), count, "a message is debited twice");
        debited
    }

    /// Asserts that each account is the sum of its changes, debits and holds, by the audit and by sums of this test's own.
    #[track_caller]
    pub fn expect_balanced(&self) {
        let audit = self.sql("SELECT * FROM imcharge.audit('', 1000000) WHERE account IS NOT NULL");
        assert_eq!(audit, [[""; 0]; 0], "the audit finds accounts");
        let differing = self.sql(
            "SELECT * FROM (SELECT a.id, a.balance, a.held, a.debited,
                (SELECT coalesce(sum(amount), 0) FROM imcharge.changes c
                    WHERE c.account = a.id AND kind IN ('initial', 'set', 'add', 'remove')) given,
                (SELECT coalesce(sum(held), 0) FROM imcharge.sessions s WHERE s.account = a.id) holds,
                (SELECT coalesce(sum(units), 0) FROM imcharge.debits d
                    WHERE d.account = a.id AND refunded_at IS NULL) debits FROM imcharge.accounts a) sums
             WHERE balance + held + debited <> given OR held <> holds OR debited <> debits",
        );
        assert_eq!(differing, [[""; 0]; 0], "id, balance, held, debited, given, holds, debits");
    }

    /// Asserts that no session is open, nothing is held, and all accounts add up.
    #[track_caller]
    pub fn expect_at_rest(&self) {
        let open = || self.number("SELECT count(*) FROM imcharge.sessions");
        assert!(eventually(SOON, || open() == 0), "{:?}", self.sql("SELECT * FROM imcharge.sessions"));
        assert_eq!(self.number("SELECT coalesce(sum(held), 0)::bigint FROM imcharge.accounts"), 0);
        self.expect_balanced();
    }
}
