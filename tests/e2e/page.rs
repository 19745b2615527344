//! Page mode: SIP MESSAGEs through a real proxy, charged by their final response.

use super::diameter::Charged;
use super::sessions::in_lua;
use super::{ALICE, Stage};
use imcharge_testkit::parties::page::{PageReceiver, PageSender};
use imcharge_testkit::proxy::{Host, Setup};
use imcharge_testkit::{eventually, unique};
use std::net::UdpSocket;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

/// Makes a MESSAGE end after a second without a final response (OpenSIPS: two, its minimum).
pub fn impatient(setup: Setup) -> Setup {
    match setup.host {
        Host::Kamailio => {
            let timers = "modparam(\"tm\", \"fr_timer\", 1000)\nmodparam(\"tm\", \"wt_timer\", 1000)";
            setup.changed("loadmodule \"imcharge.so\"", &format!("loadmodule \"imcharge.so\"\n{timers}"))
        }
        Host::OpenSips => {
            let timers = "modparam(\"tm\", \"fr_timeout\", 2)\nmodparam(\"tm\", \"wt_timer\", 2)";
            setup.changed("loadmodule \"imcharge.so\"", &format!("loadmodule \"imcharge.so\"\n{timers}"))
        }
    }
}

/// A proxy with this change before a receiver; Alice has 100.
pub fn paging(change: impl FnOnce(Setup) -> Setup) -> (Stage, PageReceiver, PageSender) {
    let stage = Stage::new(|setup| change(impatient(setup)));
    stage.proxy.set_account(ALICE, 100);
    let receiver = PageReceiver::start(&stage.place);
    let sender = PageSender::new(stage.proxy.sip, ALICE);
    (stage, receiver, sender)
}

fn to(user: &str) -> String {
    format!("sip:{user}@im.example.org")
}

/// Sends a text to users that answer as they are named. Returns the statuses that the sender gets.
fn statuses<const COUNT: usize>(sender: &PageSender, users: [&str; COUNT]) -> [u16; COUNT] {
    users.map(|user| sender.text(&to(user), "hello"))
}

fn is_settled(stage: &Stage) -> bool {
    let statistic = |name: &str| stage.proxy.statistic(name);
    eventually(SOON, || statistic("sessions_active") == 0 && statistic("outbox_depth") == 0)
}

#[test]
pub fn final_response_decides_about_each_message() {
    assert_that_the_final_response_decides(|setup| setup);
}

#[test]
fn final_response_decides_about_each_message_in_lua() {
    assert_that_the_final_response_decides(in_lua);
}

fn assert_that_the_final_response_decides(change: fn(Setup) -> Setup) {
    let (stage, receiver, sender) = paging(change);
    let users = ["bob", "202", "302", "404", "480", "486", "606", "408", "silent"];
    let got = statuses(&sender, users);
    assert_eq!(got, [200, 202, 302, 404, 480, 486, 606, 408, 408], "{}", stage.proxy.log());
    assert!(is_settled(&stage), "{}", stage.proxy.log());
    // 200 and 202; the last two got no final response.
    stage.expect(ALICE, 96, 0, 4);
    let mut triggers = stage.triggers(ALICE);
    triggers.sort();
    assert_eq!(triggers, ["response", "response", "timeout", "timeout"]);
    assert_eq!(receiver.texts().len(), users.len());
    assert_eq!(stage.proxy.statistic("messages"), users.len() as i64);
    let free = "SELECT count(*) FROM undebited WHERE rule='not-delivered' AND message_id='msg'";
    assert_eq!(stage.proxy.count(free), 5);
}

#[test]
pub fn policies_release_accepted_and_silent_messages() {
    let policy = "\"202=release;message-timeout=release\"";
    let (stage, _receiver, sender) = paging(|setup| setup.parameter("policy", policy));
    assert_eq!(statuses(&sender, ["202", "silent", "bob"]), [202, 408, 200]);
    assert!(is_settled(&stage));
    stage.expect(ALICE, 99, 0, 1);
}

#[test]
pub fn sender_without_credit_gets_402_and_nothing_is_relayed() {
    let (stage, receiver, sender) = paging(|setup| setup);
    stage.proxy.set_account(ALICE, 1);
    assert_eq!(statuses(&sender, ["bob", "bob"]), [200, 402], "{}", stage.proxy.log());
    stage.expect(ALICE, 0, 0, 1);
    assert_eq!(receiver.count(), 1);
    assert_eq!(PageSender::new(stage.proxy.sip, "sip:unknown@example.org").text(&to("bob"), "hello"), 402);
    assert_eq!(receiver.count(), 1);
}

#[test]
pub fn bad_messages_have_named_outcomes() {
    let (stage, receiver, sender) = paging(|setup| setup.parameter("message_max", "1000"));
    let mut anonymous = sender.message(&to("bob"), "hello");
    anonymous.headers.retain(|(name, _)| name != "P-Asserted-Identity");
    assert_eq!(sender.request(&anonymous, SOON), 403, "{}", stage.proxy.log());
    assert_eq!(sender.text(&to("bob"), &"x".repeat(1001)), 413);
    assert_eq!(receiver.count(), 0);
    assert_eq!(stage.proxy.statistic("dropped_too_large"), 1);
    assert_eq!(stage.proxy.log().matches("1001 octets, more than message_max=1000").count(), 1);
    assert_eq!(stage.proxy.count("SELECT count(*) FROM sessions WHERE account=''"), 1);
    assert_eq!(sender.text(&to("bob"), &"x".repeat(1000)), 200);
    assert_eq!(sender.text(&to("bob"), ""), 200);
    // CPIM headers that break off are charged as content of unknown type.
    let mut cpim = sender.message(&to("bob"), "From: <im:a@example.org>\r\n\r\nContent-type: message/imdn");
    let content_type = cpim.headers.iter_mut().find(|(name, _)| name == "Content-Type").expect("a Content-Type");
    content_type.1 = "message/cpim".into();
    assert_eq!(sender.request(&cpim, SOON), 200, "{}", stage.proxy.log());
    assert_eq!(stage.proxy.statistic("messages_unclassified"), 1);
    assert_eq!(stage.proxy.log().matches("(messages_unclassified)").count(), 1);
    stage.expect(ALICE, 97, 0, 3);
}

#[test]
fn message_with_an_unknown_tariff_is_refused_counted_and_logged() {
    let chosen = "imcharge_reserve(\"MESSAGE_CHARGED\", 0, \"tariff=$rU\");";
    let (stage, receiver, sender) = paging(|setup| {
        let setup = setup.changed("imcharge_reserve(\"MESSAGE_CHARGED\");", chosen);
        setup.parameter("tariff", "\"message:7;name=night\"")
    });
    assert_eq!(statuses(&sender, ["bob", "night", "bob"]), [503, 200, 503], "{}", stage.proxy.log());
    assert!(is_settled(&stage));
    assert_eq!(receiver.count(), 1);
    assert_eq!(stage.proxy.statistic("dropped_unknown_tariff"), 2);
    // Each process logs it once a minute.
    assert!(stage.proxy.log().contains("there is no tariff 'bob'"), "{}", stage.proxy.log());
    stage.expect(ALICE, 93, 0, 7);
}

#[test]
pub fn retransmissions_are_one_message() {
    let (stage, receiver, sender) = paging(|setup| setup);
    for user in ["bob", "404"] {
        let message = sender.message(&to(user), "hello");
        for _ in 0..5 {
            sender.send(&message);
        }
        assert_ne!(sender.response(&message, SOON), 0);
        sender.send(&message);
        assert_ne!(sender.response(&message, SOON), 0, "a retransmission gets the same answer");
    }
    assert!(is_settled(&stage));
    stage.expect(ALICE, 99, 0, 1);
    assert_eq!(receiver.count(), 2);
    assert_eq!(stage.proxy.statistic("messages"), 2);
}

#[test]
pub fn second_path_of_a_message_is_refused_as_merged() {
    let (stage, receiver, sender) = paging(|setup| setup);
    for user in ["bob", "silent"] {
        let message = sender.message(&to(user), "hello");
        let mut copy = message.clone();
        copy.headers[0].1 = copy.headers[0].1.replace("z9hG4bK", &format!("z9hG4bKcopy{}", unique()));
        let seen = receiver.count();
        sender.send(&message);
        assert!(eventually(SOON, || receiver.count() > seen));
        assert_eq!(sender.request(&copy, SOON), 482, "{}", stage.proxy.log());
    }
    assert!(is_settled(&stage));
    stage.expect(ALICE, 98, 0, 2);
}

#[test]
fn message_that_loops_through_the_proxy_is_charged_once() {
    // The first pass goes to the proxy itself; the script recognises its own request.
    let own = "if ($sp == $Rp && src_ip == myself) { $du = IM_SERVER; t_relay(); exit; }";
    let (stage, receiver, sender) = paging(|setup| {
        setup
            .changed("    if (is_method(\"CANCEL\")) {", &format!("    {own}\n    if (is_method(\"CANCEL\")) {{"))
            .changed(
                "    if (is_method(\"MESSAGE\")) {\n        $du = IM_SERVER;",
                "    if (is_method(\"MESSAGE\")) {\n        $du = \"sip:127.0.0.1:\" + $Rp;",
            )
    });
    assert_eq!(statuses(&sender, ["bob", "404", "silent"]), [200, 404, 408], "{}", stage.proxy.log());
    assert!(is_settled(&stage));
    stage.expect(ALICE, 98, 0, 2);
    assert_eq!(receiver.texts().len(), 3);
    assert_eq!(stage.proxy.statistic("messages"), 3);
}

#[test]
fn unrecognised_loop_ends_with_482_and_costs_nothing() {
    let (stage, receiver, sender) = paging(|setup| {
        setup.changed(
            "    if (is_method(\"MESSAGE\")) {\n        $du = IM_SERVER;",
            "    if (is_method(\"MESSAGE\")) {\n        $du = \"sip:127.0.0.1:\" + $Rp;",
        )
    });
    assert_eq!(sender.text(&to("bob"), "hello"), 482, "{}", stage.proxy.log());
    assert!(is_settled(&stage));
    stage.expect(ALICE, 100, 0, 0);
    assert_eq!(receiver.count(), 0);
}

#[test]
fn fork_to_two_branches_is_charged_once() {
    let second = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let other = PageReceiver::start(&second);
    let granted = "route[MESSAGE_CHARGED] {\n    if ($imcharge(result) == \"granted\") {";
    let branch = format!(
        "{granted}\n        $var(user) = $rU;\n        $ru = IM_SERVER;\n        $rU = $var(user);\n        $du = $null;\n        \
         append_branch(\"sip:480@{}\");",
        other.address
    );
    let core = "loadmodule \"kex.so\"";
    let (stage, receiver, sender) =
        paging(|setup| setup.changed(granted, &branch).changed(core, &format!("{core}\nloadmodule \"corex.so\"")));
    assert_eq!(statuses(&sender, ["bob", "404"]), [200, 404], "{}", stage.proxy.log());
    assert!(is_settled(&stage));
    stage.expect(ALICE, 99, 0, 1);
    assert_eq!((receiver.texts().len(), other.texts().len()), (2, 2));
}

#[test]
fn copies_are_paid_together_or_not_at_all() {
    let (stage, receiver, sender) = paging(|setup| {
        setup.changed("imcharge_reserve(\"MESSAGE_CHARGED\")", "imcharge_reserve(\"MESSAGE_CHARGED\", \"40\")")
    });
    for (user, status, balance, debited) in
        [("bob", 200, 60, 40), ("404", 404, 60, 40), ("bob", 200, 20, 80), ("bob", 402, 20, 80)]
    {
        assert_eq!(statuses(&sender, [user]), [status], "{}", stage.proxy.log());
        stage.expect(ALICE, balance, 0, debited);
    }
    assert_eq!(receiver.count(), 3);
}

#[test]
pub fn message_within_a_dialog_is_charged() {
    let (stage, receiver, sender) = paging(|setup| setup);
    let mut message = sender.message(&format!("sip:bob@{}", receiver.address), "hello");
    for (name, value) in &mut message.headers {
        if name == "To" {
            value.push_str(";tag=remote");
        }
    }
    let message = message.with("Route", format!("<sip:{};lr>", stage.proxy.sip));
    assert_eq!(sender.request(&message, SOON), 200, "{}", stage.proxy.log());
    stage.expect(ALICE, 99, 0, 1);
}

#[test]
pub fn notification_is_free() {
    let (stage, receiver, sender) = paging(|setup| setup);
    let mut message = sender.message(&to("bob"), "<isComposing/>");
    for (name, value) in &mut message.headers {
        if name == "Content-Type" {
            "application/im-iscomposing+xml".clone_into(value);
        }
    }
    assert_eq!(sender.request(&message, SOON), 200, "{}", stage.proxy.log());
    assert_eq!((receiver.count(), stage.proxy.statistic("messages")), (1, 0));
    assert_eq!(stage.proxy.statistic("messages_free"), 1);
    stage.expect(ALICE, 100, 0, 0);
}

#[test]
pub fn called_party_pays_for_messages_of_the_store() {
    let (stage, _receiver, sender) = paging(|setup| setup);
    let bob = "sip:bob@im.example.org";
    stage.proxy.set_account(bob, 10);
    let mut message = sender.message(bob, "stored");
    for (name, value) in &mut message.headers {
        if name == "P-Asserted-Identity" {
            "<sip:rcse-standfw@example.org>".clone_into(value);
        }
    }
    assert_eq!(sender.request(&message, SOON), 200, "{}", stage.proxy.log());
    stage.expect(bob, 9, 0, 1);
    stage.expect(ALICE, 100, 0, 0);
    let service = stage.proxy.count("SELECT count(*) FROM sessions WHERE service='receiving'");
    assert_eq!(service, 1);
}

/// Number of messages that are outstanding when a process is killed.
const OUTSTANDING: usize = 1000;

/// Gives `OUTSTANDING` messages the time to be outstanding together.
fn patient(setup: Setup) -> Setup {
    let seconds = 60;
    let line = match setup.host {
        Host::Kamailio => format!("modparam(\"tm\", \"fr_timer\", {seconds}000)"),
        Host::OpenSips => format!("modparam(\"tm\", \"fr_timeout\", {seconds})"),
    };
    setup.changed("loadmodule \"imcharge.so\"", &format!("loadmodule \"imcharge.so\"\n{line}"))
}

/// Sends `OUTSTANDING` messages to users that do not answer, and waits until the receiver has all of them.
#[track_caller]
fn outstanding(stage: &Stage, receiver: &PageReceiver) -> PageSender {
    // The proxy's socket drops a larger burst.
    const BURST: usize = 50;
    let sender = PageSender::new(stage.proxy.sip, ALICE);
    let messages: Vec<_> = (0..OUTSTANDING).map(|_| sender.message(&to("silent"), "hello")).collect();
    for (number, burst) in messages.chunks(BURST).enumerate() {
        let sent = ((number + 1) * BURST) as i64;
        let are_reserved = || {
            burst.iter().for_each(|message| sender.send(message));
            eventually(Duration::from_secs(2), || stage.proxy.statistic("sessions_active") >= sent)
        };
        assert!(eventually(SOON, are_reserved), "{sent}\n{}", stage.proxy.log());
    }
    let all = eventually(4 * SOON, || receiver.texts().len() >= OUTSTANDING);
    assert!(all, "{} of {OUTSTANDING}\n{}", receiver.texts().len(), stage.proxy.log());
    sender
}

#[test]
pub fn after_kill_9_of_everything_each_outstanding_message_is_settled_once() {
    for (choice, debited) in [("debit", OUTSTANDING as i64), ("release", 0)] {
        let policy = format!("\"message-timeout={choice}\"");
        let mut stage = Stage::new(|setup| patient(setup).parameter("policy", &policy));
        stage.proxy.set_account(ALICE, 2000);
        let receiver = PageReceiver::start(&stage.place);
        let _sender = outstanding(&stage, &receiver);
        stage.expect(ALICE, 2000 - OUTSTANDING as i64, OUTSTANDING as i64, 0);
        stage.proxy.kill_all();
        stage.proxy.restart().unwrap_or_else(|error| panic!("{error}"));
        stage.expect(ALICE, 2000 - debited, 0, debited);
        assert_eq!(stage.proxy.count("SELECT count(*) FROM debits"), debited);
        assert_eq!(stage.proxy.count("SELECT count(*) FROM holds"), 0);
        assert_eq!(stage.proxy.statistic("sessions_active"), 0);
    }
}

#[test]
fn after_kill_9_of_the_engine_each_outstanding_message_is_debited_once() {
    // The proxy itself lives on, and ends each message with 408.
    let stage = Stage::new(patient);
    stage.proxy.set_account(ALICE, 2000);
    let receiver = PageReceiver::start(&stage.place);
    let _sender = outstanding(&stage, &receiver);
    let engine = stage.proxy.engine_pid();
    stage.proxy.signal("KILL", engine);
    assert!(eventually(SOON, || stage.proxy.engine_pid().is_some_and(|pid| Some(pid) != engine)));
    stage.expect(ALICE, 2000 - OUTSTANDING as i64, OUTSTANDING as i64, 0);
    let are_settled = || stage.proxy.statistic("sessions_active") == 0;
    assert!(eventually(8 * SOON, are_settled), "{}", stage.proxy.log());
    stage.expect(ALICE, 2000 - OUTSTANDING as i64, 0, OUTSTANDING as i64);
    assert_eq!(stage.proxy.count("SELECT count(*) FROM debits"), OUTSTANDING as i64);
}

#[test]
pub fn messages_survive_kills_of_the_engine() {
    const MESSAGES: usize = 400;
    let (stage, receiver, _) = paging(|setup| setup);
    stage.proxy.set_account(ALICE, 10_000);
    let statuses = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..4)
            .map(|_| {
                let sender = PageSender::new(stage.proxy.sip, ALICE);
                scope.spawn(move || (0..MESSAGES / 4).map(|_| sender.text(&to("bob"), "hello")).collect::<Vec<_>>())
            })
            .collect();
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(500));
            let engine = stage.proxy.engine_pid();
            engine.into_iter().for_each(|pid| stage.proxy.signal("KILL", Some(pid)));
            eventually(SOON, || stage.proxy.engine_pid().is_some_and(|pid| Some(pid) != engine));
        }
        parts.into_iter().flat_map(|part| part.join().expect("a sender")).collect::<Vec<_>>()
    });
    assert!(is_settled(&stage), "{}", stage.proxy.log());
    let delivered = statuses.iter().filter(|status| **status == 200).count() as i64;
    assert!(delivered > MESSAGES as i64 / 2, "{delivered} delivered\n{}", stage.proxy.log());
    // A sender that waits in vain may nevertheless have reached the receiver.
    let debited = stage.proxy.count("SELECT count(*) FROM debits");
    let relayed = receiver.texts().len() as i64;
    assert!((delivered..=relayed).contains(&debited), "{delivered} delivered, {debited} debited, {relayed} relayed");
    stage.expect(ALICE, 10_000 - debited, 0, debited);
}

/// A charging system where Alice has 100, and a proxy before it that charges MESSAGEs.
fn charged(model: &'static str, options: &[&str]) -> (Charged, PageReceiver, PageSender) {
    let charged = Charged::new(options, |setup| {
        let setup = impatient(setup);
        if model == "reserve" { setup } else { setup.parameter("model", &format!("\"{model}\"")) }
    });
    let receiver = PageReceiver::start(&charged.stage.place);
    let sender = PageSender::new(charged.stage.proxy.sip, ALICE);
    (charged, receiver, sender)
}

#[test]
fn an_ocs_reserves_and_debits_or_releases_each_message() {
    let (charged, _receiver, sender) = charged("reserve", &[]);
    assert_eq!(
        statuses(&sender, ["bob", "480", "silent", "202"]),
        [200, 480, 408, 202],
        "{}",
        charged.stage.proxy.log()
    );
    charged.expect(97, 0, 3);
    charged.expect_rest();
    let statistic = |name: &str| charged.stage.proxy.statistic(name);
    assert_eq!((statistic("initial_ccrs"), statistic("final_ccrs"), statistic("event_ccrs")), (4, 4, 0));
    charged.ocs.command(&format!("account {ALICE}=0"));
    assert_eq!(statuses(&sender, ["bob"]), [402]);
    charged.expect_rest();
}

#[test]
fn an_ocs_of_events_debits_each_message_after_its_2xx() {
    let (charged, receiver, sender) = charged("immediate", &[]);
    assert_eq!(statuses(&sender, ["bob", "480", "bob"]), [200, 480, 200], "{}", charged.stage.proxy.log());
    charged.expect(98, 0, 2);
    charged.expect_rest();
    let statistic = |name: &str| charged.stage.proxy.statistic(name);
    assert_eq!((statistic("initial_ccrs"), statistic("event_ccrs"), receiver.count()), (0, 2, 3));
}

#[test]
fn an_ocs_of_events_is_asked_before_delivery_and_refunds_failures() {
    let (charged, receiver, sender) = charged("prepay", &[]);
    assert_eq!(statuses(&sender, ["bob", "480", "silent"]), [200, 480, 408], "{}", charged.stage.proxy.log());
    charged.expect(98, 0, 2);
    charged.expect_rest();
    let statistic = |name: &str| charged.stage.proxy.statistic(name);
    // Three debits and one refund.
    assert_eq!((statistic("initial_ccrs"), statistic("event_ccrs")), (0, 4));
    assert_eq!((statistic("debits_prepaid"), statistic("refunds")), (3, 1));
    charged.ocs.command(&format!("account {ALICE}=0"));
    assert_eq!(statuses(&sender, ["bob"]), [402]);
    assert_eq!(receiver.texts().len(), 3);
    charged.expect_rest();
}

#[test]
fn a_killed_proxy_leaves_one_debit_for_each_outstanding_message_at_the_ocs() {
    for model in ["reserve", "prepay"] {
        let mut charged = Charged::new(&[], |setup| {
            let setup = patient(setup);
            if model == "reserve" { setup } else { setup.parameter("model", &format!("\"{model}\"")) }
        })
        .unjudged();
        charged.ocs.command(&format!("account {ALICE}=2000"));
        let receiver = PageReceiver::start(&charged.stage.place);
        let _sender = outstanding(&charged.stage, &receiver);
        charged.stage.proxy.kill_all();
        charged.stage.proxy.restart().unwrap_or_else(|error| panic!("{error}"));
        charged.expect(2000 - OUTSTANDING as i64, 0, OUTSTANDING as i64);
        charged.expect_marked();
        assert_eq!(charged.stage.proxy.count("SELECT count(*) FROM debits"), OUTSTANDING as i64);
    }
}
