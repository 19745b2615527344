//! Requests of the OCS: to report a session (Re-Auth-Request, RFC 8506, 5.5), or to end it (Abort-Session-Request,
//! RFC 6733, 8.5). And their required effects.

use crate::diameter_session::DiameterSession;
use crate::server_request;
use crate::world::print_trace;
use imcharge::charge::ch2::SessionKey;
use imcharge::enabler::diameter::mapping;
use imcharge::wire::diameter::dictionary::{self, APPLICATION_CREDIT_CONTROL};
use imcharge::wire::diameter::{Command, EndToEnd, Flags, Header, HopByHop, Message, ResultCode, Writer};
use std::collections::BTreeMap;

/// Origin-Host and Origin-Realm of the client.
pub const CLIENT: [&str; 2] = ["proxy.example.org", "example.org"];

/// Longest time until the client answers while the connection is open, in microseconds: all its processes may be frozen for
/// 100 s.
const ANSWER_MAX: u64 = 110_000_000;

/// Longest delay between a TERMINATION at one peer and a later answer at the other, in microseconds.
const CROSSING_MAX: u64 = 1_000_000;

/// What the OCS requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Report,
    Abort,
}

impl RequestKind {
    fn command(self) -> Command {
        match self {
            RequestKind::Report => Command::RE_AUTH,
            RequestKind::Abort => Command::ABORT_SESSION,
        }
    }
}

/// A request of the OCS.
#[derive(Clone, Debug)]
struct ServerRequest {
    kind: RequestKind,
    session: String,
    connection: u64,
    names: (HopByHop, EndToEnd),
    asked_at: u64,
    /// Whether the OCS knew the session.
    is_known: bool,
    /// Whether the client must know the session: no fault since it was opened, and its reservation was answered.
    is_open: bool,
    /// Time and Result-Code of the answer.
    answer: Option<(u64, ResultCode)>,
}

/// All requests of the OCS.
#[derive(Default)]
pub struct ServerRequests {
    next: u32,
    waiting: Vec<ServerRequest>,
    over: Vec<ServerRequest>,
    /// Sessions that the client has agreed to end since the last look.
    pub aborted: Vec<SessionKey>,
}

impl ServerRequests {
    /// Writes a request. `again`: repeats the previous one as a possible duplicate.
    pub fn ask(
        &mut self,
        kind: RequestKind,
        session: (&str, Option<&DiameterSession>),
        connection: u64,
        now: u64,
        again: bool,
    ) -> Vec<u8> {
        let (session, known) = session;
        self.next += 1;
        let hop_by_hop = HopByHop(self.next);
        let last = self.waiting.iter().chain(&self.over).find(|last| last.names.0.0 + 1 == self.next);
        let repeated = last.filter(|last| again && last.session == session && last.kind == kind);
        let (end_to_end, flags) = match repeated {
            Some(last) => (last.names.1, Flags::PROXIABLE.with(Flags::RETRANSMITTED)),
            None => (EndToEnd(self.next), Flags::PROXIABLE),
        };
        let names = (hop_by_hop, end_to_end);
        let (is_known, is_open) = (known.is_some(), known.is_some_and(|known| known.is_open(now)));
        let session = session.to_owned();
        let bytes = write(kind, &session, names, flags);
        self.waiting.push(ServerRequest {
            kind,
            session,
            connection,
            names,
            asked_at: now,
            is_known,
            is_open,
            answer: None,
        });
        bytes
    }

    /// Handles an answer of the client, and returns what is wrong with it.
    pub fn answered(&mut self, message: &Message<'_>, connection: u64, now: u64) -> Option<String> {
        let Header { command, hop_by_hop, end_to_end, .. } = message.header;
        if ![Command::RE_AUTH, Command::ABORT_SESSION].contains(&command) {
            return None;
        }
        let is_meant = |request: &ServerRequest| {
            let names = (request.connection, request.kind.command(), request.names);
            names == (connection, command, (hop_by_hop, end_to_end))
        };
        let Some(place) = self.waiting.iter().position(is_meant) else {
            return Some(format!("an answer without a pending request: {:?}", message.header));
        };
        let mut request = self.waiting.swap_remove(place);
        let result = message.find(dictionary::RESULT_CODE).and_then(|result| result.u32().ok()).map(ResultCode);
        let Some(result) = result else { return Some(format!("{request:?} is answered without a Result-Code")) };
        request.answer = Some((now, result));
        let wrong = request.wrong_result(result);
        print_trace(format_args!("{now} {:?} of {} is answered: {result:?}", request.kind, request.session));
        if (request.kind, result) == (RequestKind::Abort, ResultCode::SUCCESS) {
            let session = mapping::session_of(CLIENT[0], &request.session);
            self.aborted.extend(session.map(|(session, _)| session));
        }
        self.over.push(request);
        wrong
    }

    /// Returns a request whose answer is overdue. `is_connected`: whether a connection is open; `None`: it is closed.
    pub fn overdue(&mut self, is_connected: impl Fn(u64) -> Option<bool>, now: u64) -> Option<String> {
        let (waiting, lost): (Vec<_>, _) =
            self.waiting.drain(..).partition(|one| is_connected(one.connection).is_some());
        self.waiting = waiting;
        self.over.extend(lost);
        let is_late =
            |one: &&ServerRequest| one.asked_at + ANSWER_MAX < now && is_connected(one.connection) == Some(true);
        self.waiting.iter().find(is_late).map(|request| format!("{request:?} is not answered"))
    }

    /// Returns a request without its effect at the end of the run. `alone`: nothing else causes reports without usage.
    pub fn check(&self, sessions: &BTreeMap<String, DiameterSession>, alone: bool) -> Option<String> {
        let wrong = self.over.iter().find_map(|request| {
            let wrong = request.wrong_end(sessions.get(&request.session)?)?;
            Some(format!("{request:?}: {wrong}"))
        });
        let too_many = |(id, session): (&String, &DiameterSession)| {
            let (reported, due) = (session.renewals, self.reports_due(id));
            let is_wrong = alone && !session.had_fault && reported > due;
            is_wrong.then(|| format!("{id} is reported {reported} times without usage, but {due} reports were due"))
        };
        wrong.or_else(|| sessions.iter().find_map(too_many))
    }

    /// Returns how many reports of a session were requested. None follows an answer that says that no report follows,
    /// because one is on its way.
    fn reports_due(&self, session: &str) -> usize {
        let of_this = |request: &&ServerRequest| request.kind == RequestKind::Report && request.session == session;
        let may_follow =
            |request: &&ServerRequest| request.answer.is_none_or(|(_, result)| result == ResultCode::LIMITED_SUCCESS);
        self.waiting.iter().chain(&self.over).filter(of_this).filter(may_follow).count()
    }
}

impl ServerRequest {
    /// Returns what is wrong with a Result-Code.
    fn wrong_result(&self, result: ResultCode) -> Option<String> {
        let right = match (result, self.kind) {
            (ResultCode::UNKNOWN_SESSION_ID, _) => true,
            (ResultCode::LIMITED_SUCCESS, RequestKind::Report) | (ResultCode::SUCCESS, _) => self.is_known,
            _ => false,
        };
        (!right).then(|| format!("{self:?} is answered {result:?}"))
    }

    /// Returns which effect of the answer is missing.
    fn wrong_end(&self, session: &DiameterSession) -> Option<&'static str> {
        let (answered_at, result) = self.answer?;
        match (result, self.kind) {
            (ResultCode::UNKNOWN_SESSION_ID, _) => {
                let had_ended = session.ended_at.is_some_and(|ended| ended <= answered_at + CROSSING_MAX);
                (self.is_open && !session.had_fault && !had_ended).then_some("the session was open")
            }
            (ResultCode::SUCCESS, RequestKind::Abort) => {
                session.ended_at.is_none().then_some("no TERMINATION has come")
            }
            (ResultCode::LIMITED_SUCCESS, _) => {
                (!session.has_reported(self.asked_at, answered_at)).then_some("no report has arrived")
            }
            _ => None,
        }
    }
}

fn write(kind: RequestKind, session_id: &str, names: (HopByHop, EndToEnd), flags: Flags) -> Vec<u8> {
    let (command, from) = (kind.command(), ["ocs.example.com", "example.com"]);
    let mut bytes = Vec::new();
    let mut writer = Writer::request(&mut bytes, command, flags, APPLICATION_CREDIT_CONTROL, names.0, names.1);
    server_request::write(command, session_id, from, CLIENT, &mut writer);
    let _ = writer.finish();
    bytes
}
