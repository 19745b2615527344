//! How sessions begin, run side by side, and end.

use super::{ALICE, Stage, subscriber};
use imcharge_testkit::parties::client::{ImClient, Options as ClientOptions, Reaction};
use imcharge_testkit::parties::{msrp, sip};
use imcharge_testkit::proxy::Setup;
use imcharge_testkit::{Events, eventually, unique};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

#[test]
pub fn no_credit_is_402_and_holds_nothing() {
    let stage = Stage::new(|setup| setup);
    stage.proxy.set_account(ALICE, 0);
    let server = stage.server(&["one"], |_| {});
    for identity in [ALICE, "sip:unknown@example.org"] {
        let mut client = stage.client(identity, |_| {});
        assert_eq!(client.invite(), 402, "{}", stage.proxy.log());
    }
    assert_eq!(server.invites(), 0, "the INVITE went on without credit");
    stage.expect(ALICE, 0, 0, 0);
    assert_eq!(stage.proxy.count("SELECT count(*) FROM holds"), 0);
    assert_eq!(stage.proxy.statistic("reserves_denied"), 2);
}

#[test]
fn answer_to_another_call_is_ignored() {
    let stage = Stage::plain();
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.client(ALICE, |_| {});
    let elses = sip::Message { start: "SIP/2.0 503 Service Unavailable".into(), ..sip::Message::default() }
        .with("To", "<sip:deferred@im.example.org>;tag=other")
        .with("Call-ID", "other@example.org")
        .with("CSeq", "1 INVITE");
    // As if sent to the previous owner of the client's port.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.send_to(&elses.bytes(), client.address()).expect("a local address");
    assert_eq!(client.invite(), 200, "{}", stage.proxy.log());
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 100, 0, 0);
}

#[test]
pub fn an_unknown_subscriber_gets_the_default_balance_where_there_is_one() {
    let stage = Stage::new(|setup| setup.parameter("default_balance", "5"));
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    client.bye();
    stage.expect(ALICE, 4, 0, 1);
}

#[test]
pub fn a_repeated_invite_reserves_once_and_a_reinvite_not_at_all() {
    let stage = Stage::plain();
    let server = stage.server(&["one"], |_| {});
    let mut client = stage.client(ALICE, |_| {});
    (0..5).for_each(|_| client.send_invite());
    assert_eq!(client.invite(), 200, "{}", stage.proxy.log());
    stage.expect(ALICE, 90, 10, 0);
    assert_eq!(client.reinvite(), 200);
    client.bind();
    client.take(1, Reaction::Answer(200));
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 99, 0, 1);
    assert_eq!(stage.proxy.statistic("reserves"), 1);
    assert_eq!(server.invites(), 2);
}

#[test]
pub fn cancel_releases_what_was_reserved() {
    let stage = Stage::plain();
    let _server = stage.server(&[], |options| options.rings = true);
    let mut client = stage.client(ALICE, |_| {});
    client.send_invite();
    stage.expect(ALICE, 90, 10, 0);
    client.cancel();
    assert_eq!(client.final_response(Duration::from_secs(5)), 487);
    stage.expect(ALICE, 100, 0, 0);
}

#[test]
pub fn an_invite_by_a_second_way_is_merged_and_ends_nothing() {
    assert_that_a_second_way_is_merged(|setup| setup, 10);
}

#[test]
fn an_invite_by_a_second_way_is_merged_in_lua() {
    // The Lua script passes no number of messages.
    assert_that_a_second_way_is_merged(in_lua, 100);
}

fn assert_that_a_second_way_is_merged(change: fn(Setup) -> Setup, reserved: i64) {
    let stage = Stage::new(change);
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&[], |options| options.rings = true);
    let number = unique();
    let mut one_way = stage.client(ALICE, |options| options.number = Some(number));
    one_way.send_invite();
    assert!(one_way.ringing(Duration::from_secs(5)), "{}", stage.proxy.log());
    let mut other_way = stage.client(ALICE, |options| options.number = Some(number));
    assert_eq!(other_way.invite(), 482, "{}", stage.proxy.log());
    stage.expect(ALICE, 100 - reserved, reserved, 0);
    one_way.cancel();
    assert_eq!(one_way.final_response(Duration::from_secs(5)), 487);
    stage.expect(ALICE, 100, 0, 0);
    let ended_by_the_cancel = "SELECT count(*) FROM steps WHERE step='closed' AND rule='cancelled'";
    assert_eq!(stage.proxy.count(ended_by_the_cancel), 1);
    assert_eq!(stage.proxy.count("SELECT count(*) FROM sessions"), 1);
    assert_eq!(["reserves", "reserves_granted", "reserves_failed"].map(|name| stage.proxy.statistic(name)), [2, 1, 1]);
}

#[test]
pub fn cancel_during_the_reservation_gets_487_and_leaves_no_hold() {
    let stage = Stage::plain();
    let _server = stage.server(&[], |options| options.rings = true);
    for round in 0..50 {
        let mut client = stage.client(ALICE, |_| {});
        client.send_invite();
        // The first thing that comes is the 100 of the suspended transaction: the reservation may be on its way.
        assert!(client.provisional(Duration::from_secs(5)));
        client.cancel();
        let status = client.final_response(Duration::from_secs(5));
        assert_eq!(status, 487, "round {round}\n{}", stage.proxy.log());
    }
    stage.expect(ALICE, 100, 0, 0);
}

/// tm does not send the branches of an INVITE that is cancelled while `t_relay()` prepares them.
#[test]
fn cancel_during_t_relay_gets_487_and_leaves_no_hold() {
    let stage = Stage::new(|setup| {
        setup
            .changed("loadmodule \"pv.so\"", "loadmodule \"pv.so\"\nloadmodule \"cfgutils.so\"\nloadmodule \"corex.so\"")
            .changed(
                "        $du = IM_SERVER;\n        t_relay();",
                "        $du = IM_SERVER;\n        append_branch(\"sip:second@127.0.0.1:9\");\n        \
                 t_on_branch(\"SLOW\");\n        t_relay();",
            )
            .changed(
                "route[CHARGED] {",
                "branch_route[SLOW] {\n    if ($rU == \"second\") {\n        xlog(\"L_WARN\", \"second branch\\n\");\n        \
                 sleep(\"1\");\n    }\n}\nroute[CHARGED] {",
            )
    });
    stage.proxy.set_account(ALICE, 100);
    let server = stage.server(&[], |options| options.rings = true);
    let mut client = stage.client(ALICE, |_| {});
    client.send_invite();
    let prepares = || stage.proxy.log().contains("second branch");
    assert!(eventually(Duration::from_secs(5), prepares), "{}", stage.proxy.log());
    client.cancel();
    assert_eq!(client.final_response(Duration::from_secs(5)), 487, "{}", stage.proxy.log());
    assert_eq!(server.invites(), 0);
    stage.expect(ALICE, 100, 0, 0);
}

#[test]
fn an_invite_that_fails_releases_what_was_reserved() {
    let stage = Stage::new(|setup| {
        setup.changed(
            "        $du = IM_SERVER;\n        t_relay();",
            "        t_reply(\"480\", \"Temporarily Unavailable\");",
        )
    });
    stage.proxy.set_account(ALICE, 100);
    let mut client = stage.client(ALICE, |_| {});
    assert_eq!(client.invite(), 480);
    stage.expect(ALICE, 100, 0, 0);
    let outcome = "SELECT count(*) FROM sessions WHERE closed_at IS NOT NULL";
    assert_eq!(stage.proxy.count(outcome), 1);
}

#[test]
pub fn idle_session_releases_its_hold() {
    let stage = Stage::new(|setup| setup.parameter("hold_timeout", "2"));
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&[], |_| {});
    let mut client = stage.client(ALICE, |_| {});
    assert_eq!(client.invite(), 200);
    stage.expect(ALICE, 100, 0, 0);
}

#[test]
pub fn frames_that_pass_twice_count_once() {
    let stage = Stage::plain();
    let _server = stage.server(&["one", &"t".repeat(20_000)], |options| options.chunk = 9000);
    let mut client = stage.bound(|options| options.via_relay = true);
    assert_eq!(client.take(2, Reaction::Answer(415)).len(), 2, "{}", stage.proxy.log());
    stage.until_debited(ALICE, 2);
    client.bye();
    stage.expect(ALICE, 98, 0, 2);
    // Not the relay's own 200 has debited them.
    assert_eq!(stage.triggers(ALICE), ["error"; 2]);
}

#[test]
fn responses_along_the_whole_path_are_charged_alike() {
    let stage = Stage::new(|setup| {
        setup.changed(
            "    if ($msrp(method) == \"SEND\" && !($hdr(Failure-Report) =~ \"^(no|partial)$\")) msrp_reply(\"200\", \"OK\");\n",
            "",
        )
    });
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one", "two"], |_| {});
    let mut client = stage.bound(|options| options.whole_path = true);
    assert_eq!(client.take(2, Reaction::Answer(200)).len(), 2);
    client.bye();
    stage.expect(ALICE, 98, 0, 2);
}

#[test]
pub fn a_frame_that_comes_without_a_message_is_charged() {
    let stage = Stage::plain();
    // From 11,239 octets on the host has no SIP message for the event route; its relay stops at 14,336.
    let _server = stage.server(&[&"b".repeat(12_500)], |options| {
        (options.chunk, options.failure_report) = (13_000, Some("no"));
    });
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(1, Reaction::Silence).first().map(|got| got.1), Some(12_500));
    stage.expect(ALICE, 90, 9, 1);
    assert_eq!(stage.proxy.debits(ALICE)[0].octets, 12_500);
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
}

#[test]
pub fn the_other_party_pays_when_the_server_invites() {
    let stage = Stage::new(|setup| setup);
    // RCS push: the inviting party has the store-and-forward identity, and the called party pays.
    let callee = "sip:deferred@im.example.org";
    stage.proxy.set_account(callee, 100);
    let _server = stage.server(&[], |_| {});
    let mut client = stage.client("sip:rcse-standfw@operator.example", |_| {});
    assert_eq!(client.invite(), 200);
    stage.expect(callee, 90, 10, 0);
    let direction = "SELECT count(*) FROM sessions WHERE direction='push'";
    assert_eq!(stage.proxy.count(direction), 1);
    client.bye();
    stage.expect(callee, 100, 0, 0);
}

#[test]
pub fn the_script_names_who_pays() {
    let stage = Stage::new(|setup| setup.parameter("subscriber", "\"sip:$hdr(X-Sponsor)@example.org\""));
    stage.proxy.set_account("sip:acme@example.org", 50);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.client(ALICE, |options| options.headers.push(("X-Sponsor".into(), "acme".into())));
    assert_eq!(client.invite(), 200, "{}", stage.proxy.log());
    client.bind();
    client.take(1, Reaction::Answer(200));
    client.bye();
    stage.expect("sip:acme@example.org", 49, 0, 1);
}

#[test]
pub fn of_two_asserted_identities_the_parameter_chooses_who_pays() {
    const NUMBER: &str = "tel:+49301234";
    let (sip, tel) = (format!("<{ALICE}>"), format!("<{NUMBER}>"));
    let (one, phone) = (format!("{sip}, {tel}"), format!("{sip}, <sip:+49-30-1234@example.org;user=phone>"));
    for (identity, values, pays) in [
        ("first", &[tel.as_str(), &sip][..], NUMBER),
        ("sip", &[&tel, &sip], ALICE),
        ("tel", &[&sip, &tel], NUMBER),
        ("tel", &[&one], NUMBER),
        ("tel", &[&phone], NUMBER),
        ("tel", &[&sip], ALICE),
    ] {
        let stage = Stage::new(|setup| setup.parameter("identity", &format!("\"{identity}\"")));
        [ALICE, NUMBER].iter().for_each(|account| stage.proxy.set_account(account, 100));
        let _server = stage.server(&["one"], |_| {});
        let mut client = stage.client(ALICE, |options| {
            options.asserted = false;
            options.headers = values.iter().map(|value| ("P-Asserted-Identity".into(), (*value).into())).collect();
        });
        assert_eq!(client.invite(), 200, "{identity} {values:?}\n{}", stage.proxy.log());
        client.bind();
        client.take(1, Reaction::Answer(200));
        client.bye();
        stage.expect(pays, 99, 0, 1);
        stage.expect(if pays == ALICE { NUMBER } else { ALICE }, 100, 0, 0);
    }
}

#[test]
pub fn frames_of_no_session_are_stopped() {
    assert_that_unknown_sessions_are_stopped(|setup| setup);
}

#[test]
fn frames_of_no_session_are_stopped_in_lua() {
    assert_that_unknown_sessions_are_stopped(in_lua);
}

fn assert_that_unknown_sessions_are_stopped(change: fn(Setup) -> Setup) {
    let stage = Stage::new(change);
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
    // To the server of this session, from another endpoint.
    let (_, to) = client.msrp_paths();
    let stream = TcpStream::connect(stage.proxy.msrp).expect("it listens");
    let (mut reader, writer) = msrp::connection(stream).expect("a connection");
    let from = "msrp://127.0.0.1:9/unknown;tcp";
    let lines = format!("To-Path: {to}\r\nFrom-Path: {from}\r\nMessage-ID: unknown1\r\nByte-Range: 1-3/3\r\n");
    writer.request("unknown1", "SEND", &lines, Some(b"abc"), '$').expect("written");
    let answer = reader.next(Duration::from_secs(10)).expect("open").expect("an answer");
    assert_eq!((answer.id.as_str(), answer.status()), ("unknown1", 481), "{}", stage.proxy.log());
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 99, 0, 1);
}

#[test]
fn the_dialog_module_changes_nothing() {
    let stage = Stage::new(|setup| {
        setup
            .changed("loadmodule \"imcharge.so\"", "loadmodule \"dialog.so\"\nloadmodule \"imcharge.so\"")
            .changed("    record_route();", "    record_route();\n    dlg_manage();")
    });
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 99, 0, 1);
}

/// The shipped configuration in Lua.
pub fn in_lua(setup: Setup) -> Setup {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("kamailio-config/kamailio/kamailio-lua.cfg");
    let script = config.with_file_name("kamailio.lua");
    Setup { config, ..setup }.defined("LUA_SCRIPT", format!("\"{}\"", script.display()))
}

#[test]
fn lua_charges_like_the_native_script() {
    let stage = Stage::new(in_lua);
    stage.proxy.set_account(ALICE, 2);
    let server = stage.server(&["one", "two", "three"], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(2, Reaction::Answer(200)).len(), 2, "{}", stage.proxy.log());
    assert!(eventually(Duration::from_secs(5), || server.refused() == 1), "{}", stage.proxy.log());
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 0, 0, 2);
    assert_events_ran_for(&stage, &client.call_id, &server.message_ids()[..2]);
    let mut poor = stage.client(ALICE, |_| {});
    assert_eq!(poor.invite(), 402);
    let line = format!("{} refused: no-credit 4012", poor.call_id);
    let logged = || stage.proxy.log().contains(&line);
    assert!(eventually(Duration::from_secs(5), logged), "{line}\n{}", stage.proxy.log());
}

/// The shipped scripts log what they hear of each debit.
#[track_caller]
fn assert_events_ran_for(stage: &Stage, call_id: &str, message_ids: &[String]) {
    for message_id in message_ids {
        let line = format!("{ALICE} paid 1 for {message_id} of {call_id}: response");
        let heard = || stage.proxy.log().matches(&line).count() == 1;
        assert!(eventually(Duration::from_secs(5), heard), "{line}\n{}", stage.proxy.log());
    }
}

#[test]
fn event_route_runs_once_for_each_debit() {
    let stage = Stage::plain();
    let server = stage.server(&["one", "two", "three"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(3, Reaction::Answer(200));
    stage.until_debited(ALICE, 3);
    assert_events_ran_for(&stage, &client.call_id, &server.message_ids());
}

#[test]
pub fn two_hundred_sessions_at_once_are_right_to_the_last_unit() {
    const SESSIONS: usize = 200;
    let stage = Stage::new(|setup| setup.defined("RESPONSE_TIMEOUT", "20"));
    let _server = stage.server(&["one", "two", "three"], |_| {});
    let everyone: Vec<String> = (0..SESSIONS).map(|_| subscriber()).collect();
    everyone.iter().for_each(|id| stage.proxy.set_account(id, 10));
    std::thread::scope(|scope| {
        for (at, id) in everyone.iter().enumerate() {
            let (proxy, relay) = (stage.proxy.sip, stage.proxy.msrp);
            scope.spawn(move || {
                let options = ClientOptions::new(proxy, relay, id);
                let mut client = ImClient::new(options, Events::default()).expect("the relay takes a connection");
                assert_eq!(client.invite(), 200);
                client.bind();
                let reaction = if at % 2 == 0 { Reaction::Answer(200) } else { Reaction::Answer(415) };
                assert_eq!(client.take(3, reaction).len(), 3);
                assert_eq!(client.bye(), 200);
            });
        }
    });
    for id in &everyone {
        stage.expect(id, 7, 0, 3);
    }
    assert_eq!(stage.proxy.count("SELECT count(*) FROM debits"), 3 * SESSIONS as i64);
    assert_eq!(stage.proxy.count("SELECT count(*) FROM holds"), 0);
    let counters =
        ["frames_malformed", "dropped_ring_full", "dropped_table_full", "dropped_notifications", "engine_restarts"];
    assert_eq!(counters.map(|name| stage.proxy.statistic(name)), [0; 5]);
}
