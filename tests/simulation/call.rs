//! One retrieval: what its parties do, and what should come of it.

use imcharge::charge::ch2::SessionKey;
use imcharge::charge::event::InviteTransaction;
use imcharge::engine::facts::{Body, Dialog, Invitation, Invite, Method, Reply, Request, Suspended};
use imcharge::engine::worker::{Course, Worker};
use std::collections::{BTreeMap, BTreeSet};

/// The ways of an INVITE: the one that its call lives by, and one by which it comes as well (RFC 3261, 8.2.2.2).
pub const ITS_WAY: u64 = 0;
pub const OTHER_WAY: u64 = 1;

/// What is answered where the call lives by the first way.
pub const MERGED: u16 = 482;

/// What the client does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// An MSRP response.
    Answer(u16),
    /// Nothing.
    Silence,
}

/// A stored message.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Chunks that it is sent in.
    pub chunks: u32,
    /// Octets of each.
    pub octets: u32,
    /// What the client does with each.
    pub reaction: Reaction,
    /// Whether the server gives it up after the first chunk.
    pub given_up: bool,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The INVITE is suspended, or not sent yet.
    Invited,
    /// It went on.
    Granted,
    /// It was answered.
    Answered,
    /// It is over for its parties.
    Over,
}

/// Where a SEND that has passed stands in a ring: instance of the host, process, position behind it.
pub type Place = (u64, usize, u64);

/// The retrieval.
pub struct Call {
    /// Number, which all its names are made of.
    pub number: usize,
    /// Who pays.
    pub account: String,
    /// Whether the server invites.
    pub push: bool,
    /// What the INVITE says of the number of messages.
    pub announced: u32,
    /// The messages.
    pub messages: Vec<Message>,
    /// Connections of the server and of the client.
    pub connections: [u64; 2],
    pub stage: Stage,
    pub verdicts: u32,
    /// Messages of which content has passed the gate, and where that was told last.
    pub passed: BTreeMap<usize, BTreeSet<Place>>,
    /// The chunks of messages that have passed.
    pub chunks: BTreeSet<(usize, u32)>,
    /// Of the messages, those that a loss of shared memory may have taken.
    pub lost: BTreeSet<usize>,
    /// Messages about which the client has reported a failure.
    pub reported: BTreeSet<usize>,
    /// Messages that were in a worker when it died: nobody knows whether it has told of them.
    pub unsure: BTreeSet<usize>,
    /// Which run of the host has taken the INVITE.
    pub taken_by: Option<u64>,
    /// When the last thing was told to a worker that had room for it.
    pub moved_at: u64,
    /// When the end was told so.
    pub ended_at: Option<u64>,
    /// Whether the charging system has ended it.
    pub is_aborted: bool,
}

impl Call {
    pub fn call_id(&self) -> String {
        format!("call-{}@sim.example", self.number)
    }

    pub fn message_id(&self, message: usize) -> String {
        format!("m{}.{message}", self.number)
    }

    pub fn session(&self) -> SessionKey {
        let call_id = self.call_id();
        Worker::session_of_invitation(&Invitation { call_id: call_id.as_bytes(), from_tag: b"caller", cseq: 1 })
    }

    /// The transaction of its INVITE by one of the ways that it takes.
    pub fn by_way(&self, way: u64) -> InviteTransaction {
        InviteTransaction { index: self.number as u64, label: way }
    }

    /// Gives the INVITE to a worker, by one of the ways that it takes; `true`: a verdict will come.
    pub fn invite(&self, worker: &mut Worker, way: u64) -> bool {
        let call_id = self.call_id();
        let payer = format!("<{}>", self.account);
        let store: &[u8] = b"<sip:rcse-standfw@sim.example>";
        let (asserted, called) = if self.push { (store, payer.as_bytes()) } else { (payer.as_bytes(), &b""[..]) };
        let taken = worker.reserve(&Invite {
            invitation: Invitation { call_id: call_id.as_bytes(), from_tag: b"caller", cseq: 1 },
            asserted: [asserted, b""],
            from: b"<sip:caller@sim.example>",
            called_party: called,
            request_uri: b"sip:deferred@im.example.org",
            subscriber: b"",
            direction: None,
            charging_vector: b"icid-value=1",
            messages: self.announced,
            suspended: Suspended { index: self.number as u64, label: way, route: 0 },
        });
        taken.is_ok()
    }

    /// Gives the 200 to a worker; `true`: it knows the session.
    pub fn answer(&self, worker: &mut Worker) -> bool {
        let call_id = self.call_id();
        let dialog = Dialog { call_id: call_id.as_bytes(), from_tag: b"caller", to_tag: b"" };
        let description = |end: String| format!("m=message 9 TCP/MSRP *\r\na=path:{end}\r\n");
        let (server, client) = (description(self.server_uri()), description(self.client_uri()));
        let (offer, answer) = if self.push { (server, client) } else { (client, server) };
        let invite = Request { body: Body::sdp(offer.as_bytes()), ..Request::new(Method::Invite, dialog, 1) };
        let reply = Reply { body: Body::sdp(answer.as_bytes()), ..Reply::new(&invite, 200, b"callee") };
        worker.replied(&reply, Some(&invite))
    }

    /// Gives the BYE and its 200 to a worker.
    pub fn bye(&self, worker: &mut Worker) -> bool {
        let call_id = self.call_id();
        let dialog = Dialog { call_id: call_id.as_bytes(), from_tag: b"callee", to_tag: b"caller" };
        let bye = Request::new(Method::Bye, dialog, 2);
        worker.request_in_dialog(&bye) == Course::GoesOn
            && worker.replied(&Reply::new(&bye, 200, dialog.to_tag), Some(&bye))
    }

    fn server_uri(&self) -> String {
        format!("msrp://10.0.0.2:9/S{};tcp", self.number)
    }

    fn client_uri(&self) -> String {
        format!("msrp://10.0.0.1:9/C{};tcp", self.number)
    }

    /// A chunk of a message as it comes from the server.
    pub fn send(&self, message: usize, chunk: u32, again: u32) -> String {
        let Message { chunks, octets, given_up, .. } = self.messages[message];
        let flag = match (given_up && chunk > 0, chunk + 1 == chunks) {
            (true, _) => '#',
            (false, true) => '$',
            (false, false) => '+',
        };
        let transaction = self.transaction(message, chunk, again);
        let (start, total) = (chunk * octets + 1, chunks * octets);
        let body = if flag == '#' { String::new() } else { format!("\r\n{}\r\n", "x".repeat(octets as usize)) };
        format!(
            "MSRP {transaction} SEND\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp {}\r\nFrom-Path: {}\r\nMessage-ID: {}\r\n\
             Byte-Range: {start}-*/{total}\r\nContent-Type: message/cpim\r\n{body}-------{transaction}{flag}\r\n",
            self.client_uri(),
            self.server_uri(),
            self.message_id(message)
        )
    }

    /// The client's response to it.
    pub fn respond(&self, message: usize, chunk: u32, again: u32, code: u16) -> String {
        let transaction = self.transaction(message, chunk, again);
        format!(
            "MSRP {transaction} {code} -\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp\r\nFrom-Path: {}\r\n-------{transaction}$\r\n",
            self.client_uri()
        )
    }

    /// The client's REPORT that it could not use it.
    pub fn report(&self, message: usize) -> String {
        let octets = self.messages[message].chunks * self.messages[message].octets;
        format!(
            "MSRP r{}x{message} REPORT\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp {}\r\nFrom-Path: {}\r\nMessage-ID: {}\r\n\
             Byte-Range: 1-{octets}/{octets}\r\nStatus: 000 415 -\r\n-------r{}x{message}$\r\n",
            self.number,
            self.server_uri(),
            self.client_uri(),
            self.message_id(message),
            self.number
        )
    }

    fn transaction(&self, message: usize, chunk: u32, again: u32) -> String {
        format!("t{}x{message}x{chunk}x{again}", self.number)
    }

    /// Whether a message may go unpaid by policy: the server gave it up.
    pub fn may_be_free(&self, message: usize) -> bool {
        self.messages[message].given_up
    }
}
