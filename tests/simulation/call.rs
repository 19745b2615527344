//! One retrieval: what its parties do, and its expected result.

use crate::chat::MARGIN;
use crate::delivery::{Charge, Delivery, Part, Place};
use crate::dialog::{Exchange, Leg, Side, Writing};
use imcharge::charge::ch2::SessionKey;
use imcharge::charge::content::ContentClass;
use imcharge::charge::event::{ServerTransaction, Suspended};
use imcharge::charge::service::ChargedContent;
use imcharge::worker::Worker;
use imcharge::worker::sip_input::{Body, Invite, InviteKey};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// Transactions of an INVITE: the one that the call uses, and one by which a copy arrives as well (RFC 3261, 8.2.2.2).
pub const OWN_PATH: u64 = 0;
pub const OTHER_PATH: u64 = 1;

/// Value returned where the call uses the first transaction.
pub const MERGED: u16 = 482;

/// Addresses of the IM server and of the clients.
pub const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// An endpoint without a charged session.
pub const UNCHARGED: &str = "msrp://10.0.3.1:9/U1;tcp";

/// Offset of the chunk numbers of a restarted message in [`Call::send`].
pub const RESTARTED: u32 = 100;

/// Reaction of the client to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// An MSRP response to each chunk.
    Answer(u16),
    /// An error response to this chunk, and 200 to the others.
    RefuseChunk(u32, u16),
    /// No response.
    Silence,
}

/// What Byte-Range says about the chunks of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Consecutive from octet 1, with the total.
    InOrder,
    /// The first one starts far from the beginning.
    HighOffset,
    /// There is a gap before each chunk but the first.
    Gaps,
    /// All start at octet 1.
    Same,
}

/// When the server aborts a message (`#`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    Never,
    /// Instead of the second chunk.
    AfterFirstChunk,
    /// After the last chunk, where it has no effect.
    AfterLastChunk,
}

/// What a message contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Text,
    /// A file, which has its own price if the configuration says so.
    File,
    /// A position: neither text nor a file.
    Position,
    /// A composing indication.
    Composing,
    /// A delivery notification in a CPIM message.
    Delivery,
}

impl Content {
    /// Returns the media type of a first chunk.
    pub fn media_type(self) -> &'static str {
        match self {
            Content::Text => "text/plain",
            Content::File => "image/jpeg",
            Content::Position => "application/vnd.gsma.rcspushlocation+xml",
            Content::Composing => "application/im-iscomposing+xml",
            Content::Delivery => "message/cpim",
        }
    }

    pub fn class(self) -> ContentClass {
        match self {
            Content::Text => ContentClass::Text,
            Content::File => ContentClass::File,
            Content::Position => ContentClass::Other,
            Content::Composing | Content::Delivery => ContentClass::Notification,
        }
    }

    pub fn is_notification(self) -> bool {
        self.class() == ContentClass::Notification
    }
}

/// Headers of a delivery notification in CPIM. A first chunk that is shorter does not show the type.
const DELIVERY_HEAD: &str = "From: <a:b>\r\n\r\nContent-type: message/imdn+xml\r\n\r\n";

/// A stored message.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Type of its content.
    pub content: Content,
    /// Number of chunks.
    pub chunks: u32,
    /// Octets of each chunk.
    pub octets: u32,
    /// Reaction of the client to each chunk.
    pub reaction: Reaction,
    /// Positions of the chunks.
    pub layout: Layout,
    /// Whether the server aborts it.
    pub abort: Abort,
    /// Whether the server restarts it, complete, with the same Message-ID.
    pub again: bool,
    /// Dialog that it is sent in.
    pub leg: usize,
}

/// Progress of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The INVITE is suspended or not sent yet.
    Invited,
    /// The INVITE was resumed.
    Granted,
    /// The INVITE was answered.
    Answered,
    /// The call has ended for its parties.
    Over,
}

/// How the MSRP URIs of a call differ from those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Every session-id is unique.
    Own,
    /// All calls have the same session-ids, at different hosts.
    SameSessionId,
    /// The clients of all calls have the same URI.
    SameClient,
    /// The URIs of the previous call, which has ended by then.
    Predecessor,
}

/// A retrieval.
pub struct Call {
    /// Number of the call, part of all its names.
    pub number: usize,
    /// End of its Call-ID: the node of several.
    pub suffix: String,
    /// Account of the charged party.
    pub account: String,
    /// Whether the server sends the INVITE.
    pub push: bool,
    /// Number of messages that the INVITE announces.
    pub announced: u32,
    /// The messages.
    pub messages: Vec<Message>,
    /// How its MSRP URIs are chosen.
    pub names: Names,
    /// Whether other calls use the same Message-IDs.
    pub same_message_ids: bool,
    /// Whether notifications are charged.
    pub charges_notifications: bool,
    /// Connections of the server and of the client.
    pub connections: [u64; 2],
    /// SIP messages with the first offer and answer, and their form.
    pub exchange: Exchange,
    pub writing: Writing,
    /// Whether the INVITE is forked and both targets answer.
    pub forks: bool,
    /// Its dialogs.
    pub legs: [Leg; 2],
    /// Whether its parties break the rules.
    pub is_hostile: bool,
    pub stage: Stage,
    pub verdicts: u32,
    /// Content of each message that has passed the gate, by Message-ID.
    pub delivered: BTreeMap<String, Delivery>,
    /// When a success for each message was first accepted, and its record.
    pub confirmed: BTreeMap<String, (u64, Place)>,
    /// Messages for which the client has reported a failure.
    pub reported: BTreeSet<String>,
    /// Instance of the host that has seen a frame of the server, and its connection, for each dialog.
    pub server_known: [Option<(u64, u64)>; 2],
    /// Whether a forged frame was accepted before the first frame of the server.
    pub is_captured: bool,
    /// Instance of the host that has received the INVITE.
    pub taken_by: Option<u64>,
    /// When a worker last accepted an event.
    pub moved_at: u64,
    /// When a worker accepted the end of the call.
    pub ended_at: Option<u64>,
    /// When one of its two dialogs was ended by BYE.
    pub leg_ended_at: Option<u64>,
    /// Whether the server does not know that the call has ended.
    pub server_sends_on: bool,
    /// Whether another node may have settled the session, and whether it has taken it over after it was granted.
    pub is_lost: bool,
    pub is_taken_over: bool,
    /// Whether the charging system has ended the session.
    pub is_aborted: bool,
    /// How often in a row the operator has passed over it.
    pub passed_over: u32,
}

impl Call {
    pub fn call_id(&self) -> String {
        format!("call-{}@sim.example{}", self.number, self.suffix)
    }

    pub fn message_id(&self, message: usize) -> String {
        if self.same_message_ids { format!("same.{message}") } else { format!("m{}.{message}", self.number) }
    }

    /// Returns the content of a message; text if none has this Message-ID.
    pub fn content_of(&self, id: &str) -> Content {
        let found = (0..self.messages.len()).find(|message| self.message_id(*message) == id);
        found.map_or(Content::Text, |message| self.messages[message].content)
    }

    /// Whether the client refuses a chunk of this message.
    pub fn is_refused(&self, id: &str) -> bool {
        let refuses = |reaction| matches!(reaction, Reaction::Answer(400..=499) | Reaction::RefuseChunk(..));
        (0..self.messages.len())
            .any(|message| self.message_id(message) == id && refuses(self.messages[message].reaction))
    }

    /// Whether a message has passed and was confirmed within `timeout` microseconds, and nothing may have ended the session
    /// before: no time-out and no error releases it.
    pub fn is_confirmed(&self, id: &str, timeout: u64) -> bool {
        let sent = self.delivered.get(id).and_then(Delivery::passed_whole_at);
        let in_time = |(sent, (at, _)): (u64, &(u64, Place))| {
            at + MARGIN < sent + timeout && self.ended_at.is_none_or(|ended| at + 3 * MARGIN < ended)
        };
        !self.is_hostile && sent.zip(self.confirmed.get(id)).is_some_and(in_time)
    }

    pub fn session(&self) -> SessionKey {
        let call_id = self.call_id();
        Worker::session_of_invite(&InviteKey { call_id: call_id.as_bytes(), from_tag: b"caller", cseq: 1 })
    }

    /// Returns the transaction of its INVITE on this path.
    pub fn transaction_on_path(&self, path: u64) -> ServerTransaction {
        ServerTransaction { index: self.number as u64, label: path }
    }

    /// Passes the INVITE to a worker. `true`: a verdict will follow.
    pub fn invite(&self, worker: &mut Worker, path: u64) -> bool {
        let call_id = self.call_id();
        let payer = format!("<{}>", self.account);
        let store: &[u8] = b"<sip:rcse-standfw@sim.example>";
        let (asserted, called) = if self.push { (store, payer.as_bytes()) } else { (payer.as_bytes(), &b""[..]) };
        let taken = worker.reserve(&Invite {
            key: InviteKey { call_id: call_id.as_bytes(), from_tag: b"caller", cseq: 1 },
            asserted: [asserted, b""],
            from: b"<sip:caller@sim.example>",
            called_party: called,
            request_uri: b"sip:deferred@im.example.org",
            subscriber: b"",
            direction: None,
            charging_vector: b"icid-value=1",
            messages: self.announced,
            content: ChargedContent::Received,
            recipients: 0,
            tariff: b"",
            offer: Body::default(),
            suspended: Suspended { index: self.number as u64, label: path, continuation: 0 },
        });
        taken.is_ok()
    }

    pub fn server_uri(&self) -> String {
        let number = self.number;
        match self.names {
            Names::Own | Names::SameClient => format!("msrp://10.0.0.2:9/S{number};tcp"),
            Names::SameSessionId => format!("msrp://10.0.2.{number}:9/S;tcp"),
            Names::Predecessor => format!("msrp://10.0.0.2:9/S{};tcp", number - 1),
        }
    }

    pub fn client_uri(&self) -> String {
        let number = self.number;
        match self.names {
            Names::Own => format!("msrp://10.0.0.1:9/C{number};tcp"),
            Names::SameSessionId => format!("msrp://10.0.1.{number}:9/C;tcp"),
            Names::SameClient => "msrp://10.0.0.1:9/C;tcp".into(),
            Names::Predecessor => format!("msrp://10.0.0.1:9/C{};tcp", number - 1),
        }
    }

    /// Returns a chunk of a message as the server sends it. `again`: number of earlier copies, from [`RESTARTED`] on if the
    /// message was restarted.
    pub fn send(&self, message: usize, chunk: u32, again: u32) -> String {
        let Message { chunks, octets, layout, .. } = self.messages[message];
        let total = chunks * octets;
        let range = match layout {
            Layout::InOrder => format!("{}-*/{total}", chunk * octets + 1),
            Layout::HighOffset => format!("{}-*/*", u64::from(chunk * octets) + 1_000_000_001),
            Layout::Gaps => format!("{}-*/{}", 2 * chunk * octets + 1, 2 * total),
            Layout::Same => format!("1-*/{octets}"),
        };
        let flag = match self.part(message, chunk, again) {
            Part::Abort => '#',
            Part::Content { is_last: true, .. } => '$',
            Part::Content { is_last: false, .. } => '+',
        };
        let octets = if flag == '#' { 0 } else { octets as usize };
        let content = self.messages[message].content;
        let (content_type, head) = match content {
            Content::Delivery if chunk == 0 => (content.media_type(), DELIVERY_HEAD),
            _ => (content.media_type(), ""),
        };
        let body: String = head.chars().chain(std::iter::repeat('x')).take(octets).collect();
        let (transaction, id) = (self.transaction(message, chunk, again), self.message_id(message));
        let ends = self.ends(self.messages[message].leg);
        self.frame_of_server(ends, &transaction, &id, &range, (content_type, &body), flag)
    }

    /// Returns what a chunk adds to its message.
    pub fn part(&self, message: usize, chunk: u32, again: u32) -> Part {
        let Message { chunks, octets, abort, .. } = self.messages[message];
        if abort == Abort::AfterFirstChunk && chunk > 0 && again < RESTARTED || chunk >= chunks {
            return Part::Abort;
        }
        Part::Content { octets: octets.into(), is_last: chunk + 1 == chunks, charge: self.charge(message, chunk) }
    }

    /// Whether a chunk must be paid for. A notification of one chunk is free; one of several chunks may be charged from the
    /// chunk on that is out of order or is sent again, and one whose headers are not in its first chunk is.
    fn charge(&self, message: usize, chunk: u32) -> Charge {
        let Message { content, chunks, octets, .. } = self.messages[message];
        let is_readable = content != Content::Delivery || octets as usize >= DELIVERY_HEAD.len();
        match content {
            Content::Text | Content::File | Content::Position => Charge::Due,
            _ if self.charges_notifications => Charge::Due,
            _ if is_readable && chunks == 1 && self.is_first(message, chunk) => Charge::Free,
            _ => Charge::Uncertain,
        }
    }

    /// Whether Byte-Range marks the chunk as the first one of its message.
    pub fn is_first(&self, message: usize, chunk: u32) -> bool {
        match self.messages[message].layout {
            Layout::InOrder | Layout::Gaps => chunk == 0,
            Layout::HighOffset => false,
            Layout::Same => true,
        }
    }

    /// Returns the MSRP URIs of server and client in a dialog.
    pub fn ends(&self, leg: usize) -> [String; 2] {
        [Side::Sender, Side::Receiver].map(|side| self.uri_now(side, &self.legs[leg]))
    }

    /// Returns a SEND from the server's endpoint to the client's.
    pub fn frame_of_server(
        &self,
        [server, client]: [String; 2],
        transaction: &str,
        id: &str,
        range: &str,
        (content_type, body): (&str, &str),
        flag: char,
    ) -> String {
        let body = if body.is_empty() { String::new() } else { format!("\r\n{body}\r\n") };
        format!(
            "MSRP {transaction} SEND\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp {client}\r\nFrom-Path: {server}\r\n\
             Message-ID: {id}\r\nByte-Range: {range}\r\nContent-Type: {content_type}\r\n{body}-------{transaction}{flag}\r\n"
        )
    }

    /// Returns a message from the client to the server.
    pub fn frame_of_client(&self, leg: usize, transaction: &str, id: &str) -> String {
        let [server, client] = self.ends(leg);
        frame_between([client, server], transaction, id)
    }

    /// Returns a message to an endpoint without a session, from the server's endpoint or another one without a session.
    pub fn frame_astray(&self, transaction: &str, from_server: bool) -> String {
        let from = if from_server { self.ends(0)[0].clone() } else { UNCHARGED.into() };
        frame_between([from, "msrp://10.0.3.2:9/U2;tcp".into()], transaction, "astray")
    }

    /// Returns the status of the client's response to a chunk.
    pub fn reaction_to(&self, message: usize, chunk: u32) -> Option<u16> {
        match self.messages[message].reaction {
            Reaction::Answer(code) => Some(code),
            Reaction::RefuseChunk(refused, code) if refused == chunk => Some(code),
            Reaction::RefuseChunk(..) => Some(200),
            Reaction::Silence => None,
        }
    }

    /// Returns the client's response to a chunk.
    pub fn respond(&self, message: usize, chunk: u32, again: u32) -> Option<String> {
        let code = self.reaction_to(message, chunk)?;
        let transaction = self.transaction(message, chunk, again);
        Some(format!(
            "MSRP {transaction} {code} -\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp\r\nFrom-Path: {}\r\n-------{transaction}$\r\n",
            self.ends(self.messages[message].leg)[1]
        ))
    }

    /// Returns the client's failure REPORT for a message.
    pub fn report(&self, message: usize) -> String {
        let octets = self.messages[message].chunks * self.messages[message].octets;
        let [server, client] = self.ends(self.messages[message].leg);
        let transaction = format!("r{}x{message}", self.number);
        format!(
            "MSRP {transaction} REPORT\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp {server}\r\nFrom-Path: {client}\r\n\
             Message-ID: {}\r\nByte-Range: 1-{octets}/{octets}\r\nStatus: 000 415 -\r\n-------{transaction}$\r\n",
            self.message_id(message)
        )
    }

    fn transaction(&self, message: usize, chunk: u32, again: u32) -> String {
        format!("t{}x{message}x{chunk}x{again}", self.number)
    }
}

/// Returns a complete message from one endpoint to another.
fn frame_between([from, to]: [String; 2], transaction: &str, id: &str) -> String {
    format!(
        "MSRP {transaction} SEND\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp {to}\r\nFrom-Path: {from}\r\n\
         Message-ID: {id}\r\nByte-Range: 1-5/5\r\nContent-Type: text/plain\r\n\r\nhello\r\n-------{transaction}$\r\n"
    )
}
