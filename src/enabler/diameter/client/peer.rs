//! One peer, from connection to connection: the states of RFC 6733, 5.6, as far as an initiator goes through them, over
//! the watchdog of RFC 3539. Bytes and moments in, bytes and events out: no socket is known here.
//!
//! ```text
//!   Closed ─ connected: CER ─► WaitCea ─ CEA ─► Open ─ DPR comes: DPA ─► Leaving ─┐
//!     ▲                           │              └─ stop(): DPR ───────► Stopping │
//!     └────────── closed() ◄──────┴──────── doom() ◄──────────────────────┴───────┘
//! ```
//!
//! Whoever owns the connection closes it when [`doom`](Peer::doom) says so, and calls [`closed`](Peer::closed).

use super::capabilities;
use super::watchdog::{Action, State as WatchdogState, Watchdog};
use crate::charge::time::Time;
use crate::enabler::diameter::client::node::LocalNode;
use crate::wire::diameter::base::{DeviceWatchdogRequest, DisconnectPeerRequest, PeerAnswer};
use crate::wire::diameter::codes::DisconnectCause;
use crate::wire::diameter::dictionary::{self, APPLICATION_BASE, APPLICATION_CREDIT_CONTROL, Command};
use crate::wire::diameter::header::stamp;
use crate::wire::diameter::{
    EndToEnd, Fault, Flags, Framed, Header, HopByHop, Message, ResultCode, Writer, frame, refuse,
};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

/// Seconds that a DPA may take, and that a peer may take to close after its own DPR.
const DISCONNECT: u32 = 3;

/// How long to stay away from a peer that has disconnected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Absence {
    /// Seconds at least.
    pub seconds: u32,
    /// And then until no other peer serves.
    pub until_needed: bool,
}

/// By Disconnect-Cause (RFC 6733, 5.4.3). A peer that restarts may be connected again; one that is busy, or sees no use
/// in the connection, should not be, unless it is the only one left.
const ABSENT_REBOOTING: Absence = Absence { seconds: 5, until_needed: false };
const ABSENT_BUSY: Absence = Absence { seconds: 30, until_needed: true };
const ABSENT_UNWANTED: Absence = Absence { seconds: 60, until_needed: true };

/// What happened on the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An answer to some request: the whole message.
    Answer(Vec<u8>),
    /// A request of the server within a session, RAR or ASR: the whole message.
    Request(Vec<u8>),
    /// Its requests had better go elsewhere, because of this.
    FailOver(&'static str),
    /// It may have requests, for the first time or again.
    Ready,
    /// An answer of the base protocol that nobody asked for.
    Unmatched,
    /// A message that cannot be read.
    Malformed,
}

/// Whether a peer may have requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    /// None.
    Unfit,
    /// Only if there is no better one: the connection is on probation (REOPEN). RFC 3539 would send nothing by it; but
    /// where there is no other, a minute without charging would help nobody.
    Probation,
    /// Yes.
    Fit,
}

/// Why the connection has to be closed, and how long at least to stay away then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doom {
    /// For an operator, to be read behind "peer x: ".
    pub why: String,
    /// How long.
    pub absent: Absence,
}

/// A message that waits to be written.
#[derive(Debug)]
struct Unsent {
    number: u64,
    /// What is left of it.
    octets: usize,
    /// Octets before these are gone.
    is_begun: bool,
}

type Ids = (HopByHop, EndToEnd);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No connection.
    Closed,
    /// Wait-I-CEA.
    WaitCea { asked: Ids, until: Time },
    /// I-Open.
    Open,
    /// Closing, as the peer wants it.
    Leaving { until: Time, absent: Absence },
    /// Closing, as we want it.
    Stopping { asked: Ids, until: Time },
}

/// The machine.
#[derive(Debug)]
pub struct Peer {
    local: Rc<LocalNode>,
    /// Its name as configured; empty: any.
    expected_host: String,
    /// Seconds for a CEA.
    patience: u32,
    state: State,
    watchdog: Watchdog,
    /// The last DWR without a DWA.
    watchdog_asked: Option<Ids>,
    /// Our end's address, for Host-IP-Address.
    address: IpAddr,
    host: Option<Rc<str>>,
    /// When this connection's capabilities were exchanged.
    open_since: Option<Time>,
    doom: Option<Doom>,
    /// Octets of a message that is not whole yet.
    input: Vec<u8>,
    /// Octets that were not handed to the connection yet.
    output: Vec<u8>,
    /// The messages that these are, the first perhaps gone in part.
    unsent: VecDeque<Unsent>,
    /// Number of the last message that was put in there.
    last_number: u64,
    events: VecDeque<Event>,
}

impl Peer {
    /// Without a connection. `expected_host` may be empty; `watchdog` is Tw, `patience` the time for a CEA, in seconds.
    pub fn new(local: Rc<LocalNode>, expected_host: &str, watchdog: u32, patience: u32) -> Peer {
        Peer {
            local,
            expected_host: expected_host.to_owned(),
            patience,
            state: State::Closed,
            watchdog: Watchdog::new(watchdog),
            watchdog_asked: None,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            host: None,
            open_since: None,
            doom: None,
            input: Vec::new(),
            output: Vec::new(),
            unsent: VecDeque::new(),
            last_number: 0,
            events: VecDeque::new(),
        }
    }

    /// The transport is up, from this address of ours.
    pub fn connected(&mut self, address: IpAddr, now: Time) {
        self.reset();
        self.address = address;
        let local = Rc::clone(&self.local);
        let request = capabilities::request(&local, address);
        let asked = self.ask(Command::CAPABILITIES_EXCHANGE, |out| request.write(out));
        self.state = State::WaitCea { asked, until: now.after_seconds(self.patience) };
    }

    /// The transport is gone. How long the peer does not want to be connected.
    pub fn closed(&mut self) -> Absence {
        let absent = match (&self.doom, self.state) {
            (Some(doom), _) => doom.absent,
            (None, State::Leaving { absent, .. }) => absent,
            _ => Absence::default(),
        };
        self.reset();
        self.watchdog.down();
        absent
    }

    fn reset(&mut self) {
        self.state = State::Closed;
        self.open_since = None;
        self.watchdog_asked = None;
        self.doom = None;
        self.input.clear();
        self.output.clear();
        self.unsent.clear();
        self.events.clear();
    }

    /// Octets came, a message or less or more.
    pub fn received(&mut self, bytes: &[u8], now: Time) {
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut rest = input.as_slice();
        while self.doom.is_none() && self.state != State::Closed {
            let length = match frame(rest) {
                Framed::Message(length) => length,
                Framed::Need(_) => break,
                Framed::FramingError(broken) => {
                    self.events.push_back(Event::Malformed);
                    return self.condemn(broken.to_string());
                }
            };
            let (message, behind) = rest.split_at(length);
            rest = behind;
            self.message(message, now);
        }
        let used = input.len() - rest.len();
        input.drain(..used);
        self.input = input;
    }

    /// Does what is due.
    pub fn timer(&mut self, now: Time) {
        match self.state {
            State::Closed => return,
            State::WaitCea { until, .. } if until <= now => {
                let why = format!("no Capabilities-Exchange-Answer within {} s", self.patience);
                return self.condemn(why);
            }
            State::Leaving { until, absent } if until <= now => return self.condemn_for(LEFT.into(), absent),
            State::Stopping { until, .. } if until <= now => return self.condemn(STOPPED.into()),
            _ => {}
        }
        let action = self.watchdog.timer(&self.local, now);
        self.act(action);
    }

    /// When [`timer`](Peer::timer) has something to do.
    pub fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Closed => None,
            State::Open => self.watchdog.deadline(),
            State::WaitCea { until, .. } | State::Leaving { until, .. } | State::Stopping { until, .. } => {
                Some(self.watchdog.deadline().map_or(until, |at| at.min(until)))
            }
        }
    }

    /// What happened, one after the other.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether and why the connection has to be closed now.
    pub fn doom(&self) -> Option<&Doom> {
        self.doom.as_ref()
    }

    /// Whether it may have requests.
    pub fn fitness(&self) -> Fitness {
        match (self.state, self.watchdog.state()) {
            _ if self.doom.is_some() => Fitness::Unfit,
            (State::Open, WatchdogState::Okay) => Fitness::Fit,
            (State::Open, WatchdogState::Reopen) => Fitness::Probation,
            _ => Fitness::Unfit,
        }
    }

    /// A word for operators.
    pub fn state(&self) -> &'static str {
        match self.state {
            State::WaitCea { .. } => "WAIT_CEA",
            State::Leaving { .. } | State::Stopping { .. } => "CLOSING",
            State::Open | State::Closed => self.watchdog.state().word(),
        }
    }

    /// Its Origin-Host, known from its first good CEA on.
    pub fn host(&self) -> Option<&Rc<str>> {
        self.host.as_ref()
    }

    /// When its capabilities were exchanged, if the connection came so far.
    pub fn open_since(&self) -> Option<Time> {
        self.open_since
    }

    /// Octets to be written.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// So many octets of [`output`](Peer::output) were handed to the connection.
    pub fn wrote(&mut self, octets: usize) {
        let mut octets = octets.min(self.output.len());
        self.output.drain(..octets);
        while let Some(first) = self.unsent.front_mut() {
            if octets < first.octets {
                first.octets -= octets;
                first.is_begun |= octets > 0;
                return;
            }
            octets -= first.octets;
            self.unsent.pop_front();
        }
    }

    /// Whether the message of this number was handed to this connection as a whole.
    pub fn is_written(&self, number: u64) -> bool {
        self.unsent.front().is_none_or(|first| number < first.number)
    }

    /// Whether the first octets of it were.
    pub fn is_begun(&self, number: u64) -> bool {
        self.unsent.front().is_none_or(|first| number < first.number || (number == first.number && first.is_begun))
    }

    /// Takes messages back of which no octet was handed over yet. The numbers rise.
    pub fn withdraw(&mut self, numbers: &[u64]) {
        let mut kept = Vec::with_capacity(self.output.len());
        let mut rest = self.output.as_slice();
        self.unsent.retain(|message| {
            let (octets, behind) = rest.split_at_checked(message.octets).unwrap_or((rest, &[]));
            rest = behind;
            let stays = message.is_begun || numbers.binary_search(&message.number).is_err();
            if stays {
                kept.extend_from_slice(octets);
            }
            stays
        });
        self.output = kept;
    }

    /// Queues a request, with these identifiers and flags put in; its number among all messages.
    pub fn send(&mut self, request: &[u8], flags: Flags, hop_by_hop: HopByHop, end_to_end: EndToEnd) -> u64 {
        let start = self.output.len();
        self.output.extend_from_slice(request);
        if let Some(message) = self.output.get_mut(start..) {
            stamp(message, flags, hop_by_hop, end_to_end);
        }
        self.queued(start)
    }

    /// Queues an answer as it is, if there is somebody to read it.
    pub fn answer(&mut self, answer: &[u8]) {
        if !matches!(self.state, State::Closed | State::WaitCea { .. }) {
            let start = self.output.len();
            self.output.extend_from_slice(answer);
            self.queued(start);
        }
    }

    /// Notes that a message was queued from here on.
    fn queued(&mut self, start: usize) -> u64 {
        self.last_number += 1;
        let octets = self.output.len().saturating_sub(start);
        self.unsent.push_back(Unsent { number: self.last_number, octets, is_begun: false });
        self.last_number
    }

    /// Takes leave. Nothing to take leave of: the connection is to be closed at once.
    pub fn stop(&mut self, now: Time) {
        match self.state {
            State::Open => {
                let local = Rc::clone(&self.local);
                let request = DisconnectPeerRequest {
                    origin_host: &local.origin_host,
                    origin_realm: &local.origin_realm,
                    disconnect_cause: DisconnectCause::REBOOTING,
                };
                let asked = self.ask(Command::DISCONNECT_PEER, |out| request.write(out));
                self.state = State::Stopping { asked, until: now.after_seconds(DISCONNECT) };
            }
            State::WaitCea { .. } => self.condemn(STOPPED.into()),
            State::Closed | State::Leaving { .. } | State::Stopping { .. } => {}
        }
    }

    /// One whole message.
    fn message(&mut self, bytes: &[u8], now: Time) {
        let Some(message) = Message::parse(bytes) else { return self.events.push_back(Event::Malformed) };
        if let State::WaitCea { asked, .. } = self.state {
            return self.capabilities(&message, asked, now);
        }
        let header = message.header;
        if header.command == Command::DEVICE_WATCHDOG && !header.is_request() {
            return self.watchdog_answer(&header, now);
        }
        let action = self.watchdog.heard(&self.local, now);
        self.act(action);
        match (header.is_request(), header.command) {
            (true, _) => self.request(&message, bytes, now),
            (false, Command::DISCONNECT_PEER) => self.disconnect_answer(&header),
            (false, Command::CAPABILITIES_EXCHANGE) => self.events.push_back(Event::Unmatched),
            (false, _) => self.events.push_back(Event::Answer(bytes.to_vec())),
        }
    }

    /// The first message, which has to be the CEA.
    fn capabilities(&mut self, message: &Message<'_>, asked: Ids, now: Time) {
        let header = &message.header;
        if header.is_request() || header.command != Command::CAPABILITIES_EXCHANGE || ids(header) != asked {
            let why = format!("it sent {header} where the Capabilities-Exchange-Answer was due");
            return self.condemn(why);
        }
        match capabilities::check(message, &self.expected_host) {
            Err(why) => self.condemn(why),
            Ok(host) => {
                self.host = Some(host);
                self.state = State::Open;
                self.open_since = Some(now);
                let action = self.watchdog.up(&self.local, now);
                self.act(action);
                self.events.push_back(Event::Ready);
            }
        }
    }

    fn watchdog_answer(&mut self, header: &Header, now: Time) {
        if self.watchdog_asked != Some(ids(header)) {
            return self.events.push_back(Event::Unmatched);
        }
        self.watchdog_asked = None;
        let action = self.watchdog.answered(&self.local, now);
        self.act(action);
    }

    fn disconnect_answer(&mut self, header: &Header) {
        match self.state {
            State::Stopping { asked, .. } if asked == ids(header) => self.condemn(STOPPED.into()),
            _ => self.events.push_back(Event::Unmatched),
        }
    }

    /// A request of the peer.
    fn request(&mut self, message: &Message<'_>, bytes: &[u8], now: Time) {
        let header = &message.header;
        if !header.has_valid_flags() {
            return self.refuse(message, &Fault::new(ResultCode::INVALID_HDR_BITS));
        }
        match (header.application, header.command) {
            (APPLICATION_BASE, Command::DEVICE_WATCHDOG) => match DeviceWatchdogRequest::decode(message) {
                Ok(_) => self.success(header),
                Err(fault) => self.refuse_malformed(message, &fault),
            },
            (APPLICATION_BASE, Command::DISCONNECT_PEER) => match DisconnectPeerRequest::decode(message) {
                Ok(request) => self.leave(header, request.disconnect_cause, now),
                Err(fault) => self.refuse_malformed(message, &fault),
            },
            (APPLICATION_BASE, Command::CAPABILITIES_EXCHANGE) => self.capabilities_again(header),
            (APPLICATION_CREDIT_CONTROL, Command::RE_AUTH | Command::ABORT_SESSION) => {
                self.events.push_back(Event::Request(bytes.to_vec()));
            }
            (APPLICATION_BASE | APPLICATION_CREDIT_CONTROL, _) => {
                self.refuse(message, &Fault::new(ResultCode::COMMAND_UNSUPPORTED));
            }
            _ => self.refuse(message, &Fault::new(ResultCode::APPLICATION_UNSUPPORTED)),
        }
    }

    /// The peer's DPR.
    fn leave(&mut self, header: &Header, cause: DisconnectCause, now: Time) {
        self.success(header);
        let absent = match cause {
            DisconnectCause::BUSY => ABSENT_BUSY,
            DisconnectCause::DO_NOT_WANT_TO_TALK_TO_YOU => ABSENT_UNWANTED,
            _ => ABSENT_REBOOTING,
        };
        if self.state == State::Open {
            self.state = State::Leaving { until: now.after_seconds(DISCONNECT), absent };
            self.events.push_back(Event::FailOver(LEFT));
        }
    }

    /// DWA or DPA.
    fn success(&mut self, header: &Header) {
        let local = Rc::clone(&self.local);
        let answer = PeerAnswer {
            result_code: ResultCode::SUCCESS,
            origin_host: &local.origin_host,
            origin_realm: &local.origin_realm,
            origin_state_id: (header.command == Command::DEVICE_WATCHDOG).then_some(local.origin_state_id),
            ..PeerAnswer::default()
        };
        self.respond(header, |out| answer.write(out));
    }

    /// CEA, to a peer that asks on the open connection.
    fn capabilities_again(&mut self, header: &Header) {
        let local = Rc::clone(&self.local);
        let answer = capabilities::answer(&local, self.address);
        self.respond(header, |out| answer.write(out));
    }

    fn refuse_malformed(&mut self, message: &Message<'_>, fault: &Fault<'_>) {
        self.events.push_back(Event::Malformed);
        self.refuse(message, fault);
    }

    fn refuse(&mut self, message: &Message<'_>, fault: &Fault<'_>) {
        let session = message.find(dictionary::SESSION_ID).and_then(|avp| avp.text().ok());
        let own = (self.local.origin_host.as_str(), self.local.origin_realm.as_str());
        let start = self.output.len();
        match refuse(&mut self.output, &message.header, session, own, fault) {
            Ok(_) => _ = self.queued(start),
            // What it would repeat of the request is too long: then there is no answer.
            Err(_) => self.events.push_back(Event::Malformed),
        }
    }

    /// Does what the watchdog wants.
    fn act(&mut self, action: Action) {
        match action {
            Action::None => {}
            Action::SendWatchdog => self.watchdog_request(),
            Action::FailOver if self.state == State::Open => self.events.push_back(Event::FailOver(SILENT)),
            Action::FailBack if self.state == State::Open => self.events.push_back(Event::Ready),
            Action::FailOver | Action::FailBack => {}
            Action::CloseConnection => self.condemn(DEAD.into()),
        }
    }

    fn watchdog_request(&mut self) {
        let local = Rc::clone(&self.local);
        let request = DeviceWatchdogRequest {
            origin_host: &local.origin_host,
            origin_realm: &local.origin_realm,
            origin_state_id: Some(local.origin_state_id),
        };
        self.watchdog_asked = Some(self.ask(Command::DEVICE_WATCHDOG, |out| request.write(out)));
    }

    /// Queues a request of the base protocol.
    fn ask(&mut self, command: Command, fill: impl FnOnce(&mut Writer<'_>)) -> Ids {
        let (hop_by_hop, end_to_end) = (self.local.hop_by_hop(), self.local.end_to_end());
        let flags = Flags::default();
        let start = self.output.len();
        let mut out = Writer::request(&mut self.output, command, flags, APPLICATION_BASE, hop_by_hop, end_to_end);
        fill(&mut out);
        finish(out);
        self.queued(start);
        (hop_by_hop, end_to_end)
    }

    /// Queues an answer by the grammar of its command.
    fn respond(&mut self, header: &Header, fill: impl FnOnce(&mut Writer<'_>)) {
        let start = self.output.len();
        let mut out = Writer::answer(&mut self.output, header);
        fill(&mut out);
        finish(out);
        self.queued(start);
    }

    fn condemn(&mut self, why: String) {
        self.condemn_for(why, Absence::default());
    }

    fn condemn_for(&mut self, why: String, absent: Absence) {
        self.doom.get_or_insert(Doom { why, absent });
    }
}

/// Why a connection ends, in words behind "peer x: ".
const LEFT: &str = "it said good-bye (Disconnect-Peer-Request)";
const STOPPED: &str = "closed from our side";
const SILENT: &str = "no answer to the watchdog";
const DEAD: &str = "no answer to the watchdog for two intervals";

/// Ends a message in which nothing but our own names has a length.
fn finish(out: Writer<'_>) {
    let finished = out.finish();
    debug_assert!(finished.is_ok(), "names are bounded by the configuration");
}

fn ids(header: &Header) -> Ids {
    (header.hop_by_hop, header.end_to_end)
}

#[cfg(test)]
mod tests;
