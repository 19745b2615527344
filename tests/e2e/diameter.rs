//! An Online Charging System decides: the same retrievals over Diameter, and the money at the server to the last unit.

use super::parties::client::Reaction;
use super::parties::eventually;
use super::parties::kamailio::Setup;
use super::parties::ocs::Ocs;
use super::{ALICE, Stage};
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

/// The program, which `make test` builds.
fn program() -> PathBuf {
    std::env::var_os("IMCHARGE_OCS").expect("IMCHARGE_OCS names no program: run make test").into()
}

/// A charging system where Alice has 100, and a proxy before it.
struct Charged {
    ocs: Ocs,
    stage: Stage,
}

impl Charged {
    fn new(options: &[&str], change: impl FnOnce(Setup) -> Setup) -> Charged {
        let account = format!("{ALICE}=100");
        let options: Vec<&str> = ["--account", &account].into_iter().chain(options.iter().copied()).collect();
        let ocs = Ocs::start(&program(), &options);
        let peer = format!("\"host=ocs.example.com;address={}\"", ocs.diameter);
        let setup = |setup: Setup| {
            let setup = setup.defined("WITH_DIAMETER", "1").defined("OCS_PEER", peer.clone());
            change(setup.parameter("tx_timeout", "2"))
        };
        let charged = Charged { ocs, stage: Stage::new(setup) };
        charged.until_open();
        charged
    }

    fn plain() -> Charged {
        Charged::new(&[], |setup| setup)
    }

    #[track_caller]
    fn until_open(&self) {
        let open = || self.stage.kamailio.rpc(&["imcharge.peers"]).is_ok_and(|peers| peers.contains("state: open"));
        assert!(eventually(SOON, open), "{}", self.stage.kamailio.log());
    }

    /// What the account at the server comes to.
    #[track_caller]
    fn expect(&self, balance: i64, held: i64, debited: i64) {
        let found = self.ocs.account_becomes(ALICE, (balance, held, debited), SOON);
        assert_eq!(found, (balance, held, debited), "{}", self.stage.kamailio.log());
    }

    /// Everything is settled: no session is left at the server, no request waits, and each that was sent has ended.
    #[track_caller]
    fn expect_rest(&self) {
        let statistic = |name: &str| self.stage.kamailio.statistic(name);
        let kinds = ["initial_ccrs", "interim_ccrs", "final_ccrs", "event_ccrs"];
        let ends = ["ccr_answers", "ccr_timeouts", "ccr_failures"];
        let sum = |names: &[&str]| names.iter().map(|name| statistic(name)).sum::<i64>();
        let rests = || sum(&kinds) == sum(&ends) && statistic("outbox_depth") == 0 && statistic("sessions_active") == 0;
        assert!(eventually(SOON, rests), "sent {} ended {}\n{}", sum(&kinds), sum(&ends), self.stage.kamailio.log());
        let left = self.ocs.sessions();
        assert!(left.is_empty(), "the server still has {left:?}");
    }
}

#[test]
fn one_message_is_an_initial_and_a_termination() {
    for profile in ["rfc8506", "3gpp-ro"] {
        let charged = Charged::new(&[], |setup| setup.defined("OCS_PROFILE", format!("\"{profile}\"")));
        let _server = charged.stage.server(&["one"], |_| {});
        let mut client = charged.stage.bound(|_| {});
        client.take(1, Reaction::Answer(200));
        charged.stage.until_debited(ALICE, 1);
        client.bye();
        charged.expect(99, 0, 1);
        charged.expect_rest();
    }
}
