//! The requests of a Diameter session as the OCS has received them, and the rules that they must follow.

use imcharge::wire::diameter::{EndToEnd, HopByHop};
use std::collections::BTreeMap;

/// Shortest time that a client waits for an answer, in microseconds: `tx_timeout` of the runs, less the delay of a request.
const ANSWER_TIMEOUT_MIN: u64 = 1_500_000;

/// Longest time until an idle client has read an answer, in microseconds.
const READ_DELAY_MAX: u64 = 1_000_000;

/// Session and number of a request, and one arrival of it.
pub type RequestArrival = (String, u32, Arrival);

/// One arrival of a request.
#[derive(Clone, PartialEq, Eq)]
pub struct Arrival {
    pub connection: u64,
    pub hop_by_hop: HopByHop,
    pub at: u64,
    /// Whether it has the T flag.
    pub repeats: bool,
}

/// A request, however often it has arrived.
struct KnownRequest {
    /// Hash of its content.
    content: u64,
    end_to_end: EndToEnd,
    /// Its arrivals, except those that were refused as not delivered.
    arrivals: Vec<Arrival>,
}

/// The last new request.
#[derive(Clone, Copy)]
struct Last {
    number: u32,
    arrived_at: u64,
    connection: u64,
    is_answered: bool,
}

/// A Diameter session.
#[derive(Default)]
pub struct DiameterSession {
    /// Requests by number.
    numbers: BTreeMap<u32, KnownRequest>,
    last: Option<Last>,
    /// Times at which new requests arrived.
    arrived_at: Vec<u64>,
    /// Identification and unit of its service.
    pub keys: Option<String>,
    /// Peer that received the last request.
    pub peer: Option<u16>,
    /// When its INITIAL was granted.
    pub opened_at: Option<u64>,
    /// When its TERMINATION arrived.
    pub ended_at: Option<u64>,
    /// Whether there was any fault while it was open.
    pub had_fault: bool,
    /// Number of reports without usage or a request for more.
    pub renewals: usize,
}

impl DiameterSession {
    /// Whether the client must know that it is open.
    pub fn is_open(&self, now: u64) -> bool {
        let is_known = self.opened_at.is_some_and(|opened| opened + READ_DELAY_MAX <= now);
        is_known && self.ended_at.is_none() && !self.had_fault
    }

    /// Whether a new request has arrived since `since`, without delay after `answered_at` unless there was a fault; or a
    /// resend by an operator, which may be the last request.
    pub fn has_reported(&self, since: u64, answered_at: u64) -> bool {
        let until = if self.had_fault { u64::MAX } else { answered_at + READ_DELAY_MAX };
        let again = self.numbers.values().flat_map(|known| &known.arrivals).filter(|arrival| arrival.repeats);
        self.arrived_at.iter().copied().chain(again.map(|arrival| arrival.at)).any(|at| (since..=until).contains(&at))
    }

    /// Replaces the service keys of a session that was never opened, after the client was reconfigured.
    pub fn replace_keys(&mut self, number: u32, keys: String, content: u64) {
        self.keys = Some(keys);
        if let Some(known) = self.numbers.get_mut(&number) {
            known.content = content;
        }
    }

    /// When a request last arrived, if it was delivered.
    pub fn last_arrival(&self, number: u32) -> Option<u64> {
        self.numbers.get(&number)?.arrivals.last().map(|last| last.at)
    }

    /// Adds an arrival. Returns whether the request is new, and what is wrong with it. Numbers of a session increase; an
    /// old number is only resent, unchanged (RFC 8506, 8.2); a new one may be sent only when the one before it is
    /// answered, given up, or lost with its connection.
    pub fn add_arrival(
        &mut self,
        number: u32,
        content: u64,
        end_to_end: EndToEnd,
        arrival: &Arrival,
        now: u64,
    ) -> (bool, Option<String>) {
        if let Some(before) = self.numbers.get_mut(&number) {
            let wrong = before.repeat_error(content, end_to_end, arrival);
            before.arrivals.push(arrival.clone());
            return (false, wrong.map(|wrong| format!("number {number} {wrong}")));
        }
        let connection = arrival.connection;
        let is_pending = |last: &Last| {
            !last.is_answered && now < last.arrived_at + ANSWER_TIMEOUT_MIN && last.connection == connection
        };
        let wrong = match self.last.filter(is_pending) {
            _ if self.numbers.keys().last().is_some_and(|last| number < *last) => {
                Some(format!("number {number} is new, but follows a higher one"))
            }
            Some(last) => Some(format!("number {number} while {} is pending", last.number)),
            None => None,
        };
        self.numbers.insert(number, KnownRequest { content, end_to_end, arrivals: vec![arrival.clone()] });
        self.arrived_at.push(now);
        self.last = Some(Last { number, arrived_at: now, connection, is_answered: false });
        (true, wrong)
    }

    /// Records the answer to a request.
    pub fn answered(&mut self, number: u32, arrival: &Arrival, is_refused: bool) {
        if let Some(last) = self.last.as_mut().filter(|last| last.number == number) {
            last.is_answered = true;
        }
        if let Some(known) = self.numbers.get_mut(&number).filter(|_| is_refused) {
            known.arrivals.retain(|kept| kept != arrival);
        }
    }
}

impl KnownRequest {
    /// Returns what is wrong with a repeated arrival. The End-to-End Identifier must stay, and the T flag must be set
    /// unless every earlier copy was refused (RFC 6733, 3). There is no order between two connections: the first copy,
    /// without T, may arrive after a later one.
    fn repeat_error(&self, content: u64, end_to_end: EndToEnd, arrival: &Arrival) -> Option<&'static str> {
        let follows = |before: &Arrival| !before.repeats || before.connection == arrival.connection;
        match () {
            () if self.content != content => Some("is resent with other content"),
            () if self.end_to_end != end_to_end => Some("is resent with another End-to-End Identifier"),
            () if !arrival.repeats && self.arrivals.iter().any(follows) => Some("is resent without the T flag"),
            () => None,
        }
    }
}
