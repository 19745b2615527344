//! One transport connection to a peer (RFC 6733, 5.6, as far as its initiator goes; RFC 3539, 3.4). Bytes and time in,
//! bytes and events out: no socket here.
//!
//! ```text
//!   connected ─ CER ─► Waiting ─ CEA 2001 ─► Open ◄──── any message ──── Suspect ─ Tw ─► close
//!                        │ refused, late      │  Tw: DWR; Tw again, silent ──▲
//!                        ▼                    │ DPR of either side
//!                      close                  └──► Leaving ─ DPA ─► close
//! ```

use crate::charge::time::Time;
use crate::wire::diameter::base::{
    CapabilitiesExchangeAnswer, CapabilitiesExchangeRequest, DeviceWatchdogRequest, DisconnectPeerRequest, PeerAnswer,
    VendorSpecificApplication,
};
use crate::wire::diameter::words::{DisconnectCause, ResultCode};
use crate::wire::diameter::{
    Address, Command, EndToEnd, Fault, Flags, Framed, Header, HopByHop, Message, Writer, dictionary, frame, refuse,
};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;

/// Seconds for the exchange of capabilities, and for the answer to a DPR.
const EXCHANGE: u32 = 5;

/// Who this client is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Origin-Host.
    pub host: String,
    /// Origin-Realm.
    pub realm: String,
    /// Origin-State-Id: rises with each start.
    pub state_id: u32,
    /// Tw, seconds (RFC 3539, 3.4.1): 6 at least.
    pub watchdog: u32,
}

/// What happened on the connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Happened {
    /// Requests can be sent.
    Opened,
    /// It has been silent for too long: what waits for it moves away.
    Suspect,
    /// An answer to one of ours, or what pretends to be one.
    Answer(Vec<u8>),
    /// A request of the server.
    Request(Vec<u8>),
    /// The peer leaves: nothing more may be sent to it. For how long, its word says.
    Leaves(DisconnectCause),
    /// The connection is of no use any more.
    Close(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Open,
    Suspect,
    Leaving,
    Closed,
}

/// One connection.
pub struct Peer {
    identity: Rc<Identity>,
    /// Who it must be; empty: whoever answers.
    expected: String,
    /// Who it is: its Origin-Host.
    host: Rc<str>,
    state: State,
    /// When the state or the silence has lasted long enough.
    until: Time,
    /// A DWR has no answer yet.
    asked: bool,
    /// Answers to the watchdog that it still owes before it is trusted again (RFC 3539, 3.4.1: REOPEN).
    owes: u8,
    /// It ended because nobody answered the watchdog.
    silent: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    next: u32,
    happened: VecDeque<Happened>,
}

impl Peer {
    /// The transport is there: capabilities are exchanged first. `was_silent`: the connection before ended because nobody
    /// answered the watchdog.
    pub fn connected(identity: Rc<Identity>, expected: &str, was_silent: bool, local: IpAddr, now: Time) -> Peer {
        let mut peer = Peer {
            identity,
            expected: expected.to_owned(),
            host: expected.into(),
            state: State::Waiting,
            until: now.after_seconds(EXCHANGE),
            asked: false,
            owes: if was_silent { 3 } else { 0 },
            silent: false,
            input: Vec::new(),
            output: Vec::new(),
            // Unique on the connection; where it begins does not matter (RFC 6733, 3).
            next: now.0 as u32,
            happened: VecDeque::new(),
        };
        peer.ask_capabilities(local);
        peer
    }

    /// Who it is.
    pub fn host(&self) -> &Rc<str> {
        &self.host
    }

    /// Whether requests may be sent on it.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether it is to be preferred to none but a silent one: it was silent, and has not shown yet that it stays.
    pub fn is_on_probation(&self) -> bool {
        self.owes > 0
    }

    /// Whether nobody answered the watchdog.
    pub fn was_silent(&self) -> bool {
        self.silent
    }

    /// In one word, for operators.
    pub fn word(&self) -> &'static str {
        match self.state {
            State::Waiting => "waiting",
            State::Open => "open",
            State::Suspect => "suspect",
            State::Leaving => "leaving",
            State::Closed => "closed",
        }
    }

    /// What waits to be written.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Whether something waits to be written.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// When [`Peer::timer`] is to be called next.
    pub fn deadline(&self) -> Option<Time> {
        (self.state != State::Closed).then_some(self.until)
    }

    /// What happened next.
    pub fn poll(&mut self) -> Option<Happened> {
        self.happened.pop_front()
    }

    /// Sends a request that is written whole: puts its identifiers and T flag in. Gives the Hop-by-Hop Identifier.
    pub fn send(&mut self, request: &[u8], end_to_end: EndToEnd, again: bool) -> HopByHop {
        let hop_by_hop = self.next_hop();
        let start = self.output.len();
        self.output.extend_from_slice(request);
        stamp(&mut self.output[start..], hop_by_hop, end_to_end, again);
        hop_by_hop
    }

    /// Answers a request of the server. `write` writes the AVPs.
    pub fn answer(&mut self, request: &Header, write: impl FnOnce(&mut Writer<'_>)) {
        let mut writer = Writer::answer(&mut self.output, request);
        write(&mut writer);
        // Our own answers are short.
        let _ = writer.finish();
    }

    /// Takes leave (RFC 6733, 5.4): the proxy stops.
    pub fn leave(&mut self, now: Time) {
        if matches!(self.state, State::Open | State::Suspect) {
            let identity = Rc::clone(&self.identity);
            let body = DisconnectPeerRequest {
                origin_host: &identity.host,
                origin_realm: &identity.realm,
                disconnect_cause: DisconnectCause::REBOOTING,
            };
            self.ask(Command::DISCONNECT_PEER, |writer| body.write(writer));
            self.state = State::Leaving;
            self.until = now.after_seconds(EXCHANGE);
        }
    }

    /// Bytes from the peer.
    pub fn received(&mut self, bytes: &[u8], now: Time) {
        if self.state == State::Closed {
            return;
        }
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut taken = 0;
        while self.state != State::Closed {
            let rest = input.get(taken..).unwrap_or_default();
            match frame(rest) {
                Framed::Need(_) => break,
                Framed::Message(length) => {
                    self.message(rest.get(..length).unwrap_or_default(), now);
                    taken += length;
                }
                Framed::Broken(broken) => self.close(broken.to_string()),
            }
        }
        input.drain(..taken);
        self.input = input;
    }

    /// Time has passed.
    pub fn timer(&mut self, now: Time) {
        if now < self.until {
            return;
        }
        match self.state {
            State::Waiting => self.close("no answer to the exchange of capabilities".into()),
            State::Leaving => self.close("left".into()),
            State::Open if !self.asked => {
                self.asked = true;
                self.ask_alive();
                self.rest(now);
            }
            // Silent for Tw after the question: others are tried, this one is waited for once more.
            State::Open => {
                self.state = State::Suspect;
                self.rest(now);
                self.happened.push_back(Happened::Suspect);
            }
            State::Suspect => {
                self.silent = true;
                self.close("no answer to the watchdog".into());
            }
            State::Closed => {}
        }
    }

    fn message(&mut self, bytes: &[u8], now: Time) {
        let Some(message) = Message::parse(bytes) else { return self.close("an unreadable message".into()) };
        let command = message.header.command;
        match (self.state, message.header.is_request()) {
            (State::Waiting, false) if command == Command::CAPABILITIES_EXCHANGE => {
                return self.on_capabilities(&message, now);
            }
            // Whatever else comes first is not Diameter's order of things.
            (State::Waiting, _) => return self.close("a message before the exchange of capabilities".into()),
            _ => self.on_sign_of_life(now),
        }
        match (command, message.header.is_request()) {
            (Command::DEVICE_WATCHDOG, true) => self.answer_alive(&message.header),
            (Command::DEVICE_WATCHDOG, false) => self.owes = self.owes.saturating_sub(1),
            (Command::DISCONNECT_PEER, true) => self.on_leave(&message),
            (Command::DISCONNECT_PEER, false) => self.close("left".into()),
            (_, false) => self.happened.push_back(Happened::Answer(bytes.to_vec())),
            (Command::RE_AUTH | Command::ABORT_SESSION, true) => {
                self.happened.push_back(Happened::Request(bytes.to_vec()));
            }
            (_, true) => self.refuse(&message.header, ResultCode::COMMAND_UNSUPPORTED),
        }
    }

    /// Any message shows that the peer lives (RFC 3539, 3.4.1).
    fn on_sign_of_life(&mut self, now: Time) {
        self.asked = false;
        match self.state {
            State::Open => self.rest(now),
            State::Suspect => {
                self.state = State::Open;
                self.rest(now);
                self.happened.push_back(Happened::Opened);
            }
            State::Waiting | State::Leaving | State::Closed => {}
        }
    }

    fn on_capabilities(&mut self, message: &Message<'_>, now: Time) {
        let answer = match CapabilitiesExchangeAnswer::decode(message) {
            Ok(answer) => answer.body,
            Err(fault) => return self.close(format!("its answer to the exchange of capabilities is wrong: {fault}")),
        };
        if !answer.result_code.is_success() {
            return self.close(format!("refused: {}", answer.result_code));
        }
        if !self.expected.is_empty() && !answer.origin_host.eq_ignore_ascii_case(&self.expected) {
            return self.close(format!("answers as {}, not as {}", answer.origin_host, self.expected));
        }
        let vendors = answer.vendor_specific_application_id.iter().filter_map(|vendor| vendor.auth_application_id);
        let serves = |id: u32| id == dictionary::APPLICATION_CREDIT_CONTROL || id == dictionary::APPLICATION_RELAY;
        if !answer.auth_application_id.iter().copied().chain(vendors).any(serves) {
            return self.close("does not serve credit control (application 4)".into());
        }
        self.host = answer.origin_host.into();
        self.state = State::Open;
        self.rest(now);
        if self.owes > 0 {
            self.asked = true;
            self.ask_alive();
        }
        self.happened.push_back(Happened::Opened);
    }

    fn on_leave(&mut self, message: &Message<'_>) {
        let cause = match DisconnectPeerRequest::decode(message) {
            Ok(request) => request.disconnect_cause,
            Err(fault) => return self.refuse(&message.header, fault.result),
        };
        self.answer_peer(&message.header);
        self.state = State::Leaving;
        self.happened.push_back(Happened::Leaves(cause));
    }

    /// The next question after silence: Tw, 2 s more or less, so that not all ask at once.
    fn rest(&mut self, now: Time) {
        let jitter = self.next.wrapping_mul(0x9e37_79b9) >> 12 & 0x3f_ffff;
        let tw = u64::from(self.identity.watchdog.max(6)) * 1_000_000;
        self.until = Time(now.0 + tw + u64::from(jitter) % 4_000_000 - 2_000_000);
    }

    fn close(&mut self, why: String) {
        self.state = State::Closed;
        self.happened.push_back(Happened::Close(why));
    }

    fn next_hop(&mut self) -> HopByHop {
        self.next = self.next.wrapping_add(1);
        HopByHop(self.next)
    }

    fn ask(&mut self, command: Command, write: impl FnOnce(&mut Writer<'_>)) {
        let hop_by_hop = self.next_hop();
        let (application, end_to_end) = (dictionary::APPLICATION_BASE, EndToEnd(hop_by_hop.0));
        let none = Flags::default();
        let mut writer = Writer::request(&mut self.output, command, none, application, hop_by_hop, end_to_end);
        write(&mut writer);
        // Our own requests are short.
        let _ = writer.finish();
    }

    fn ask_capabilities(&mut self, local: IpAddr) {
        let identity = Rc::clone(&self.identity);
        let vendor_specific = VendorSpecificApplication {
            vendor_id: Some(dictionary::VENDOR_3GPP),
            auth_application_id: Some(dictionary::APPLICATION_CREDIT_CONTROL),
            acct_application_id: None,
        };
        let body = CapabilitiesExchangeRequest {
            origin_host: &identity.host,
            origin_realm: &identity.realm,
            host_ip_address: vec![Address::Ip(local)],
            vendor_id: 0,
            product_name: "imcharge",
            origin_state_id: Some(identity.state_id),
            supported_vendor_id: vec![dictionary::VENDOR_3GPP],
            auth_application_id: vec![dictionary::APPLICATION_CREDIT_CONTROL],
            vendor_specific_application_id: vec![vendor_specific],
            ..CapabilitiesExchangeRequest::default()
        };
        self.ask(Command::CAPABILITIES_EXCHANGE, |writer| body.write(writer));
    }

    fn ask_alive(&mut self) {
        let identity = Rc::clone(&self.identity);
        let body = DeviceWatchdogRequest {
            origin_host: &identity.host,
            origin_realm: &identity.realm,
            origin_state_id: Some(identity.state_id),
        };
        self.ask(Command::DEVICE_WATCHDOG, |writer| body.write(writer));
    }

    fn answer_alive(&mut self, request: &Header) {
        self.answer_peer(request);
    }

    /// DWA and DPA are alike.
    fn answer_peer(&mut self, request: &Header) {
        let identity = Rc::clone(&self.identity);
        let body = PeerAnswer {
            result_code: ResultCode::SUCCESS,
            origin_host: &identity.host,
            origin_realm: &identity.realm,
            origin_state_id: Some(identity.state_id),
            ..PeerAnswer::default()
        };
        self.answer(request, |writer| body.write(writer));
    }

    fn refuse(&mut self, request: &Header, result: ResultCode) {
        let identity = Rc::clone(&self.identity);
        let fault = Fault::new(result);
        // Our own answers are short.
        let _ = refuse(&mut self.output, request, None, (&identity.host, &identity.realm), &fault);
    }
}

/// Puts the identifiers and, for one that may have been sent before, the T flag into a request that is written whole
/// (RFC 6733, 3).
fn stamp(request: &mut [u8], hop_by_hop: HopByHop, end_to_end: EndToEnd, again: bool) {
    if let Some(flags) = request.get_mut(4).filter(|_| again) {
        *flags |= Flags::RETRANSMITTED.0;
    }
    if let Some(place) = request.get_mut(12..16) {
        place.copy_from_slice(&hop_by_hop.0.to_be_bytes());
    }
    if let Some(place) = request.get_mut(16..20) {
        place.copy_from_slice(&end_to_end.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
