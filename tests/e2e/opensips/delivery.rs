//! Frames that the relay consumes or cannot send: the client is not charged for them.

use super::super::{ALICE, HOST, Stage};
use super::{as_user_agent, plain};
use imcharge_testkit::parties::client::{ImClient, Reaction};
use imcharge_testkit::proxy::{Host, Proxy, Setup};
use imcharge_testkit::{eventually, unique};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Drops the client's MSRP connection and waits until the proxy has no connection to its address.
fn drop_connection(stage: &Stage, client: &ImClient) {
    client.drop_connection();
    let own = client.msrp_paths().0.rsplit(' ').next().unwrap_or_default().to_owned();
    let port = own.split(['/', ':', ';']).find(|part| part.parse::<u16>().is_ok()).unwrap_or_default().to_owned();
    let gone = || {
        let connections = stage.proxy.rpc(&["list_tcp_conns"]).expect("the host's connections");
        !connections.contains(&format!(":{port}\""))
    };
    assert!(eventually(SOON, gone), "{}", stage.proxy.log());
}

/// Steps of the call in the trace, of this kind.
fn steps(stage: &Stage, client: &ImClient, step: &str) -> usize {
    let trace = stage.proxy.rpc(&["imcharge.explain", &client.call_id]).expect("the trace");
    trace.matches(&format!("\"step\":\"{step}\"")).count()
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn a_message_that_msrp_ua_could_not_send_is_not_debited() {
    HOST.set(Host::OpenSips);
    let stage = Stage::new(as_user_agent);
    stage.proxy.set_account(ALICE, 3);
    let mut client = stage.bound(|_| {});
    let session = format!("session_id={}", client.peer_session());
    let send = || stage.proxy.rpc(&["msrp_ua_send_message", &session, "mime=text/plain", "body=one"]);
    assert!(eventually(SOON, || send().is_ok()), "{}", stage.proxy.log());
    let frame = client.next_send(SOON).expect("a message");
    client.answer(&frame, 200);
    stage.until_debited(ALICE, 1);
    drop_connection(&stage, &client);
    send().expect_err("the client cannot be reached");
    assert!(eventually(SOON, || steps(&stage, &client, "unsent") == 1), "{}", stage.proxy.log());
    client.bye();
    stage.expect(ALICE, 2, 0, 1);
    assert_eq!(stage.triggers(ALICE), ["response"]);
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn a_message_that_msrp_relay_could_not_send_on_is_not_debited() {
    let stage = plain();
    for via_relay in [false, true] {
        let server = stage.server(&[], |_| {});
        let mut client = stage.bound(|options| options.via_relay = via_relay);
        let (client_path, server_path) = client.msrp_paths();
        let (relay, own) = server_path.split_once(' ').expect("the relay and the server");
        let send = |relay: &str, failure_report: &str| {
            let id = format!("tr{}", unique());
            format!(
                "MSRP {id} SEND\r\nTo-Path: {relay} {client_path}\r\nFrom-Path: {own}\r\nMessage-ID: m{id}\r\n\
                 Byte-Range: 1-3/3\r\nFailure-Report: {failure_report}\r\nContent-Type: text/plain\r\n\r\none\r\n\
                 -------{id}$\r\n"
            )
        };
        let unknown = relay.rsplit_once('/').map(|(front, _)| format!("{front}/unknown;tcp")).expect("a session");
        drop_connection(&stage, &client);
        for (count, frame) in [send(relay, "yes"), send(relay, "no"), send(&unknown, "no")].iter().enumerate() {
            assert!(eventually(SOON, || server.write_raw(frame.as_bytes()).is_ok()));
            let seen = || steps(&stage, &client, "unsent") == count + 1;
            assert!(eventually(SOON, seen), "via_relay {via_relay}: {frame}\n{}", stage.proxy.log());
        }
        client.bye();
        stage.expect(ALICE, 100, 0, 0);
    }
}

/// Named by an alias, `my_uri` is the relay's own: its 200 to itself is not the client's.
#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn my_uri_by_an_alias_is_the_relays_own() {
    HOST.set(Host::OpenSips);
    let stage = Stage::new(|setup| {
        setup
            .changed("\"msrp://127.0.0.1:2855;tcp\"", "\"msrp://localhost:2855;tcp\"")
            .changed("alias=\"im.example.org\"", "alias=\"im.example.org\"\nalias=\"localhost\"")
    });
    stage.proxy.set_account(ALICE, 100);
    let relay = format!("localhost:{}", stage.proxy.msrp.port());
    let _server = stage.server(&["one"], |options| options.relay_name.clone_from(&relay));
    let mut client = stage.bound(|options| {
        options.via_relay = true;
        options.relay_name = relay;
    });
    assert_eq!(client.take(1, Reaction::Silence).len(), 1, "{}", stage.proxy.log());
    stage.until_debited(ALICE, 1);
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
    assert_eq!(stage.triggers(ALICE), ["timeout"]);
}

/// The log of a start that fails.
fn refused(change: impl FnOnce(Setup) -> Setup) -> String {
    HOST.set(Host::OpenSips);
    let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    let started = Proxy::start(change(super::super::setup(nowhere)));
    started.err().expect("it must not start").to_string()
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn my_uri_that_is_no_address_of_the_proxy_stops_the_start() {
    for uri in ["msrp://relay.example.net:2855;tcp", "msrp://im.example.org:9;tcp"] {
        let log = refused(|setup| setup.changed("\"msrp://127.0.0.1:2855;tcp\"", &format!("\"{uri}\"")));
        assert!(log.contains("is neither an address of an msrp socket nor an alias"), "{uri}: {log}");
    }
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn loaded_before_proto_msrp_it_stops_the_start() {
    let log = refused(|setup| {
        setup
            .changed("loadmodule \"imcharge.so\"", "#")
            .changed("loadmodule \"proto_msrp.so\"", "loadmodule \"imcharge.so\"\nloadmodule \"proto_msrp.so\"")
    });
    assert!(log.contains("put loadmodule \"imcharge.so\" after loadmodule \"proto_msrp.so\""), "{log}");
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn without_proto_msrp_it_does_not_start() {
    let log = refused(|setup| {
        setup
            .changed("socket=msrp:", "#socket=msrp:")
            .changed("loadmodule \"proto_msrp.so\"", "#")
            .changed("loadmodule \"auth.so\"\nloadmodule \"msrp_relay.so\"", "")
            .changed("modparam(\"msrp_relay\"", "#modparam(\"msrp_relay\"")
    });
    assert!(log.contains("the module proto_msrp is not loaded"), "{log}");
}
