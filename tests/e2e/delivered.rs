//! What was delivered is what is debited, to the last unit, however chunks and answers come.

use super::ahead::announced;
use super::explain::audit;
use super::{ALICE, HOST, Stage};
use imcharge_testkit::parties::client::ImClient;
use imcharge_testkit::parties::server::ImServer;
use imcharge_testkit::proxy::{Host, Setup};
use imcharge_testkit::{eventually, unique};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// A retrieval in which the case itself says what the IM server sends.
struct Retrieval {
    stage: Stage,
    server: ImServer,
    client: ImClient,
}

impl Retrieval {
    fn new(balance: i64, change: impl FnOnce(Setup) -> Setup) -> Retrieval {
        let stage = Stage::new(change);
        stage.proxy.set_account(ALICE, balance);
        let server = stage.server(&[], |_| {});
        let client = stage.bound(|_| {});
        assert!(eventually(SOON, || server.write_raw(b"").is_ok()), "{}", stage.proxy.log());
        Retrieval { stage, server, client }
    }

    /// Price in units for each started kilobyte.
    fn by_kilobyte(balance: i64, units: u32) -> Retrieval {
        let tariff = format!("\"kilobyte:{units}\"");
        Retrieval::new(balance, |setup| setup.defined("TARIFF", tariff).parameter("unit", "\"money\""))
    }

    /// A SEND as it goes over the wire. `body`: none is one without content.
    fn frame(&self, message_id: &str, range: &str, body: Option<&str>, flag: char) -> String {
        let (client, server) = self.client.msrp_paths();
        let (relay, server) = server.split_once(' ').expect("a relay before the server");
        let id = format!("tr{}", unique());
        let content = body.map_or_else(String::new, |body| format!("Content-Type: text/plain\r\n\r\n{body}\r\n"));
        format!(
            "MSRP {id} SEND\r\nTo-Path: {relay} {client}\r\nFrom-Path: {server}\r\nMessage-ID: {message_id}\r\n\
             Byte-Range: {range}\r\n{content}-------{id}{flag}\r\n"
        )
    }

    fn send(&self, message_id: &str, range: &str, body: Option<&str>, flag: char) {
        self.server.write_raw(self.frame(message_id, range, body, flag).as_bytes()).expect("the relay reads");
    }

    /// Takes a SEND with content and answers it; its octets.
    fn take(&mut self, code: u16) -> usize {
        let frame = self.client.next_send(SOON);
        let explain = || self.stage.proxy.rpc(&["imcharge.explain", &self.client.call_id]).unwrap_or_default();
        let frame = frame.unwrap_or_else(|| panic!("{}\n{}", explain(), self.stage.proxy.log()));
        self.client.answer(&frame, code);
        frame.body.map_or(0, |body| body.len())
    }

    /// Waits until the output of `imcharge.explain` for the session contains this.
    #[track_caller]
    fn explains(&self, word: &str) {
        let explain = || self.stage.proxy.rpc(&["imcharge.explain", &self.client.call_id]).unwrap_or_default();
        assert!(eventually(SOON, || explain().contains(word)), "{word} is not in {}", explain());
    }

    /// Octets, units and trigger of each debit.
    fn debits(&self) -> Vec<(i64, i64, String)> {
        let debits = self.stage.proxy.debits(ALICE).into_iter();
        debits.map(|debit| (debit.octets, debit.units, debit.trigger)).collect()
    }
}

const KB8: usize = 8192;

#[test]
pub fn a_413_for_the_first_of_60_chunks_leaves_nothing_unpaid_that_passed() {
    let mut retrieval = Retrieval::by_kilobyte(5000, 3);
    let body = "k".repeat(KB8);
    let chunk = |number: usize| {
        let (start, flag) = (number * KB8 + 1, if number == 59 { '$' } else { '+' });
        retrieval.frame("large", &format!("{start}-*/{}", 60 * KB8), Some(&body), flag)
    };
    let chunks: Vec<String> = (0..60).map(chunk).collect();
    let Retrieval { server, client, .. } = &mut retrieval;
    // OpenSIPS closes a connection on which a frame arrives in two reads, so there each chunk waits for the one before it.
    let (at_once, wait) = match HOST.get() {
        Host::Kamailio => (30, Duration::ZERO),
        Host::OpenSips => (1, Duration::from_millis(100)),
    };
    let mut received = Vec::new();
    for (number, burst) in chunks.chunks(at_once).enumerate() {
        server.write_raw(burst.concat().as_bytes()).expect("the relay reads");
        received.extend(client.next_send(if number == 0 { SOON } else { wait }));
        // The first half is sent before the client responds.
        if (number + 1) * at_once == 30 {
            client.answer(&received[0], 413);
        }
    }
    received.extend(std::iter::from_fn(|| client.next_send(Duration::from_secs(3))));
    let delivered: usize = received.iter().map(|frame| frame.body.as_ref().map_or(0, Vec::len)).sum();
    assert!(delivered >= 2 * KB8, "more than the first chunk passed");
    retrieval.client.bye();
    let units = 3 * delivered.div_ceil(1024) as i64;
    retrieval.stage.expect(ALICE, 5000 - units, 0, units);
    let debits = retrieval.debits();
    assert_eq!(debits.iter().map(|debit| debit.0).sum::<i64>(), delivered as i64, "{debits:?}");
    assert_eq!(debits[0].2, "error");
}

#[test]
pub fn a_message_that_was_refused_early_is_stopped_and_debited_before_the_session_ends() {
    let mut retrieval = Retrieval::by_kilobyte(1000, 3);
    let body = "k".repeat(KB8);
    retrieval.send("large", "1-*/*", Some(&body), '+');
    retrieval.take(413);
    retrieval.explains("stop-rest");
    retrieval.stage.until_debited(ALICE, 1);
    // Whatever still comes is stopped.
    for number in 1..4 {
        retrieval.send("large", &format!("{}-*/*", number * KB8 + 1), Some(&body), if number == 3 { '$' } else { '+' });
    }
    assert!(retrieval.client.next_send(Duration::from_secs(1)).is_none());
    assert_eq!(retrieval.debits(), [(KB8 as i64, 24, "error".to_owned())]);
    retrieval.client.bye();
    retrieval.stage.expect(ALICE, 1000 - 24, 0, 24);
}

#[test]
fn by_message_a_message_that_was_refused_early_passes_and_is_one_debit() {
    let mut retrieval = Retrieval::new(100, |setup| setup);
    let body = "k".repeat(KB8);
    retrieval.send("large", "1-*/*", Some(&body), '+');
    retrieval.take(413);
    retrieval.stage.until_debited(ALICE, 1);
    for number in 1..10 {
        retrieval.send("large", &format!("{}-*/*", number * KB8 + 1), Some(&body), if number == 9 { '$' } else { '+' });
        assert_eq!(retrieval.take(200), KB8);
    }
    retrieval.client.bye();
    retrieval.stage.expect(ALICE, 99, 0, 1);
}

#[test]
pub fn a_message_id_that_was_given_up_is_charged_when_it_is_sent_again() {
    for by_kilobyte in [false, true] {
        let retrieval = if by_kilobyte { Retrieval::by_kilobyte(1000, 1) } else { Retrieval::new(1000, |setup| setup) };
        let mut retrieval = retrieval;
        let body = "a".repeat(2 * 1024);
        let price = if by_kilobyte { 4 } else { 1 };
        let mut debited = 0;
        for (message_id, waits) in [("later", true), ("at-once", false)] {
            retrieval.send(message_id, "1-2048/4096", Some(&body), '+');
            assert_eq!(retrieval.take(200), 2048);
            retrieval.send(message_id, "2049-*/4096", None, '#');
            if waits {
                retrieval.explains("abort=release");
            }
            retrieval.send(message_id, "1-2048/4096", Some(&body), '+');
            retrieval.send(message_id, "2049-4096/4096", Some(&body), '$');
            for _ in 0..2 {
                let sent = loop {
                    let frame = retrieval.client.next_send(SOON).expect("it passes");
                    // The `#` is relayed too.
                    if let Some(body) = &frame.body {
                        retrieval.client.answer(&frame, 200);
                        break body.len();
                    }
                };
                assert_eq!(sent, 2048);
            }
            debited += 1;
            retrieval.stage.until_debited(ALICE, debited);
        }
        retrieval.client.bye();
        retrieval.stage.expect(ALICE, 1000 - 2 * price, 0, 2 * price);
        let debits = retrieval.debits();
        assert!(debits.iter().all(|debit| (debit.0, debit.1) == (4096, price)), "{debits:?}");
        let given_up = "SELECT count(*) FROM undebited WHERE rule='abort=release' AND octets=2048";
        assert_eq!(retrieval.stage.proxy.count(given_up), 2);
    }
}

#[test]
fn an_abort_after_the_last_octet_does_not_make_a_message_free() {
    let mut retrieval = Retrieval::new(100, |setup| setup);
    retrieval.send("whole", "1-30/30", Some(&"w".repeat(30)), '$');
    retrieval.send("whole", "1-*/30", None, '#');
    retrieval.take(200);
    retrieval.stage.until_debited(ALICE, 1);
    retrieval.client.bye();
    retrieval.stage.expect(ALICE, 99, 0, 1);
}

#[test]
pub fn chunk_at_a_distant_position_costs_its_octets() {
    let mut retrieval = Retrieval::by_kilobyte(1000, 3);
    retrieval.send("far-away", "1000000001-*/*", Some("hello"), '$');
    assert_eq!(retrieval.take(200), 5);
    retrieval.stage.until_debited(ALICE, 1);
    retrieval.client.bye();
    retrieval.stage.expect(ALICE, 1000 - 3, 0, 3);
    assert_eq!(retrieval.debits().iter().map(|debit| (debit.0, debit.1)).collect::<Vec<_>>(), [(5, 3)]);
}

#[test]
pub fn stopped_chunk_stops_its_message_and_what_passed_is_debited() {
    // Ten kilobytes: the second chunk is beyond them, the third would fit.
    let mut retrieval = Retrieval::by_kilobyte(10, 1);
    retrieval.send("long", "1-8192/17408", Some(&"p".repeat(KB8)), '+');
    assert_eq!(retrieval.take(200), KB8);
    retrieval.send("long", "8193-16384/17408", Some(&"p".repeat(KB8)), '+');
    retrieval.send("long", "16385-17408/17408", Some(&"p".repeat(1024)), '$');
    retrieval.explains("beyond-grant");
    retrieval.stage.until_debited(ALICE, 1);
    assert!(retrieval.client.next_send(Duration::from_secs(1)).is_none(), "the message is stopped");
    assert_eq!(retrieval.debits(), [(KB8 as i64, 8, "response".to_owned())]);
    retrieval.client.bye();
    retrieval.stage.expect(ALICE, 2, 0, 8);
    // By message: nothing of the second one passes, and nothing of it is charged.
    let mut retrieval = Retrieval::new(1, |setup| setup);
    retrieval.send("first", "1-5/5", Some("first"), '$');
    assert_eq!(retrieval.take(200), 5);
    for (start, flag) in [(1, '+'), (6, '+'), (11, '$')] {
        retrieval.send("second", &format!("{start}-*/15"), Some("piece"), flag);
    }
    retrieval.stage.until_debited(ALICE, 1);
    assert!(retrieval.client.next_send(Duration::from_secs(1)).is_none());
    retrieval.client.bye();
    retrieval.stage.expect(ALICE, 0, 0, 1);
}

#[test]
fn a_message_whose_last_chunk_never_comes_is_debited_by_the_timer() {
    for by_kilobyte in [false, true] {
        let retrieval = if by_kilobyte { Retrieval::by_kilobyte(100, 1) } else { Retrieval::new(100, |setup| setup) };
        let mut retrieval = retrieval;
        retrieval.send("open", "1-5/*", Some("first"), '+');
        retrieval.take(200);
        retrieval.send("gaps", "1-5/20", Some("first"), '+');
        retrieval.take(200);
        retrieval.send("gaps", "16-20/20", Some("third"), '$');
        retrieval.take(200);
        retrieval.stage.until_debited(ALICE, 2);
        assert!(retrieval.debits().iter().all(|debit| debit.2 == "timeout"), "{:?}", retrieval.debits());
        retrieval.client.bye();
        retrieval.stage.expect(ALICE, 98, 0, 2);
    }
}

/// Octets that the engine has handed to the system to be written.
fn written(retrieval: &Retrieval) -> u64 {
    let engine = retrieval.stage.proxy.engine_pid().expect("the engine runs");
    let counts = std::fs::read_to_string(format!("/proc/{engine}/io")).expect("its counts");
    let count = counts.lines().find_map(|line| line.strip_prefix("wchar: ")).expect("what is written");
    count.parse().expect("a number")
}

#[test]
fn octets_written_for_a_frame_do_not_grow_with_the_session() {
    const MESSAGES: usize = 1800;
    const FRAMES: usize = 50;
    let mut retrieval = Retrieval::new(10_000, |setup| announced(setup, None).defined("RESPONSE_TIMEOUT", "600"));
    let mut numbers = 0..;
    let mut send = |retrieval: &mut Retrieval, count: usize| {
        for number in numbers.by_ref().take(count) {
            retrieval.send(&format!("message-{number}"), "1-5/5", Some("hello"), '$');
            assert!(retrieval.client.next_send(SOON).is_some(), "{number}: {}", retrieval.stage.proxy.log());
        }
    };
    let outstanding = |retrieval: &Retrieval, count: usize| {
        // Read, committed and in the tables.
        let found = || audit(&retrieval.stage.proxy, "delivered_not_debited").1;
        assert!(eventually(SOON, || found() == count as i64), "{} of {count}", found());
    };
    send(&mut retrieval, FRAMES);
    outstanding(&retrieval, FRAMES);
    let before = written(&retrieval);
    send(&mut retrieval, FRAMES);
    outstanding(&retrieval, 2 * FRAMES);
    let few = written(&retrieval) - before;
    send(&mut retrieval, MESSAGES);
    outstanding(&retrieval, 2 * FRAMES + MESSAGES);
    let before = written(&retrieval);
    send(&mut retrieval, FRAMES);
    outstanding(&retrieval, 3 * FRAMES + MESSAGES);
    let many = written(&retrieval) - before;
    assert!(many < 2 * few + 100_000, "{few} octets for {FRAMES} frames at first, {many} after {MESSAGES} messages");
    retrieval.client.bye();
    let debited = (3 * FRAMES + MESSAGES) as i64;
    retrieval.stage.expect(ALICE, 10_000 - debited, 0, debited);
}
