//! An INVITE that waits gets an answer, whatever becomes of its verdict.

use super::super::diameter::Charged;
use super::super::{ALICE, HOST, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::ImClient;
use imcharge_testkit::proxy::Host;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// An INVITE that waits: the first thing that comes is the 100 of its transaction.
fn waiting(stage: &Stage) -> ImClient {
    let client = stage.client(ALICE, |_| {});
    client.send_invite();
    assert!(client.provisional(SOON), "{}", stage.proxy.log());
    client
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn cancel_while_the_enabler_thinks_gets_487_at_once() {
    HOST.set(Host::OpenSips);
    let charged = Charged::new(&[], |setup| setup).unjudged();
    charged.ocs.command("fault drop on=initial");
    let server = charged.stage.server(&[], |_| {});
    let mut client = waiting(&charged.stage);
    client.cancel();
    let status = client.final_response(SOON);
    // The request to the enabler has no end yet.
    let ends = ["ccr_answers", "ccr_timeouts", "ccr_failures"];
    let ended: i64 = ends.iter().map(|end| charged.stage.proxy.statistic(end)).sum();
    assert_eq!((status, ended), (487, 0), "{}", charged.stage.proxy.log());
    charged.expect(100, 0, 0);
    charged.expect_rest();
    assert_eq!(server.invites(), 0);
    // Nothing of it stays in the host.
    let transactions = || {
        let all = charged.stage.proxy.rpc(&["get_statistics", "[tm:]"]).unwrap_or_default();
        all.contains("\"tm:inuse_transactions\":0")
    };
    assert!(eventually(Duration::from_secs(20), transactions), "{}", charged.stage.proxy.log());
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn a_script_that_serves_for_nothing_does_not_serve_a_cancelled_invite() {
    HOST.set(Host::OpenSips);
    let charged = Charged::new(&[], |setup| {
        let relay = "$du = \"sip:127.0.0.1:5070\";\n        t_relay();";
        setup.changed(
            "    if ($var(rc) == -4) exit;\n    if ($var(rc) < 0) {",
            &format!("    if ($var(rc) < 0) {{\n        {relay}\n        exit;"),
        )
    });
    let charged = charged.unjudged();
    charged.ocs.command("fault drop on=initial");
    let server = charged.stage.server(&[], |_| {});
    for _ in 0..5 {
        let mut client = waiting(&charged.stage);
        client.cancel();
        assert_eq!(client.final_response(SOON), 487, "{}", charged.stage.proxy.log());
    }
    charged.expect_rest();
    assert_eq!(server.invites(), 0, "{}", charged.stage.proxy.log());
}

/// The engine gives no verdict and is not restarted.
#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn an_invite_without_a_verdict_is_answered() {
    HOST.set(Host::OpenSips);
    let stage = Stage::new(|setup| setup);
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&[], |_| {});
    let engine = stage.proxy.engine_pid().expect("an engine");
    let supervisor = parent_of(engine);
    let stopped = [supervisor, engine];
    stopped.iter().for_each(|pid| stage.proxy.signal("STOP", Some(*pid)));
    let mut client = waiting(&stage);
    let status = client.final_response(Duration::from_secs(60));
    stopped.iter().rev().for_each(|pid| stage.proxy.signal("CONT", Some(*pid)));
    assert_eq!(status, 503, "{}", stage.proxy.log());
    assert!(stage.proxy.log().contains("got no verdict within 40 seconds"), "{}", stage.proxy.log());
    // What it reserves after all is given back.
    stage.expect(ALICE, 100, 0, 0);
}

fn parent_of(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a process has a parent");
    line.trim().parse().expect("a number")
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn a_number_of_messages_that_is_none_is_answered_and_named() {
    HOST.set(Host::OpenSips);
    let stage = Stage::new(|setup| setup.changed("imcharge_reserve(10)", "imcharge_reserve($(hdr(X-Messages)))"));
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&[], |_| {});
    let invite = |count: &str| {
        stage.client(ALICE, |options| options.headers = vec![("X-Messages".into(), count.into())]).invite()
    };
    assert_eq!(invite("many"), 500, "{}", stage.proxy.log());
    let log = stage.proxy.log();
    assert!(log.contains("Variable in param [1] is not an integer"), "{log}");
    assert!(log.contains("Failed to get fixups for async command <imcharge_reserve>"), "{log}");
    stage.expect(ALICE, 100, 0, 0);
}
