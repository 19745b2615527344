//! What an operator reads in the log: at the host's default level, once, and with what is wrong.

use super::diameter::{Charged, start_over_tls};
use super::{ALICE, HOST, Stage};
use imcharge_testkit::certificates::Authority;
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::{Host, Setup};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// The configuration without a line that sets the log level.
fn at_the_default_level(setup: Setup) -> Setup {
    match HOST.get() {
        Host::Kamailio => setup.changed("\ndebug=2\n", "\n"),
        Host::OpenSips => setup,
    }
}

#[test]
pub fn a_killed_engine_has_a_line_at_the_default_log_level() {
    let stage = Stage::new(at_the_default_level);
    let proxy = &stage.proxy;
    let log = proxy.log();
    if HOST.get() == Host::Kamailio {
        assert!(!log.contains("INFO:"), "the default level is higher\n{log}");
    }
    assert!(eventually(SOON, || proxy.engine_pid().is_some()));
    proxy.signal("KILL", proxy.engine_pid());
    let logged = || proxy.log().contains("ended unexpectedly (signal: 9 (SIGKILL))");
    assert!(eventually(SOON, logged), "{}", proxy.log());
}

#[test]
fn a_warning_is_visible_at_the_default_log_level() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = format!("\"state_dir\", \"{}\"", folder.path().display());
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("our own");
    let stage = Stage::new(|setup| at_the_default_level(setup).changed("\"state_dir\", STATE_DIR", &state));
    let log = stage.proxy.log();
    assert!(log.contains("WARNING: imcharge: state_dir") && log.contains("is accessible to every user"), "{log}");
}

#[test]
pub fn a_good_start_has_one_line_that_says_what_is_charged_and_where() {
    let stage = Stage::new(at_the_default_level);
    let (log, state) = (stage.proxy.log(), stage.proxy.state_dir());
    let version = env!("CARGO_PKG_VERSION");
    let line = format!("imcharge {version}: enabler ledger, tariff message:1, state directory {}", state.display());
    assert_eq!(log.matches(&line).count(), 1, "{log}");
}

#[test]
fn repeated_errors_of_a_peer_do_not_fill_the_log() {
    const SESSIONS: usize = 60;
    let charged = Charged::plain().unjudged();
    charged.ocs.command(&format!("account {ALICE}=100000"));
    charged.ocs.command("fault unknown-mandatory-avp");
    let _server = charged.stage.server(&["one"], |_| {});
    for _ in 0..SESSIONS {
        let mut client = charged.stage.client(ALICE, |_| {});
        client.invite();
        client.bye();
    }
    let log = charged.stage.proxy.log();
    let lines = log.matches("with the M flag ignored").count();
    assert!((1..=10).contains(&lines), "{lines} lines for {SESSIONS} sessions\n{log}");
}

#[test]
pub fn an_answered_call_does_not_end_as_a_failed_invite() {
    let stage = Stage::plain();
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    stage.until_debited(ALICE, 1);
    assert_eq!(client.bye(), 200);
    // The transaction of the INVITE is destroyed some seconds after its answer (tm's wt_timer).
    std::thread::sleep(Duration::from_secs(7));
    let explained = stage.proxy.rpc(&["imcharge.explain", &client.call_id]).expect("explained");
    assert!(explained.contains("answered") && !explained.contains("invite-failed"), "{explained}");
}

#[test]
fn an_unreadable_tls_file_at_a_restart_of_the_engine_takes_down_its_peer_alone() {
    let authority = Authority::new();
    let (ocs, stage) = start_over_tls(&authority, "ocs.example.com");
    let charged = Charged { ocs, stage, judged: None };
    charged.until_open();
    let (file, aside) = (authority.ca(), authority.ca().with_extension("aside"));
    std::fs::rename(&file, &aside).expect("renamed");
    let proxy = &charged.stage.proxy;
    proxy.signal("KILL", proxy.engine_pid());
    let logged = || proxy.log().contains(&format!("TLS certificate {}: ", file.display()));
    assert!(eventually(SOON, logged), "{}", proxy.log());
    let answers = || proxy.rpc(&["imcharge.peers"]).is_ok_and(|peers| peers.contains("TLS certificate"));
    assert!(eventually(SOON, answers), "no engine answers\n{}", proxy.log());
    assert!(!proxy.log().contains("new sessions are refused"), "{}", proxy.log());
    assert_eq!(charged.stage.client(ALICE, |_| {}).invite(), 503);
    std::fs::rename(&aside, &file).expect("renamed");
    charged.until_open();
    let _server = charged.stage.server(&["one"], |_| {});
    let mut client = charged.stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    charged.stage.until_debited(ALICE, 1);
    client.bye();
    charged.expect(99, 0, 1);
}
