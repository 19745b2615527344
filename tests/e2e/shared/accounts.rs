//! Commands about accounts on a shared ledger: given at one proxy, they hold at all.

use super::store::Store;
use super::{SOON, node, until_at_rest};
use crate::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;

/// Runs a command about accounts.
fn command(stage: &Stage, name: &str, arguments: &[&str]) -> Result<String, String> {
    let name = format!("imcharge.account.{name}");
    let words: Vec<&str> = std::iter::once(name.as_str()).chain(arguments.iter().copied()).collect();
    stage.proxy.rpc(&words)
}

#[test]
fn account_that_is_set_at_one_proxy_is_seen_at_the_other() {
    let store = Store::start(1);
    let (one, two) = (node(&store, "a", |setup| setup), node(&store, "b", |setup| setup));
    one.proxy.set_account(ALICE, 7);
    let seen = command(&two, "get", &[ALICE]).expect("the account");
    assert!(seen.contains("balance: 7"), "{seen}");
    let listed = command(&two, "list", &[]).expect("accounts");
    assert!(listed.contains(ALICE), "{listed}");
    two.proxy.set_account(ALICE, 9);
    let history = command(&one, "history", &[ALICE]).expect("a history");
    let (latest, first) = (history.find("amount: 2"), history.find("amount: 7"));
    assert!(latest.is_some() && latest < first, "{history}");
    assert!(command(&one, "limit", &[ALICE, "3"]).is_ok_and(|answer| answer.contains("limit: 3")));
    assert!(command(&two, "get", &[ALICE]).is_ok_and(|answer| answer.contains("available: 12")));
    let missing = command(&two, "get", &["sip:missing@example.org"]).expect_err("there is none");
    assert!(missing.contains("404"), "{missing}");
    two.proxy.set_account(ALICE, 0);
    assert!(command(&one, "remove", &[ALICE]).is_ok());
    assert!(command(&two, "get", &[ALICE]).is_err_and(|error| error.contains("404")));
    assert!(one.proxy.rpc(&["imcharge.audit", "accounts"]).is_ok_and(|audit| audit.contains("count: 0")));
}

#[test]
fn top_up_counts_once_per_reference_over_all_proxies() {
    let store = Store::start(1);
    let (one, two) = (node(&store, "a", |setup| setup), node(&store, "b", |setup| setup));
    one.proxy.set_account(ALICE, 10);
    let add = |stage, amount, reference| command(stage, "add", &[ALICE, amount, reference, "webshop"]);
    let first = add(&one, "5", "payment-1").expect("added");
    assert!(first.contains("balance: 15") && first.contains("duplicate: 0"), "{first}");
    assert!(add(&one, "7", "payment-2").is_ok_and(|answer| answer.contains("balance: 22")));
    let again = add(&two, "5", "payment-1").expect("the result of the first one");
    assert!(again.contains("balance: 15") && again.contains("duplicate: 1"), "{again}");
    let other = add(&two, "6", "payment-1").expect_err("another amount");
    assert!(other.contains("409") && other.contains("REFERENCE 'payment-1' was used for another amount"), "{other}");
    assert!(add(&two, "5", "payment-3").is_ok_and(|answer| answer.contains("balance: 27")));
    store.expect(ALICE, 27, 0, 0);
    assert_eq!((one.proxy.statistic("top_ups"), two.proxy.statistic("top_ups")), (2, 1));
    store.expect_at_rest();
}

#[test]
fn low_balance_route_runs_once_per_crossing_whichever_proxy_charges() {
    let store = Store::start(1);
    let [one, two] = ["a", "b"].map(|name| node(&store, name, |setup| setup.parameter("low_balance", "\"50%\"")));
    one.proxy.set_account(ALICE, 4);
    let _servers = [&one, &two].map(|stage| stage.server(&["one"], |_| {}));
    let notices = || [&one, &two].map(|stage| stage.proxy.log().matches(&format!("{ALICE} is low: balance ")).count());
    let retrieve = |stage: &Stage| {
        let mut client = stage.bound(|_| {});
        assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
        assert_eq!(client.bye(), 200);
        until_at_rest(stage);
    };
    retrieve(&one);
    assert_eq!(notices(), [0, 0], "3 of 4 are left");
    retrieve(&two);
    assert!(eventually(SOON, || notices() == [0, 1]), "{}", two.proxy.log());
    retrieve(&one);
    // Above the threshold again, 10 of 10, and below it by a command.
    assert!(command(&two, "add", &[ALICE, "9", "payment"]).is_ok());
    assert!(command(&one, "add", &[ALICE, "-7", "fee"]).is_ok());
    assert!(eventually(SOON, || notices() == [1, 1]), "{}", one.proxy.log());
    assert!(one.proxy.log().contains(&format!("{ALICE} is low: balance 3, held 0")), "{}", one.proxy.log());
    store.expect_at_rest();
}

#[test]
fn script_has_the_balance_of_a_granted_invite_and_of_a_debit() {
    let store = Store::start(1);
    let stage = node(&store, "a", |setup| {
        let granted = "if ($imcharge(result) == \"granted\") {\n        $du = IM_SERVER;";
        let shown =
            granted.replace("{\n", "{\n        xlog(\"L_INFO\", \"granted: balance $imcharge(balance)\\n\");\n");
        setup.changed(granted, &shown).changed("paid $imcharge(units)", "has $imcharge(balance), paid $imcharge(units)")
    });
    stage.proxy.set_account(ALICE, 14);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
    for expected in ["granted: balance 4".to_owned(), format!("{ALICE} has 4, paid 1")] {
        assert!(eventually(SOON, || stage.proxy.log().contains(&expected)), "{expected}\n{}", stage.proxy.log());
    }
    assert_eq!(client.bye(), 200);
    until_at_rest(&stage);
    store.expect_at_rest();
}
