//! The manual's own examples, taken out of README.md as they are written there and run.

use super::parties::client::Reaction;
use super::parties::eventually;
use super::parties::kamailio::Setup;
use super::sessions::in_lua;
use super::{ALICE, Stage};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Where the examples of the manual have the IM server.
const SERVER: &str = "\"sip:127.0.0.1:5070\"";

fn read(path: &str) -> String {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{}: {error}", whole.display()))
}

/// The code blocks of the section under a heading, in their order.
fn blocks(heading: &str) -> Vec<String> {
    let manual = read("README.md");
    let from = manual.find(&format!("\n{heading}")).unwrap_or_else(|| panic!("the manual has no {heading}"));
    let section = &manual[from + 1..];
    let section = &section[..section.find("\n#").unwrap_or(section.len())];
    let blocks: Vec<String> = section.split("```\n").skip(1).step_by(2).map(str::to_owned).collect();
    assert!(!blocks.is_empty(), "{heading} has no example");
    blocks
}

/// The settings of the shipped configuration with the routes of the manual.
fn routes_of_the_manual(setup: Setup, folder: &Path) -> Setup {
    let shipped = read("kamailio-config/kamailio.cfg");
    let (settings, _) = shipped.split_once("request_route {").expect("the shipped configuration has routes");
    let routes = [blocks("### 4.1."), blocks("### 4.2."), blocks("### 6.1.")].concat().concat();
    let config = folder.join("manual.cfg");
    std::fs::write(&config, settings.to_owned() + &routes).expect("a file");
    let server = format!("\"sip:{}\"", setup.server);
    Setup { config, ..setup }.changed(SERVER, &server)
}

#[test]
fn the_routes_of_the_manual_charge_a_retrieval() {
    let folder = tempfile::tempdir().expect("a folder");
    let stage = Stage::new(|setup| routes_of_the_manual(setup, folder.path()));
    stage.kamailio.set_account(ALICE, 12);
    let server = stage.server(&["one", "two", "three"], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(3, Reaction::Answer(200)).len(), 3, "{}", stage.kamailio.log());
    stage.until_debited(ALICE, 3);
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 9, 0, 3);
    for message_id in server.message_ids() {
        let line = format!("{ALICE} paid 1 for {message_id} (response)");
        let logged = || stage.kamailio.log().contains(&line);
        assert!(eventually(Duration::from_secs(5), logged), "{line}\n{}", stage.kamailio.log());
    }
    // Each refusal has its own status.
    stage.kamailio.set_account(ALICE, 0);
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 402, "no credit");
    assert_eq!(stage.client("sip:stranger@example.org", |_| {}).invite(), 402, "no account");
    assert_eq!(stage.client(ALICE, |options| options.asserted = false).invite(), 503, "no identity");
    // A CANCEL ends what it should.
    stage.kamailio.set_account(ALICE, 9);
    drop(server);
    let _server = stage.server(&[], |options| options.rings = true);
    let mut cancelled = stage.client(ALICE, |_| {});
    cancelled.send_invite();
    assert!(cancelled.ringing(Duration::from_secs(5)), "{}", stage.kamailio.log());
    cancelled.cancel();
    assert_eq!(cancelled.final_response(Duration::from_secs(5)), 487);
    stage.expect(ALICE, 9, 0, 3);
}

/// What the manual says of the order in which modules are loaded.
#[test]
fn msrp_may_be_loaded_after_the_module_and_tm_may_not() {
    let stage = Stage::new(|setup| {
        setup.changed(
            "loadmodule \"msrp.so\"\nloadmodule \"imcharge.so\"",
            "loadmodule \"imcharge.so\"\nloadmodule \"msrp.so\"",
        )
    });
    stage.kamailio.set_account(ALICE, 100);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
    let log = super::bad_input::refused(|setup| {
        setup
            .changed("loadmodule \"tm.so\"\n", "")
            .changed("loadmodule \"imcharge.so\"\n", "loadmodule \"imcharge.so\"\nloadmodule \"tm.so\"\n")
            .changed("loadmodule \"tmx.so\"\n", "")
    });
    assert!(log.contains("write loadmodule \"tm.so\" before loadmodule \"imcharge.so\""), "{log}");
}

/// The host keeps 32 bits of an integer; a text keeps all of it.
#[test]
fn a_large_number_is_exact_where_it_is_written_as_a_text() {
    let stage = Stage::new(|setup| setup.parameter("default_balance", "\"5000000000\""));
    let _server = stage.server(&[], |_| {});
    let mut client = stage.client(ALICE, |_| {});
    assert_eq!(client.invite(), 200, "{}", stage.kamailio.log());
    client.bye();
    stage.expect(ALICE, 5_000_000_000, 0, 0);
}

/// Every query of the manual is one that `sqlite3` answers, while the proxy runs.
#[test]
fn the_queries_of_the_manual_find_what_happened() {
    let stage = Stage::new(in_lua);
    stage.kamailio.set_account(ALICE, 100);
    let server = stage.server(&["one", "two"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(2, Reaction::Answer(200));
    stage.until_debited(ALICE, 2);
    client.bye();
    stage.expect(ALICE, 98, 0, 2);
    let queries: Vec<String> = blocks("## 7.").into_iter().filter(|block| block.starts_with("sqlite3 ")).collect();
    assert_eq!(queries.len(), 1, "the queries stand in one block");
    let ledger = stage.kamailio.state_dir().join("ledger.sqlite");
    let script = queries[0]
        .replace("/var/lib/imcharge/ledger.sqlite", &ledger.display().to_string())
        .replace("'CALLID'", &format!("'{}'", client.call_id));
    let run = Command::new("sh").args(["-e", "-c", &script]).output().expect("a shell runs");
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    for word in server.message_ids().iter().map(String::as_str).chain(["granted", "debited", "released"]) {
        assert!(said.contains(word), "no {word} in\n{said}");
    }
}
