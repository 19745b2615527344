//! A tick: requests and states that the database executes and stores in one commit.

use crate::charge::ch2::{Operation, Request, Reservation, SessionKey};
use crate::charge::tariff::{Quota, Units};
use crate::charge::time::Time;
use crate::enabler::{AccountChange, AccountCommand, SessionState};
use std::borrow::Cow;

/// Key in the rows of items that concern no session.
pub const NO_SESSION: SessionKey = SessionKey(0, 0);

/// More items than a tick has: numbers of commands are made of its number and theirs.
pub const ITEMS_LIMIT: i64 = 4096;

/// Requests and states that are executed and stored together, once.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// Rises with each tick of an epoch. A copy has the same number.
    pub number: i64,
    /// The requests.
    pub items: Vec<Item>,
    /// States of sessions; none of them twice.
    pub states: Vec<SessionState>,
}

impl Tick {
    /// Numbers the commands of operators: by the tick, so that a copy has the same numbers.
    pub fn new(number: i64, mut items: Vec<Item>, states: Vec<SessionState>) -> Tick {
        for (at, item) in (0..ITEMS_LIMIT).zip(&mut items) {
            if matches!(item.content, Content::Command(_)) {
                item.row.number = number.saturating_mul(ITEMS_LIMIT).saturating_add(at);
            }
        }
        Tick { number, items, states }
    }

    /// Whether it has neither requests nor states.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.states.is_empty()
    }
}

/// A request of a tick.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// What asked for it.
    pub content: Content,
    /// What the database is sent.
    pub row: Row,
    /// When it was queued.
    pub asked_at: Time,
    /// Whether it was sent: the database may have executed it.
    pub was_sent: bool,
    /// Whether its failure was reported: nothing waits for its answer any more.
    pub is_reported: bool,
}

/// What asked for an item.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A request of a session.
    Request(Box<Request>),
    /// A command of an operator.
    Command(Box<AccountCommand>),
}

/// Operation of a row, by its number in `imcharge.tick`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum Kind {
    /// Reserve.
    Reserve = 1,
    /// Debit.
    Debit = 2,
    /// Debit that ends the reservation.
    LastDebit = 3,
    /// Release.
    Release = 4,
    /// Refund.
    Refund = 5,
    /// Set the balance of an account.
    Set = 7,
    /// Add to the balance of an account.
    Add = 8,
    /// Set the credit limit of an account.
    Limit = 9,
    /// Remove an account.
    Remove = 10,
}

/// One element of each array parameter of `imcharge.tick`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The operation.
    pub kind: Kind,
    /// Key of the session; [`NO_SESSION`] for commands.
    pub session: SessionKey,
    /// Number of the request within its session, or of the command.
    pub number: i64,
    /// The account.
    pub account: Box<str>,
    /// Quota that is to be reserved.
    pub quota: i64,
    /// Price of the debit, or of one unit of quota; for commands the amount.
    pub units: i64,
    /// Units that the reservation holds before the request.
    pub holds: i64,
    /// Message-ID; for commands the reference.
    pub message: Box<str>,
    /// Number among the debits of the message.
    pub part: i64,
    /// Octets of the message.
    pub octets: i64,
    /// Class of the content.
    pub class: &'static str,
    /// What triggered the debit.
    pub trigger: &'static str,
    /// Its status code; 0: none.
    pub code: i32,
    /// Call-ID; for commands who gives it.
    pub call: Box<str>,
    /// When the session was opened, UNIX milliseconds.
    pub opened_at: i64,
}

impl Row {
    /// The row of a request.
    pub fn of_request(request: &Request, call_id: &str, opened_at: i64) -> Row {
        let row = Row {
            session: request.session,
            number: request.number.into(),
            call: text(call_id),
            opened_at,
            ..Row::new(Kind::Release, request.account.as_str())
        };
        let holds = signed(request.measure.price_of(request.reservation.outstanding()));
        match &request.operation {
            Operation::Reserve { quota } => {
                let units = signed(request.measure.price_of(Quota(1)));
                Row { kind: Kind::Reserve, quota: quota.0.into(), units, ..row }
            }
            Operation::Debit { message_id, part, octets, class, units, trigger, .. } => {
                let is_last = matches!(request.reservation, Reservation::Last { .. });
                Row {
                    kind: if is_last { Kind::LastDebit } else { Kind::Debit },
                    units: signed(*units),
                    holds: if is_last { holds } else { 0 },
                    message: text(message_id),
                    part: (*part).into(),
                    octets: i64::try_from(*octets).unwrap_or(i64::MAX),
                    class: class.as_str(),
                    trigger: trigger.as_str(),
                    code: trigger.code().into(),
                    ..row
                }
            }
            Operation::Refund { message_id, part, octets, class, units, .. } => Row {
                kind: Kind::Refund,
                units: signed(*units),
                message: text(message_id),
                part: (*part).into(),
                octets: i64::try_from(*octets).unwrap_or(i64::MAX),
                class: class.as_str(),
                ..row
            },
            Operation::Release => Row { holds, ..row },
        }
    }

    /// The row of a command. The tick numbers it.
    pub fn of_command(command: &AccountCommand) -> Row {
        let (kind, units) = match command.change {
            AccountChange::Set(balance) => (Kind::Set, balance),
            AccountChange::Add(amount) => (Kind::Add, amount),
            AccountChange::Limit(limit) => (Kind::Limit, limit),
            AccountChange::Remove => (Kind::Remove, 0),
        };
        Row { units, message: text(&command.reference), call: text(&command.by), ..Row::new(kind, &command.id) }
    }

    fn new(kind: Kind, account: &str) -> Row {
        Row {
            kind,
            session: NO_SESSION,
            number: 0,
            account: text(account),
            quota: 0,
            units: 0,
            holds: 0,
            message: "".into(),
            part: 0,
            octets: 0,
            class: "",
            trigger: "",
            code: 0,
            call: "".into(),
            opened_at: 0,
        }
    }
}

/// Returns a text as PostgreSQL accepts it: it has no character with the code 0.
fn text(text: &str) -> Box<str> {
    let accepted = if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) };
    accepted.into()
}

/// Units as the accounts count them; a price beyond the range is more than any account has.
pub fn signed(units: Units) -> i64 {
    i64::try_from(units.0).unwrap_or(i64::MAX)
}

/// Adds a later state of a session to an earlier one that was not stored: the later head, and the latest of each part.
pub fn merge(earlier: &mut SessionState, later: SessionState) {
    let SessionState { account, opened_at, head, parts, .. } = later;
    (earlier.account, earlier.opened_at) = (account, opened_at);
    if head.is_none() {
        earlier.parts.clear();
    }
    for (number, part) in parts {
        match earlier.parts.iter_mut().find(|(known, _)| *known == number) {
            Some((_, known)) => *known = part,
            None => earlier.parts.push((number, part)),
        }
    }
    earlier.head = head;
}

/// Octets of a state on the wire, about.
pub fn octets(state: &SessionState) -> usize {
    const FIXED: usize = 64;
    let parts: usize = state.parts.iter().map(|(_, part)| FIXED + part.len()).sum();
    FIXED + state.account.len() + state.head.as_ref().map_or(0, Vec::len) + parts
}
