//! Prices by content class, and tariffs that the script chooses by name.

use super::{ALICE, Stage};
use imcharge_testkit::parties::client::ImClient;

/// The called party of a chat.
const BOB: &str = "sip:bob@127.0.0.1";

/// A proxy that charges what the inviting party sends, with these options of `imcharge_reserve()`.
fn stage(options: &str) -> Stage {
    let stage = Stage::new(|setup| {
        let setup = setup.defined("WITH_CHAT", "1").defined("CHAT_CONTENT", format!("\"{options}\""));
        let setup = setup.defined("TARIFF", "\"message:2\"").parameter("unit", "\"money\"");
        setup
            .parameter("tariff", "\"message:10+kilobyte:1;class=file\"")
            .parameter("tariff", "\"message:1;name=night\"")
    });
    stage.proxy.set_account(ALICE, 100);
    stage.proxy.set_account(BOB, 100);
    stage
}

fn alice(stage: &Stage) -> ImClient {
    let port = stage.place.local_addr().expect("a bound socket has an address").port();
    stage.client(ALICE, |options| options.request_uri = format!("{BOB}:{port}"))
}

/// Sends a text, and a picture of 3000 octets in two chunks; returns the units of each debit.
fn send_text_and_picture(options: &str) -> Vec<i64> {
    let stage = stage(options);
    let _bob = stage.server(&[], |_| {});
    let mut alice = alice(&stage);
    assert_eq!(alice.invite(), 200, "{}", stage.proxy.log());
    alice.bind();
    assert_eq!(alice.deliver("text0", b"hello"), 200, "{}", stage.proxy.log());
    assert_eq!(alice.deliver_in_chunks("picture", "image/jpeg", &[b'x'; 3000], 2), 200, "{}", stage.proxy.log());
    stage.until_debited(ALICE, 2);
    assert_eq!(alice.bye(), 200);
    let debits = stage.proxy.debits(ALICE);
    let units: Vec<i64> = ["text0", "picture"]
        .map(|id| debits.iter().filter(|debit| debit.message_id == id).map(|debit| debit.units).sum())
        .into();
    let total: i64 = units.iter().sum();
    stage.expect(ALICE, 100 - total, 0, total);
    units
}

#[test]
pub fn text_and_file_of_one_session_have_their_own_prices() {
    assert_eq!(send_text_and_picture("sent"), [2, 13]);
}

#[test]
pub fn script_chooses_the_night_tariff_by_name() {
    assert_eq!(send_text_and_picture("sent;tariff=night"), [1, 1]);
}

#[test]
pub fn recipients_multiply_the_prices() {
    assert_eq!(send_text_and_picture("sent;recipients=3"), [6, 39]);
}

#[test]
pub fn unknown_tariff_is_refused_counted_and_logged_with_the_known_names() {
    let stage = stage("sent;tariff=$rU");
    let _bob = stage.server(&[], |_| {});
    let mut alice = alice(&stage);
    assert_ne!(alice.invite(), 200);
    assert_eq!(stage.proxy.statistic("dropped_unknown_tariff"), 1);
    let log = stage.proxy.log();
    assert!(log.contains("there is no tariff 'bob'") && log.contains("configured names: night"), "{log}");
    stage.expect(ALICE, 100, 0, 0);
}
