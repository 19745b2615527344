//! Wrong parameters, hostile messages, a ledger that cannot be used: each has its line and its number.

use super::{ALICE, Stage, setup};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::{Host, Proxy, Setup};
use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

pub fn refused(change: impl FnOnce(Setup) -> Setup) -> String {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let started = Proxy::start(change(setup(nowhere)));
    started.err().map(|error| error.to_string()).expect("it must not start")
}

#[test]
pub fn a_wrong_parameter_stops_the_start_with_one_line() {
    for (name, value) in [
        ("policy", "\"5xx=maybe\""),
        ("unit", "\"pounds\""),
        ("hold_timeout", "0"),
        ("default_balance", "-1"),
        ("max_sessions", "\"many\""),
        ("debit_on", "\"read\""),
    ] {
        let log = refused(|setup| setup.parameter(name, value));
        let wanted = format!("parameter {name}: '{}' is not allowed; accepted: ", value.trim_matches('"'));
        assert_eq!(log.matches(&wanted).count(), 1, "{wanted}\n{log}");
    }
    let log = refused(|setup| setup.defined("TARIFF", "\"kilobyte:1\""));
    assert!(log.contains("parameter tariff: 'kilobyte:1' is not allowed with unit=message; accepted: "), "{log}");
}

#[test]
pub fn negative_number_of_messages_is_refused() {
    let stage = Stage::new(|setup| match setup.host {
        Host::OpenSips => setup.changed("imcharge_reserve(10)", "imcharge_reserve(-3)"),
        Host::Kamailio => {
            setup.changed("imcharge_reserve(\"CHARGED\", \"10\")", "imcharge_reserve(\"CHARGED\", \"-3\")")
        }
    });
    stage.proxy.set_account(ALICE, 100);
    let client = &mut stage.client(ALICE, |_| {});
    assert_eq!(client.invite(), 503, "{}", stage.proxy.log());
    let log = stage.proxy.log();
    assert!(
        log.contains("imcharge_reserve: the number of messages is -3; accepted is 0 (not known) and more"),
        "{log}"
    );
    assert!(log.contains(&format!("no charging for {}: -1", client.call_id)), "{log}");
    stage.expect(ALICE, 100, 0, 0);
    assert_eq!(stage.proxy.statistic("reserves"), 0);
}

#[test]
fn missing_route_and_folder_are_named() {
    let log = refused(|setup| {
        setup.changed("imcharge_reserve(\"CHARGED\", \"10\")", "imcharge_reserve(\"NOWHERE\", \"10\")")
    });
    assert!(log.contains("the script has no route[NOWHERE]"), "{log}");
    let log = refused(|setup| setup.changed("\"state_dir\", STATE_DIR", "\"state_dir\", \"/nonexistent/imcharge\""));
    assert!(log.contains("parameter state_dir: cannot write /nonexistent/imcharge/lock"), "{log}");
}

#[test]
fn a_ledger_of_another_version_and_a_foreign_file_are_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger.sqlite");
    let state = format!("\"{}\"", folder.path().display());
    let connection = rusqlite::Connection::open(&path).expect("a file");
    connection.execute_batch("CREATE TABLE mine(x); PRAGMA user_version=1000;").expect("SQL");
    let log = refused(|setup| setup.changed("\"state_dir\", STATE_DIR", &format!("\"state_dir\", {state}")));
    assert!(log.contains("not a ledger of imcharge"), "{log}");
    connection.execute_batch("PRAGMA application_id=0x696d6368;").expect("SQL");
    let log = refused(|setup| setup.changed("\"state_dir\", STATE_DIR", &format!("\"state_dir\", {state}")));
    assert!(log.contains("ledger version 1000, but this imcharge reads version 1"), "{log}");
    connection.execute_batch("PRAGMA user_version=0;").expect("SQL");
    let log = refused(|setup| setup.changed("\"state_dir\", STATE_DIR", &format!("\"state_dir\", {state}")));
    assert!(log.contains("ledger version 0, but this imcharge reads version 1"), "{log}");
    assert_eq!(connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0)), Ok(1));
}

#[test]
pub fn hostile_frames_and_messages_are_counted_and_the_proxy_serves_on() {
    let stage = Stage::plain();
    let _server = stage.server(&["one"], |_| {});
    let frames = [
        "MSRP a786hjs2 SEND\r\nTo-Path: x\r\nFrom-Path: y\r\nMessage-ID: 1234\r\n-------a786hjs2$\r\n",
        "MSRP a786hjs3 SEND\r\nTo-Path: msrp://a/b;tcp\r\nFrom-Path: msrp://a/b;tcp\r\nByte-Range: 9\r\n-------a786hjs3$\r\n",
        "MSRP a786hjs4 SEND\r\nTo-Path: msrp://a/b;tcp\r\n-------a786hjs4$\r\n",
    ];
    for frame in frames {
        let mut stream = TcpStream::connect(stage.proxy.msrp).expect("the relay takes a connection");
        stream.write_all(frame.as_bytes()).expect("written");
    }
    let counted =
        imcharge_testkit::eventually(Duration::from_secs(5), || stage.proxy.statistic("frames_malformed") >= 2);
    assert!(counted, "{} malformed\n{}", stage.proxy.statistic("frames_malformed"), stage.proxy.log());
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for text in [
        "INVITE sip:x@im.example.org SIP/2.0\r\n\r\n",
        "INVITE sip:x@im.example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKx\r\nFrom: <sip:a@b>\r\nTo: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nMax-Forwards: 9\r\n\r\n",
        "BYE sip:x@im.example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKy\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: none\r\nCSeq: 1 BYE\r\nMax-Forwards: 9\r\n\r\n",
        "\0\u{1}garbage",
    ] {
        socket.send_to(text.as_bytes(), stage.proxy.sip).expect("sent");
    }
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
    assert_eq!(stage.proxy.statistic("engine_restarts"), 0);
}

#[test]
pub fn a_full_table_refuses_new_sessions_and_keeps_the_old_ones() {
    let stage = Stage::new(|setup| setup.parameter("max_sessions", "3"));
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&[], |_| {});
    let mut open: Vec<_> = (0..3).map(|_| stage.bound(|_| {})).collect();
    let mut fourth = stage.client(ALICE, |_| {});
    assert_eq!(fourth.invite(), 503);
    assert!(stage.proxy.statistic("dropped_table_full") >= 1);
    let line = format!("no charging for {}: -3", fourth.call_id);
    let logged = || stage.proxy.log().contains(&line);
    assert!(eventually(Duration::from_secs(5), logged), "{line}\n{}", stage.proxy.log());
    stage.expect(ALICE, 70, 30, 0);
    assert_eq!(open.remove(0).bye(), 200);
    stage.expect(ALICE, 80, 20, 0);
    let mut fifth = stage.client(ALICE, |_| {});
    assert_eq!(fifth.invite(), 200, "{}", stage.proxy.log());
}

#[test]
fn rpc_answers_with_structures_and_names_what_is_wrong() {
    let stage = Stage::plain();
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    stage.expect(ALICE, 90, 9, 1);
    let rpc = |command: &[&str]| stage.proxy.rpc(command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(rpc(&["imcharge.sessions"]).contains("phase: open"));
    assert!(rpc(&["imcharge.audit"]).contains("units: 9"));
    let explained = rpc(&["imcharge.explain", &client.call_id]);
    for word in ["step: invite", "step: granted", "step: send", "step: response", "step: debited", "units: 1"] {
        assert!(explained.contains(word), "no {word} in {explained}");
    }
    assert!(rpc(&["imcharge.account.add", "SIP:alice@EXAMPLE.org:5060", "10", "payment-1"]).contains("balance: 100"));
    assert!(rpc(&["imcharge.debits", ALICE]).contains("trigger: response"));
    assert!(rpc(&["imcharge.account.list"]).contains(ALICE));
    assert!(rpc(&["imcharge.outbox"]).contains("count: 0"));
    assert!(rpc(&["imcharge.reload", "message:2"]).contains("tariff: message:2"));
    assert!(rpc(&["stats.get_statistics", "imcharge:"]).contains("imcharge:debits = 1"));
    let fails = |command: &[&str]| stage.proxy.rpc(command).expect_err("it must fail");
    assert!(fails(&["imcharge.account.get", "sip:unknown@example.org"]).contains("404"));
    assert!(fails(&["imcharge.account.set", "alice", "1"]).contains("400"));
    assert!(fails(&["imcharge.account.set", ALICE, "x"]).contains("400"));
    assert!(fails(&["imcharge.session", "none"]).contains("404"));
    client.bye();
    stage.expect(ALICE, 109, 0, 1);
}
