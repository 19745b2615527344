//! What a process of the host calls. Nothing here waits: a hook reads the message, copies a bounded record into
//! the process's own ring, wakes the engine only if it sleeps and someone waits for it, and goes on.
//!
//! Two things cannot wait for the engine and are done here: the MSRP sessions are bound to their slot before the
//! 200 OK goes on, and the gate is decided on the slot's counters.

mod bind_endpoints;
mod bypass;
mod dialogs;
pub mod edited;
mod endpoint_hash;
mod frames;
mod invites;
pub mod raw_sip;
pub mod sip_input;

pub use dialogs::RequestDecision;

use crate::charge::ch2::SessionKey;
use crate::charge::event::{Entry, Event};
use crate::shm::clock;
use crate::shm::record::{Command, CommandResult, Record};
use crate::shm::region::{AttachError, EventProducer, Region};
use crate::shm::statistic::Statistic;
use crate::simulate::crash_point;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The longest Call-ID, tag or ICID that is taken.
const FIELD_MAX: usize = 256;

/// How long an operator's command waits for the engine.
const COMMAND_PATIENCE: Duration = Duration::from_secs(1);

/// One host process's way to the engine: its event ring and the gate.
pub struct Worker {
    region: Arc<Region>,
    ring: EventProducer,
    process: usize,
    sequence: u64,
    own_addresses: Option<IsOwn>,
}

/// Whether the host listens on this address, or knows it as an alias of its own: a name or an IP address without
/// brackets, and a port.
pub type IsOwn = fn(host: &str, port: u16) -> bool;

/// Why an INVITE was not taken; the number is what the script gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum InviteRefusal {
    /// Wrong use: no Call-ID, no From tag, or a field too long.
    Malformed = -1,
    /// The engine does not run.
    EngineDown = -2,
    /// The ring of this process or the table of sessions is full, or all resume workers are stuck or too far behind.
    Full = -3,
    /// The client's description leaves this relay out of its path, and `bypass` is `refuse`. -4 and -5 are results of hosts.
    Bypass = -6,
}

/// What becomes of an MSRP frame; the number is what the script gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum FrameDecision {
    /// Goes on; it belongs to a charged session.
    Pass = 1,
    /// Goes on; it belongs to none.
    NotCharged = 2,
    /// Must not go on: beyond the grant.
    BeyondGrant = -1,
    /// Must not go on: no MSRP frame, or content without a Message-ID.
    Malformed = -2,
    /// Must not go on: the ring of this process or a table is full.
    Full = -3,
    /// Must not go on: it claims to be of the other side of its session than it comes from.
    Forged = -4,
    /// Must not go on: it comes from an endpoint of a charged session, or from an IM server, and belongs to no session.
    NoSession = -5,
}

/// Who waits for an event to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    /// Somebody waits for what comes of it: wake the engine.
    Now,
    /// The engine's next turn is soon enough.
    Soon,
}

impl Worker {
    /// Attaches this process, after `fork`, to event ring `index` (0..processes). Each process has its own index; an
    /// index that is out of range or attached already in this process is refused.
    pub fn attach(region: &Arc<Region>, index: usize) -> Result<Worker, AttachError> {
        let ring = region.event_producer(index)?;
        region.prefault();
        let sequence = region.reply_slot(index).sequence.load(Ordering::Acquire);
        Ok(Worker { region: Arc::clone(region), ring, process: index, sequence, own_addresses: None })
    }

    /// With the host's knowledge of its own addresses.
    pub fn with_own_addresses(self, own_addresses: IsOwn) -> Worker {
        Worker { own_addresses: Some(own_addresses), ..self }
    }

    /// The region it is attached to.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Sends an operator's command to the engine and waits, one second at most, until it is committed.
    /// `None`: the engine does not answer. Only for processes that an operator talks to.
    pub fn command(&mut self, command: Command<'_>) -> Option<(CommandResult, i64, i64)> {
        let sequence = self.order(command)?;
        let slot = self.region.reply_slot(self.process);
        let asked = Instant::now();
        while slot.sequence.load(Ordering::Acquire) < sequence {
            if asked.elapsed() > COMMAND_PATIENCE {
                return None;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        let result = CommandResult::from_code(slot.code.load(Ordering::Relaxed));
        Some((result, slot.balance.load(Ordering::Relaxed), slot.held.load(Ordering::Relaxed)))
    }

    /// The same without the wait; its number. `None`: there is no room.
    pub fn order(&mut self, command: Command<'_>) -> Option<u64> {
        self.sequence += 1;
        let (process, sequence) = (self.process as u32, self.sequence);
        let record = Record::Command { at: clock::now(), process, sequence, command };
        if !self.push(&record, 0, Urgency::Now) {
            self.region.count(Statistic::DroppedRingFull);
            return None;
        }
        Some(sequence)
    }

    /// An event that nobody can be told about if it has no room: counted then.
    fn push_or_count(&mut self, session: SessionKey, event: Event<'_>) -> bool {
        self.push_event(session, event, 0, Urgency::Soon)
    }

    fn push_event(&mut self, session: SessionKey, event: Event<'_>, spare: usize, urgency: Urgency) -> bool {
        let record = Record::Event(Entry { session, at: clock::now(), event });
        let pushed = self.push(&record, spare, urgency);
        if !pushed {
            self.region.count(Statistic::DroppedRingFull);
        }
        pushed
    }

    fn push(&mut self, record: &Record<'_>, spare: usize, urgency: Urgency) -> bool {
        let fill = |space: &mut [u8]| postcard::to_slice(record, space).ok().map(|written| written.len());
        if self.ring.write(spare, fill) != Ok(true) {
            return false;
        }
        crash_point();
        self.ring.publish();
        crash_point();
        if urgency == Urgency::Now || self.ring.used() > self.ring.size() / 2 {
            self.region.wake_engine();
        }
        true
    }
}
