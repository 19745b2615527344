//! Chat between a party of the test kit and msrp_ua, an MSRP stack of other authors: Kamailio or OpenSIPS charges both.

use super::super::chat::BOB;
use super::super::{ALICE, HOST, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::ImClient;
use imcharge_testkit::proxy::{Host, Proxy, Setup};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Bob: an OpenSIPS with msrp_ua.
struct Bob {
    opensips: Proxy,
}

impl Bob {
    /// Starts Bob, who asks this MSRP relay for a URI, or has a path of his own.
    fn start(relay: SocketAddr, asks: bool) -> Bob {
        let config = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/opensips/party.cfg");
        let mut setup = Setup { config, ..Setup::for_opensips(&super::module(), relay) };
        if !asks {
            let parameter = "modparam(\"msrp_ua\", \"relay_uri\"";
            setup = setup.changed(parameter, &format!("#{parameter}"));
        }
        Bob { opensips: Proxy::start(setup).unwrap_or_else(|error| panic!("{error}")) }
    }

    /// Sends a text to Alice. The error is the one of the management interface.
    fn send(&self, alice: &ImClient, text: &str) -> Result<String, String> {
        let own = alice.msrp_paths().1.rsplit(' ').next().unwrap_or_default();
        let session = own.rsplit('/').next().and_then(|rest| rest.split(';').next()).unwrap_or_default();
        let (session, body) = (format!("session_id={session}"), format!("body={text}"));
        let words = ["msrp_ua_send_message", &session, "mime=text/plain", &body, "failure_report=yes"];
        self.opensips.rpc(&words)
    }

    fn has_received(&self, text: &str) -> bool {
        eventually(SOON, || self.opensips.log().contains(&format!("received '{text}'")))
    }
}

/// Alice sends five texts and a picture, which Bob refuses; Bob has credit for four of his five texts.
fn chat_with_msrp_ua(stage: &Stage) {
    stage.proxy.set_account(ALICE, 20);
    stage.proxy.set_account(BOB, 4);
    // msrp_relay always challenges, and msrp_ua 3.6.8 accepts no challenge: it passes ALG_MD5 instead of ALGFLG_MD5 to the
    // parser. There Alice asks.
    let asks = HOST.get() == Host::Kamailio;
    let bob = Bob::start(stage.proxy.msrp, asks);
    let log = || format!("{}\n{}", bob.opensips.log(), stage.proxy.log());
    let uri = format!("{BOB}:{}", bob.opensips.sip.port());
    let mut alice = stage.client(ALICE, |options| (options.request_uri, options.via_relay) = (uri, !asks));
    assert_eq!(alice.invite(), 200, "{}", log());
    alice.bind();
    // It sends to the address from which the first SEND has come.
    assert_eq!(alice.deliver("alice0", b"text 0"), 200, "{}", log());
    assert!(bob.has_received("text 0"), "{}", log());
    for n in 1..5 {
        let text = format!("reply {n}");
        assert!(eventually(SOON, || bob.send(&alice, &text).is_ok()), "{}", log());
        let frame = alice.next_send(SOON).unwrap_or_else(|| panic!("no {text}\n{}", log()));
        assert_eq!(frame.body.as_deref(), Some(text.as_bytes()));
        alice.answer(&frame, 200);
        assert_eq!(alice.deliver(&format!("alice{n}"), format!("text {n}").as_bytes()), 200, "{}", log());
        assert!(bob.has_received(&format!("text {n}")), "{}", log());
    }
    assert_eq!(alice.deliver_in_chunks("picture", "image/png", b"png", 1), 200, "{}", log());
    stage.until_debited(ALICE, 5);
    stage.until_debited(BOB, 4);
    bob.send(&alice, "beyond the credit").expect("the relay refuses it, not msrp_ua");
    assert!(alice.next_send(Duration::from_millis(500)).is_none(), "a message beyond the credit was relayed");
    assert_eq!(alice.bye(), 200, "{}", log());
    stage.expect(ALICE, 15, 0, 5);
    stage.expect(BOB, 0, 0, 4);
    assert_eq!(stage.triggers(ALICE), ["response"; 5]);
    assert_eq!(stage.triggers(BOB), ["response"; 4]);
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn chat_of_msrp_ua_through_kamailio_is_charged_to_both_parties() {
    let assigns = "event_route[msrp:frame-in] {\n    if ($msrp(method) == \"AUTH\") {\n        \
                   msrp_reply(\"200\", \"OK\", \"Use-Path: msrp://$Ri:$Rp/relayed;tcp\\r\\n\");\n        exit;\n    }\n";
    let stage = Stage::new(|setup| {
        let setup = setup.defined("WITH_CHAT", "1");
        setup.changed("event_route[msrp:frame-in] {\n", assigns)
    });
    chat_with_msrp_ua(&stage);
}

#[test]
#[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
fn chat_of_msrp_ua_through_opensips_is_charged_to_both_parties() {
    HOST.set(Host::OpenSips);
    // The INVITE goes to its Request-URI, not to an IM server.
    let server = "        $du = \"sip:127.0.0.1:5070\";\n        t_relay();";
    let to_bob = "        # 127.0.0.1:5070\n        t_relay();";
    chat_with_msrp_ua(&Stage::new(|setup| setup.defined("WITH_CHAT", "1").changed(server, to_bob)));
}
