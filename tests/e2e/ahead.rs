//! How much is reserved, when more is asked for, and what a charging system holds that refuses.

use super::diameter::Charged;
use super::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::{ImClient, Reaction};
use imcharge_testkit::proxy::{Host, Setup};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// With this number of messages in `imcharge_reserve`; `None`: without one.
pub fn announced(setup: Setup, messages: Option<u32>) -> Setup {
    let number = messages.map_or(String::new(), |messages| messages.to_string());
    match setup.host {
        Host::OpenSips => setup.changed("imcharge_reserve(10)", &format!("imcharge_reserve({number})")),
        Host::Kamailio => {
            let number = if number.is_empty() { number } else { format!(", \"{number}\"") };
            setup.changed("imcharge_reserve(\"CHARGED\", \"10\")", &format!("imcharge_reserve(\"CHARGED\"{number})"))
        }
    }
}

/// A client takes all messages of a server that waits for each response, and none is refused.
#[track_caller]
fn take_all(stage: &Stage, count: usize, pace: Duration) -> ImClient {
    let server = stage.server(&vec!["one"; count], |options| options.pace = pace);
    let mut client = stage.bound(|_| {});
    let got = client.take(count, Reaction::Answer(200)).len();
    assert_eq!((got, server.refused()), (count, 0), "{}", stage.proxy.log());
    client
}

#[test]
pub fn without_a_number_no_message_waits_for_credit_on_the_ledger() {
    let stage = Stage::new(|setup| announced(setup, None));
    stage.proxy.set_account(ALICE, 1000);
    let mut client = take_all(&stage, 300, Duration::ZERO);
    stage.until_debited(ALICE, 300);
    client.bye();
    stage.expect(ALICE, 700, 0, 300);
}

#[test]
fn without_a_number_no_message_waits_for_credit_at_a_charging_system() {
    for (delay, count) in [(None, 300), (Some("fault delay=20ms"), 200)] {
        let charged = Charged::new(&[], |setup| announced(setup, None)).unjudged();
        charged.ocs.command(&format!("account {ALICE}=1000"));
        if let Some(delay) = delay {
            charged.ocs.command(delay);
        }
        // A request waits for the disk, which a machine full of tests keeps busy.
        let mut client = take_all(&charged.stage, count, Duration::from_millis(3));
        charged.stage.until_debited(ALICE, count);
        client.bye();
        charged.expect(1000 - count as i64, 0, count as i64);
        charged.expect_rest();
    }
}

#[test]
fn the_last_of_the_credit_is_used_up_without_a_refusal() {
    for options in [&[][..], &["--no-partial"]] {
        let charged = Charged::new(options, |setup| announced(setup, None));
        charged.ocs.command(&format!("account {ALICE}=20"));
        let mut client = charged.stage.client(ALICE, |_| {});
        let server = charged.stage.server(&["one"; 20], |_| {});
        assert_eq!(client.invite(), 200);
        // All that is there is found and reserved before the first message.
        charged.expect(0, 20, 0);
        client.bind();
        assert_eq!(client.take(20, Reaction::Answer(200)).len(), 20);
        assert_eq!(server.refused(), 0, "{}", charged.stage.proxy.log());
        client.bye();
        charged.expect(0, 0, 20);
        charged.expect_rest();
    }
}

#[test]
fn announced_count_is_reserved_once_and_nothing_is_held_after_its_last_debit() {
    let charged = Charged::new(&[], |setup| announced(setup, Some(5)));
    let mut client = take_all(&charged.stage, 5, Duration::ZERO);
    charged.expect(95, 0, 5);
    let asked = || ["initial", "update", "termination", "event"].map(|name| charged.ocs.counter(name));
    assert_eq!((asked(), charged.ocs.sessions().len()), ([1, 4, 1, 0], 0));
    client.bye();
    let is_closed = || charged.stage.proxy.statistic("sessions_active") == 0;
    assert!(eventually(SOON, is_closed), "{}", charged.stage.proxy.log());
    assert_eq!(asked(), [1, 4, 1, 0], "the BYE has nothing to release");
    charged.expect_rest();
}

#[test]
pub fn ledger_holds_nothing_after_the_debit_of_the_last_announced_message() {
    let stage = Stage::new(|setup| announced(setup, Some(5)));
    stage.proxy.set_account(ALICE, 100);
    let mut client = take_all(&stage, 5, Duration::ZERO);
    stage.expect(ALICE, 95, 0, 5);
    client.bye();
    stage.expect(ALICE, 95, 0, 5);
}

#[test]
pub fn message_beyond_the_announced_count_is_stopped_and_later_ones_are_charged() {
    let stage = Stage::new(|setup| announced(setup, Some(1)));
    stage.proxy.set_account(ALICE, 2000);
    let server = stage.server(&["one", "two"], |_| {});
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1, "{}", stage.proxy.log());
    assert!(eventually(SOON, || server.refused() == 1), "{}", stage.proxy.log());
    // 128 messages are granted ahead, up to 1024 if the grant of the first one took long: on a busy machine it does.
    let granted = || stage.proxy.count("SELECT granted FROM sessions");
    let is_ahead = || (1 + 128..=1 + 1024).contains(&granted());
    assert!(eventually(SOON, is_ahead), "{} granted\n{}", granted(), stage.proxy.log());
    client.bye();
    stage.expect(ALICE, 1999, 0, 1);
}

#[test]
fn one_unit_buys_one_message_where_a_refusal_drops_what_was_reserved() {
    for messages in [Some(1), None] {
        let charged =
            Charged::new(&["--no-partial"], |setup| announced(setup, messages).defined("RESPONSE_TIMEOUT", "60"));
        charged.ocs.command(&format!("account {ALICE}=1"));
        let server = charged.stage.server(&["one", "two"], |_| {});
        let mut clients = Vec::new();
        let mut passed = 0;
        for _ in 0..10 {
            let mut client = charged.stage.client(ALICE, |_| {});
            if client.invite() == 200 {
                client.bind();
                passed += client.take(2, Reaction::Silence).len();
            }
            clients.push(client);
        }
        assert_eq!(passed, 1, "announced {messages:?}: {}", charged.stage.proxy.log());
        assert_eq!(server.invites(), 1);
        charged.expect(0, 1, 0);
        for client in &mut clients {
            client.bye();
        }
        charged.expect(0, 0, 1);
        charged.expect_rest();
    }
}
