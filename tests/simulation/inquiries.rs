//! What the charging system asks of its own accord: that a session be reported (Re-Auth-Request, RFC 8506, 5.5), or ended
//! (Abort-Session-Request, RFC 6733, 8.5). And what has to come of it.

use crate::asked::Asked;
use crate::server_request;
use crate::world::say;
use imcharge::charge::ch2::SessionKey;
use imcharge::enabler::diameter::mapping;
use imcharge::wire::diameter::dictionary::{self, APPLICATION_CREDIT_CONTROL};
use imcharge::wire::diameter::{Command, EndToEnd, Flags, Header, HopByHop, Message, ResultCode, Writer};
use std::collections::BTreeMap;

/// The client's names.
pub const CLIENT: [&str; 2] = ["proxy.example.org", "example.org"];

/// Microseconds within which the client answers, as long as the connection lives: all its processes may be frozen for
/// 100 s.
const PATIENCE: u64 = 110_000_000;

/// Microseconds within which a TERMINATION comes by one door that was sent before an answer by the other.
const CROSSING: u64 = 1_000_000;

/// What is wanted of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Report,
    Abort,
}

impl Wish {
    fn command(self) -> Command {
        match self {
            Wish::Report => Command::RE_AUTH,
            Wish::Abort => Command::ABORT_SESSION,
        }
    }
}

/// One request of the charging system.
#[derive(Clone, Debug)]
struct Inquiry {
    wish: Wish,
    session: String,
    connection: u64,
    names: (HopByHop, EndToEnd),
    asked_at: u64,
    /// Whether the charging system had heard of the session.
    is_known: bool,
    /// Whether the client must know it: nothing has gone wrong since it was opened, and its reservation is answered.
    is_open: bool,
    /// When it was answered, and how.
    answer: Option<(u64, ResultCode)>,
}

/// All of them.
#[derive(Default)]
pub struct Inquiries {
    next: u32,
    waiting: Vec<Inquiry>,
    over: Vec<Inquiry>,
    /// Sessions that the client has agreed to end, since somebody looked.
    pub aborted: Vec<SessionKey>,
}

impl Inquiries {
    /// Writes a request by this connection; `again`: the one before it comes once more, as a possible duplicate.
    pub fn ask(
        &mut self,
        wish: Wish,
        session: (&str, Option<&Asked>),
        connection: u64,
        now: u64,
        again: bool,
    ) -> Vec<u8> {
        let (session, known) = session;
        self.next += 1;
        let hop_by_hop = HopByHop(self.next);
        let last = self.waiting.iter().chain(&self.over).find(|last| last.names.0.0 + 1 == self.next);
        let repeated = last.filter(|last| again && last.session == session && last.wish == wish);
        let (end_to_end, flags) = match repeated {
            Some(last) => (last.names.1, Flags::PROXIABLE.with(Flags::RETRANSMITTED)),
            None => (EndToEnd(self.next), Flags::PROXIABLE),
        };
        let names = (hop_by_hop, end_to_end);
        let (is_known, is_open) = (known.is_some(), known.is_some_and(|known| known.is_open(now)));
        let session = session.to_owned();
        let bytes = write(wish, &session, names, flags);
        self.waiting.push(Inquiry { wish, session, connection, names, asked_at: now, is_known, is_open, answer: None });
        bytes
    }

    /// The client answers something; what is wrong with that.
    pub fn answered(&mut self, message: &Message<'_>, connection: u64, now: u64) -> Option<String> {
        let Header { command, hop_by_hop, end_to_end, .. } = message.header;
        if ![Command::RE_AUTH, Command::ABORT_SESSION].contains(&command) {
            return None;
        }
        let is_meant = |inquiry: &Inquiry| {
            let names = (inquiry.connection, inquiry.wish.command(), inquiry.names);
            names == (connection, command, (hop_by_hop, end_to_end))
        };
        let Some(place) = self.waiting.iter().position(is_meant) else {
            return Some(format!("an answer to no request that waits: {:?}", message.header));
        };
        let mut inquiry = self.waiting.swap_remove(place);
        let result = message.find(dictionary::RESULT_CODE).and_then(|result| result.u32().ok()).map(ResultCode);
        let Some(result) = result else { return Some(format!("{inquiry:?} is answered without a Result-Code")) };
        inquiry.answer = Some((now, result));
        let wrong = inquiry.wrong_result(result);
        say(format_args!("{now} {:?} of {} is answered: {result:?}", inquiry.wish, inquiry.session));
        if (inquiry.wish, result) == (Wish::Abort, ResultCode::SUCCESS) {
            let session = mapping::session_of(CLIENT[0], &inquiry.session);
            self.aborted.extend(session.map(|(session, _)| session));
        }
        self.over.push(inquiry);
        wrong
    }

    /// What should have been answered. `lives`: whether a connection is open; `None`: it is gone, and nobody answers.
    pub fn overdue(&mut self, lives: impl Fn(u64) -> Option<bool>, now: u64) -> Option<String> {
        let (waiting, lost): (Vec<_>, _) = self.waiting.drain(..).partition(|one| lives(one.connection).is_some());
        self.waiting = waiting;
        self.over.extend(lost);
        let is_late = |one: &&Inquiry| one.asked_at + PATIENCE < now && lives(one.connection) == Some(true);
        self.waiting.iter().find(is_late).map(|inquiry| format!("{inquiry:?} is not answered"))
    }

    /// What has not come of them by the end. `alone`: a report that says nothing comes of nothing else.
    pub fn check(&self, sessions: &BTreeMap<String, Asked>, alone: bool) -> Option<String> {
        let wrong = self.over.iter().find_map(|inquiry| {
            let wrong = inquiry.wrong_end(sessions.get(&inquiry.session)?)?;
            Some(format!("{inquiry:?}: {wrong}"))
        });
        let too_many = |(id, session): (&String, &Asked)| {
            let (reported, due) = (session.renewals, self.reports_due(id));
            let is_wrong = alone && !session.is_disturbed && reported > due;
            is_wrong.then(|| format!("{id} is reported {reported} times for nothing, and that was due {due} times"))
        };
        wrong.or_else(|| sessions.iter().find_map(too_many))
    }

    /// How often a session may have been reported because it was asked for. An answer that says that no report follows,
    /// because one is on its way, is not followed by one.
    fn reports_due(&self, session: &str) -> usize {
        let of_this = |inquiry: &&Inquiry| inquiry.wish == Wish::Report && inquiry.session == session;
        let may_follow =
            |inquiry: &&Inquiry| inquiry.answer.is_none_or(|(_, result)| result == ResultCode::LIMITED_SUCCESS);
        self.waiting.iter().chain(&self.over).filter(of_this).filter(may_follow).count()
    }
}

impl Inquiry {
    /// What is wrong with this result, at once.
    fn wrong_result(&self, result: ResultCode) -> Option<String> {
        let right = match (result, self.wish) {
            (ResultCode::UNKNOWN_SESSION_ID, _) => true,
            (ResultCode::LIMITED_SUCCESS, Wish::Report) | (ResultCode::SUCCESS, _) => self.is_known,
            _ => false,
        };
        (!right).then(|| format!("{self:?} is answered {result:?}"))
    }

    /// What has not come of the answer.
    fn wrong_end(&self, session: &Asked) -> Option<&'static str> {
        let (answered_at, result) = self.answer?;
        match (result, self.wish) {
            (ResultCode::UNKNOWN_SESSION_ID, _) => {
                let had_ended = session.ended_at.is_some_and(|ended| ended <= answered_at + CROSSING);
                (self.is_open && !session.is_disturbed && !had_ended).then_some("the session was open")
            }
            (ResultCode::SUCCESS, Wish::Abort) => session.ended_at.is_none().then_some("no TERMINATION has come"),
            (ResultCode::LIMITED_SUCCESS, _) => {
                (!session.has_reported(self.asked_at, answered_at)).then_some("no report has come")
            }
            _ => None,
        }
    }
}

fn write(wish: Wish, session_id: &str, names: (HopByHop, EndToEnd), flags: Flags) -> Vec<u8> {
    let (command, from) = (wish.command(), ["ocs.example.com", "example.com"]);
    let mut bytes = Vec::new();
    let mut writer = Writer::request(&mut bytes, command, flags, APPLICATION_CREDIT_CONTROL, names.0, names.1);
    server_request::write(command, session_id, from, CLIENT, &mut writer);
    let _ = writer.finish();
    bytes
}
