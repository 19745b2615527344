//! The gate: what the host's workers may let through, in shared memory, without a lock.
//!
//! One [`Slot`] per charged session. The engine opens it with the reservation, raises its grant, closes its gate
//! and frees it; workers bind MSRP endpoints to it and take from its grant.
//!
//! | part | file | what it is |
//! |---|---|---|
//! | names | `index` | keyed hashes that lead to a slot: session key, dialogs, MSRP endpoints |
//! | streams | `streams` | the MSRP sessions of a charged session, one per dialog and `m=` line |
//! | messages | `messages` | what of each message has passed, and whether it may go on |
//!
//! Names are added while the session lives and removed with its slot only: content from an endpoint that the session
//! had before is recognised, and stopped. Each session has a share of names, streams and messages; one that has used
//! its share up stops by itself and takes nothing from others.
//!
//! A slot that was taken from is used again no sooner than [`REUSE_AFTER_SECONDS`] after its gate was closed: frames on
//! their way have passed by then. One that comes later still and finds the slot at the very moment of its reuse sees after
//! its take whose grant that was, and gives it back ([`Table::decide`]).

mod index;
mod legs;
mod messages;
mod slot;
mod streams;

pub use index::{Chained, Index, Inserted};
pub use legs::{DialogState, LegRecord};
pub use messages::{Chunk, ChunkDecision, NOTES};
pub use slot::Slot;
pub use streams::{OWN_RECORDS, STREAMS_MAX, Stream, StreamRecord, StreamState, Streams};

use super::sync::AtomicU64;
use crate::charge::ch2::SessionKey;
use crate::charge::event::Direction;
use crate::charge::tariff::Per;

/// Seconds between the closing of a gate and the earliest reuse of its slot.
pub const REUSE_AFTER_SECONDS: u32 = 2;

/// Names of one session: its key, dialogs and endpoints. A session whose share is used up binds nothing more.
pub const NAMES_MAX: u32 = 128;

/// Which side of the bound session an endpoint belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that has the messages.
    Server,
    /// The one that fetches them.
    Client,
}

impl Side {
    /// The one at the other end.
    pub fn other(self) -> Side {
        match self {
            Side::Server => Side::Client,
            Side::Client => Side::Server,
        }
    }
}

/// The session that a frame belongs to, by its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its slot.
    pub at: u32,
    /// The session.
    pub session: SessionKey,
    /// Hash of the answering side's tag of its dialog; 0: any dialog of the session.
    pub leg: u64,
    /// Which side has sent the frame, as its From-Path claims.
    pub side: Side,
}

/// What the endpoints of a frame say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameSession {
    /// It belongs to this session.
    Bound(Bound),
    /// It comes from an endpoint that has, or had, messages in this session, and belongs to no stream of it.
    Unbound {
        /// The slot.
        at: u32,
        /// The session.
        session: SessionKey,
    },
    /// Its endpoints belong to no charged session.
    NotCharged,
}

/// What a slot is opened with.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// The session.
    pub session: SessionKey,
    /// The name of the session.
    pub name: u64,
    /// Hash of the inviting side's tag.
    pub inviting_tag: u64,
    /// Who has the messages.
    pub direction: Direction,
    /// What the tariff counts.
    pub per: Per,
}

/// There is no room for what a session wants to add, or its share is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// The table: slots and what leads to them, over shared memory.
pub struct Table<'a> {
    /// All slots.
    pub slots: &'a [Slot],
    /// Names of sessions.
    pub names: Chained<'a>,
    /// Records of streams.
    pub streams: &'a [StreamRecord],
    /// Messages beyond the first [`NOTES`] of a session, and all of those that are counted by size.
    pub messages: Chained<'a>,
    /// For each place of `messages`: what of the message has passed.
    pub passed: &'a [AtomicU64],
    /// Transactions of SENDs that wait for their response, and frames that this relay sends to itself.
    pub transactions: Index<'a>,
}

/// The name of an endpoint that has the messages, from the hash of its URI.
fn server_name(endpoint: u64) -> u64 {
    !endpoint
}

/// The name of the stream between two endpoints, in either direction; `client` 0: of all streams of the server's endpoint
/// whose other end is not known. The hashes are keyed, so their mixture needs no key.
fn pair_name(server: u64, client: u64) -> u64 {
    let (low, high) = (server.min(client), server.max(client));
    low.rotate_left(31).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ high.wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(17)
}

/// The name of two endpoints that a party which is not believed has described in a session.
fn unpaid_name(server: u64, client: u64) -> u64 {
    !pair_name(server, client).rotate_left(7)
}

impl Table<'_> {
    /// The slot of a session.
    pub fn slot_of_session(&self, name: u64, session: SessionKey) -> Option<u32> {
        self.names.index.find(name).find(|&at| self.session_at(at) == Some(session))
    }

    /// The slot of a dialog that [`Table::add_name`] has added. A live session comes before a closed one.
    pub fn slot_of_dialog(&self, dialog: u64, fits: impl Fn(&Slot) -> bool) -> Option<u32> {
        let slots = || self.names.index.find(dialog).filter(|&at| self.slot(at).is_some_and(&fits));
        slots().find(|&at| self.slots[at as usize].is_open()).or_else(|| slots().next())
    }

    fn slot(&self, at: u32) -> Option<&Slot> {
        self.slots.get(at as usize).filter(|slot| slot.session().is_some())
    }

    fn session_at(&self, at: u32) -> Option<SessionKey> {
        self.slots.get(at as usize).and_then(Slot::session)
    }

    /// Engine: makes a free slot findable as that of a session, before its INVITE goes on. `false`: workers would not find it.
    pub fn claim(&self, at: u32, opening: &Opening) -> bool {
        self.add_name(at, opening.name).is_ok()
    }

    /// Engine: opens a slot that was claimed.
    pub fn open(&self, at: u32, opening: &Opening) {
        if let Some(slot) = self.slots.get(at as usize) {
            slot.open(opening);
        }
    }

    /// Adds a name that the session of a slot is found by.
    pub fn add_name(&self, at: u32, name: u64) -> Result<(), NoRoom> {
        let slot = self.slots.get(at as usize).ok_or(NoRoom)?;
        // What is here already may stay, however many others have it.
        if self.names.index.is_crowded(name) && self.names.index.place_of(name, at).is_none() {
            return Err(NoRoom);
        }
        match self.names.add(&slot.names, at, name, NAMES_MAX) {
            Inserted::At(_) | Inserted::Before(_) => Ok(()),
            Inserted::Full => Err(NoRoom),
        }
    }

    /// Worker: remembers that content between these two endpoints is of this session, and not paid for: a party that is not
    /// believed has described them. What one of them alone sends to others is nothing of this session.
    pub fn recognise_pair(&self, at: u32, server: u64, client: u64) -> Result<(), NoRoom> {
        self.add_name(at, unpaid_name(server, client))
    }

    /// Worker: makes an endpoint known as one that has the session's messages, without binding it: what it sends is stopped.
    pub fn recognise_server(&self, at: u32, endpoint: u64) -> Result<(), NoRoom> {
        self.add_name(at, server_name(endpoint))
    }

    /// Engine: frees a slot and everything that leads to it.
    pub fn free(&self, at: u32) {
        let Some(slot) = self.slots.get(at as usize) else { return };
        slot.forget_session();
        self.names.clear(&slot.names, |_| ());
        self.free_streams(slot);
        self.free_messages(slot);
    }

    /// The session of a request, by the hashes of the endpoints in its From-Path and To-Path. Of several sessions with the
    /// same endpoints the one with an open gate counts.
    pub fn attribute(&self, from: u64, to: u64) -> FrameSession {
        let of_server = |stream: &Stream| stream.server == from && stream.client == to;
        let servers = self.bound(pair_name(from, to), Side::Server, of_server).or_else(|| {
            self.bound(pair_name(from, 0), Side::Server, |stream| stream.server == from && stream.client == 0)
        });
        let clients =
            || self.bound(pair_name(to, from), Side::Client, |stream| stream.client == from && stream.server == to);
        let stray = || {
            let names = [server_name(from), unpaid_name(from, to)];
            names
                .into_iter()
                .flat_map(|name| self.names.index.find(name))
                .find_map(|at| Some((at, self.session_at(at)?)))
        };
        if let Some(bound) = servers.or_else(clients) {
            return FrameSession::Bound(bound);
        }
        stray().map_or(FrameSession::NotCharged, |(at, session)| FrameSession::Unbound { at, session })
    }

    /// The session that a REPORT is about, by the endpoint in its To-Path: a relay near the client may have made it.
    pub fn attribute_report(&self, to: u64) -> Option<Bound> {
        self.bound(server_name(to), Side::Client, |stream| stream.server == to)
    }

    /// The sessions that a response of the server's side may be of, by the endpoint that has made it.
    pub fn attribute_response(&self, from: u64) -> impl Iterator<Item = Bound> {
        self.names
            .index
            .find(server_name(from))
            .filter_map(move |at| self.bound_at(at, Side::Server, |stream| stream.server == from))
    }

    /// The slot that a name leads to and that has such a bound stream. One with an open gate comes before others.
    fn bound(&self, name: u64, side: Side, fits: impl Fn(&Stream) -> bool) -> Option<Bound> {
        let found = || self.names.index.find(name).filter_map(|at| self.bound_at(at, side, &fits));
        found().find(|bound| self.slots[bound.at as usize].is_open()).or_else(|| found().next())
    }

    fn bound_at(&self, at: u32, side: Side, fits: impl Fn(&Stream) -> bool) -> Option<Bound> {
        let session = self.session_at(at)?;
        let leg = self.find_stream(at, fits)?.leg;
        Some(Bound { at, session, leg, side })
    }

    /// Worker: remembers that the client, or a relay near it, will answer this transaction. `transaction` is a hash of the
    /// responder's URI and the transaction id. An older one may be forgotten for it: its message is then debited by time-out.
    pub fn expect_response(&self, at: u32, transaction: u64) {
        self.transactions.put_over(transaction, at);
    }

    /// Worker: remembers a frame that this relay sends to itself, by a hash of what it leaves as it is.
    pub fn expect_again(&self, content: u64) {
        self.transactions.put_over(content, 0);
    }

    /// Whether this relay has sent such a frame to itself.
    pub fn is_expected_again(&self, content: u64) -> bool {
        self.transactions.find(content).next().is_some()
    }

    /// Sessions that may wait for the response to such a transaction.
    pub fn expecting(&self, transaction: u64) -> impl Iterator<Item = Bound> {
        self.transactions
            .find(transaction)
            .filter_map(|at| self.session_at(at).map(|session| Bound { at, session, leg: 0, side: Side::Client }))
    }
}

#[cfg(test)]
mod tests;
