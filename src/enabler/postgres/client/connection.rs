//! State machine of one connection: octets and times in, octets and events out, without sockets.
//!
//! ```text
//!   Unconnected ─ SSLRequest ─► TlsRequested ─ S ─► TlsStarting ─┐
//!        └───────── without TLS ─────────────────────────────────┴─ startup ─► Login ─ AuthenticationOk ─► Preparing
//!   Preparing ─ ReadyForQuery: the checks ─► Checking ─ passed ─► Idle ◄─► Busy
//! ```
//!
//! The owner of the socket closes it once [`close_reason`](Connection::close_reason) returns one, and then calls
//! [`closed`](Connection::closed).

use super::authentication::Authentication;
use super::check::{self, Passed};
use super::config::ClientConfig;
use super::password::Password;
use super::pending::{Outcome, Pending, Progress, malformed};
use super::row::Row;
use super::server_error::{Report, ServerError};
use super::value::{NulInText, Parameter};
use crate::charge::time::Time;
use bytes::BytesMut;
use postgres_protocol::Oid;
use postgres_protocol::message::backend::{Header, Message};
use postgres_protocol::message::frontend::{self, BindError};
use std::collections::VecDeque;
use std::rc::Rc;

/// Maximum length of a message in octets, in either direction.
pub const MESSAGE_MAX: usize = 16 << 20;

/// Maximum length of a message of a server that has not accepted the login.
const LOGIN_MESSAGE_MAX: usize = 16 << 10;

/// Seconds after which the server tests the connection of a silent client, and between two tests.
const KEEPALIVE_SECONDS: &str = "10";

/// Longest timer of the server, in milliseconds.
const MILLISECONDS_MAX: u32 = i32::MAX as u32;

/// Errors after which the statements of the connection must be parsed again: the server does not know one, knows another of
/// that name, or its result has changed.
const REPARSE: [&str; 3] = ["26000", "42P05", "0A000"];

/// Names a query of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(pub u64);

/// A query is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The connection is not open, or another query is in flight.
    #[error("the connection is not ready")]
    NotReady,
    /// The parameters do not fit into one message.
    #[error("the parameters are longer than {MESSAGE_MAX} octets")]
    TooLong,
    /// A text contains the character NUL.
    #[error("{NulInText}")]
    NulInText,
}

/// An event on the connection.
#[derive(Clone, Debug)]
pub enum Event {
    /// The server has passed the checks.
    Open(Passed),
    /// The query is executed and committed.
    Rows(QueryId, Vec<Row>),
    /// The query had no effect.
    Refused(QueryId, ServerError),
    /// There is no answer. The query may have been executed.
    Lost(QueryId),
}

/// A statement that the server knows.
#[derive(Debug)]
struct Prepared {
    statement: &'static str,
    parameters: Vec<Oid>,
    name: String,
    columns: Rc<[Oid]>,
}

enum State {
    Unconnected,
    TlsRequested,
    TlsStarting,
    Login(Authentication),
    /// The login is accepted; ReadyForQuery must follow.
    Preparing,
    Checking(Pending),
    Idle,
    Busy(QueryId, Pending),
    Closed,
}

/// The state machine.
pub struct Connection {
    config: Rc<ClientConfig>,
    password: Option<Password>,
    has_tls: bool,
    state: State,
    /// When the login and the checks must be complete.
    login_until: Option<Time>,
    input: BytesMut,
    output: BytesMut,
    prepared: Vec<Prepared>,
    /// The statement that is being parsed, with the types of its parameters and its name.
    parsing: Option<(&'static str, Vec<Oid>, String)>,
    events: VecDeque<Event>,
    close_reason: Option<String>,
}

impl Connection {
    /// Creates the machine without a connection. `has_tls`: TLS is required.
    pub fn new(config: Rc<ClientConfig>, password: Option<Password>, has_tls: bool) -> Connection {
        Connection {
            config,
            password,
            has_tls,
            state: State::Unconnected,
            login_until: None,
            input: BytesMut::new(),
            output: BytesMut::new(),
            prepared: Vec::new(),
            parsing: None,
            events: VecDeque::new(),
            close_reason: None,
        }
    }

    /// Tells that the connection is up: first TCP, then TLS if it was asked for.
    pub fn connected(&mut self, now: Time) {
        match self.state {
            State::Unconnected if self.has_tls => {
                self.login_until = Some(now.after_seconds(self.config.connect_timeout));
                frontend::ssl_request(&mut self.output);
                self.state = State::TlsRequested;
            }
            State::Unconnected | State::TlsStarting => {
                self.login_until = Some(now.after_seconds(self.config.connect_timeout));
                self.start_up();
            }
            _ => {}
        }
    }

    /// Whether the owner must start TLS now, before it reads anything else.
    pub fn wants_tls(&self) -> bool {
        matches!(self.state, State::TlsStarting)
    }

    /// Takes octets of the server.
    pub fn received(&mut self, octets: &[u8], now: Time) {
        match self.state {
            State::TlsRequested => self.tls_answered(octets),
            State::TlsStarting if !octets.is_empty() => self.close("octets before TLS".into()),
            State::Unconnected | State::TlsStarting | State::Closed => {}
            _ => {
                self.input.extend_from_slice(octets);
                self.parse(now);
            }
        }
    }

    /// Handles timers.
    pub fn timer(&mut self, now: Time) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let why = match &self.state {
            State::Busy(..) => format!("no answer within {} s", self.config.answer_timeout),
            _ => format!("no login within {} s", self.config.connect_timeout),
        };
        self.close(why);
    }

    /// When [`timer`](Connection::timer) must be called at the latest.
    pub fn deadline(&self) -> Option<Time> {
        match &self.state {
            State::Busy(_, pending) => Some(pending.until),
            State::Idle | State::Closed => None,
            _ => self.login_until,
        }
    }

    /// Octets to be sent.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// Tells that this many octets of the output are sent.
    pub fn wrote(&mut self, octets: usize) {
        let octets = octets.min(self.output.len());
        bytes::Buf::advance(&mut self.output, octets);
    }

    /// Returns the number of octets that the buffers of both directions occupy.
    pub fn memory(&self) -> usize {
        self.input.capacity() + self.output.capacity()
    }

    /// Returns the next event.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether a query can be sent.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Whether the server has passed the checks.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Idle | State::Busy(..))
    }

    /// Returns the name of the state, for operators.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Unconnected | State::TlsRequested | State::TlsStarting => "CONNECTING",
            State::Login(_) | State::Preparing => "LOGIN",
            State::Checking(_) => "CHECKING",
            State::Idle => "READY",
            State::Busy(..) => "BUSY",
            State::Closed => "DOWN",
        }
    }

    /// Why the owner must close the connection. Follows the name of the server and a colon in the log.
    pub fn close_reason(&self) -> Option<&str> {
        self.close_reason.as_deref()
    }

    /// Ends the session if no query is in flight.
    pub fn terminate(&mut self) {
        if self.is_idle() {
            frontend::terminate(&mut self.output);
        }
    }

    /// Tells that the connection is closed. A query in flight is lost.
    pub fn closed(&mut self) {
        if let State::Busy(id, _) = std::mem::replace(&mut self.state, State::Closed) {
            self.events.push_back(Event::Lost(id));
        }
    }

    /// Queues a query.
    pub fn query(
        &mut self,
        id: QueryId,
        statement: &'static str,
        parameters: &[Parameter<'_>],
        now: Time,
    ) -> Result<(), QueryError> {
        if !self.is_idle() || self.close_reason.is_some() {
            return Err(QueryError::NotReady);
        }
        let pending = self.send(statement, parameters, now.after_seconds(self.config.answer_timeout))?;
        self.state = State::Busy(id, pending);
        Ok(())
    }

    fn start_up(&mut self) {
        let timeout = self.config.answer_timeout.saturating_mul(1000).min(MILLISECONDS_MAX).to_string();
        let parameters = [
            ("user", self.config.user.as_str()),
            ("database", &self.config.database),
            ("application_name", &self.config.application_name),
            ("client_encoding", "UTF8"),
            ("search_path", "imcharge,pg_catalog"),
            ("client_min_messages", "warning"),
            ("default_transaction_isolation", "read committed"),
            // A wait for the standby that this timer ends is reported as a success. The client has a timer of its own.
            ("statement_timeout", "0"),
            // No statement waits for a lock after its answer is given up.
            ("lock_timeout", &timeout),
            ("idle_in_transaction_session_timeout", &timeout),
            ("tcp_keepalives_idle", KEEPALIVE_SECONDS),
            ("tcp_keepalives_interval", KEEPALIVE_SECONDS),
            ("tcp_keepalives_count", "3"),
        ];
        match frontend::startup_message(parameters, &mut self.output) {
            Ok(()) => {
                let authentication = Authentication::new(self.password.take(), self.has_tls);
                self.state = State::Login(authentication);
            }
            Err(error) => self.close(format!("its login cannot be sent: {error}")),
        }
    }

    fn tls_answered(&mut self, octets: &[u8]) {
        match octets {
            [] => {}
            [b'S'] => self.state = State::TlsStarting,
            [b'S', ..] => self.close("octets before TLS".into()),
            [b'N', ..] => self.close("it does not offer TLS: set ssl=on in postgresql.conf, or tls=off".into()),
            _ => self.close("it does not know TLS".into()),
        }
    }

    fn parse(&mut self, now: Time) {
        while self.close_reason.is_none() {
            let length = match Header::parse(&self.input) {
                Ok(Some(header)) => usize::try_from(header.len()).unwrap_or(usize::MAX),
                Ok(None) => return,
                Err(error) => return self.close(malformed(error.to_string())),
            };
            let max = if matches!(self.state, State::Login(_)) { LOGIN_MESSAGE_MAX } else { MESSAGE_MAX };
            if length > max {
                return self.close(format!("a message of {length} octets; at most {max} are accepted"));
            }
            // The parser of the crate would reserve what is missing.
            if self.input.len() <= length {
                return;
            }
            let result = match Message::parse(&mut self.input) {
                Ok(Some(message)) => self.message(message, now),
                Ok(None) => return,
                Err(error) => Err(malformed(error.to_string())),
            };
            if let Err(why) = result {
                self.close(why);
            }
        }
    }

    fn message(&mut self, message: Message, now: Time) -> Result<(), String> {
        match message {
            Message::NoticeResponse(body) => {
                let report = Report::read(body.fields()).map_err(malformed)?;
                if let State::Busy(_, pending) = &mut self.state {
                    pending.notice(&report);
                }
                Ok(())
            }
            Message::ParameterStatus(_) if !matches!(self.state, State::Login(_)) => Ok(()),
            message => match &mut self.state {
                State::Login(_) => self.login(message),
                State::Preparing => self.prepare(message, now),
                State::Checking(_) | State::Busy(..) => self.answer(message),
                _ => Err(unasked(message)),
            },
        }
    }

    fn login(&mut self, message: Message) -> Result<(), String> {
        let State::Login(authentication) = &mut self.state else { return Ok(()) };
        if let Message::ErrorResponse(body) = message {
            let report = Report::read(body.fields()).map_err(malformed)?;
            let error = report.error;
            // Class 28: the role, the password, or the address of the client.
            let advice = match error.sqlstate.class() {
                "28" => "; check user and password_file of the parameter postgres, and the role and pg_hba.conf there",
                _ => "",
            };
            return Err(format!("it refuses the login: {error}{advice}"));
        }
        if authentication.message(message, &mut self.output)? {
            self.state = State::Preparing;
        }
        Ok(())
    }

    fn prepare(&mut self, message: Message, now: Time) -> Result<(), String> {
        match message {
            Message::BackendKeyData(_) => Ok(()),
            Message::ReadyForQuery(_) => {
                let until = self.login_until.unwrap_or(now);
                let pending = self.send(check::STATEMENT, &[], until).map_err(|error| error.to_string())?;
                self.state = State::Checking(pending);
                Ok(())
            }
            Message::ErrorResponse(body) => {
                let report = Report::read(body.fields()).map_err(malformed)?;
                Err(format!("it refuses the session: {}", report.error))
            }
            _ => Err("a message that does not belong to the start of a session".into()),
        }
    }

    fn answer(&mut self, message: Message) -> Result<(), String> {
        let (State::Checking(pending) | State::Busy(_, pending)) = &mut self.state else { return Ok(()) };
        match pending.message(message)? {
            Progress::Continues => match pending.error().filter(|error| error.is_fatal) {
                Some(error) => Err(format!("it ends the session: {error}")),
                None => Ok(()),
            },
            Progress::Prepared(columns) => {
                if let Some((statement, parameters, name)) = self.parsing.take() {
                    self.prepared.push(Prepared { statement, parameters, name, columns });
                }
                Ok(())
            }
            Progress::Finished(outcome) => self.finished(outcome),
        }
    }

    fn finished(&mut self, outcome: Outcome) -> Result<(), String> {
        self.parsing = None;
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Checking(_) => {
                let passed = check::judge(outcome, &self.config)?;
                self.login_until = None;
                self.events.push_back(Event::Open(passed));
                Ok(())
            }
            State::Busy(id, _) => {
                let reparse = match &outcome {
                    Outcome::Refused(error) if REPARSE.contains(&error.sqlstate.as_str()) => Some(error.to_string()),
                    _ => None,
                };
                self.events.push_back(match outcome {
                    Outcome::Rows(rows) => Event::Rows(id, rows),
                    Outcome::Refused(error) => Event::Refused(id, error),
                    Outcome::Lost => Event::Lost(id),
                });
                reparse.map_or(Ok(()), |why| Err(format!("its statements must be parsed again: {why}")))
            }
            _ => Ok(()),
        }
    }

    /// Appends Parse and Describe if the server does not know the statement, then Bind, Execute and Sync.
    fn send(
        &mut self,
        statement: &'static str,
        parameters: &[Parameter<'_>],
        until: Time,
    ) -> Result<Pending, QueryError> {
        let types: Vec<Oid> = parameters.iter().map(|parameter| parameter.type_of().oid()).collect();
        let is_known = |known: &&Prepared| known.statement == statement && known.parameters == types;
        let before = self.output.len();
        let (name, pending, parsing) = match self.prepared.iter().find(is_known) {
            Some(known) => (known.name.clone(), Pending::prepared(Rc::clone(&known.columns), until), None),
            None => {
                let name = format!("s{}", self.prepared.len());
                let parsed = frontend::parse(&name, statement, types.iter().copied(), &mut self.output)
                    .and_then(|()| frontend::describe(b'S', &name, &mut self.output));
                if parsed.is_err() {
                    self.output.truncate(before);
                    return Err(QueryError::TooLong);
                }
                (name.clone(), Pending::unprepared(until), Some((statement, types, name)))
            }
        };
        if let Err(error) = bind(&name, parameters, &mut self.output) {
            self.output.truncate(before);
            return Err(error);
        }
        frontend::sync(&mut self.output);
        self.parsing = parsing;
        Ok(pending)
    }

    fn close(&mut self, why: String) {
        self.close_reason.get_or_insert(why);
        self.input.clear();
    }
}

/// Appends Bind and Execute.
fn bind(name: &str, parameters: &[Parameter<'_>], out: &mut BytesMut) -> Result<(), QueryError> {
    let before = out.len();
    let written = frontend::bind("", name, [1], parameters, |parameter, out| parameter.write(out), [1], out);
    written.map_err(|error| match error {
        BindError::Conversion(error) if error.is::<NulInText>() => QueryError::NulInText,
        BindError::Conversion(_) | BindError::Serialization(_) => QueryError::TooLong,
    })?;
    if out.len() - before > MESSAGE_MAX {
        return Err(QueryError::TooLong);
    }
    frontend::execute("", 0, out).map_err(|_| QueryError::TooLong)
}

/// Why a message without a query ends the connection.
fn unasked(message: Message) -> String {
    match message {
        Message::ErrorResponse(body) => match Report::read(body.fields()) {
            Ok(report) => format!("it ends the session: {}", report.error),
            Err(why) => malformed(why),
        },
        _ => "a message without a query".into(),
    }
}

#[cfg(test)]
mod tests;
