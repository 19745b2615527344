//! What is debited equals what was delivered, whatever the Byte-Ranges say and however a message ends.

use super::*;
use crate::charge::tariff::PriceList;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A session charged 3 units per kilobyte, granted and answered.
fn by_kilobyte(policy: Policy) -> Run {
    let mut run = Run::new(100, "kilobyte:3", policy);
    run.accept();
    run.event(Event::Answered { leg: 1 }, s(0));
    run
}

/// Chunk `number`, from 0, of a message in chunks of 8 KB.
fn kilobytes(message_id: &'static str, number: u64, flag: Flag) -> Sent<'static> {
    let (start, octets) = (number * 8192 + 1, 8192);
    Sent { start, octets, taken: 8, flag, total: None, ..whole(message_id, number + 1) }
}

fn has_stopped(run: &Run, message_id: &str) -> bool {
    run.out.contains(&Output::StopMessage { message_id: message_id.into() })
}

fn has_forgotten(run: &Run, message_id: &str) -> bool {
    run.out.contains(&Output::ForgetMessage { message_id: message_id.into() })
}

/// Message-ID, part, octets and units of all acknowledged debits.
fn paid(run: &Run) -> Vec<(&str, u32, u64, u64)> {
    let debited = |output| match output {
        &Output::Debited { ref message_id, part, octets, units, .. } => Some((&**message_id, part, octets, units.0)),
        _ => None,
    };
    run.out.iter().filter_map(debited).collect()
}

/// Message-ID and part of all refunds.
fn refunded(run: &Run) -> Vec<(&str, u32)> {
    let refunded = |output| match output {
        &Output::Refunded { ref message_id, part, .. } => Some((&**message_id, part)),
        _ => None,
    };
    run.out.iter().filter_map(refunded).collect()
}

#[test]
fn document_about_a_file_is_debited_with_the_size_of_the_file() {
    let mut run = by_kilobyte(Policy::default());
    let document = |transaction, taken| Sent { file_octets: 4000, taken, ..whole("m1", transaction) };
    run.sent(document(1, 5), s(1));
    run.event(responded(1, 200), s(1));
    run.accept();
    assert_eq!(paid(&run), [("m1", 0, 4100, 15)]);
    // Sent again it is paid, except for its own octets.
    run.sent(document(2, 0), s(2));
    assert_eq!(paid(&run).len(), 1);
}

#[test]
fn msrp_413_for_first_chunk_stops_rest() {
    let mut run = by_kilobyte(Policy::default());
    run.sent(kilobytes("m1", 0, Flag::More), s(1));
    run.event(responded(1, 413), s(2));
    assert!(has_stopped(&run, "m1"));
    assert_eq!(run.debits(), [""; 0], "chunks that passed before may be in other rings");
    run.sent(kilobytes("m1", 1, Flag::More), s(2));
    run.sent(kilobytes("m1", 2, Flag::More), s(2));
    assert_eq!(run.session.deadline(), Some(s(4)));
    run.timer(s(4));
    run.accept();
    assert_eq!(paid(&run), [("m1", 0, 3 * 8192, 3 * 24)]);
}

#[test]
fn message_refused_after_last_chunk_is_debited_at_once() {
    let mut run = by_kilobyte(Policy::default());
    run.sent(kilobytes("m1", 0, Flag::More), s(1));
    run.event(responded(1, 413), s(2));
    run.sent(kilobytes("m1", 1, Flag::Last), s(2));
    run.accept();
    assert_eq!(paid(&run), [("m1", 0, 2 * 8192, 48)]);
    run.sent(kilobytes("m2", 0, Flag::Last), s(3));
    run.event(responded(1, 413), s(3));
    run.accept();
    assert_eq!(paid(&run).last(), Some(&("m2", 0, 8192, 24)));
    assert!(has_stopped(&run, "m2"), "the message is stopped at the gate");
}

#[test]
fn refused_message_is_debited_at_once_on_abort() {
    let mut run = by_kilobyte(Policy::default());
    run.sent(kilobytes("m1", 0, Flag::More), s(1));
    run.event(responded(1, 413), s(2));
    run.sent(abort("m1", 9), s(3));
    run.accept();
    assert_eq!((paid(&run), run.not_charged().len()), (vec![("m1", 0, 8192, 24)], 0));
}

#[test]
fn chunk_read_after_debit_is_debited_separately() {
    let mut run = by_kilobyte(Policy::default());
    run.sent(kilobytes("m1", 1, Flag::Last), s(1));
    run.event(responded(2, 413), s(1));
    run.accept();
    run.sent(kilobytes("m1", 0, Flag::More), s(1));
    run.accept();
    assert_eq!(paid(&run), [("m1", 0, 8192, 24), ("m1", 1, 8192, 24)]);
    let rules: Vec<_> =
        run.trace.iter().filter(|event| event.kind == TraceEventKind::Debited).map(|event| event.rule).collect();
    assert_eq!(rules, [Some(Rule::ClientError(413, Settle::Debit)), Some(Rule::LateChunk)]);
}

#[test]
fn message_in_two_debits_costs_its_octets_once() {
    let mut run = by_kilobyte(Policy::default());
    let chunk = |number, taken, flag| Sent { octets: 1025, taken, flag, total: None, ..whole("m1", number) };
    // The gate took 2 for the first of the two chunks and 1 for the second, which is read first.
    run.sent(chunk(2, 1, Flag::Last), s(1));
    run.event(responded(2, 413), s(1));
    run.accept();
    run.sent(chunk(1, 2, Flag::More), s(1));
    run.accept();
    assert_eq!(paid(&run), [("m1", 0, 1025, 6), ("m1", 1, 1025, 3)]);
    assert_eq!(run.session.granted().0 - run.session.taken(), 100 * 16 - 3, "3 kilobytes were taken and are used");
}

#[test]
fn late_chunk_within_paid_kilobyte_is_in_next_debit() {
    let mut run = by_kilobyte(Policy::default());
    let chunk = |number, octets, taken, flag| Sent { octets, taken, flag, total: None, ..whole("m1", number) };
    run.sent(chunk(2, 1, 0, Flag::Last), s(1));
    run.event(responded(2, 413), s(1));
    run.accept();
    run.sent(chunk(1, 1, 1, Flag::More), s(1));
    assert_eq!(run.pending(), "", "the kilobyte is paid for");
    assert_eq!(run.session.granted().0 - run.session.taken(), 100 * 16 - 1);
    run.sent(chunk(3, 1023, 1, Flag::More), s(1));
    run.accept();
    assert_eq!(paid(&run), [("m1", 0, 1, 3), ("m1", 1, 1024, 3)]);
}

/// A chunk of 1025 octets of message `m1`.
fn large(transaction: u64, taken: u32, flag: Flag) -> Sent<'static> {
    Sent { octets: 1025, taken, flag, total: None, start: 1025 * (transaction - 1) + 1, ..whole("m1", transaction) }
}

#[test]
fn late_chunk_of_refused_message_is_not_refunded() {
    let mut run = by_kilobyte(policy(|p| p.cases.report = Settle::Release));
    run.sent(large(2, 1, Flag::Last), s(1));
    run.event(responded(2, 413), s(1));
    run.accept();
    run.sent(large(1, 2, Flag::More), s(1));
    run.accept();
    run.event(reported("m1", 1, None, 415), s(2));
    assert_eq!(run.pending(), "");
    assert!(!has_forgotten(&run, "m1"), "it is paid for");
    run.sent(large(3, 2, Flag::More), s(2));
    run.accept();
    assert_eq!(paid(&run), [("m1", 0, 1025, 6), ("m1", 1, 1025, 3), ("m1", 2, 1025, 3)], "4 kilobytes");
}

#[test]
fn chunk_read_after_failure_report_is_charged_like_new() {
    let mut run = by_kilobyte(policy(|p| p.cases.report = Settle::Release));
    run.sent(large(1, 2, Flag::Last), s(1));
    run.event(responded(1, 200), s(1));
    assert_eq!(run.pending(), "debit m1 response");
    run.event(reported("m1", 1, None, 415), s(2));
    assert!(has_forgotten(&run, "m1"));
    run.sent(large(2, 1, Flag::Last), s(2));
    run.timer(s(32));
    while run.request.is_some() {
        run.accept();
    }
    assert_eq!(paid(&run), [("m1", 0, 1025, 6), ("m1", 1, 1025, 6)]);
    assert_eq!(refunded(&run), [("m1", 0)]);
    let forgotten = |output: &&Output| matches!(output, Output::ForgetMessage { .. });
    assert_eq!(run.out.iter().filter(forgotten).count(), 1, "the message that follows is paid for");
}

#[test]
fn chunks_of_settled_message_are_free_by_message() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.event(responded(1, 413), s(2));
    run.accept();
    for number in 2..60 {
        run.sent(chunk("m1", number, number * 50 + 1, 50, Flag::More), s(3));
    }
    run.timer(s(100));
    run.event(Event::Bye { leg: 1 }, s(101));
    run.settle();
    assert_eq!(paid(&run), [("m1", 0, 50, 5)]);
    assert!(!has_stopped(&run, "m1"));
}

#[test]
fn message_sent_again_after_abort_costs_its_own_size() {
    let mut run = by_kilobyte(Policy::default());
    let chunk = |number, taken, flag| Sent { octets: 1025, taken, flag, total: None, ..whole("m1", number) };
    run.sent(chunk(1, 2, Flag::More), s(1));
    run.sent(abort("m1", 2), s(2));
    // 2050 octets have passed so far: 3 kilobytes, of which 2 were taken before.
    run.sent(chunk(3, 1, Flag::Last), s(3));
    run.event(responded(3, 200), s(3));
    run.accept();
    assert_eq!((paid(&run), run.not_charged().len()), (vec![("m1", 0, 1025, 6)], 1));
}

#[test]
fn aborted_message_id_is_charged_like_new() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(abort("m1", 2), s(2));
    run.timer(s(4));
    assert_eq!(run.not_charged(), ["abort=release"]);
    assert!(has_forgotten(&run, "m1"));
    assert_eq!(run.session.granted(), Quota(9), "the unit is available to another message");
    run.sent(whole("m1", 3), s(60));
    run.event(responded(3, 200), s(61));
    run.accept();
    assert_eq!(paid(&run), [("m1", 0, 100, 5)]);
}

#[test]
fn aborted_message_id_sent_again_at_once_is_charged_once() {
    // Within two seconds after the `#`, and before the gate has forgotten the message.
    for (again, timer) in [(3, s(2)), (4, s(4))] {
        let mut run = Run::open();
        run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
        run.sent(abort("m1", 2), s(2));
        run.timer(timer);
        run.sent(Sent { taken: 0, ..chunk("m1", 3, 1, 50, Flag::More) }, s(again));
        assert_eq!((run.not_charged(), run.session.granted()), (vec!["abort=release"], Quota(8)), "{again}");
        // The gate has forgotten the message.
        run.sent(Sent { taken: u32::from(again == 4), ..chunk("m1", 4, 51, 50, Flag::Last) }, s(5));
        run.event(responded(3, 200), s(5));
        run.event(responded(4, 200), s(5));
        run.accept();
        assert_eq!(paid(&run), [("m1", 0, 100, 5)]);
        let taken = 1 + u32::from(again == 4);
        assert_eq!(run.session.granted().0 - run.session.taken(), 8 - 1, "{again}: one of {taken} taken is used");
    }
}

#[test]
fn abort_after_last_octet_is_ignored() {
    let with_total = Sent { total: Some(100), ..chunk("m1", 2, 51, 50, Flag::More) };
    for last in [chunk("m1", 2, 51, 50, Flag::Last), with_total] {
        let mut run = Run::open();
        run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
        run.sent(last, s(1));
        run.sent(abort("m1", 9), s(2));
        run.timer(s(10));
        assert_eq!(run.not_charged(), [""; 0]);
        run.timer(s(31));
        assert_eq!(run.debits(), ["debit m1 timeout"]);
    }
    // The abort is read before the last octet, from another ring.
    let mut run = Run::open();
    run.sent(abort("m1", 9), s(3));
    run.sent(whole("m1", 1), s(2));
    run.event(responded(1, 200), s(4));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn uncharged_message_id_is_charged_like_new() {
    let release = policy(|p| {
        (p.cases.server_error, p.cases.close, p.cases.report) = (Settle::Release, Settle::Release, Settle::Release)
    });
    let ends: [&dyn Fn(&mut Run); 4] = [
        &|run| run.event(responded(1, 506), s(2)),
        &|run| run.event(Event::ConnectionLost { connection: SERVER }, s(2)),
        &|run| run.event(unsent("m1", 1), s(2)),
        &|run| {
            run.event(responded(1, 200), s(2));
            run.accept();
            run.event(reported("m1", 1, Some(100), 415), s(2));
            run.accept();
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        for run in [Run::open_with(8, release), by_kilobyte(release)] {
            let mut run = run;
            run.sent(whole("m1", 1), s(1));
            end(&mut run);
            assert!(has_forgotten(&run, "m1"), "{number}");
            let before = paid(&run).len();
            run.sent(whole("m1", 2), s(60));
            run.event(responded(2, 200), s(61));
            run.accept();
            assert_eq!(paid(&run).len(), before + 1, "{number}");
        }
    }
}

#[test]
fn position_of_chunk_is_not_charged() {
    let mut run = by_kilobyte(Policy::default());
    run.sent(Sent { start: 1_000_000_001, octets: 5, ..whole("m1", 1) }, s(1));
    run.event(responded(1, 413), s(1));
    run.accept();
    assert_eq!(paid(&run), [("m1", 0, 5, 3)]);
}

#[test]
fn stopped_message_is_settled_when_passed_chunks_are_answered() {
    let mut run = by_kilobyte(Policy::default());
    run.sent(kilobytes("m1", 0, Flag::More), s(1));
    run.sent(kilobytes("m1", 1, Flag::More), s(1));
    run.event(Event::Stopped { message_id: "m1", why: Stop::Beyond, quota: 0 }, s(1));
    run.answer(Response::Denied(Denial::NoCredit));
    run.event(responded(1, 200), s(2));
    assert_eq!(run.debits(), [""; 0]);
    run.event(responded(2, 200), s(2));
    assert_eq!(run.debits(), ["debit m1 response"]);
    run.accept();
    assert_eq!(paid(&run), [("m1", 0, 2 * 8192, 48)]);
}

#[test]
fn stopped_message_is_settled_by_timeout() {
    let mut run = by_kilobyte(Policy::default());
    run.sent(kilobytes("m1", 0, Flag::More), s(1));
    run.event(Event::Stopped { message_id: "m1", why: Stop::Beyond, quota: 0 }, s(1));
    run.answer(Response::Denied(Denial::NoCredit));
    run.timer(s(31));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

#[test]
fn incomplete_message_is_settled_by_timeout() {
    let gap = chunk("m1", 2, 200, 50, Flag::Last);
    for (mut run, second) in [(Run::open(), None), (Run::open(), Some(gap)), (by_kilobyte(Policy::default()), None)] {
        run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
        run.event(responded(1, 200), s(2));
        if let Some(second) = second {
            run.sent(second, s(1));
            run.event(responded(2, 200), s(2));
        }
        assert_eq!(run.session.deadline(), Some(s(31)));
        run.timer(s(31));
        run.timer(s(33));
        assert_eq!(run.debits(), ["debit m1 timeout"]);
    }
}

#[test]
fn session_restored_from_parts_is_equal() {
    let mut run = Run::open_with(500, policy(|p| p.cases.report = Settle::Release));
    let (mut parts, mut written) = (BTreeMap::new(), Vec::new());
    for number in 0..400 {
        let id = format!("message-number-{number}");
        run.event(Event::Sent(Sent { message_id: &id, ..whole("", number) }), s(1));
        if number % 3 == 0 {
            run.event(responded(number, 200), s(1));
        }
        if number % 2 == 0 && run.request.is_some() {
            run.accept();
        }
        let head = run.session.head();
        let changed = run.session.take_changed_parts();
        written.push(head.len() + changed.iter().map(|(_, part)| part.len()).sum::<usize>());
        parts.extend(changed);
        let stored = parts.values().filter(|part: &&Vec<u8>| !part.is_empty()).map(Vec::as_slice);
        let again = Session::load(&head, stored).expect("the same version");
        assert_eq!(again.head(), head);
        let (again, messages) = (again.messages, &run.session.messages);
        assert_eq!((&again.open, &again.settled), (&messages.open, &messages.settled));
        assert_eq!((&again.debits, &again.refundable), (&messages.debits, &messages.refundable));
    }
    let most = written.iter().max().expect("some");
    assert!(*most < 12_000, "{most} octets stored for one message");
}

/// State of a message at the gate.
#[derive(Clone, Copy, PartialEq)]
enum Word {
    New,
    Open(u64),
    Stopped,
}

/// A model of the gate and two rings; events stay in a ring until it is read, in order.
struct World {
    run: Run,
    prices: PriceList,
    words: BTreeMap<&'static str, Word>,
    rings: [Vec<(Event<'static>, Time)>; 2],
    taken: u32,
    sent_at: usize,
    now: u64,
}

const IDS: [&str; 3] = ["a", "b", "c"];

fn class_of(id: &str) -> ContentClass {
    match id {
        "a" => ContentClass::Text,
        "b" => ContentClass::File,
        _ => ContentClass::Other,
    }
}

#[derive(Clone, Debug)]
enum Act {
    Send { message: usize, octets: u64, flag: u8, ring: usize },
    Answer { transaction: u64, code: u16, ring: usize },
    Report { message: usize, ring: usize },
    Read { ring: usize },
    Wait { tenths: u64 },
    Lose,
}

impl World {
    fn new(prices: &str) -> World {
        let policy = policy(|p| (p.cases.server_error, p.cases.report) = (Settle::Release, Settle::Release));
        let mut run = Run::new(200, prices, policy);
        let prices = *run.session.prices();
        run.accept();
        run.event(Event::Answered { leg: 1 }, s(0));
        World { run, prices, words: BTreeMap::new(), rings: [vec![], vec![]], taken: 0, sent_at: 0, now: 0 }
    }

    fn time(&self) -> Time {
        Time(s(1).0 + self.now * 100_000)
    }

    /// Returns what the gate takes for a chunk; `None` if it stops the chunk.
    fn pass(&mut self, id: &'static str, octets: u64) -> Option<u32> {
        let word = self.words.entry(id).or_insert(Word::New);
        let weight = self.prices.weight(class_of(id));
        let (cost, after) = match *word {
            Word::Stopped => return None,
            Word::New => (weight.of_octets(octets).0, octets),
            Word::Open(before) => {
                let after = before + octets;
                (weight.of_octets(after).0 - weight.of_octets(before).0, after)
            }
        };
        if self.run.session.granted().0.saturating_sub(self.taken) < cost {
            *word = Word::Stopped;
            return None;
        }
        *word = Word::Open(after);
        self.taken += cost;
        Some(cost)
    }

    /// Executes the outputs for the gate and accepts all requests.
    fn execute_outputs(&mut self) {
        while self.run.request.is_some() {
            self.run.accept();
        }
        for output in &self.run.out[self.sent_at..] {
            let (id, word) = match output {
                Output::StopMessage { message_id } => (message_id, Word::Stopped),
                Output::ForgetMessage { message_id } => (message_id, Word::New),
                _ => continue,
            };
            let id = IDS.into_iter().find(|known| **known == **id).expect("one of them");
            self.words.insert(id, word);
        }
        self.sent_at = self.run.out.len();
    }

    fn act(&mut self, number: u64, act: &Act) {
        let at = self.time();
        match *act {
            Act::Send { message, octets, flag, ring } => {
                let id = IDS[message];
                let flag = [Flag::More, Flag::Last, Flag::Aborted][usize::from(flag)];
                let octets = if flag == Flag::Aborted { 0 } else { octets };
                let taken = if octets == 0 { Some(0) } else { self.pass(id, octets) };
                let sent = |taken| Sent { octets, flag, taken, total: None, class: class_of(id), ..whole(id, number) };
                let event = taken.map_or(Event::Stopped { message_id: id, why: Stop::Beyond, quota: 0 }, |taken| {
                    Event::Sent(sent(taken))
                });
                self.rings[ring].push((event, at));
            }
            Act::Answer { transaction, code, ring } => self.rings[ring].push((responded(transaction, code), at)),
            Act::Report { message, ring } => self.rings[ring].push((reported(IDS[message], 1, None, 415), at)),
            Act::Read { ring } => {
                // No ring is read much later than the others.
                for (event, at) in std::mem::take(&mut self.rings[ring]) {
                    self.run.event(event, at);
                }
                self.execute_outputs();
            }
            Act::Wait { tenths } => {
                for ring in 0..2 {
                    self.act(0, &Act::Read { ring });
                }
                self.now += tenths;
                self.run.timer(self.time());
                self.execute_outputs();
            }
            Act::Lose => self.rings[0].push((Event::ConnectionLost { connection: SERVER }, at)),
        }
    }

    fn end(&mut self) {
        // A closed grant gets nothing back, so aborted messages are settled first.
        self.act(0, &Act::Wait { tenths: 25 });
        self.run.event(Event::Bye { leg: 1 }, self.time());
        self.run.session.on_gate_closed(self.taken, self.time());
        self.run.drain();
        self.now += 30;
        self.run.timer(self.time());
        self.execute_outputs();
        assert_eq!(self.run.session.phase(), "closed");
    }
}

fn act() -> impl Strategy<Value = Act> {
    let octets = prop_oneof![1..100_u64, 900..3000_u64];
    prop_oneof![
        4 => (0..3_usize, octets, 0..3_u8, 0..2_usize)
            .prop_map(|(message, octets, flag, ring)| Act::Send { message, octets, flag, ring }),
        3 => (0..40_u64, prop_oneof![Just(200), Just(413), Just(506), Just(408)], 0..2_usize)
            .prop_map(|(transaction, code, ring)| Act::Answer { transaction, code, ring }),
        1 => (0..3_usize, 0..2_usize).prop_map(|(message, ring)| Act::Report { message, ring }),
        3 => (0..2_usize).prop_map(|ring| Act::Read { ring }),
        2 => (0..30_u64).prop_map(|tenths| Act::Wait { tenths }),
        1 => Just(Act::Lose),
    ]
}

/// Prices by message, by size, and by class.
const LISTS: [&str; 5] = [
    "message:1",
    "kilobyte:3",
    "message:2+kilobyte:1",
    "message:2 file=message:7+kilobyte:3 other=kilobyte:1",
    "kilobyte:1 file=message:9",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// Over a whole session, what the gate took is debited or returned to the grant, and no debit is empty.
    #[test]
    fn quota_taken_is_debited_or_returned(acts in proptest::collection::vec(act(), 1..60), list in 0..LISTS.len()) {
        let mut world = World::new(LISTS[list]);
        for (number, act) in acts.iter().enumerate() {
            world.act(number as u64, act);
        }
        world.end();
        let price = u64::from(world.prices.measure().price);
        let debited: u64 = paid(&world.run).iter().map(|debit| debit.3 / price).sum();
        prop_assert!(paid(&world.run).iter().all(|debit| debit.3 > 0 && debit.2 > 0), "{:?}", paid(&world.run));
        let granted: u64 = world.run.requests().iter().filter_map(|ask| ask.strip_prefix("reserve ")?.parse::<u64>().ok()).sum();
        let more = u64::from(world.run.session.granted().0);
        // The grant grows by what is returned and shrinks by what the session takes itself.
        prop_assert!(i128::from(debited) <= i128::from(world.taken) - (i128::from(more) - i128::from(granted)));
        // The debits of a message that are not refunded are the price of their octets.
        let price = |id: &str, octets: u64| world.prices.price_of(world.prices.quota(class_of(id), octets)).0;
        let mut messages = BTreeMap::<_, (u64, u64)>::new();
        let refunded = refunded(&world.run);
        let standing = paid(&world.run).into_iter().filter(|debit| !refunded.contains(&(debit.0, debit.1)));
        for (message_id, _, octets, units) in standing {
            let message = messages.entry(message_id).or_default();
            *message = (message.0 + octets, message.1 + units);
        }
        prop_assert!(messages.iter().all(|(id, (octets, units))| *units == price(id, *octets)), "{:?}", paid(&world.run));
    }
}
