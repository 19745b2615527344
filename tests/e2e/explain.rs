//! Output of `imcharge.explain` and `imcharge.audit` for open and closed sessions.

use super::diameter::Charged;
use super::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::parties::page::{PageReceiver, PageSender};
use imcharge_testkit::proxy::Proxy;
use std::collections::HashMap;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// Fields of one structure.
type Fields = HashMap<String, String>;

/// The structures of an answer that have this field, in their order, each without those in it.
fn structures(answer: &str, with: &str) -> Vec<Fields> {
    let mut open: Vec<Fields> = Vec::new();
    let mut found = Vec::new();
    for line in answer.lines().map(str::trim) {
        if line.ends_with('{') {
            open.push(Fields::new());
        } else if line == "}" {
            found.extend(open.pop().filter(|fields| fields.contains_key(with)));
        } else if let (Some((name, value)), Some(fields)) = (line.split_once(": "), open.last_mut()) {
            fields.insert(name.into(), value.into());
        }
    }
    found
}

fn explain(proxy: &Proxy, call_id: &str) -> Vec<Fields> {
    let answer = proxy.rpc(&["imcharge.explain", call_id]).unwrap_or_else(|error| panic!("{error}"));
    structures(&answer, "step")
}

/// Steps of this kind as `rule cause code`; may be empty.
fn rules(proxy: &Proxy, call_id: &str, step: &str) -> Vec<String> {
    let words = |fields: &Fields| {
        let of = ["rule", "cause", "code"].into_iter().filter_map(|name| fields.get(name));
        of.map(String::as_str).collect::<Vec<_>>().join(" ")
    };
    explain(proxy, call_id).iter().filter(|fields| fields["step"] == step).map(words).collect()
}

/// Rows of one list of the audit, and its totals: count and units.
pub fn audit(proxy: &Proxy, list: &str) -> (Vec<Fields>, i64, i64) {
    let answer = proxy.rpc(&["imcharge.audit"]).unwrap_or_else(|error| panic!("{error}"));
    let from = answer.find(&format!("{list}: {{")).unwrap_or_else(|| panic!("no {list} in {answer}"));
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut lines = answer[from..].lines();
    let head = lines.next().unwrap_or_default();
    let before = answer[..from].lines().last().map_or(0, depth);
    let body: Vec<&str> = std::iter::once(head).chain(lines.take_while(|line| depth(line) > before)).collect();
    let body = body.join("\n") + "\n}";
    let whole = structures(&body, "shown").pop().unwrap_or_else(|| panic!("no totals in {body}"));
    let number = |name: &str| whole[name].parse().unwrap_or(-1);
    (structures(&body, "callid"), number("count"), number("units"))
}

#[test]
fn closed_session_explains_decisions_and_rules() {
    let stage = Stage::plain();
    let proxy = &stage.proxy;
    let _server = stage.server(&["one"], |_| {});
    for (reaction, debited, wanted) in [
        (Some(Reaction::Answer(200)), 1, "debit_on=response 200"),
        (Some(Reaction::Answer(415)), 2, "4xx=debit 415"),
        (Some(Reaction::Silence), 3, "response_timeout"),
        (None, 4, "close=debit bye"),
    ] {
        let mut client = stage.bound(|_| {});
        match reaction {
            Some(reaction) => {
                client.take(1, reaction);
                stage.until_debited(ALICE, debited);
                // The open session gives the same output as after its end.
                assert_eq!(rules(proxy, &client.call_id, "debited"), [wanted]);
            }
            None => assert!(client.next_send(Duration::from_secs(5)).is_some()),
        }
        client.bye();
        stage.expect(ALICE, 100 - debited as i64, 0, debited as i64);
        // What the engine needed of it is gone: the history stays.
        let call_id = client.call_id.clone();
        let ended = || rules(proxy, &call_id, "closed") == ["bye"];
        assert!(eventually(SOON, ended), "{:?}", explain(proxy, &call_id));
        assert_eq!(rules(proxy, &call_id, "debit"), [wanted]);
        let steps = explain(proxy, &call_id);
        let debited = steps.iter().find(|step| step["step"] == "debited").expect("a debit");
        let message = proxy.debits(ALICE).pop().expect("a debit");
        assert_eq!((&debited["messageid"], debited["units"].as_str()), (&message.message_id, "1"));
        assert!(steps.iter().any(|step| step["step"] == "release" && step["rule"] == "unused" && step["units"] == "9"));
        assert_eq!((steps[0]["step"].as_str(), steps[0]["micros"].as_str()), ("invite", "0"));
    }
    let timed_out = "SELECT count(*) FROM steps WHERE step='debit' AND rule='response_timeout' AND seconds=2";
    assert_eq!(proxy.count(timed_out), 1);
    let (rows, count, units) = audit(proxy, "debited_not_delivered");
    assert_eq!((rows.len(), count, units), (3, 3, 3));
    let triggers: Vec<_> = rows.iter().map(|row| row["trigger"].as_str()).collect();
    assert_eq!(triggers, ["error", "timeout", "close"]);
    assert!(rows.iter().all(|row| row["account"] == ALICE && row.contains_key("messageid") && row.contains_key("age")));
}

/// Lines of the ladder of a call, without their times.
fn ladder(proxy: &Proxy, call_id: &str) -> Vec<String> {
    let answer = proxy.rpc(&["imcharge.ladder", call_id]).unwrap_or_else(|error| panic!("{error}"));
    let drawn = answer.lines().filter_map(|line| line.find('│').map(|at| line[at..].trim_end().to_owned()));
    drawn.collect()
}

#[test]
fn trace_shows_open_and_closed_sessions() {
    let stage = Stage::plain();
    let proxy = &stage.proxy;
    let server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    stage.until_debited(ALICE, 1);
    let texts = ["INVITE", "reserve 10", "granted 10", "relayed", "2xx", "SEND ", "200 ", "debit 1 ", "debited 1"];
    let in_order = |lines: &[String], texts: &[&str]| {
        let mut left = texts.iter().peekable();
        for line in lines {
            if left.peek().is_some_and(|text| line.contains(**text)) {
                left.next();
            }
        }
        left.next().is_none()
    };
    let open = ladder(proxy, &client.call_id);
    assert!(in_order(&open, &texts), "{open:#?}");
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
    let ended =
        || in_order(&ladder(proxy, &client.call_id), &["debited 1", "BYE", "release", "released", "closed bye"]);
    assert!(eventually(SOON, ended), "{:#?}", ladder(proxy, &client.call_id));
    drop(server);
    let (_receiver, sender) = (PageReceiver::start(&stage.place), PageSender::new(proxy.sip, ALICE));
    let message = sender.message("sip:bob@im.example.org", "Hello");
    assert_eq!(sender.request(&message, SOON), 200);
    let page = ["│── MESSAGE (5 octets) ", "reserve 1 ", "granted 1 ", "relayed", "◀", "debit 1 msg", "debited 1"];
    let shown = || in_order(&ladder(proxy, message.header("Call-ID")), &page);
    assert!(eventually(SOON, shown), "{:#?}", ladder(proxy, message.header("Call-ID")));
    let mut denied = stage.client("sip:bob@example.org", |_| {});
    assert_eq!(denied.invite(), 402);
    let refused = || in_order(&ladder(proxy, &denied.call_id), &["INVITE", "reserve", "denied", "refused: "]);
    assert!(eventually(SOON, refused), "{:#?}", ladder(proxy, &denied.call_id));
}

#[test]
fn denied_invite_and_stopped_message_have_reasons() {
    let stage = Stage::new(|setup| setup);
    stage.proxy.set_account(ALICE, 1);
    let server = stage.server(&["one", "two"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    assert!(eventually(SOON, || server.refused() == 1), "the second was not refused");
    let stopped = || !rules(&stage.proxy, &client.call_id, "stopped").is_empty();
    assert!(eventually(SOON, stopped), "{:?}", explain(&stage.proxy, &client.call_id));
    assert_eq!(rules(&stage.proxy, &client.call_id, "stopped"), ["beyond-grant"]);
    let mut denied = stage.client(ALICE, |_| {});
    assert_eq!(denied.invite(), 402);
    for step in ["denied", "verdict", "closed"] {
        assert_eq!(rules(&stage.proxy, &denied.call_id, step), ["no-credit 4012"]);
    }
    client.bye();
    stage.expect(ALICE, 0, 0, 1);
}

#[test]
fn the_audit_shows_what_is_reserved_what_waits_for_its_answer_and_what_is_free() {
    let stage = Stage::new(|setup| setup.defined("RESPONSE_TIMEOUT", "600").parameter("policy", "\"5xx=release\""));
    let proxy = &stage.proxy;
    proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one", "two"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(506));
    assert!(client.next_send(Duration::from_secs(5)).is_some());
    let states = || {
        let (rows, count, units) = audit(proxy, "delivered_not_debited");
        let states: Vec<_> = rows.iter().map(|row| row["state"].clone()).collect();
        (states, count, units)
    };
    let wanted = (vec!["outstanding".to_owned(), "not-debited".to_owned()], 2, 2);
    assert!(eventually(SOON, || states() == wanted), "{:?}", states());
    let (rows, ..) = audit(proxy, "delivered_not_debited");
    assert_eq!((rows[1]["rule"].as_str(), rows[1]["code"].as_str()), ("5xx=release", "506"));
    assert!(rows.iter().all(|row| row["callid"] == client.call_id && row["units"] == "1"));
    let (rows, count, units) = audit(proxy, "reserved_not_settled");
    assert_eq!((rows.len(), count, units), (1, 1, 10));
    client.bye();
    stage.expect(ALICE, 99, 0, 1);
    assert_eq!(audit(proxy, "reserved_not_settled").1, 0);
    assert_eq!(states(), (vec!["not-debited".to_owned()], 1, 1));
    assert_eq!(rules(proxy, &client.call_id, "not-debited"), ["5xx=release 506"]);
    let error = proxy.rpc(&["imcharge.audit", "all", "0"]).expect_err("no such number of rows");
    assert!(error.contains("400"), "{error}");
}

#[test]
fn the_audit_shows_what_waits_at_the_enabler() {
    let charged = Charged::new(&["--no-duplicate-detection"], |setup| setup.parameter("resend", "\"hold\""));
    let proxy = &charged.stage.proxy;
    let _server = charged.stage.server(&["one", "two"], |_| {});
    charged.ocs.command("fault drop on=update times=1");
    let mut client = charged.stage.bound(|_| {});
    // The first debit is booked and never answered; the second is queued after it.
    client.take(2, Reaction::Answer(200));
    let states = || audit(proxy, "waiting_at_the_enabler").0.iter().map(|row| row["state"].clone()).collect::<Vec<_>>();
    assert!(eventually(SOON, || states() == ["held-back", "queued"]), "{:?}", states());
    let (rows, count, units) = audit(proxy, "waiting_at_the_enabler");
    assert_eq!((count, units), (2, 2));
    for row in &rows {
        assert_eq!((row["what"].as_str(), row["rule"].as_str()), ("debit", "debit_on=response"));
        assert!(row["callid"] == client.call_id && row.contains_key("messageid") && row.contains_key("age"));
    }
    assert_eq!(rules(proxy, &client.call_id, "held-back"), ["resend=hold"]);
    // What is reserved is known of a distant enabler as well.
    assert_eq!(audit(proxy, "reserved_not_settled").2, 10);
    proxy.rpc(&["imcharge.outbox.release", &client.call_id]).expect("one is held back");
    assert!(eventually(SOON, || states().is_empty()), "{:?}", states());
    assert_eq!(rules(proxy, &client.call_id, "resolved"), ["outbox.release"]);
    client.bye();
    charged.expect(98, 0, 2);
    charged.expect_rest();
    assert_eq!(audit(proxy, "reserved_not_settled").1, 0);
}

#[test]
fn a_long_trace_is_shown_in_pages_without_a_gap() {
    const MESSAGES: usize = 100;
    let stage = Stage::new(|setup| {
        setup.changed("imcharge_reserve(\"CHARGED\", \"10\")", "imcharge_reserve(\"CHARGED\", \"100\")")
    });
    stage.proxy.set_account(ALICE, 1000);
    let _server = stage.server(&["one"; MESSAGES], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(MESSAGES, Reaction::Answer(200));
    stage.until_debited(ALICE, MESSAGES);
    client.bye();
    stage.expect(ALICE, 900, 0, 100);
    let (mut pages, mut next, mut all) = (0, String::new(), Vec::new());
    loop {
        let answer = stage.proxy.rpc(&["imcharge.explain", &client.call_id, &next]);
        let answer = answer.unwrap_or_else(|error| panic!("{error}"));
        pages += 1;
        all.extend(structures(&answer, "step"));
        let session = structures(&answer, "steps_dropped").pop().expect("a session");
        assert_eq!((session["steps_dropped"].as_str(), session["units_debited"].as_str()), ("0", "100"));
        let page = structures(&answer, "more").pop().expect("a page");
        if page["more"] == "0" {
            break;
        }
        next = page["next"].clone();
    }
    assert!(pages > 1);
    let numbers: Vec<usize> = all.iter().map(|step| step["number"].parse().expect("a number")).collect();
    assert_eq!(numbers, (0..all.len()).collect::<Vec<_>>());
    let times: Vec<i64> = all.iter().map(|step| step["micros"].parse().expect("a time")).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(all.iter().filter(|step| step["step"] == "debited").count(), MESSAGES);
    assert_eq!(all.last().map(|step| step["step"].as_str()), Some("closed"));
}

/// CC-Request-Number counts from 0 in each Diameter session (RFC 8506, 8.2).
#[test]
fn requests_have_the_numbers_that_were_sent() {
    let charged = Charged::new(&[], |setup| {
        setup.changed("imcharge_reserve(\"CHARGED\", \"10\")", "imcharge_reserve(\"CHARGED\", \"3\")")
    });
    let _server = charged.stage.server(&["one", "two", "three"], |_| {});
    let proxy = &charged.stage.proxy;
    // Each session begins to count anew, whatever the sessions before it have asked.
    for _ in 0..2 {
        let mut client = charged.stage.bound(|_| {});
        for _ in 0..3 {
            assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
        }
        assert_eq!(client.bye(), 200);
        let numbers = || {
            let steps = explain(proxy, &client.call_id);
            let of = |fields: &Fields| Some((fields["step"].clone(), fields.get("request")?.clone()));
            let asked = steps.iter().filter_map(of).filter(|(step, _)| step == "reserve" || step == "debit");
            asked.map(|(_, number)| number).collect::<Vec<_>>()
        };
        assert!(eventually(SOON, || numbers() == ["0", "1", "2", "3"]), "{:?}\n{}", numbers(), proxy.log());
    }
}
