//! One chat, large message or message to a store: an INVITE of which one party or both pay for what they send.

use crate::call::{CLIENT, Content, SERVER, Stage};
use crate::delivery::Charge;
use imcharge::charge::ch2::SessionKey;
use imcharge::charge::event::{ServerTransaction, Suspended};
use imcharge::charge::policy::{Cases, Settle};
use imcharge::charge::service::ChargedContent;
use imcharge::worker::Worker;
use imcharge::worker::sip_input::{Body, Dialog, Invite, InviteKey, Method, Reply, Request, Source};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Transactions of the INVITE: its own, and that of a copy on another path. Those of other requests have lower numbers.
pub const OWN_PATH: u64 = 20;
pub const OTHER_PATH: u64 = 21;

/// Margin of times that the engine compares with its own clock, in microseconds.
pub const MARGIN: u64 = 1_000_000;

/// How a receiver answers a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The same response to each chunk.
    Code(u16),
    /// A failure, and a success shortly after.
    Changed(u16),
    /// No response.
    None,
}

/// A message of a chat.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// Party that sends it: 0, the inviting party, or 1.
    pub from: usize,
    /// Dialog that it is sent in.
    pub leg: usize,
    pub content: Content,
    pub chunks: u32,
    /// Octets of each chunk.
    pub octets: u32,
    pub answer: Answer,
    /// Whether its sender aborts it instead of sending the second chunk.
    pub is_aborted: bool,
    /// Whether its sender sends it again, complete, under the same Message-ID.
    pub is_again: bool,
    /// Whether its sender poses as the receiver that refuses it: over its own connection, or over a new one.
    pub poses: Option<bool>,
}

/// Whether the engine learns of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its record is in a ring: instance of the host, process, and end position. Or it was read from there.
    At((u64, usize, u64)),
    /// Its record is lost, or may be.
    Lost,
}

/// A chunk that the gate let pass.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    pub at: u64,
    pub octets: u64,
    pub is_last: bool,
    pub charge: Charge,
    pub fate: Fate,
}

/// A response that was accepted in the name of the receiver.
#[derive(Clone, Copy, Debug)]
pub struct Response {
    pub at: u64,
    pub code: u16,
    pub fate: Fate,
}

/// What has passed under one Message-ID of a party.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    pub content: Option<Content>,
    pub chunks: Vec<Chunk>,
    pub responses: Vec<Response>,
    pub is_aborted: bool,
    /// Whether the connection of a party was lost after its first chunk.
    pub has_lost: bool,
}

/// Bounds of the units that a party owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chargeable {
    pub min: u64,
    pub max: u64,
}

/// What decides about messages of a party besides the messages themselves.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    pub cases: Cases,
    /// Microseconds to wait for a response.
    pub response_timeout: u64,
    /// When the session may have ended; `None`: only with its host.
    pub ended_at: Option<u64>,
    /// Whether a success has contradicted a failure in the session, which then believes no failure.
    pub has_doubts: bool,
}

impl Passed {
    /// Whether a success came for a message that had failed.
    pub fn is_contradicted(&self) -> bool {
        let failed = self.responses.iter().position(|response| response.code >= 400);
        failed.is_some_and(|failed| self.responses[failed..].iter().any(|response| response.code == 200))
    }

    /// Octets that have passed.
    pub fn octets(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.octets).sum()
    }

    /// Returns what must be paid for. `price`: of a message of this size. `is_by_size`: whether it depends on it.
    pub fn chargeable(&self, price: impl Fn(u64) -> u64, is_by_size: bool, of: &Circumstances) -> Chargeable {
        let due = || self.chunks.iter().filter(|chunk| chunk.charge != Charge::Free);
        if self.is_released(of) {
            return Chargeable { min: 0, max: 0 };
        }
        let max = due().map(|chunk| price(chunk.octets)).sum();
        let is_certain = |chunk: &&Chunk| matches!(chunk.fate, Fate::At(_)) && chunk.charge == Charge::Due;
        let min = match () {
            () if self.may_be_released(of) => 0,
            () if is_by_size => price(due().filter(is_certain).map(|chunk| chunk.octets).sum()),
            // Each message ends with its last chunk; what follows is another one.
            () => {
                let messages = self.chunks.split_inclusive(|chunk| chunk.is_last);
                let certain = messages.filter(|chunks| chunks.iter().all(|chunk| is_certain(&chunk)));
                certain.map(|chunks| price(chunks.iter().map(|chunk| chunk.octets).sum())).sum()
            }
        };
        Chargeable { min, max }
    }

    /// Whether it must not be charged: its only chunk was refused in time, and nothing contradicts that.
    fn is_released(&self, of: &Circumstances) -> bool {
        let ([chunk], [response, ..]) = (&*self.chunks, &*self.responses) else { return false };
        let is_in_time = response.at + MARGIN < chunk.at + of.response_timeout
            && of.ended_at.is_none_or(|ended| response.at < ended)
            && matches!(response.fate, Fate::At(_));
        let is_simple = chunk.is_last && !self.is_aborted && !self.has_lost && !of.has_doubts;
        let is_refused = self.responses.iter().all(|response| releases(&of.cases, response.code));
        is_in_time && is_simple && is_refused
    }

    /// Whether it need not be charged, by policy.
    fn may_be_released(&self, of: &Circumstances) -> bool {
        let is_refused = self.responses.iter().any(|response| releases(&of.cases, response.code));
        let by_case = is_refused
            || of.cases.timeout == Settle::Release
            || of.cases.close == Settle::Release
            || self.is_aborted && of.cases.abort == Settle::Release;
        // A success in time counts, whatever came before or follows.
        let is_confirmed = |chunk: &Chunk, response: &Response| {
            response.code == 200
                && matches!(response.fate, Fate::At(_))
                && response.at + MARGIN < chunk.at + of.response_timeout
                && of.ended_at.is_none_or(|ended| response.at + 3 * MARGIN < ended)
        };
        let is_paid = match &*self.chunks {
            [chunk] => chunk.is_last && self.responses.iter().any(|response| is_confirmed(chunk, response)),
            _ => false,
        };
        by_case && !is_paid
    }

    /// The machine has lost its disk: what was later than `until` may be lost.
    pub fn lose_after(&mut self, until: u64) {
        self.chunks.iter_mut().filter(|chunk| chunk.at > until).for_each(|chunk| chunk.fate = Fate::Lost);
        let late = self.responses.iter_mut().filter(|response| response.at > until);
        late.for_each(|response| response.fate = Fate::Lost);
    }

    /// The machine has lost its memory, with all records that were not read.
    pub fn lose(&mut self, is_read: impl Fn(&(u64, usize, u64)) -> bool) {
        let fates = self.chunks.iter_mut().map(|chunk| &mut chunk.fate);
        for fate in fates.chain(self.responses.iter_mut().map(|response| &mut response.fate)) {
            if matches!(fate, Fate::At(place) if !is_read(place)) {
                *fate = Fate::Lost;
            }
        }
    }
}

/// Whether a response with this status releases a message.
fn releases(cases: &Cases, code: u16) -> bool {
    let case = match code {
        408 => cases.timeout,
        400..=499 => cases.client_error,
        500..=599 => cases.server_error,
        _ => Settle::Debit,
    };
    case == Settle::Release
}

/// A chat.
pub struct Chat {
    /// Number, part of all its names.
    pub number: usize,
    /// End of its Call-ID: the node of several.
    pub suffix: String,
    /// Whether another node may have settled its sessions, and whether it has taken them over after they were granted.
    pub is_lost: bool,
    pub is_taken_over: bool,
    /// Accounts of the inviting and of the called party.
    pub accounts: [String; 2],
    pub content: ChargedContent,
    pub recipients: u32,
    /// Whether the parties use the same Message-IDs.
    pub has_equal_ids: bool,
    /// Whether the INVITE is forked and both targets answer.
    pub forks: bool,
    pub notes: Vec<Note>,
    /// Connections of the inviting party and of each target.
    pub connections: [u64; 3],
    /// Instance of the host and connection that each party has sent content over in each dialog.
    pub known: [[Option<(u64, u64)>; 2]; 2],
    pub stage: Stage,
    /// Targets that have answered.
    pub has_answered: [bool; 2],
    pub verdicts: u32,
    /// Instance of the host that has received the INVITE.
    pub taken_by: Option<u64>,
    /// When a worker last accepted an event.
    pub moved_at: u64,
    /// When a worker accepted the end.
    pub ended_at: Option<u64>,
    /// When the charging system has ended the session of each party.
    pub aborted_at: [Option<u64>; 2],
    /// Whether a party was taken for another one.
    pub is_captured: bool,
    /// Whether a connection was lost.
    pub has_moved: bool,
    /// What has passed, by party and Message-ID.
    pub passed: BTreeMap<(usize, String), Passed>,
    /// Whether anything of each party was stopped for lack of credit, or has passed.
    pub was_stopped: [bool; 2],
    pub has_passed: [bool; 2],
}

impl Chat {
    pub fn call_id(&self) -> String {
        format!("chat-{}@sim.example{}", self.number, self.suffix)
    }

    pub fn session(&self) -> SessionKey {
        let call_id = self.call_id();
        Worker::session_of_invite(&InviteKey { call_id: call_id.as_bytes(), from_tag: b"alice", cseq: 1 })
    }

    /// Returns the session of a party.
    pub fn session_of(&self, party: usize) -> SessionKey {
        if party == 0 { self.session() } else { self.session().companion() }
    }

    /// Whether what a party sends is charged.
    pub fn is_charged(&self, party: usize) -> bool {
        party == 0 || self.content == ChargedContent::Both
    }

    pub fn transaction(&self, path: u64) -> ServerTransaction {
        ServerTransaction { index: self.number as u64, label: path }
    }

    pub fn message_id(&self, note: usize) -> String {
        match self.has_equal_ids {
            // Of two consecutive messages from different parties.
            true => format!("h{}.{}", self.number, note / 2),
            false => format!("h{}.{note}", self.number),
        }
    }

    /// Returns the index of the connection of a party in a dialog.
    pub fn line(&self, party: usize, leg: usize) -> usize {
        if party == 0 { 0 } else { 1 + leg }
    }

    /// Passes the INVITE to a worker. `true`: a verdict will follow.
    pub fn invite(&self, worker: &mut Worker, path: u64) -> bool {
        let (call_id, description) = (self.call_id(), description(&self.uri(0, 0)));
        let [own, other] = self.accounts.each_ref().map(String::as_bytes);
        let taken = worker.reserve(&Invite {
            key: InviteKey { call_id: call_id.as_bytes(), from_tag: b"alice", cseq: 1 },
            asserted: [own, b""],
            from: b"",
            called_party: b"",
            request_uri: other,
            subscriber: b"",
            direction: None,
            charging_vector: b"",
            messages: 1,
            content: self.content,
            recipients: self.recipients,
            tariff: b"",
            offer: Body { content_type: b"application/sdp", bytes: description.as_bytes() },
            suspended: Suspended { index: self.number as u64, label: path, continuation: 0 },
        });
        taken.is_ok()
    }

    /// A target answers the INVITE. Returns whether its session is known.
    pub fn answer(&self, worker: &mut Worker, leg: usize) -> bool {
        let call_id = self.call_id();
        let (offer, answer) = (description(&self.uri(0, leg)), description(&self.uri(1, leg)));
        let dialog = |to_tag| Dialog { call_id: call_id.as_bytes(), from_tag: b"alice", to_tag };
        let body = |bytes| Body { content_type: b"application/sdp", bytes };
        let invite = Request {
            method: Method::Invite,
            dialog: dialog(b""),
            cseq: 1,
            uri: b"sip:bob@example.org",
            contact: b"<sip:alice@10.0.0.1>",
            body: body(offer.as_bytes()),
            source: source(CLIENT),
        };
        let reply = Reply {
            code: 200,
            method: Method::Invite,
            dialog: dialog(tag(leg)),
            cseq: 1,
            is_reliable: false,
            contact: b"<sip:bob@10.0.0.2>",
            body: body(answer.as_bytes()),
            source: source(SERVER),
        };
        worker.replied(&reply, Some(&invite))
    }

    /// A party ends a dialog by BYE.
    pub fn bye(&self, worker: &mut Worker, party: usize, leg: usize) {
        let call_id = self.call_id();
        let (from_tag, to_tag): (&[u8], &[u8]) = if party == 0 { (b"alice", tag(leg)) } else { (tag(leg), b"alice") };
        let dialog = Dialog { call_id: call_id.as_bytes(), from_tag, to_tag };
        let [(own, uri), (other, _)] = match party {
            0 => [(CLIENT, &b"sip:bob@10.0.0.2"[..]), (SERVER, b"")],
            _ => [(SERVER, &b"sip:alice@10.0.0.1"[..]), (CLIENT, b"")],
        };
        let (method, cseq, body) = (Method::Bye, 2, Body::default());
        let bye = Request { method, dialog, cseq, uri, contact: b"", body, source: source(own) };
        worker.request_in_dialog(&bye);
        let ok =
            Reply { code: 200, method, dialog, cseq, is_reliable: false, contact: b"", body, source: source(other) };
        worker.replied(&ok, Some(&bye));
    }

    /// Returns the MSRP URI of a party in a dialog.
    fn uri(&self, party: usize, leg: usize) -> String {
        match party {
            0 => format!("msrp://10.0.4.1:9/A{};tcp", self.number),
            _ => format!("msrp://10.0.4.2:9/B{}l{leg};tcp", self.number),
        }
    }

    /// Returns a chunk of a message; one after the last aborts it. `again`: number of earlier copies.
    pub fn send(&self, note: usize, chunk: u32, again: u32) -> String {
        let Note { from, leg, content, chunks, octets, .. } = self.notes[note];
        let (transaction, id) = (self.transaction_of(note, chunk, again), self.message_id(note));
        let flag = match chunk + 1 {
            last if last == chunks => '$',
            later if later > chunks => '#',
            _ => '+',
        };
        let body = if flag == '#' { String::new() } else { format!("\r\n{}\r\n", "x".repeat(octets as usize)) };
        let (content_type, start, total) = (content.media_type(), chunk * octets + 1, chunks * octets);
        format!(
            "MSRP {transaction} SEND\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp {}\r\nFrom-Path: {}\r\n\
             Message-ID: {id}\r\nByte-Range: {start}-*/{total}\r\nContent-Type: {content_type}\r\n{body}\
             -------{transaction}{flag}\r\n",
            self.uri(1 - from, leg),
            self.uri(from, leg)
        )
    }

    /// Returns the response of the receiver to a chunk, or one in its name.
    pub fn respond(&self, note: usize, chunk: u32, again: u32, code: u16) -> String {
        let Note { from, leg, .. } = self.notes[note];
        let transaction = self.transaction_of(note, chunk, again);
        format!(
            "MSRP {transaction} {code} -\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp\r\nFrom-Path: {}\r\n\
             -------{transaction}$\r\n",
            self.uri(1 - from, leg)
        )
    }

    fn transaction_of(&self, note: usize, chunk: u32, again: u32) -> String {
        format!("c{}x{note}x{chunk}x{again}", self.number)
    }
}

fn source(address: IpAddr) -> Option<Source> {
    Some(Source { address, port: 5060 })
}

/// Returns the tag of a target.
fn tag(leg: usize) -> &'static [u8] {
    if leg == 0 { b"bob" } else { b"bob2" }
}

fn description(path: &str) -> String {
    format!("v=0\r\nm=message 7777 TCP/MSRP *\r\na=path:{path}\r\n")
}
