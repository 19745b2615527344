//! Commands over every transport of the host: equal answers, lists as arrays, pages that fit, exact numbers or errors, and
//! the examples of docs/rpc.md.

mod console;
mod examples;

use super::watching::prometheus::{free_address, get, http};
use super::{ALICE, HOST, Stage, before, chat};
use console::{Console, Way, as_texts};
use imcharge::admin::commands::COMMANDS;
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::Host;
use imcharge_testkit::{eventually, unique};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// Commands that change accounts.
const CHANGES: [&str; 4] = ["account.set", "account.add", "account.limit", "account.remove"];

const BOB: &str = "sip:bob@example.org";

/// Returns the error code of invalid arguments.
fn wrong_use() -> i64 {
    if HOST.get() == Host::OpenSips { -32602 } else { 400 }
}

#[test]
fn lists_are_arrays_and_every_transport_gives_the_same_answer() {
    let console = Console::new(|setup| setup);
    console.stage.proxy.set_account(ALICE, 100);
    let lists = |expected: usize| {
        for way in console.json_ways() {
            for (command, arguments) in [("debits", &[][..]), ("debits", &[ALICE]), ("debits", &["all", "500"])] {
                let answer = console.ask(way, command, arguments).expect("debits");
                assert_eq!(answer["debits"].as_array().map(Vec::len), Some(expected), "{way:?} {answer}");
                assert_eq!((&answer["more"], &answer["next"]), (&json!(0), &json!("")), "{way:?}");
            }
        }
    };
    lists(0);
    for way in console.json_ways() {
        for (command, list, expected) in
            [("sessions", "sessions", 0), ("peers", "peers", 0), ("account.list", "accounts", 1)]
        {
            let answer = console.ask(way, command, &[]).expect("a list");
            assert_eq!(answer[list].as_array().map(Vec::len), Some(expected), "{way:?} {answer}");
        }
    }
    let _server = console.stage.server(&["one", "two", "three"], |_| {});
    let mut client = console.stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    console.stage.until_debited(ALICE, 1);
    lists(1);
    client.take(2, Reaction::Answer(415));
    console.stage.until_debited(ALICE, 3);
    lists(3);
    let call_id = client.call_id.as_str();
    let all = COMMANDS.iter().filter(|command| !CHANGES.contains(&command.name));
    for command in all.filter(|command| !command.name.starts_with("outbox.")) {
        let arguments: Vec<&str> = command
            .arguments
            .iter()
            .filter(|argument| argument.required)
            .map(|argument| if argument.name == "ID" { ALICE } else { call_id })
            .collect();
        if examples::SHARED.contains(&command.name) {
            let refused = |way: &Way| console.ask(*way, command.name, &arguments).is_err_and(|(code, _)| code == 409);
            assert!(console.ways().iter().all(refused), "{} without a shared ledger", command.name);
            continue;
        }
        let ask = |way| console.ask(way, command.name, &arguments).unwrap_or_else(|error| panic!("{way:?} {error:?}"));
        let answers = || console.ways().iter().map(|way| (as_texts(&ask(*way)), *way)).collect::<Vec<_>>();
        // Ages and counters may move between two of them.
        let mut last = Vec::new();
        let same = eventually(SOON, || {
            last = answers();
            last.iter().all(|(answer, _)| *answer == last[0].0)
        });
        assert!(same, "{}: {last:?}", command.name);
        assert!(last[0].0.is_object(), "{}: {last:?}", command.name);
    }
    let explained = console.ask(Way::Http, "explain", &[call_id]).expect("explained");
    assert_eq!(explained["sessions"][0]["units_debited"], 3);
    assert!(explained["sessions"][0]["steps"].as_array().is_some_and(|steps| steps.len() > 5), "{explained}");
    let session = console.ask(Way::Http, "session", &[call_id]).expect("a session");
    assert_eq!(session["sessions"][0]["debits"].as_array().map(Vec::len), Some(3), "{session}");
    client.bye();
    console.stage.expect(ALICE, 97, 0, 3);
}

#[test]
fn amounts_are_exact_or_refused() {
    let console = Console::new(|setup| setup);
    let balance = || console.proxy().account(BOB).map(|account| account.balance);
    for way in console.ways() {
        let set = |amount: &str| console.ask(*way, "account.set", &[BOB, amount]).map(|answer| as_texts(&answer));
        let add = |amount: &str| {
            let reference = unique().to_string();
            console.ask(*way, "account.add", &[BOB, amount, &reference]).map(|answer| as_texts(&answer))
        };
        for (change, amount, expected) in [
            (&set as &dyn Fn(&str) -> _, "5000000000", 5_000_000_000),
            (&add, "-100", 4_999_999_900),
            (&add, "-4294967296", 705_032_604),
            (&set, "2147483648", 2_147_483_648),
            (&set, "1000000000000000", 1_000_000_000_000_000),
            (&add, "-999999999999999", 1),
            (&set, "0", 0),
            (&add, "9007199254740", 9_007_199_254_740),
        ] {
            let answer = change(amount).unwrap_or_else(|error| panic!("{way:?} {amount} {error:?}"));
            assert_eq!(answer["balance"], expected.to_string(), "{way:?} {amount}");
            assert_eq!(balance(), Some(expected), "{way:?} {amount}");
            let account = console.ask(*way, "account.get", &[BOB]).expect("an account");
            assert_eq!(as_texts(&account)["balance"], expected.to_string(), "{way:?} {amount}");
        }
        assert_eq!(set("77").map(|answer| answer["balance"].clone()), Ok(json!("77")));
        for wrong in ["1.5", "1e3", "0x10", "5000000000000000000", "99999999999999999999", "", " 5", "5 ", "ten"] {
            for change in [&set as &dyn Fn(&str) -> _, &add] {
                let (code, sentence) = change(wrong).expect_err("no amount");
                assert_eq!(code, wrong_use(), "{way:?} {wrong} {sentence}");
                assert!(sentence.contains(&format!("'{wrong}' is not a whole number")), "{way:?} {wrong} {sentence}");
            }
        }
        // Below zero, and above the maximum.
        for (change, wrong, why) in [
            (&set as &dyn Fn(&str) -> _, "-1", "takes the balance below 0"),
            (&add, "-78", "takes the balance below 0"),
            (&add, "1000000000000000", "takes the balance above its maximum, 1000000000000000"),
        ] {
            let (code, sentence) = change(wrong).expect_err("out of range");
            assert!(code == wrong_use() && sentence.contains(why), "{way:?} {wrong} {sentence}");
        }
        assert_eq!(balance(), Some(77), "{way:?}");
    }
    for way in console.json_ways() {
        for (amount, expected) in [
            (json!(5_000_000_000i64), 5_000_000_077),
            (json!(-5_000_000_000i64), 77),
            (json!(999_999_999_999_922i64), 999_999_999_999_999),
            (json!(-999_999_999_999_922i64), 77),
        ] {
            let answer = console
                .ask_json(way, "account.add", json!([BOB, amount, unique().to_string()]))
                .expect("a number of JSON");
            assert_eq!(answer["balance"], expected, "{way:?} {amount}");
            assert_eq!(balance(), Some(expected), "{way:?} {amount}");
        }
        for wrong in
            [json!(1.5), json!(-0.1), json!(1e30), json!(999_999_999_999_999.5), json!(null), json!([]), json!({})]
        {
            let (code, sentence) = console.ask_json(way, "account.set", json!([BOB, wrong])).expect_err("no amount");
            assert!(code == wrong_use() && sentence.contains("account.set: BALANCE"), "{way:?} {wrong} {sentence}");
        }
        assert_eq!(balance(), Some(77), "{way:?}");
    }
    if console.ways().contains(&Way::Kamcmd) {
        // kamcmd converts these before it sends them.
        for typed in ["100", "5000000000", "4294967396", "1.5", "1.0001", "1e3", "99999999999999999999"] {
            let (code, sentence) =
                console.kamcmd(&["imcharge.account.set", BOB, typed]).expect_err("kamcmd has converted it");
            assert_eq!(code, 400, "{typed} {sentence}");
            assert!(sentence.starts_with("imcharge.account.set: BALANCE") && sentence.contains("s:100"), "{sentence}");
        }
        let (_, sentence) = console.kamcmd(&["--", "imcharge.account.add", BOB, "-100", "fee"]).expect_err("as above");
        assert!(sentence.contains("s:-5"), "{sentence}");
        assert_eq!(balance(), Some(77));
    }
}

#[test]
fn a_conversion_by_ctl_is_noticed() {
    let ctl = "modparam(\"ctl\", \"binrpc\", CTL_SOCKET)";
    let console = Console::new(|setup| setup.changed(ctl, &format!("{ctl}\nmodparam(\"ctl\", \"autoconversion\", 1)")));
    for typed in ["5000000000", "100", "s:100", "s:-5"] {
        let (code, sentence) = console.kamcmd(&["imcharge.account.set", BOB, typed]).expect_err("it may be truncated");
        assert!(code == 400 && sentence.contains("BALANCE: ctl's autoconversion"), "{typed} {sentence}");
    }
    let (_, sentence) = console.kamcmd(&["imcharge.explain", "5000000000"]).expect_err("it may be truncated");
    assert!(sentence.contains("CALLID: ctl's autoconversion"), "{sentence}");
    assert_eq!(console.proxy().account(BOB), None);
    let set = console.ask(Way::Http, "account.set", &[BOB, "5000000000"]).expect("JSON has no such conversion");
    assert_eq!(set["balance"], 5_000_000_000i64);
    assert!(console.kamcmd(&["imcharge.account.list", "all", "50"]).is_ok());
}

#[test]
fn a_call_id_of_digits_is_a_text() {
    let console = Console::new(|setup| setup);
    let calls = ["5000000000", "007", "1e5", "0x1f", "nan", "-12", "12345.5", "s:1"];
    for call_id in calls {
        // The subscriber has no credit, but the call is recorded.
        let mut client = console.stage.client(BOB, |options| options.call_id = Some(call_id.into()));
        assert_eq!(client.invite(), 402, "{call_id}");
    }
    for way in console.ways() {
        for call_id in calls {
            let explained = console.ask(*way, "explain", &[call_id]);
            let explained = explained.unwrap_or_else(|error| panic!("{way:?} {call_id} {error:?}"));
            assert_eq!(explained["sessions"][0]["callid"], call_id, "{way:?}");
        }
    }
    for way in console.json_ways() {
        let explained = console.ask_json(way, "explain", json!([5_000_000_000i64])).expect("a number of JSON");
        assert_eq!(explained["sessions"][0]["callid"], "5000000000", "{way:?}");
        let other = console.ask_json(way, "explain", json!([7])).expect_err("007 is another call");
        assert_eq!(other.0, 404, "{way:?} {other:?}");
        let fraction = console.ask_json(way, "explain", json!([12345.5])).expect_err("no text");
        assert_eq!(fraction.0, wrong_use(), "{way:?} {fraction:?}");
    }
    if console.ways().contains(&Way::Kamcmd) {
        for typed in ["5000000000", "705032704", "007", "1e5", "0x1f", "nan", "12345.5"] {
            let (code, sentence) = console.kamcmd(&["imcharge.explain", typed]).expect_err("kamcmd has changed it");
            assert!(code == 400 && sentence.contains("CALLID") && sentence.contains("s:12345"), "{typed} {sentence}");
        }
    }
}

/// Reads all pages of a list. Returns the rows and the number of pages.
fn walk(console: &Console, way: Way, command: &str, arguments: &[&str], list: &[&str]) -> (Vec<Value>, usize) {
    let (mut rows, mut pages, mut next) = (Vec::new(), 0, String::new());
    loop {
        let arguments: Vec<&str> = arguments.iter().copied().chain([next.as_str()]).collect();
        let mut page = console.ask(way, command, &arguments).unwrap_or_else(|error| panic!("{way:?} {error:?}"));
        for name in &list[..list.len() - 1] {
            page = page[name].take();
        }
        page = as_texts(&page);
        rows.extend(page[list[list.len() - 1]].as_array().expect("a list").iter().cloned());
        pages += 1;
        if page["more"] == "0" {
            return (rows, pages);
        }
        next = page["next"].as_str().expect("the position of the next page").to_owned();
        assert!(pages < 1000, "{way:?} {command} {next}");
    }
}

#[test]
fn pages_fit_and_together_have_every_row_once() {
    const DEBITS: usize = 600;
    let mut console = Console::new(|setup| setup);
    console.stage.proxy.set_account(ALICE, 100);
    let _server = console.stage.server(&[], |_| {});
    let mut clients: Vec<_> = (0..3).map(|_| console.stage.bound(|_| {})).collect();
    for way in console.ways() {
        let (sessions, pages) = walk(&console, *way, "sessions", &["2"], &["sessions"]);
        assert_eq!((sessions.len(), pages), (3, 2), "{way:?}");
    }
    for client in &mut clients {
        client.bye();
    }
    console.stage.expect(ALICE, 100, 0, 0);
    // A long history with the longest Call-IDs and Message-IDs, and with characters that JSON escapes.
    console.stage.proxy.terminate();
    let ledger = rusqlite::Connection::open(console.proxy().state_dir().join("ledger.sqlite")).expect("a ledger");
    let long = format!("{}\\\"\u{e9}", "x".repeat(250));
    let rows = format!(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n<{DEBITS}) \
         INSERT INTO debits(session, call_id, message_id, part, account, class, octets, units, trigger, code, at) \
         SELECT 1, ?1, n || ?2, 0, ?3, 'text', 5000000000, 1, 'timeout', 408, 1000*(n/7) FROM n"
    );
    ledger.execute(&rows, (&long, &long[..30], ALICE)).expect("debits");
    let free = rows
        .replace(
            "debits(session, call_id, message_id, part, account, class, octets, units, trigger, code, at)",
            "undebited",
        )
        .replace(
            "SELECT 1, ?1, n || ?2, 0, ?3, 'text', 5000000000, 1, 'timeout', 408, 1000*(n/7)",
            "SELECT 1, n || ?2, ?1, ?3, 7, n%5, '5xx=release', 506, 1000*(n/7)",
        );
    ledger.execute(&free, (&long, &long[..30], ALICE)).expect("messages");
    // The longest account IDs, references and names of operators.
    let accounts = format!(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n<{DEBITS}) \
         INSERT INTO accounts(id, balance) \
         SELECT substr('sip:a' || n || ?1, 1, 244) || '@example.org', 1000000000000000-n FROM n"
    );
    ledger.execute(&accounts, ["/".repeat(250)]).expect("accounts");
    let changes = format!(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n<{DEBITS}) \
         INSERT INTO balance_changes(at, account, kind, amount, reference, by, balance, held, credit_limit) \
         SELECT 1000*n, ?1, 'add', 1000000000000000, substr(n || ?2, 1, 128), ?3, 1000000000000000, 0, 0 FROM n"
    );
    ledger.execute(&changes, (BOB, &long, "\"".repeat(64))).expect("changes");
    drop(ledger);
    console.stage.proxy.restart().expect("it starts again");
    let unique = |rows: &[Value], name: &str| rows.iter().map(|row| row[name].clone()).collect::<HashSet<_>>().len();
    for way in console.ways() {
        for (filter, limit) in [("all", "500"), (ALICE, "100"), (BOB, "7")] {
            let (rows, pages) = walk(&console, *way, "debits", &[filter, limit], &["debits"]);
            let expected = if filter == BOB { 0 } else { DEBITS };
            assert_eq!((rows.len(), unique(&rows, "messageid")), (expected, expected), "{way:?}");
            assert_eq!(pages > 1, filter != BOB, "{way:?}");
            let order =
                |row: &Value| row["messageid"].as_str().and_then(|id| id.split('x').next()?.parse::<usize>().ok());
            assert!(rows.is_sorted_by_key(|row| std::cmp::Reverse(order(row))), "{way:?}");
            assert!(rows.iter().all(|row| row["callid"] == *long && row["octets"] == "5000000000"), "{way:?}");
        }
        let (rows, pages) = walk(&console, *way, "account.list", &["all", "500"], &["accounts"]);
        assert_eq!((rows.len(), unique(&rows, "id"), unique(&rows, "balance")), (DEBITS + 1, DEBITS + 1, DEBITS + 1));
        assert!(pages > 1, "{way:?}");
        let (rows, pages) = walk(&console, *way, "account.history", &[BOB, "500"], &["changes"]);
        assert_eq!((rows.len(), unique(&rows, "reference")), (DEBITS, DEBITS), "{way:?}");
        assert!(pages > 1, "{way:?}");
        for (list, name, limit) in
            [("debited", "debited_not_delivered", "500"), ("delivered", "delivered_not_debited", "33")]
        {
            let (rows, pages) = walk(&console, *way, "audit", &[list, limit], &[name, "rows"]);
            assert_eq!(
                (rows.len(), unique(&rows, "messageid").max(unique(&rows, "callid"))),
                (DEBITS, DEBITS),
                "{way:?} {list}"
            );
            assert!(pages > 1, "{way:?}");
        }
        // With `all`, each list has a share of the answer and reports its total.
        let audit = console.ask(*way, "audit", &["all", "500"]).expect("an audit");
        let list = as_texts(&audit["debited_not_delivered"]);
        assert_eq!((&list["count"], &list["more"]), (&json!(DEBITS.to_string()), &json!("1")), "{way:?} {list}");
    }
}

/// Reads all pages of the sessions of a call. Returns the rows below the sessions and the number of pages.
fn walk_call(console: &Console, way: Way, command: &str, call_id: &str, list: &str) -> (Vec<Value>, usize) {
    let (mut sessions, pages) = walk(console, way, command, &[call_id], &["sessions"]);
    let rows = |session: &mut Value| session[list].as_array().expect("a list").clone();
    (sessions.iter_mut().flat_map(rows).collect(), pages)
}

#[test]
fn sessions_of_a_long_chat_are_read_page_by_page() {
    let console = Console::new(|setup| setup.defined("WITH_CHAT", "1"));
    [ALICE, chat::BOB].iter().for_each(|account| console.stage.proxy.set_account(account, 1100));
    let call_id = chat::long_chat(&console.stage);
    console.stage.expect(ALICE, 100, 0, 1000);
    console.stage.expect(chat::BOB, 100, 0, 1000);
    let count = |table: &str| console.proxy().count(&format!("SELECT count(*) FROM {table}")) as usize;
    let is_settled = || count("steps WHERE step='closed'") == count("sessions");
    assert!(eventually(SOON, is_settled), "{}", console.proxy().log());
    assert!(count("steps") > 4000, "{}", count("steps"));
    for (command, list, table) in
        [("ladder", "lines", "steps"), ("explain", "steps", "steps"), ("session", "debits", "debits")]
    {
        // With Kamailio kamcmd and one way of JSON; all ways of JSON have the same pages.
        let [first, second] = [console.ways()[0], console.ways()[1]].map(|way| {
            let (rows, pages) = walk_call(&console, way, command, &call_id, list);
            // Counted afterwards: the last steps of a session may be written after "closed".
            assert_eq!(rows.len(), count(table), "{way:?} {command}");
            assert!(pages > 1, "{way:?} {command}");
            rows
        });
        assert!(first == second, "{command} differs between {:?} and {:?}", console.ways()[0], console.ways()[1]);
    }
}

#[test]
fn errors_name_the_command_the_argument_the_value_and_what_is_accepted() {
    let console = Console::new(|setup| setup);
    let name = |command: &str| console.named(command);
    let long = "x".repeat(500);
    for (command, arguments, code, words) in [
        ("account.set", &[ALICE][..], 400, "takes ID BALANCE [REFERENCE] [BY]; arguments given: 1"),
        ("account.set", &["alice", "1"], 400, "ID 'alice' is not an account: sip:user@host or tel:+digits"),
        ("account.set", &[&long, "1"], 400, "xxx...' is not an account"),
        ("account.get", &[BOB], 404, "there is no account 'sip:bob@example.org'; see "),
        ("account.add", &[BOB, "1", "payment"], 404, "account.set ID BALANCE"),
        ("account.add", &[BOB, "1", &long], 400, "xxx...' is not a text of 1 to 128 octets without control characters"),
        ("account.limit", &[BOB, "-1"], 400, "LIMIT '-1' is not a whole number from 0 to 1000000000000000"),
        ("account.remove", &[BOB], 404, "there is no account 'sip:bob@example.org'"),
        ("account.history", &[BOB], 404, "there is no account 'sip:bob@example.org'"),
        ("account.list", &["all", "501"], 400, "LIMIT '501' is not a whole number from 1 to 500"),
        ("debits", &["alice"], 400, "ID 'alice' is not an account (sip:user@host, tel:+digits) or 'all'"),
        ("debits", &["all", "5", "sip:x"], 400, "NEXT 'sip:x' is not the 'next' of an answer to this command"),
        ("audit", &["x"], 400, "LIST 'x' is not one of all, reserved, delivered, debited, waiting, accounts"),
        ("audit", &["accounts", "5", "id:7"], 400, "NEXT 'id:7' is not the 'next' of an answer to this command"),
        ("audit", &["reserved", "5", "id:7"], 400, "NEXT 'id:7' is not the 'next' of an answer to this command"),
        ("explain", &["none"], 404, "there is no session with the Call-ID 'none'"),
        ("outbox.resend", &["none"], 404, "no debit of the Call-ID 'none' is on hold"),
        ("reload", &["kilobyte:0"], 400, "TARIFF 'kilobyte:0' is not a tariff as in the configuration: message:PRICE"),
        (
            "reload",
            &["kilobyte:2"],
            400,
            "TARIFF 'kilobyte:2' is not allowed with unit=message; accepted: message:PRICE",
        ),
    ] {
        let refusals: Vec<_> =
            console.ways().iter().map(|way| console.ask(*way, command, arguments).expect_err("it must fail")).collect();
        let code = if code == 400 { wrong_use() } else { code };
        for refusal in &refusals {
            assert_eq!(refusal, &refusals[0], "{command} {arguments:?}");
        }
        let (found, sentence) = &refusals[0];
        assert_eq!(*found, code, "{sentence}");
        assert!(sentence.starts_with(&format!("{}: ", name(command))), "{sentence}");
        assert!(sentence.contains(words) && sentence.len() <= 127, "{sentence}");
    }
    let (_, sentence) = console.ask(Way::Http, "account.get", &[BOB]).expect_err("no account");
    assert!(sentence.ends_with(&format!("see {}", name("account.set ID BALANCE"))), "{sentence}");
}

#[test]
fn the_tariff_is_shown_and_only_reload_changes_it() {
    let console = Console::new(|setup| setup);
    let pair = |way: &Way, command: &str, arguments: &[&str]| {
        let answer = console.ask(*way, command, arguments).expect("tariffs");
        let answer = &answer["tariffs"][0];
        (answer["tariff"].as_str().map(str::to_owned), answer["configured"].as_str().map(str::to_owned))
    };
    let is = |now: &str| (Some(now.to_owned()), Some("message:1".to_owned()));
    for way in console.ways() {
        assert_eq!(pair(way, "tariff", &[]), is("message:1"), "{way:?}");
        assert_eq!(pair(way, "reload", &["message:3"]), is("message:3"), "{way:?}");
        assert_eq!(pair(way, "tariff", &[]), is("message:3"), "{way:?}");
        assert_eq!(pair(way, "tariff", &[]), is("message:3"), "{way:?}");
        assert_eq!(pair(way, "reload", &[]), is("message:1"), "{way:?}");
    }
}

#[test]
fn account_commands_with_diameter_are_refused_with_the_reason() {
    // No OCS is running: the error does not depend on one.
    let console = Console::new(|setup| match HOST.get() {
        Host::Kamailio => setup.defined("WITH_DIAMETER", "1"),
        Host::OpenSips => [
            ("service_context_id", "\"32274@3gpp.org\""),
            ("peer", "\"host=ocs.example.com;address=127.0.0.1:9\""),
            ("destination_realm", "\"example.com\""),
            ("origin_realm", "\"example.org\""),
            ("origin_host", "\"proxy.example.org\""),
            ("enabler", "\"diameter\""),
        ]
        .iter()
        .fold(setup, |setup, (name, value)| setup.parameter(name, value)),
    });
    for way in console.ways() {
        for (command, arguments) in [
            ("account.set", &[ALICE, "1"][..]),
            ("account.add", &[ALICE, "1", "payment"]),
            ("account.limit", &[ALICE, "1"]),
            ("account.remove", &[ALICE]),
            ("account.history", &[ALICE]),
            ("account.get", &[ALICE]),
            ("account.list", &[]),
        ] {
            let (code, sentence) = console.ask(*way, command, arguments).expect_err("no accounts with Diameter");
            let why = "with enabler=diameter the charging system keeps the accounts, not imcharge; see ";
            let expected = format!("{}: {why}{}", console.named(command), console.named("debits"));
            assert_eq!((code, sentence), (409, expected), "{way:?}");
        }
        assert!(console.ask(*way, "debits", &[]).is_ok());
    }
    assert_eq!(console.proxy().count("SELECT count(*) FROM accounts"), 0);
}

#[test]
fn commands_over_http_have_a_socket_of_their_own() {
    let (commands, metrics) = (free_address(), free_address());
    let stage = Stage::new(|setup| {
        let setup = setup.defined("WITH_JSONRPC", "1").defined("JSONRPC_LISTEN", format!("tcp:{commands}"));
        setup.defined("WITH_METRICS", "1").defined("METRICS_LISTEN", format!("tcp:{metrics}"))
    });
    let request =
        json!({"jsonrpc": "2.0", "id": 1, "method": "imcharge.account.set", "params": [BOB, "7"]}).to_string();
    let post = |address, within| {
        let head = format!("POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}", request.len());
        http(address, &format!("{head}\r\n\r\n{request}"), within)
    };
    assert_eq!(post(metrics, SOON).map(|page| page.status), Some(404));
    assert!(post(stage.proxy.msrp, Duration::from_millis(500)).is_none(), "the socket of MSRP takes commands");
    assert_eq!(stage.proxy.account(BOB), None);
    assert_eq!(post(commands, SOON).map(|page| page.status), Some(200));
    assert_eq!(stage.proxy.account(BOB).map(|account| account.balance), Some(7));
    assert!(get(commands, "/metrics", Duration::from_millis(500)).is_none(), "the socket of commands serves metrics");
}

/// The same cases with OpenSIPS.
macro_rules! opensips {
    ($($case:ident),*) => {
        mod opensips {
            $(
                #[test]
                #[ignore = "needs OPENSIPS_SRC and OPENSIPS_BIN"]
                fn $case() {
                    super::before(super::Host::OpenSips, super::$case);
                }
            )*
        }
    };
}

opensips! {
    lists_are_arrays_and_every_transport_gives_the_same_answer, amounts_are_exact_or_refused,
    a_call_id_of_digits_is_a_text, pages_fit_and_together_have_every_row_once,
    sessions_of_a_long_chat_are_read_page_by_page,
    errors_name_the_command_the_argument_the_value_and_what_is_accepted,
    account_commands_with_diameter_are_refused_with_the_reason, the_tariff_is_shown_and_only_reload_changes_it
}
