//! Accounts: top-ups that are repeated, credit limits, the history, and the low-balance event.

use super::sessions::in_lua;
use super::{ALICE, HOST, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::{Host, Setup};
use std::net::UdpSocket;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// Runs a command about accounts, whatever the host calls it. Spaces and quotes of the answer are removed.
fn command(stage: &Stage, name: &str, arguments: &[&str]) -> Result<String, String> {
    let separator = if HOST.get() == Host::OpenSips { ':' } else { '.' };
    let name = format!("imcharge{separator}account.{name}");
    let words: Vec<&str> = std::iter::once(name.as_str()).chain(arguments.iter().copied()).collect();
    let compact = |text: String| text.replace([' ', '"'], "");
    stage.proxy.rpc(&words).map(compact)
}

/// Kinds and amounts of an account's changes, oldest first, as a text.
fn changes(stage: &Stage, id: &str) -> String {
    let sql = format!("SELECT group_concat(kind || amount, ' ' ORDER BY id) FROM balance_changes WHERE account='{id}'");
    stage.proxy.ledger().query_row(&sql, [], |row| row.get(0)).expect("a history")
}

/// Asserts that every account is the sum of its recorded changes.
fn expect_balanced(stage: &Stage) {
    let separator = if HOST.get() == Host::OpenSips { ':' } else { '.' };
    let audit = stage.proxy.rpc(&[&format!("imcharge{separator}audit"), "accounts"]);
    let audit = audit.unwrap_or_else(|error| panic!("{error}")).replace([' ', '"'], "");
    assert!(audit.contains("count:0"), "{audit}");
}

#[test]
pub fn top_up_counts_once_per_reference() {
    let stage = Stage::new(|setup| setup);
    stage.proxy.set_account(ALICE, 10);
    let add = |amount, reference| command(&stage, "add", &[ALICE, amount, reference, "webshop"]);
    let first = add("5", "payment-1").expect("added");
    assert!(first.contains("balance:15") && first.contains("duplicate:0"), "{first}");
    assert!(add("7", "payment-2").is_ok_and(|answer| answer.contains("balance:22")));
    let again = add("5", "payment-1").expect("the result of the first one");
    assert!(again.contains("balance:15") && again.contains("duplicate:1"), "{again}");
    let other = add("6", "payment-1").expect_err("another amount");
    assert!(other.contains("409") && other.contains("REFERENCE 'payment-1' was used for another amount, 5"), "{other}");
    assert_eq!(stage.proxy.account(ALICE).map(|account| account.balance), Some(22));
    assert_eq!(changes(&stage, ALICE), "set10 add5 add7");
    let history = command(&stage, "history", &[ALICE, "1"]).expect("a history");
    for field in ["kind:add", "amount:7", "reference:payment-2", "by:webshop", "balance:22", "more:1"] {
        assert!(history.contains(field), "{field} in {history}");
    }
    assert_eq!(stage.proxy.statistic("top_ups"), 2);
    expect_balanced(&stage);
}

#[test]
pub fn command_interrupted_by_a_kill_and_repeated_counts_once() {
    let mut stage = Stage::new(|setup| setup);
    stage.proxy.set_account(ALICE, 0);
    let mut duplicates = 0;
    for (round, kills_proxy) in [false, true, false, true].into_iter().enumerate() {
        let reference = format!("payment-{round}");
        let add = |stage: &Stage| command(stage, "add", &[ALICE, "5", &reference]);
        let engine = stage.proxy.engine_pid().expect("an engine");
        stage.proxy.signal("STOP", Some(engine));
        assert!(add(&stage).expect_err("the engine is stopped").contains("503"));
        if kills_proxy {
            stage.proxy.kill_all();
            stage.proxy.restart().unwrap_or_else(|error| panic!("{error}"));
        } else {
            stage.proxy.signal("KILL", Some(engine));
        }
        let mut answer = String::new();
        let is_answered = eventually(SOON, || add(&stage).map(|text| answer = text).is_ok());
        assert!(is_answered, "{}", stage.proxy.log());
        assert!(answer.contains(&format!("balance:{}", 5 * (round + 1))), "{answer}");
        duplicates += usize::from(answer.contains("duplicate:1"));
    }
    assert_eq!(duplicates, 4, "a command that the stopped engine had not read was lost");
    assert_eq!(changes(&stage, ALICE), "set0 add5 add5 add5 add5");
    stage.expect(ALICE, 20, 0, 0);
    expect_balanced(&stage);
}

#[test]
pub fn credit_limit_lets_the_balance_fall_below_zero_and_no_further() {
    let stage = Stage::new(|setup| setup);
    stage.proxy.set_account(ALICE, 1);
    assert!(command(&stage, "limit", &[ALICE, "2", "carol"]).is_ok_and(|answer| answer.contains("limit:2")));
    let _server = stage.server(&["one", "two", "three", "four"], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(3, Reaction::Answer(200)).len(), 3);
    stage.until_debited(ALICE, 3);
    client.bye();
    stage.expect(ALICE, -2, 0, 3);
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 402, "the credit is used up");
    for (name, arguments, code, why) in [
        ("limit", &[ALICE, "1"][..], "400", "LIMIT '1' is less than the account owes, 2"),
        ("add", &[ALICE, "-1", "fee"], "400", "takes the balance below -2, the credit limit"),
        ("remove", &[ALICE], "409", "balance -2 and held 0 of the account are not both 0"),
    ] {
        let error = command(&stage, name, arguments).expect_err(why);
        // In OpenSIPS the code of wrong use is that of JSON-RPC.
        let code = if HOST.get() == Host::OpenSips && code == "400" { "-32602" } else { code };
        assert!(error.contains(code) && error.contains(why), "{error}");
    }
    assert!(command(&stage, "add", &[ALICE, "2", "invoice"]).is_ok_and(|answer| answer.contains("balance:0")));
    assert!(command(&stage, "limit", &[ALICE, "0"]).is_ok());
    expect_balanced(&stage);
    assert!(command(&stage, "remove", &[ALICE]).is_ok());
    assert_eq!(changes(&stage, ALICE), "set1 limit0 debit-1 debit-1 debit-1 add2 limit0 remove0");
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 402, "the account is gone");
    // A new account starts with its own sum; references of the old one stay used.
    stage.proxy.set_account(ALICE, 7);
    assert!(command(&stage, "add", &[ALICE, "2", "invoice"]).is_ok_and(|answer| answer.contains("duplicate:1")));
    stage.expect(ALICE, 7, 0, 0);
    expect_balanced(&stage);
}

#[test]
pub fn initial_balance_is_a_recorded_change() {
    let stage = Stage::new(|setup| setup.parameter("default_balance", "3").parameter("low_balance", "\"3\""));
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
    stage.until_debited(ALICE, 1);
    client.bye();
    stage.expect(ALICE, 2, 0, 1);
    assert_eq!(changes(&stage, ALICE), "initial3 debit-1");
    assert_eq!(stage.proxy.statistic("low_balances"), 0, "a new account that is low has not fallen");
    expect_balanced(&stage);
}

/// Lines of the shipped script's low-balance event.
fn notices(stage: &Stage) -> usize {
    stage.proxy.log().matches(&format!("{ALICE} is low: balance ")).count()
}

#[test]
pub fn low_balance_event_runs_once_per_crossing() {
    let stage = Stage::new(|setup| setup.parameter("low_balance", "\"50%\""));
    // A new account below any threshold, and one above it.
    stage.proxy.set_account("sip:bob@example.org", 0);
    stage.proxy.set_account(ALICE, 4);
    let _server = stage.server(&["one", "two", "three"], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
    stage.until_debited(ALICE, 1);
    assert_eq!(stage.proxy.statistic("low_balances"), 0, "3 of 4 are left, although all are held");
    assert_eq!(client.take(2, Reaction::Answer(200)).len(), 2);
    stage.until_debited(ALICE, 3);
    client.bye();
    stage.expect(ALICE, 1, 0, 3);
    assert!(eventually(SOON, || notices(&stage) == 1), "{}", stage.proxy.log());
    // Above the threshold again: 10 of 10; then a command takes it below.
    assert!(command(&stage, "add", &[ALICE, "9", "payment"]).is_ok());
    assert!(command(&stage, "add", &[ALICE, "-7", "fee"]).is_ok());
    assert!(eventually(SOON, || notices(&stage) == 2), "{}", stage.proxy.log());
    assert!(stage.proxy.log().contains(&format!("{ALICE} is low: balance 3, held 0")), "{}", stage.proxy.log());
    assert!(command(&stage, "add", &[ALICE, "-1", "another fee"]).is_ok());
    assert_eq!((stage.proxy.statistic("low_balances"), notices(&stage)), (2, 2));
}

/// The shipped configuration with the low-balance route of docs/cookbook.md, which sends its MESSAGE to this address.
fn sending_messages(setup: Setup, to: &UdpSocket) -> Setup {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cookbook.md")).expect("the cookbook");
    let chapter = page.split("## Tell subscribers that their balance is low\n").nth(1).expect("the recipe");
    let address = to.local_addr().expect("an address");
    let mark = match setup.host {
        Host::Kamailio => "event_route[imcharge:low-balance] {",
        Host::OpenSips => "event_route[E_IMCHARGE_LOW_BALANCE] {",
    };
    let body = chapter.split(mark).nth(1).and_then(|rest| rest.split("\n}\n").next()).expect("the route");
    let body = body.replace("sip:127.0.0.1:5060", &format!("sip:{address}"));
    let (module, body) = match setup.host {
        Host::Kamailio => ("loadmodule \"pv.so\"\nloadmodule \"uac.so\"", body),
        // The account's domain is no host of the test.
        Host::OpenSips => {
            let target = "\"MESSAGE\", $param(account)";
            ("loadmodule \"tm.so\"", body.replace(target, &format!("\"MESSAGE\", \"sip:alice@{address}\"")))
        }
    };
    setup
        .changed(module.lines().next().unwrap_or_default(), module)
        .changed(mark, &format!("{mark}{body}"))
        .parameter("low_balance", "\"1\"")
}

#[test]
pub fn low_balance_route_of_the_cookbook_sends_a_message() {
    let phone = UdpSocket::bind("127.0.0.1:0").expect("a port");
    phone.set_read_timeout(Some(SOON)).expect("a timeout");
    let stage = Stage::new(|setup| sending_messages(setup, &phone));
    stage.proxy.set_account(ALICE, 2);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
    let mut space = [0; 4096];
    let octets = phone.recv(&mut space).unwrap_or_else(|error| panic!("{error}\n{}", stage.proxy.log()));
    let message = String::from_utf8_lossy(&space[..octets]);
    assert!(message.starts_with("MESSAGE sip:alice@"), "{message}");
    assert!(message.to_ascii_lowercase().contains("content-type: text/plain"), "{message}");
    // One of two is debited; the other is held while the session is open.
    assert!(message.ends_with("You have 0 messages left."), "{message}");
}

#[test]
pub fn script_has_balance_and_held_units_of_a_refused_and_of_a_granted_invite() {
    let shown = "balance $imcharge(balance) held $imcharge(held)";
    let stage = Stage::new(|setup| {
        let refused = "refused: $imcharge(reason) $imcharge(code)";
        setup.changed(refused, &format!("{refused} {shown}"))
    });
    stage.proxy.set_account(ALICE, 1);
    let mut first = stage.client(ALICE, |_| {});
    let _server = stage.server(&["one"], |_| {});
    assert_eq!(first.invite(), 200);
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 402);
    let expected = "refused: no-credit 4012 balance 0 held 1";
    assert!(eventually(SOON, || stage.proxy.log().contains(expected)), "{}", stage.proxy.log());
}

#[test]
fn low_balance_event_runs_once_per_crossing_in_lua() {
    let stage = Stage::new(|setup| in_lua(setup).parameter("low_balance", "\"50%\""));
    stage.proxy.set_account(ALICE, 4);
    let _server = stage.server(&["one", "two", "three"], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(3, Reaction::Answer(200)).len(), 3);
    stage.until_debited(ALICE, 3);
    client.bye();
    stage.expect(ALICE, 1, 0, 3);
    assert!(eventually(SOON, || notices(&stage) == 1), "{}", stage.proxy.log());
    assert!(command(&stage, "add", &[ALICE, "9", "payment"]).is_ok());
    assert!(command(&stage, "add", &[ALICE, "-7", "fee"]).is_ok());
    let second = format!("{ALICE} is low: balance 3, held 0");
    assert!(eventually(SOON, || stage.proxy.log().contains(&second)), "{}", stage.proxy.log());
    assert_eq!((stage.proxy.statistic("low_balances"), notices(&stage)), (2, 2));
}

#[test]
fn lua_script_has_balance_and_held_units_of_a_refused_invite() {
    let folder = tempfile::tempdir().expect("a folder");
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/kamailio-config/kamailio/kamailio.lua");
    let (shipped, reason) = (std::fs::read_to_string(shipped).expect("the shipped script"), "\" refused: \" .. reason");
    assert!(shipped.contains(reason));
    let shown =
        "\" balance \" .. KSR.pv.gete(\"$imcharge(balance)\") .. \" held \" .. KSR.pv.gete(\"$imcharge(held)\")";
    let script = folder.path().join("changed.lua");
    std::fs::write(&script, shipped.replace(reason, &format!("{shown} .. {reason}"))).expect("a script");
    let stage = Stage::new(|setup| in_lua(setup).defined("LUA_SCRIPT", format!("\"{}\"", script.display())));
    stage.proxy.set_account(ALICE, 1);
    let _server = stage.server(&[], |_| {});
    let mut first = stage.client(ALICE, |_| {});
    assert_eq!(first.invite(), 200, "{}", stage.proxy.log());
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 402);
    let expected = "balance 0 held 1 refused: no-credit 4012";
    assert!(eventually(SOON, || stage.proxy.log().contains(expected)), "{}", stage.proxy.log());
}
