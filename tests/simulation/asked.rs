//! What the charging system remembers of the requests of a Diameter session, and by which rules they come.

use imcharge::wire::diameter::{EndToEnd, HopByHop};
use std::collections::BTreeMap;

/// Microseconds that a client waits for an answer at least before it goes on without (`tx_timeout` of the runs, less
/// what a request may have been on its way).
const PATIENCE: u64 = 1_500_000;

/// Microseconds within which an idle client has read an answer.
const READ_WITHIN: u64 = 1_000_000;

/// The session and the number of a request that came, and which coming of it that was.
pub type Asking = (String, u32, Coming);

/// One coming of a request.
#[derive(Clone, PartialEq, Eq)]
pub struct Coming {
    pub connection: u64,
    pub hop_by_hop: HopByHop,
    pub at: u64,
    /// With the T flag.
    pub repeats: bool,
}

/// What is known of a request, however often it has come.
struct Known {
    /// What it says.
    said: u64,
    end_to_end: EndToEnd,
    /// How it came, without those comings that were refused as not delivered.
    comings: Vec<Coming>,
}

/// The last request that was new.
#[derive(Clone, Copy)]
struct Last {
    number: u32,
    came_at: u64,
    connection: u64,
    is_answered: bool,
}

/// The requests of a Diameter session.
#[derive(Default)]
pub struct Asked {
    /// By number.
    numbers: BTreeMap<u32, Known>,
    last: Option<Last>,
    /// When those came that were new.
    came: Vec<u64>,
    /// How its service is called and counted.
    pub keys: Option<String>,
    /// At which door the last one came.
    pub door: Option<u16>,
    /// When its INITIAL was granted.
    pub opened_at: Option<u64>,
    /// When its TERMINATION came.
    pub ended_at: Option<u64>,
    /// Whether anything has gone wrong, anywhere, while it was open.
    pub is_disturbed: bool,
    /// How often it was reported though nothing was used and nothing more was wanted.
    pub renewals: usize,
}

impl Asked {
    /// Whether the client must know it, and must know that it is open.
    pub fn is_open(&self, now: u64) -> bool {
        let is_read = self.opened_at.is_some_and(|opened| opened + READ_WITHIN <= now);
        is_read && self.ended_at.is_none() && !self.is_disturbed
    }

    /// Whether a new request has come from `since` on, and at once after `answered_at` unless something went wrong; or one
    /// that was held back until an operator had it sent again, which may be the last one.
    pub fn has_reported(&self, since: u64, answered_at: u64) -> bool {
        let until = if self.is_disturbed { u64::MAX } else { answered_at + READ_WITHIN };
        let again = self.numbers.values().flat_map(|known| &known.comings).filter(|coming| coming.repeats);
        self.came.iter().copied().chain(again.map(|coming| coming.at)).any(|at| (since..=until).contains(&at))
    }

    /// The session was never opened, and a request calls the service otherwise; perhaps one that has come before.
    pub fn begin_anew(&mut self, number: u32, keys: String, said: u64) {
        self.keys = Some(keys);
        if let Some(known) = self.numbers.get_mut(&number) {
            known.said = said;
        }
    }

    /// When a request came last, if it was delivered.
    pub fn last_coming(&self, number: u32) -> Option<u64> {
        self.numbers.get(&number)?.comings.last().map(|last| last.at)
    }

    /// A request comes; the first value says whether it is new, the second what is wrong with it. Numbers of a session
    /// rise, an old one comes only again, as it was (RFC 8506, 8.2), and a new one only when the one before it is
    /// answered, or given up, or gone with its connection.
    pub fn came(
        &mut self,
        number: u32,
        said: u64,
        end_to_end: EndToEnd,
        coming: &Coming,
        now: u64,
    ) -> (bool, Option<String>) {
        if let Some(before) = self.numbers.get_mut(&number) {
            let wrong = before.wrong_again(said, end_to_end, coming);
            before.comings.push(coming.clone());
            return (false, wrong.map(|wrong| format!("number {number} {wrong}")));
        }
        let connection = coming.connection;
        let in_flight =
            |last: &Last| !last.is_answered && now < last.came_at + PATIENCE && last.connection == connection;
        let wrong = match self.last.filter(in_flight) {
            _ if self.numbers.keys().last().is_some_and(|last| number < *last) => {
                Some(format!("number {number} for the first time after a higher one"))
            }
            Some(last) => Some(format!("number {number} while {} is in flight", last.number)),
            None => None,
        };
        self.numbers.insert(number, Known { said, end_to_end, comings: vec![coming.clone()] });
        self.came.push(now);
        self.last = Some(Last { number, came_at: now, connection, is_answered: false });
        (true, wrong)
    }

    /// One was answered.
    pub fn answered(&mut self, number: u32, coming: &Coming, is_refused: bool) {
        if let Some(last) = self.last.as_mut().filter(|last| last.number == number) {
            last.is_answered = true;
        }
        if let Some(known) = self.numbers.get_mut(&number).filter(|_| is_refused) {
            known.comings.retain(|kept| kept != coming);
        }
    }
}

impl Known {
    /// What is wrong where it comes again. The End-to-End Identifier stays, and the T flag is set, unless every copy
    /// before it was refused (RFC 6733, 3). Between two connections there is no order: the first copy, without T, may
    /// come after one that was sent after it.
    fn wrong_again(&self, said: u64, end_to_end: EndToEnd, coming: &Coming) -> Option<&'static str> {
        let follows = |before: &Coming| !before.repeats || before.connection == coming.connection;
        match () {
            () if self.said != said => Some("says another thing"),
            () if self.end_to_end != end_to_end => Some("comes again with another End-to-End Identifier"),
            () if !coming.repeats && self.comings.iter().any(follows) => Some("comes again without the T flag"),
            () => None,
        }
    }
}
