//! The gate: decides in shared memory, without a lock, whether an MSRP SEND passes.
//!
//! There is one [`Slot`] for each charged session. The engine opens it with the reservation, sets its grant, closes it and
//! frees it. Workers bind MSRP endpoints to it and take units from its grant.
//!
//! | part | file | holds |
//! |---|---|---|
//! | slots | `slot`, `legs` | the sessions, and the dialogs of each |
//! | names | `index` | keyed hashes that lead to a slot: session key, dialogs, MSRP endpoints |
//! | streams | `streams` | the MSRP sessions of a charged session, one for each dialog and `m=` line |
//! | messages | `messages` | what of each message has passed, and whether more of it may pass |
//! | decision | `decide` | [`Table::decide`]: whether a chunk of content passes, and what it takes from the grant |
//! | free content | `free` | content that takes nothing from it |
//! | lease | `lease` | until when content passes |
//!
//! Names are added while the session lives and removed only with its slot, so that content from a former endpoint of the
//! session is recognised and stopped. Each session has a share of names, streams and messages; a session that has used up
//! its share is stopped and takes nothing from others.
//!
//! A slot that was taken from is reused at the earliest [`REUSE_AFTER_SECONDS`] after its gate was closed: frames in
//! progress have passed by then. A frame that still races with the reuse compares the session after taking units, and puts
//! them back if the slot belongs to another one ([`Table::decide`]).

mod decide;
mod free;
mod index;
mod lease;
mod legs;
mod messages;
mod slot;
mod streams;

pub use decide::{Chunk, ChunkDecision};
pub use free::{FREE_OCTETS_MAX, FreeClaim};
pub use index::{Chained, Index, Inserted};
pub use lease::Lease;
pub use legs::{DialogState, LegRecord};
pub use messages::NOTES;
pub use slot::Slot;
pub use streams::{OWN_RECORDS, STREAMS_MAX, Stream, StreamRecord, StreamState, Streams};

use super::sync::AtomicU64;
use crate::charge::ch2::SessionKey;
use crate::charge::event::Direction;
use crate::charge::tariff::Weight;

/// Minimum time between closing a slot's gate and its reuse, seconds.
pub const REUSE_AFTER_SECONDS: u32 = 2;

/// Maximum number of names of a session: its key, dialogs and endpoints. After that it binds nothing more.
pub const NAMES_MAX: u32 = 128;

/// The two sides of a charged session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Sends the content.
    Sender,
    /// Receives the content.
    Receiver,
}

impl Side {
    /// Returns the opposite side.
    pub fn other(self) -> Side {
        match self {
            Side::Sender => Side::Receiver,
            Side::Receiver => Side::Sender,
        }
    }
}

/// A frame between bound endpoints of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Slot of the session.
    pub at: u32,
    /// Key of the session.
    pub session: SessionKey,
    /// Hash of the answering side's tag of the dialog; 0: any dialog of the session.
    pub leg: u64,
    /// Side that sent the frame, according to its From-Path.
    pub side: Side,
    /// Whether its stream carries a file (RFC 5547).
    pub is_file: bool,
}

/// The session that the endpoints of a frame belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameSession {
    /// Both endpoints are bound to this session.
    Bound(Bound),
    /// It comes from a current or former sender endpoint of this session, but belongs to none of its streams.
    Unbound {
        /// Slot of the session.
        at: u32,
        /// Key of the session.
        session: SessionKey,
    },
    /// The endpoints belong to no charged session.
    NotCharged,
}

/// Properties of the session that a slot is opened for.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Key of the session.
    pub session: SessionKey,
    /// Name of the session ([`Region::name_of_session`](super::region::Region::name_of_session)).
    pub name: u64,
    /// Hash of the inviting side's tag.
    pub inviting_tag: u64,
    /// Which side has the messages.
    pub direction: Direction,
    /// What messages of each class take from the grant, in the order of
    /// [`ContentClass::ALL`](crate::charge::content::ContentClass::ALL).
    pub weights: [Weight; 4],
    /// Whether the sender pays for the content.
    pub is_paid_by_sender: bool,
    /// Whether content of the receiver is charged in another slot.
    pub is_paired: bool,
}

/// The gate is full, or the session has used up its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// The tables of the gate, over shared memory.
pub struct Table<'a> {
    /// Slots of the sessions.
    pub slots: &'a [Slot],
    /// Names that lead to slots.
    pub names: Chained<'a>,
    /// Records of the streams.
    pub streams: &'a [StreamRecord],
    /// Messages after the first [`NOTES`] of a session, and all messages of sessions in which size has a price.
    pub messages: Chained<'a>,
    /// For each entry of `messages`: what of the message has passed.
    pub passed: &'a [AtomicU64],
    /// Transactions of SENDs without a response, and frames that this relay sends to itself.
    pub transactions: Index<'a>,
    /// Until when content passes.
    pub lease: &'a Lease,
}

/// Name of a sender endpoint, from the hash of its URI.
fn sender_name(endpoint: u64) -> u64 {
    !endpoint
}

/// Name of a receiver endpoint of a session that its sender pays for.
fn receiver_name(endpoint: u64) -> u64 {
    !endpoint.rotate_left(19)
}

/// Name of the stream between two endpoints, in either direction; `receiver` 0: of the sender endpoint's streams with an
/// unknown receiver endpoint. The hashes are keyed, so mixing them needs no key.
fn pair_name(sender: u64, receiver: u64) -> u64 {
    let (low, high) = (sender.min(receiver), sender.max(receiver));
    low.rotate_left(31).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ high.wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(17)
}

/// Name of two endpoints described by a party that is not trusted.
fn unpaid_name(sender: u64, receiver: u64) -> u64 {
    !pair_name(sender, receiver).rotate_left(7)
}

impl Table<'_> {
    /// Returns the slot of a session.
    pub fn slot_of_session(&self, name: u64, session: SessionKey) -> Option<u32> {
        self.names.index.find(name).find(|&at| self.session_at(at) == Some(session))
    }

    /// Returns the slot of a dialog whose name was added by [`Table::add_name`]; preferably one with an open gate.
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

    /// Engine: lets workers find a free slot by the name of a session, before the INVITE is relayed. Returns `false` if there
    /// is no room for the name.
    pub fn claim(&self, at: u32, opening: &Opening) -> bool {
        self.add_name(at, opening.name).is_ok()
    }

    /// Engine: opens a claimed slot.
    pub fn open(&self, at: u32, opening: &Opening) {
        if let Some(slot) = self.slots.get(at as usize) {
            slot.open(opening);
        }
    }

    /// Adds a name that leads to a slot.
    pub fn add_name(&self, at: u32, name: u64) -> Result<(), NoRoom> {
        let slot = self.slots.get(at as usize).ok_or(NoRoom)?;
        // An existing name stays, however many other slots have it.
        if self.names.index.is_crowded(name) && self.names.index.place_of(name, at).is_none() {
            return Err(NoRoom);
        }
        match self.names.add(&slot.names, at, name, NAMES_MAX) {
            Inserted::At(_) | Inserted::Before(_) => Ok(()),
            Inserted::Full => Err(NoRoom),
        }
    }

    /// Worker: records that content between these two endpoints belongs to this session and must be stopped: a party that
    /// is not trusted has described them. Their traffic with other endpoints is not affected.
    pub fn recognise_pair(&self, at: u32, sender: u64, receiver: u64) -> Result<(), NoRoom> {
        self.add_name(at, unpaid_name(sender, receiver))
    }

    /// Worker: records a sender endpoint of the session without binding it: content that it sends is stopped.
    pub fn recognise_sender(&self, at: u32, endpoint: u64) -> Result<(), NoRoom> {
        self.add_name(at, sender_name(endpoint))
    }

    /// Engine: frees a slot with its names, streams and messages.
    pub fn free(&self, at: u32) {
        let Some(slot) = self.slots.get(at as usize) else { return };
        slot.forget_session();
        self.names.clear(&slot.names, |_| ());
        self.free_streams(slot);
        self.free_messages(slot);
    }

    /// Returns the session of a request, by the hashes of the endpoints in its From-Path and To-Path. `side`: of two sessions
    /// of an INVITE, the one in which the request is from this side. Of several sessions with the same endpoints, one with an
    /// open gate is preferred.
    pub fn session_of_request(&self, from: u64, to: u64, side: Side) -> FrameSession {
        let of_sender = |stream: &Stream| stream.sender == from && stream.receiver == to;
        let senders = || {
            self.bound(pair_name(from, to), Side::Sender, of_sender).or_else(|| {
                self.bound(pair_name(from, 0), Side::Sender, |stream| stream.sender == from && stream.receiver == 0)
            })
        };
        let receivers =
            || self.bound(pair_name(to, from), Side::Receiver, |stream| stream.receiver == from && stream.sender == to);
        let unbound = || {
            let names = [sender_name(from), unpaid_name(from, to)];
            names
                .into_iter()
                .flat_map(|name| self.names.index.find(name))
                .find_map(|at| Some((at, self.session_at(at)?)))
        };
        let found = match side {
            Side::Sender => senders().or_else(receivers),
            Side::Receiver => receivers().or_else(senders),
        };
        if let Some(bound) = found {
            return FrameSession::Bound(bound);
        }
        unbound().map_or(FrameSession::NotCharged, |(at, session)| FrameSession::Unbound { at, session })
    }

    /// Returns the session with this receiver endpoint, if its sender pays: content that comes from elsewhere is stopped.
    pub fn session_of_receiver(&self, to: u64) -> Option<(u32, SessionKey)> {
        self.names.index.find(receiver_name(to)).find_map(|at| {
            let session = self.session_at(at).filter(|_| self.slots[at as usize].is_paid_by_sender())?;
            Some((at, session))
        })
    }

    /// Returns the session of a REPORT, by the endpoint in its To-Path alone: a relay near the receiver may have made it.
    pub fn session_of_report(&self, to: u64) -> Option<Bound> {
        self.bound(sender_name(to), Side::Receiver, |stream| stream.sender == to)
    }

    /// Returns the sessions that a response of the sender's side may belong to, by the endpoint that sent it.
    pub fn sessions_of_response(&self, from: u64) -> impl Iterator<Item = Bound> {
        self.names
            .index
            .find(sender_name(from))
            .filter_map(move |at| self.bound_at(at, Side::Sender, |stream| stream.sender == from))
    }

    /// Returns a slot that the name leads to and that has such a bound stream; preferably one with an open gate.
    fn bound(&self, name: u64, side: Side, fits: impl Fn(&Stream) -> bool) -> Option<Bound> {
        let found = || self.names.index.find(name).filter_map(|at| self.bound_at(at, side, &fits));
        found().find(|bound| self.slots[bound.at as usize].is_open()).or_else(|| found().next())
    }

    fn bound_at(&self, at: u32, side: Side, fits: impl Fn(&Stream) -> bool) -> Option<Bound> {
        let session = self.session_at(at)?;
        let Stream { leg, is_file, .. } = self.find_stream(at, fits)?;
        Some(Bound { at, session, leg, side, is_file })
    }

    /// Worker: records that the receiver, or a relay near it, will answer this transaction, a hash of the responder's URI and
    /// the transaction id. It may replace an older one, whose message is then debited by timeout.
    pub fn expect_response(&self, at: u32, transaction: u64) {
        self.transactions.put_over(transaction, at);
    }

    /// Worker: records a frame that this relay sends to itself, by a hash of what the relay does not change.
    pub fn expect_again(&self, content: u64) {
        self.transactions.put_over(content, 0);
    }

    /// Whether this relay has sent this frame to itself.
    pub fn is_expected_again(&self, content: u64) -> bool {
        self.transactions.find(content).next().is_some()
    }

    /// Returns the sessions that may be waiting for the response to a transaction.
    pub fn expecting(&self, transaction: u64) -> impl Iterator<Item = Bound> {
        let bound = |at| {
            let session = self.session_at(at)?;
            Some(Bound { at, session, leg: 0, side: Side::Receiver, is_file: false })
        };
        self.transactions.find(transaction).filter_map(bound)
    }
}

#[cfg(test)]
mod tests;
