//! State machine of one peer across its connections: the initiator's states of RFC 6733, 5.6, and the watchdog of RFC
//! 3539. Octets and times in, octets and events out, without sockets.
//!
//! ```text
//!   Closed ─ connected: CER ─► WaitCea ─ CEA ─► Open ─ DPR comes: DPA ─► Leaving ─┐
//!     ▲                           │              └─ stop(): DPR ───────► Stopping │
//!     └────────── closed() ◄──────┴──── close_reason() ◄──────────────┴─────────────┘
//! ```
//!
//! The owner of the connection closes it once [`close_reason`](Peer::close_reason) returns one, and then calls
//! [`closed`](Peer::closed).

use super::capabilities;
use super::watchdog::{Action, State as WatchdogState, Watchdog};
use crate::charge::time::Time;
use crate::enabler::diameter::client::node::LocalNode;
use crate::wire::diameter::base::{DeviceWatchdogRequest, DisconnectPeerRequest, PeerAnswer};
use crate::wire::diameter::codes::DisconnectCause;
use crate::wire::diameter::dictionary::{self, APPLICATION_BASE, APPLICATION_CREDIT_CONTROL, Command};
use crate::wire::diameter::header::set_identifiers;
use crate::wire::diameter::{
    EndToEnd, Fault, Flags, Framed, Header, HopByHop, Message, ResultCode, Writer, frame, refuse,
};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

/// Seconds until the DPA must arrive, or until a peer must close the connection after its own DPR.
const DISCONNECT_SECONDS: u32 = 3;

/// How long a peer that has disconnected is not connected again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReconnectDelay {
    /// Minimum, in seconds.
    pub seconds: u32,
    /// After that, until no other peer serves.
    pub until_needed: bool,
}

/// Delays by Disconnect-Cause (RFC 6733, 5.4.3). A peer that reboots may be connected again. One that is busy, or does
/// not want the connection, should be connected again only if no other peer serves.
const DELAY_REBOOTING: ReconnectDelay = ReconnectDelay { seconds: 5, until_needed: false };
const DELAY_BUSY: ReconnectDelay = ReconnectDelay { seconds: 30, until_needed: true };
const DELAY_UNWANTED: ReconnectDelay = ReconnectDelay { seconds: 60, until_needed: true };

/// An event on the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An answer to a request that [`Peer::send`] sent: the whole message.
    Answer(Vec<u8>),
    /// A request of the peer within a session, RAR or ASR: the whole message.
    Request(Vec<u8>),
    /// Its requests should be sent to other peers, for this reason.
    FailOver(&'static str),
    /// It can be sent requests, for the first time or again.
    Ready,
    /// An answer of the base protocol that matches no request.
    Unmatched,
    /// A message that cannot be parsed.
    Malformed,
}

/// Whether a peer can be sent requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    /// No.
    Unfit,
    /// Only if no peer is fit: the connection is on probation (REOPEN). RFC 3539 sends nothing over it, but without
    /// another peer that would only mean a minute without charging.
    Probation,
    /// Yes.
    Fit,
}

/// Why the connection must be closed, and when it may be opened again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// Text that follows "peer x: " in the log.
    pub why: String,
    /// When it may be opened again.
    pub delay: ReconnectDelay,
}

/// A message in the output buffer.
#[derive(Debug)]
struct Unsent {
    number: u64,
    /// Octets not sent yet.
    octets: usize,
    /// Whether earlier octets have been sent.
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
    /// Closing at the peer's request.
    Leaving { until: Time, delay: ReconnectDelay },
    /// Closing at our request.
    Stopping { asked: Ids, until: Time },
}

/// The state machine.
#[derive(Debug)]
pub struct Peer {
    node: Rc<LocalNode>,
    /// Its configured DiameterIdentity; empty: any.
    expected_host: String,
    /// Seconds until the CEA must arrive.
    timeout_seconds: u32,
    state: State,
    watchdog: Watchdog,
    /// Identifiers of the DWR without a DWA.
    watchdog_asked: Option<Ids>,
    /// Local address, for Host-IP-Address.
    address: IpAddr,
    host: Option<Rc<str>>,
    /// When the capabilities exchange of this connection succeeded.
    open_since: Option<Time>,
    close_reason: Option<CloseReason>,
    /// Octets of an incomplete message.
    input: Vec<u8>,
    /// Octets not sent yet.
    output: Vec<u8>,
    /// The messages in `output`; the first may be sent in part.
    unsent: VecDeque<Unsent>,
    /// Number of the last message added to `output`.
    last_number: u64,
    events: VecDeque<Event>,
}

impl Peer {
    /// Creates the machine without a connection. `expected_host` may be empty. `watchdog` (Tw) and `timeout_seconds`
    /// (for the CEA) are in seconds.
    pub fn new(node: Rc<LocalNode>, expected_host: &str, watchdog: u32, timeout_seconds: u32) -> Peer {
        Peer {
            node,
            expected_host: expected_host.to_owned(),
            timeout_seconds,
            state: State::Closed,
            watchdog: Watchdog::new(watchdog),
            watchdog_asked: None,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            host: None,
            open_since: None,
            close_reason: None,
            input: Vec::new(),
            output: Vec::new(),
            unsent: VecDeque::new(),
            last_number: 0,
            events: VecDeque::new(),
        }
    }

    /// The transport is up. `address`: the local address.
    pub fn connected(&mut self, address: IpAddr, now: Time) {
        self.reset();
        self.address = address;
        let node = Rc::clone(&self.node);
        let request = capabilities::request(&node, address);
        let asked = self.ask(Command::CAPABILITIES_EXCHANGE, |out| request.write(out));
        self.state = State::WaitCea { asked, until: now.after_seconds(self.timeout_seconds) };
    }

    /// The transport is gone. Returns how long the peer does not want to be connected.
    pub fn closed(&mut self) -> ReconnectDelay {
        let delay = match (&self.close_reason, self.state) {
            (Some(close_reason), _) => close_reason.delay,
            (None, State::Leaving { delay, .. }) => delay,
            _ => ReconnectDelay::default(),
        };
        self.reset();
        self.watchdog.down();
        delay
    }

    fn reset(&mut self) {
        self.state = State::Closed;
        self.open_since = None;
        self.watchdog_asked = None;
        self.close_reason = None;
        self.input.clear();
        self.output.clear();
        self.unsent.clear();
        self.events.clear();
    }

    /// Handles octets from the peer, which may be a part of a message or several.
    pub fn received(&mut self, bytes: &[u8], now: Time) {
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut rest = input.as_slice();
        while self.close_reason.is_none() && self.state != State::Closed {
            let length = match frame(rest) {
                Framed::Message(length) => length,
                Framed::Need(_) => break,
                Framed::FramingError(broken) => {
                    self.events.push_back(Event::Malformed);
                    return self.close_with(broken.to_string());
                }
            };
            let (message, after) = rest.split_at(length);
            rest = after;
            self.message(message, now);
        }
        let used = input.len() - rest.len();
        input.drain(..used);
        self.input = input;
    }

    /// Handles timers that are due.
    pub fn timer(&mut self, now: Time) {
        match self.state {
            State::Closed => return,
            State::WaitCea { until, .. } if until <= now => {
                let why = format!("no Capabilities-Exchange-Answer within {} s", self.timeout_seconds);
                return self.close_with(why);
            }
            State::Leaving { until, delay } if until <= now => return self.close_with_delay(LEFT.into(), delay),
            State::Stopping { until, .. } if until <= now => return self.close_with(STOPPED.into()),
            _ => {}
        }
        let action = self.watchdog.timer(&self.node, now);
        self.act(action);
    }

    /// When [`timer`](Peer::timer) must be called.
    pub fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Closed => None,
            State::Open => self.watchdog.deadline(),
            State::WaitCea { until, .. } | State::Leaving { until, .. } | State::Stopping { until, .. } => {
                Some(self.watchdog.deadline().map_or(until, |at| at.min(until)))
            }
        }
    }

    /// Returns the next event.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns why the connection must be closed now; `None`: it need not.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        self.close_reason.as_ref()
    }

    /// Whether it can be sent requests.
    pub fn fitness(&self) -> Fitness {
        match (self.state, self.watchdog.state()) {
            _ if self.close_reason.is_some() => Fitness::Unfit,
            (State::Open, WatchdogState::Okay) => Fitness::Fit,
            (State::Open, WatchdogState::Reopen) => Fitness::Probation,
            _ => Fitness::Unfit,
        }
    }

    /// Name of the state, for operators.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::WaitCea { .. } => "WAIT_CEA",
            State::Leaving { .. } | State::Stopping { .. } => "CLOSING",
            State::Open | State::Closed => self.watchdog.state().as_str(),
        }
    }

    /// Its Origin-Host; `None` before the first successful CEA.
    pub fn host(&self) -> Option<&Rc<str>> {
        self.host.as_ref()
    }

    /// When the capabilities exchange of this connection succeeded.
    pub fn open_since(&self) -> Option<Time> {
        self.open_since
    }

    /// Octets to be written.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// The socket has accepted this many octets of [`output`](Peer::output).
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

    /// Whether the whole message of this number has been sent.
    pub fn is_written(&self, number: u64) -> bool {
        self.unsent.front().is_none_or(|first| number < first.number)
    }

    /// Whether at least one octet of it has been sent.
    pub fn is_begun(&self, number: u64) -> bool {
        self.unsent.front().is_none_or(|first| number < first.number || (number == first.number && first.is_begun))
    }

    /// Removes messages of which no octet has been sent. `numbers` must be in ascending order.
    pub fn withdraw(&mut self, numbers: &[u64]) {
        let mut kept = Vec::with_capacity(self.output.len());
        let mut rest = self.output.as_slice();
        self.unsent.retain(|message| {
            let (octets, after) = rest.split_at_checked(message.octets).unwrap_or((rest, &[]));
            rest = after;
            let stays = message.is_begun || numbers.binary_search(&message.number).is_err();
            if stays {
                kept.extend_from_slice(octets);
            }
            stays
        });
        self.output = kept;
    }

    /// Queues a request with these identifiers and flags. Returns the number of the message.
    pub fn send(&mut self, request: &[u8], flags: Flags, hop_by_hop: HopByHop, end_to_end: EndToEnd) -> u64 {
        let start = self.output.len();
        self.output.extend_from_slice(request);
        if let Some(message) = self.output.get_mut(start..) {
            set_identifiers(message, flags, hop_by_hop, end_to_end);
        }
        self.queued(start)
    }

    /// Queues an answer as it is. Dropped before the capabilities exchange.
    pub fn answer(&mut self, answer: &[u8]) {
        if !matches!(self.state, State::Closed | State::WaitCea { .. }) {
            let start = self.output.len();
            self.output.extend_from_slice(answer);
            self.queued(start);
        }
    }

    /// Records the message that begins at `start`.
    fn queued(&mut self, start: usize) -> u64 {
        self.last_number += 1;
        let octets = self.output.len().saturating_sub(start);
        self.unsent.push_back(Unsent { number: self.last_number, octets, is_begun: false });
        self.last_number
    }

    /// Begins to disconnect. Before the capabilities exchange, the connection is closed at once.
    pub fn stop(&mut self, now: Time) {
        match self.state {
            State::Open => {
                let node = Rc::clone(&self.node);
                let request = DisconnectPeerRequest {
                    origin_host: &node.origin_host,
                    origin_realm: &node.origin_realm,
                    disconnect_cause: DisconnectCause::REBOOTING,
                };
                let asked = self.ask(Command::DISCONNECT_PEER, |out| request.write(out));
                self.state = State::Stopping { asked, until: now.after_seconds(DISCONNECT_SECONDS) };
            }
            State::WaitCea { .. } => self.close_with(STOPPED.into()),
            State::Closed | State::Leaving { .. } | State::Stopping { .. } => {}
        }
    }

    /// Handles one whole message.
    fn message(&mut self, bytes: &[u8], now: Time) {
        let Some(message) = Message::parse(bytes) else { return self.events.push_back(Event::Malformed) };
        if let State::WaitCea { asked, .. } = self.state {
            return self.capabilities(&message, asked, now);
        }
        let header = message.header;
        if header.command == Command::DEVICE_WATCHDOG && !header.is_request() {
            return self.watchdog_answer(&header, now);
        }
        let action = self.watchdog.message_received(&self.node, now);
        self.act(action);
        match (header.is_request(), header.command) {
            (true, _) => self.request(&message, bytes, now),
            (false, Command::DISCONNECT_PEER) => self.disconnect_answer(&header),
            (false, Command::CAPABILITIES_EXCHANGE) => self.events.push_back(Event::Unmatched),
            (false, _) => self.events.push_back(Event::Answer(bytes.to_vec())),
        }
    }

    /// Handles the first message, which must be the CEA.
    fn capabilities(&mut self, message: &Message<'_>, asked: Ids, now: Time) {
        let header = &message.header;
        if header.is_request() || header.command != Command::CAPABILITIES_EXCHANGE || ids(header) != asked {
            let why = format!("it sent {header} instead of the Capabilities-Exchange-Answer");
            return self.close_with(why);
        }
        match capabilities::check(message, &self.expected_host) {
            Err(why) => self.close_with(why),
            Ok(host) => {
                self.host = Some(host);
                self.state = State::Open;
                self.open_since = Some(now);
                let action = self.watchdog.up(&self.node, now);
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
        let action = self.watchdog.answered(&self.node, now);
        self.act(action);
    }

    fn disconnect_answer(&mut self, header: &Header) {
        match self.state {
            State::Stopping { asked, .. } if asked == ids(header) => self.close_with(STOPPED.into()),
            _ => self.events.push_back(Event::Unmatched),
        }
    }

    /// Handles a request of the peer.
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

    /// Handles the peer's DPR.
    fn leave(&mut self, header: &Header, cause: DisconnectCause, now: Time) {
        self.success(header);
        let delay = match cause {
            DisconnectCause::BUSY => DELAY_BUSY,
            DisconnectCause::DO_NOT_WANT_TO_TALK_TO_YOU => DELAY_UNWANTED,
            _ => DELAY_REBOOTING,
        };
        if self.state == State::Open {
            self.state = State::Leaving { until: now.after_seconds(DISCONNECT_SECONDS), delay };
            self.events.push_back(Event::FailOver(LEFT));
        }
    }

    /// Queues a DWA or DPA.
    fn success(&mut self, header: &Header) {
        let node = Rc::clone(&self.node);
        let answer = PeerAnswer {
            result_code: ResultCode::SUCCESS,
            origin_host: &node.origin_host,
            origin_realm: &node.origin_realm,
            origin_state_id: (header.command == Command::DEVICE_WATCHDOG).then_some(node.origin_state_id),
            ..PeerAnswer::default()
        };
        self.respond(header, |out| answer.write(out));
    }

    /// Queues a CEA, for a peer that sends a CER over the open connection.
    fn capabilities_again(&mut self, header: &Header) {
        let node = Rc::clone(&self.node);
        let answer = capabilities::answer(&node, self.address);
        self.respond(header, |out| answer.write(out));
    }

    fn refuse_malformed(&mut self, message: &Message<'_>, fault: &Fault<'_>) {
        self.events.push_back(Event::Malformed);
        self.refuse(message, fault);
    }

    fn refuse(&mut self, message: &Message<'_>, fault: &Fault<'_>) {
        let session = message.find(dictionary::SESSION_ID).and_then(|avp| avp.text().ok());
        let own = (self.node.origin_host.as_str(), self.node.origin_realm.as_str());
        let start = self.output.len();
        match refuse(&mut self.output, &message.header, session, own, fault) {
            Ok(_) => _ = self.queued(start),
            // The AVPs to be repeated are too long: no answer is sent.
            Err(_) => self.events.push_back(Event::Malformed),
        }
    }

    /// Carries out an action of the watchdog.
    fn act(&mut self, action: Action) {
        match action {
            Action::None => {}
            Action::SendWatchdog => self.watchdog_request(),
            Action::FailOver if self.state == State::Open => self.events.push_back(Event::FailOver(SILENT)),
            Action::FailBack if self.state == State::Open => self.events.push_back(Event::Ready),
            Action::FailOver | Action::FailBack => {}
            Action::CloseConnection => self.close_with(DEAD.into()),
        }
    }

    fn watchdog_request(&mut self) {
        let node = Rc::clone(&self.node);
        let request = DeviceWatchdogRequest {
            origin_host: &node.origin_host,
            origin_realm: &node.origin_realm,
            origin_state_id: Some(node.origin_state_id),
        };
        self.watchdog_asked = Some(self.ask(Command::DEVICE_WATCHDOG, |out| request.write(out)));
    }

    /// Queues a request of the base protocol.
    fn ask(&mut self, command: Command, fill: impl FnOnce(&mut Writer<'_>)) -> Ids {
        let (hop_by_hop, end_to_end) = (self.node.hop_by_hop(), self.node.end_to_end());
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

    fn close_with(&mut self, why: String) {
        self.close_with_delay(why, ReconnectDelay::default());
    }

    fn close_with_delay(&mut self, why: String, delay: ReconnectDelay) {
        self.close_reason.get_or_insert(CloseReason { why, delay });
    }
}

/// Reasons that follow "peer x: " in the log.
const LEFT: &str = "it has disconnected (Disconnect-Peer-Request)";
const STOPPED: &str = "closed by this node";
const SILENT: &str = "no answer to the watchdog";
const DEAD: &str = "no answer to the watchdog for two intervals";

/// Ends a message whose only AVPs of variable length are our own names.
fn finish(out: Writer<'_>) {
    let finished = out.finish();
    debug_assert!(finished.is_ok(), "names are bounded by the configuration");
}

fn ids(header: &Header) -> Ids {
    (header.hop_by_hop, header.end_to_end)
}

#[cfg(test)]
mod tests;
