//! Payer and direction of a session: decided by what the network asserts, as the script has left it, and by nothing that
//! the caller writes.

use super::sessions::in_lua;
use super::{ALICE, Stage};
use imcharge_testkit::parties::client::{Options, Reaction};
use imcharge_testkit::proxy::Setup;
use std::path::Path;

const ASSERTED: &str = "P-Asserted-Identity";
/// The identity that a caller must not be able to charge.
const VICTIM: &str = "sip:victim@example.org";
/// The identity of a server that delivers messages.
const STORE_AND_FORWARD: &str = "sip:rcse-standfw@operator.example";
/// The user that the IM server's INVITE would address.
const CALLED: &str = "sip:deferred@im.example.org";
const REMOVE: &str = "remove_hf(\"P-Asserted-Identity\");";
const ASSERT_ALICE: &str = "append_hf(\"P-Asserted-Identity: <sip:alice@example.org>\\r\\n\");";

/// These statements are run before `imcharge_reserve()`; both hosts' scripts have the same line there.
fn before_reserve(setup: Setup, statements: &str) -> Setup {
    setup.changed("    record_route();\n", &format!("    {statements}\n    record_route();\n"))
}

/// A caller that writes these P-Asserted-Identity headers itself.
fn forges(identities: &[&str]) -> impl FnOnce(&mut Options) {
    let headers = identities.iter().map(|identity| (ASSERTED.into(), format!("<{identity}>"))).collect();
    move |options| (options.asserted, options.headers) = (false, headers)
}

/// A stage where Alice, the victim and the called party have 100 each.
fn stage(change: impl FnOnce(Setup) -> Setup) -> Stage {
    let stage = Stage::new(change);
    [ALICE, VICTIM, CALLED].iter().for_each(|account| stage.proxy.set_account(account, 100));
    stage
}

/// Alice pays for the one message that she fetches, in spite of these headers; no other account does.
#[track_caller]
fn assert_alice_pays(stage: &Stage, forged: &[&str]) {
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.client(ALICE, forges(forged));
    assert_eq!(client.invite(), 200, "{forged:?}\n{}", stage.proxy.log());
    client.bind();
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1, "{forged:?}\n{}", stage.proxy.log());
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
    stage.expect(VICTIM, 100, 0, 0);
    stage.expect(CALLED, 100, 0, 0);
    assert_eq!(stage.proxy.count("SELECT count(*) FROM sessions WHERE direction='push'"), 0);
    assert_eq!(stage.proxy.count("SELECT count(*) FROM debits"), 1);
}

#[test]
pub fn a_payer_named_by_the_script_pays_whatever_the_caller_asserts() {
    for statements in ["", REMOVE] {
        let named = format!("$avp(payer) = \"{ALICE}\"; {statements}");
        let stage = stage(|setup| before_reserve(setup.parameter("subscriber", "\"$avp(payer)\""), &named));
        assert_alice_pays(&stage, &[STORE_AND_FORWARD]);
    }
}

#[test]
pub fn an_identity_that_the_script_replaces_pays_nothing() {
    let stage = stage(|setup| before_reserve(setup, &format!("{REMOVE} {ASSERT_ALICE}")));
    assert_alice_pays(&stage, &[VICTIM, STORE_AND_FORWARD]);
}

#[test]
pub fn removed_identity_is_not_charged() {
    let stage = stage(|setup| before_reserve(setup, REMOVE));
    let _server = stage.server(&[], |_| {});
    for forged in [VICTIM, STORE_AND_FORWARD] {
        let mut client = stage.client(ALICE, forges(&[forged]));
        assert_eq!(client.invite(), 403, "{forged}\n{}", stage.proxy.log());
        let line = format!("{} refused: no-identity", client.call_id);
        assert!(stage.proxy.log().contains(&line), "{}", stage.proxy.log());
    }
    assert_eq!(stage.proxy.count("SELECT count(*) FROM holds"), 0);
}

/// Edits inside a header, removals that overlap, and an addition before a removed header.
#[test]
fn edits_within_a_header_are_read() {
    for statements in [
        "subst(\"/^P-Asserted-Identity:.*victim/P-Asserted-Identity: <sip:alice/\");",
        "remove_hf_re(\"^P-Asserted\"); \
         remove_hf(\"P-Asserted-Identity\"); append_hf(\"P-Asserted-Identity: <sip:alice@example.org>\\r\\n\");",
        "insert_hf(\"P-Asserted-Identity: <sip:alice@example.org>\\r\\n\"); remove_hf(\"P-Asserted-Identity\");",
        "append_hf(\"P-Asserted-Identity: <sip:alice@example.org>\\r\\n\", \"Call-ID\"); remove_hf(\"P-Asserted-Identity\");",
    ] {
        let stage = stage(|setup| before_reserve(setup, statements));
        assert_alice_pays(&stage, &[VICTIM]);
    }
}

/// Kamailio writes a second Record-Route header, and what hangs on it, only where an INVITE leaves by another address than
/// that on which it came.
#[test]
fn an_identity_that_depends_on_the_way_out_is_refused() {
    let stage = stage(|setup| {
        let record_route = "record_route(\">\r\nP-Asserted-Identity: <sip:alice@example.org>\r\nX: <sip:x\")";
        setup.changed(
            "    record_route();\n",
            &format!("    remove_hf(\"P-Asserted-Identity\");\n    {record_route};\n"),
        )
    });
    let mut client = stage.client(ALICE, forges(&[VICTIM]));
    assert_eq!(client.invite(), 503);
    let log = stage.proxy.log();
    let lines = [
        format!("imcharge_reserve: {}: the script's changes to P-Asserted-Identity cannot be read", client.call_id),
        format!("no charging for {}: -5", client.call_id),
    ];
    assert!(lines.iter().all(|line| log.contains(line)), "{lines:?}\n{log}");
}

#[test]
fn the_from_that_the_script_has_changed_pays() {
    let from = "subst(\"/^From:.*victim/From: <sip:alice/\");";
    let stage = stage(|setup| before_reserve(setup.parameter("subscriber", "\"from\""), from));
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.client(VICTIM, forges(&[STORE_AND_FORWARD]));
    assert_eq!(client.invite(), 200, "{}", stage.proxy.log());
    client.bind();
    client.take(1, Reaction::Answer(200));
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
    stage.expect(VICTIM, 100, 0, 0);
}

#[test]
pub fn script_decides_the_direction() {
    let push = "SELECT count(*) FROM sessions WHERE direction='push'";
    // Deliveries that no store-and-forward identity shows, then a fetch by a caller that has one.
    for (direction, statements, asserted, pays) in [
        ("\"push\"", "", ALICE, CALLED),
        ("\"$avp(direction)\"", "$avp(direction) = \"push\";", ALICE, CALLED),
        ("\"sip:alice@EXAMPLE.org\"", "", ALICE, CALLED),
        ("\"pull\"", "", VICTIM, VICTIM),
        ("\"$avp(direction)\"", "", VICTIM, VICTIM),
        ("\"sip:rcse-standfw@other.example\"", "", VICTIM, VICTIM),
    ] {
        let stage = stage(|setup| before_reserve(setup.parameter("direction", direction), statements));
        let _server = stage.server(&[], |_| {});
        let mut client = stage.client(asserted, |_| {});
        assert_eq!(client.invite(), 200, "{direction} {asserted}\n{}", stage.proxy.log());
        stage.expect(pays, 90, 10, 0);
        assert_eq!(stage.proxy.count(push), i64::from(pays == CALLED), "{direction} {asserted}");
        if direction.contains("rcse-standfw") {
            // Another operator's server is a caller like any other.
            let mut other = stage.client(STORE_AND_FORWARD, |_| {});
            assert_eq!(other.invite(), 402, "{}", stage.proxy.log());
        }
        client.bye();
        stage.expect(pays, 100, 0, 0);
    }
    let stage = stage(|setup| {
        before_reserve(setup.parameter("direction", "\"$avp(direction)\""), "$avp(direction) = \"sideways\";")
    });
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 503);
    assert!(stage.proxy.log().contains("its value is 'sideways'; it must be pull or push"), "{}", stage.proxy.log());
}

#[test]
pub fn an_identity_is_charged_in_whatever_form_it_is_asserted() {
    const NUMBER: &str = "sip:+49301234@example.org";
    let stage = Stage::new(|setup| setup);
    stage.proxy.set_account(NUMBER, 100);
    let _server = stage.server(&["one"], |_| {});
    let forms = ["sip:+49-30.1234@Example.org.;user=phone", "sip:%2b4930(1234)@example.org:5060;user=phone", NUMBER];
    for (paid, form) in (1..).zip(forms) {
        let mut client = stage.client(ALICE, forges(&[form]));
        assert_eq!(client.invite(), 200, "{form}\n{}", stage.proxy.log());
        client.bind();
        client.take(1, Reaction::Answer(200));
        client.bye();
        stage.expect(NUMBER, 100 - paid, 0, paid);
    }
}

/// A stage whose shipped Lua script runs these statements before it reserves.
fn stage_in_lua(folder: &Path, statements: &str, change: impl FnOnce(Setup) -> Setup) -> Stage {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("kamailio-config/kamailio/kamailio.lua");
    let shipped = std::fs::read_to_string(shipped).expect("the shipped script");
    let place = "    KSR.rr.record_route()\n";
    assert!(shipped.contains(place));
    let script = folder.join("changed.lua");
    std::fs::write(&script, shipped.replace(place, &format!("{statements}\n{place}"))).expect("a script");
    stage(|setup| change(in_lua(setup)).defined("LUA_SCRIPT", format!("\"{}\"", script.display())))
}

#[test]
fn identities_are_read_as_a_lua_script_has_left_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let remove = "    KSR.hdr.remove(\"P-Asserted-Identity\")";
    let append = format!("{remove}\n    KSR.hdr.append(\"P-Asserted-Identity: <{ALICE}>\\r\\n\")");
    let stage = stage_in_lua(folder.path(), &append, |setup| setup);
    assert_alice_pays(&stage, &[STORE_AND_FORWARD, VICTIM]);
    let named = format!("{remove}\n    KSR.pv.sets(\"$avp(payer)\", \"{ALICE}\")");
    let stage = stage_in_lua(folder.path(), &named, |setup| setup.parameter("subscriber", "\"$avp(payer)\""));
    assert_alice_pays(&stage, &[STORE_AND_FORWARD]);
}
