//! Files: MSRP sessions for one file (RFC 5547) in both directions, voice messages, and documents of RCS file transfer over
//! HTTP in a chat and in a SIP MESSAGE. Other content costs 2, a file 10 and 1 for each started kilobyte.

use super::ahead::announced;
use super::chat::{BOB, call};
use super::diameter::Charged;
use super::page::paging;
use super::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::{ImClient, Reaction};
use imcharge_testkit::proxy::Setup;
use std::time::Duration;

const PRICE: &str = "message:10+kilobyte:1";
const FILE_OVER_HTTP: &str = "application/vnd.gsma.rcs-ft-http+xml";
const SOON: Duration = Duration::from_secs(15);

/// Prices in units of money: this one for files, 2 for other messages.
fn priced(setup: Setup, file: &str) -> Setup {
    let setup = setup.defined("TARIFF", "\"message:2\"").parameter("unit", "\"money\"");
    setup.parameter("tariff", &format!("\"{file};class=file\""))
}

/// The inviting party pays for what it sends.
fn sent(setup: Setup) -> Setup {
    setup.defined("WITH_CHAT", "1").defined("CHAT_CONTENT", "\"sent\"")
}

/// A proxy that charges files that the inviting party sends.
fn pushing(file: &str, change: impl FnOnce(Setup) -> Setup) -> Stage {
    let stage = Stage::new(|setup| change(sent(priced(setup, file))));
    stage.proxy.set_account(ALICE, 100);
    stage
}

/// Alice, who calls Bob and offers a file.
fn offering(stage: &Stage, selector: &str) -> ImClient {
    let port = stage.place.local_addr().expect("a bound socket has an address").port();
    let mut alice = stage.client(ALICE, |options| {
        options.request_uri = format!("{BOB}:{port}");
        options.file_selector = Some(selector.into());
    });
    assert_eq!(alice.invite(), 200, "{}", stage.proxy.log());
    alice.bind();
    alice
}

/// What is held for Alice after her INVITE was answered: the tables are written after the verdict.
fn held(stage: &Stage) -> i64 {
    let held = || stage.proxy.account(ALICE).map_or(0, |account| account.held);
    assert!(eventually(SOON, || held() > 0), "{}", stage.proxy.log());
    held()
}

/// Alice sends a file of this size and type; returns what is held for it before and what it costs.
#[track_caller]
fn push(stage: &Stage, selector: &str, content_type: &str, octets: usize) -> (i64, i64) {
    let _bob = stage.server(&[], |_| {});
    let mut alice = offering(stage, selector);
    let held = held(stage);
    let body = vec![b'x'; octets];
    assert_eq!(alice.deliver_in_chunks("file", content_type, &body, 2), 200, "{}", stage.proxy.log());
    stage.until_debited(ALICE, 1);
    assert_eq!(alice.bye(), 200);
    let units: i64 = stage.proxy.debits(ALICE).iter().map(|debit| debit.units).sum();
    stage.expect(ALICE, 100 - units, 0, units);
    (held, units)
}

#[test]
pub fn pushed_file_costs_its_class_and_size_whatever_its_content_type() {
    for (price, units) in [(PRICE, 13), ("message:7", 7), ("kilobyte:4", 12)] {
        let stage = pushing(price, |setup| setup);
        let selector = "name:\"notes.txt\" type:text/plain size:3000 hash:sha-1:72:24:5F:E8:65:3D:DA:F3";
        assert_eq!(push(&stage, selector, "text/plain", 3000), (units, units), "{price}");
        assert_eq!(stage.proxy.statistic("files_unsized"), 0);
    }
}

#[test]
fn voice_message_is_a_file() {
    let stage = pushing(PRICE, |setup| setup);
    let selector = "name:\"voice.amr\" type:audio/amr size:5000\r\na=file-disposition:render";
    assert_eq!(push(&stage, selector, "audio/amr", 5000), (15, 15));
}

/// What is reserved without a size is what other messages get: here, all that there is.
#[test]
pub fn file_without_a_believed_size_is_counted_and_charged_by_what_passes() {
    for (selector, unsized_files, oversized) in [
        ("name:\"a.txt\" type:text/plain", 1, 0),
        ("name:\"a.txt\" size:-3000", 1, 0),
        ("name:\"a.txt\" size:99999999999999999999", 1, 0),
        ("name:\"a.txt\" size:104857601", 0, 1),
    ] {
        let stage = pushing(PRICE, |setup| setup);
        assert_eq!(push(&stage, selector, "text/plain", 3000), (100, 13), "{selector}");
        let counted = ["files_unsized", "files_oversized"].map(|name| stage.proxy.statistic(name));
        assert_eq!(counted, [unsized_files, oversized], "{selector}");
        let log = stage.proxy.log();
        assert!(log.contains("files_unsized") || log.contains("files_oversized"), "{log}");
    }
}

#[test]
fn stated_size_smaller_than_the_file_saves_nothing() {
    let stage = pushing(PRICE, |setup| setup);
    let _bob = stage.server(&[], |_| {});
    let mut alice = offering(&stage, "name:\"a.txt\" size:1000");
    stage.expect(ALICE, 89, 11, 0);
    let deliver = |alice: &mut ImClient| alice.deliver_in_chunks("file", "text/plain", &[b'x'; 3000], 1);
    // The gate stops it and the engine asks for more: the next attempt passes.
    assert_eq!(deliver(&mut alice), 403, "{}", stage.proxy.log());
    assert!(eventually(SOON, || deliver(&mut alice) == 200), "{}", stage.proxy.log());
    stage.until_debited(ALICE, 1);
    assert_eq!(alice.bye(), 200);
    stage.expect(ALICE, 87, 0, 13);
}

/// Alice fetches a text file of 3000 octets; returns what is held for it before.
#[track_caller]
fn fetch(stage: &Stage, offered: &str, answered: Option<&'static str>) -> i64 {
    let _server = stage.server(&[], |options| {
        options.messages = vec![("file".into(), vec![b'x'; 3000])];
        options.file_selector = answered;
        // The test reads the account before the file arrives.
        options.pace = Duration::from_secs(1);
    });
    let mut alice = stage.client(ALICE, |options| options.file_selector = Some(offered.into()));
    assert_eq!(alice.invite(), 200, "{}", stage.proxy.log());
    let held = held(stage);
    alice.bind();
    assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1, "{}", stage.proxy.log());
    stage.until_debited(ALICE, 1);
    assert_eq!(alice.bye(), 200);
    held
}

#[test]
pub fn fetched_file_is_charged_to_the_party_that_fetches_it() {
    const WHOLE: &str = "name:\"notes.txt\" type:text/plain size:3000";
    for (offered, answered, held, units) in [
        (WHOLE, Some(WHOLE), 13, 13),
        // By name: the answer contains the size.
        ("name:\"notes.txt\"", Some(WHOLE), 100, 13),
        // Without the sender's selector it is a text: the payer cannot choose its own price.
        (WHOLE, None, 13, 2),
    ] {
        let stage = Stage::new(|setup| announced(priced(setup, PRICE), None));
        stage.proxy.set_account(ALICE, 100);
        assert_eq!(fetch(&stage, offered, answered), held, "{offered} {answered:?}");
        stage.expect(ALICE, 100 - units, 0, units);
    }
}

/// A document about a file of this size, with a thumbnail of 9 MB.
fn document(size: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><file xmlns=\"urn:gsma:params:xml:ns:rcs:rcs:fthttp\">\
         <file-info type=\"thumbnail\"><file-size>9000000</file-size><content-type>image/jpeg</content-type>\
         <data url=\"https://ft.example/t\" until=\"2026-12-31T00:00:00Z\"/></file-info>\
         <file-info type=\"file\"><file-size>{size}</file-size><file-name>a.mp4</file-name>\
         <content-type>video/mp4</content-type>\
         <data url=\"https://ft.example/f?a=1&amp;b=2\" until=\"2026-12-31T00:00:00Z\"/></file-info></file>"
    )
}

fn in_cpim(document: &str) -> String {
    format!("From: <im:a@x>\r\nTo: <im:b@x>\r\n\r\nContent-type: {FILE_OVER_HTTP}\r\n\r\n{document}")
}

#[test]
fn document_about_a_file_costs_the_file_in_a_chat() {
    for (content_type, body, chunks, units, counted) in [
        (FILE_OVER_HTTP, document("20480"), 1, 30, [0, 0]),
        ("message/cpim", in_cpim(&document("20481")), 1, 31, [0, 0]),
        // What cannot be read is charged by its own size, and counted.
        (FILE_OVER_HTTP, document("20480"), 2, 11, [1, 0]),
        ("message/cpim", in_cpim(&document("-1")), 1, 11, [1, 0]),
        (FILE_OVER_HTTP, document("20480").replace("</file>", ""), 1, 11, [1, 0]),
        (FILE_OVER_HTTP, document("104857601"), 1, 11, [0, 1]),
        // A document is no smaller than itself.
        (FILE_OVER_HTTP, document("0"), 1, 11, [0, 0]),
        ("text/xml", document("20480"), 1, 2, [0, 0]),
    ] {
        let stage = pushing(PRICE, |setup| setup);
        let _bob = stage.server(&[], |_| {});
        let mut alice = call(&stage);
        let status = alice.deliver_in_chunks("file", content_type, body.as_bytes(), chunks);
        assert_eq!(status, 200, "{}", stage.proxy.log());
        stage.until_debited(ALICE, 1);
        assert_eq!(alice.bye(), 200);
        stage.expect(ALICE, 100 - units, 0, units);
        let found = ["files_unread", "files_oversized"].map(|name| stage.proxy.statistic(name));
        assert_eq!(found, counted, "{content_type} {body}");
    }
}

#[test]
pub fn document_about_a_file_costs_its_receiver_no_more_than_the_document() {
    let stage = Stage::new(|setup| priced(setup, PRICE));
    stage.proxy.set_account(ALICE, 100);
    let body = document("104857600");
    let _server = stage.server(&[body.as_str()], |options| options.content_types = vec![FILE_OVER_HTTP]);
    let mut alice = stage.bound(|_| {});
    assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1, "{}", stage.proxy.log());
    stage.until_debited(ALICE, 1);
    assert_eq!(alice.bye(), 200);
    stage.expect(ALICE, 89, 0, 11);
}

#[test]
fn document_beyond_the_grant_passes_once_more_is_granted() {
    let stage = pushing(PRICE, |setup| setup);
    stage.proxy.set_account(ALICE, 5000);
    let _bob = stage.server(&[], |_| {});
    let mut alice = call(&stage);
    let body = document("2097152");
    let deliver = |alice: &mut ImClient| alice.deliver_in_chunks("file", FILE_OVER_HTTP, body.as_bytes(), 1);
    assert_eq!(deliver(&mut alice), 403, "{}", stage.proxy.log());
    assert!(eventually(SOON, || deliver(&mut alice) == 200), "{}", stage.proxy.log());
    stage.until_debited(ALICE, 1);
    assert_eq!(alice.bye(), 200);
    stage.expect(ALICE, 5000 - 2058, 0, 2058);
}

#[test]
pub fn document_about_a_file_costs_the_file_in_a_sip_message() {
    for (content_type, body, units, unread) in [
        (FILE_OVER_HTTP, document("20480"), 30, 0),
        ("message/cpim", in_cpim(&document("20480")), 30, 0),
        (FILE_OVER_HTTP, document("many"), 11, 1),
    ] {
        let (stage, receiver, sender) = paging(|setup| priced(setup, PRICE));
        let mut message = sender.message("sip:bob@im.example.org", &body);
        message.headers.retain(|(name, _)| name != "Content-Type");
        assert_eq!(sender.request(&message.with("Content-Type", content_type), SOON), 200, "{}", stage.proxy.log());
        stage.expect(ALICE, 100 - units, 0, units);
        assert_eq!((receiver.count(), stage.proxy.statistic("files_unread")), (1, unread));
    }
}

#[test]
fn document_in_a_sip_message_costs_its_receiver_no_more_than_the_document() {
    let (stage, _receiver, sender) = paging(|setup| priced(setup, PRICE));
    let bob = "sip:bob@im.example.org";
    stage.proxy.set_account(bob, 100);
    let mut message = sender.message(bob, &document("104857600"));
    message.headers.retain(|(name, _)| !["Content-Type", "P-Asserted-Identity"].contains(&name.as_str()));
    let message = message.with("Content-Type", FILE_OVER_HTTP);
    let message = message.with("P-Asserted-Identity", "<sip:rcse-standfw@example.org>");
    assert_eq!(sender.request(&message, SOON), 200, "{}", stage.proxy.log());
    stage.expect(bob, 89, 0, 11);
}

/// Sends 2000 octets of a file of 8000; returns the status. The pause lets the engine ask for more.
fn deliver_quarter(alice: &mut ImClient, quarter: usize) -> u16 {
    let (start, end) = (quarter * 2000 + 1, (quarter + 1) * 2000);
    let flag = if quarter == 3 { '$' } else { '+' };
    let status = alice.deliver_chunk("file", "text/plain", &format!("{start}-{end}/8000"), &[b'x'; 2000], flag);
    std::thread::sleep(Duration::from_millis(500));
    status
}

#[test]
fn file_stops_where_the_credit_of_the_ledger_ends() {
    for (top_up, statuses, units) in [(0, [200, 200, 403, 403], 14), (86, [200; 4], 18)] {
        let stage = pushing(PRICE, |setup| setup);
        stage.proxy.set_account(ALICE, 14);
        let _bob = stage.server(&[], |_| {});
        let mut alice = offering(&stage, "name:\"a.txt\" size:8000");
        // The whole file would cost 18.
        stage.expect(ALICE, 0, 14, 0);
        if top_up > 0 {
            stage.proxy.rpc(&["imcharge.account.add", ALICE, &top_up.to_string(), "top-up"]).expect("a top-up");
        }
        assert_eq!([0, 1, 2, 3].map(|quarter| deliver_quarter(&mut alice, quarter)), statuses, "{}", stage.proxy.log());
        stage.until_debited(ALICE, 1);
        assert_eq!(alice.bye(), 200);
        stage.expect(ALICE, 14 + top_up - units, 0, units);
    }
}

#[test]
fn file_stops_where_the_credit_of_a_charging_system_ends() {
    for (balance, later, statuses, units) in [(14, 14, [200, 200, 403, 403], 14), (14, 100, [200; 4], 18)] {
        let charged = Charged::new(&["--money-exponent", "-2"], |setup| sent(priced(setup, PRICE)));
        charged.ocs.command(&format!("account {ALICE}={balance}"));
        let _bob = charged.stage.server(&[], |_| {});
        let mut alice = offering(&charged.stage, "name:\"a.txt\" size:8000");
        charged.expect(0, balance, 0);
        if later > balance {
            charged.ocs.command(&format!("account {ALICE}={}", later - balance));
        }
        let found = [0, 1, 2, 3].map(|quarter| deliver_quarter(&mut alice, quarter));
        assert_eq!(found, statuses, "{}", charged.stage.proxy.log());
        charged.stage.until_debited(ALICE, 1);
        assert_eq!(alice.bye(), 200);
        charged.expect(later - units, 0, units);
        charged.expect_rest();
    }
}
