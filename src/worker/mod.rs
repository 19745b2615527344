//! Hooks that run in the host's SIP and MSRP workers. They never block: a hook reads the message, copies a bounded record
//! into the process's own event ring, and wakes the engine only if someone waits for the result.
//!
//! Two things cannot wait for the engine and are done here, in shared memory: MSRP endpoints are bound to their session
//! before the SIP message is relayed, and the gate decides whether a SEND passes.
//!
//! Step numbers in comments are those of the flow in OMA SIMPLE IM, 6.3.2.7 (Deferred Message retrieval).
//!
//! | file | holds |
//! |---|---|
//! | `invites` | INVITEs: reservation, failure, CANCEL |
//! | `pages` | SIP MESSAGEs: reservation and outcome |
//! | `dialogs` | requests and replies within a dialog |
//! | `bind_endpoints` | offer and answer: which MSRP endpoints belong together |
//! | `frames` | MSRP frames, and the gate |
//! | [`content`] | class of content, and whether it is free |
//! | `bypass` | session descriptions that bypass this relay |
//! | [`sip_input`], [`raw_sip`] | what hosts pass in, and how it is read from raw SIP |
//! | [`edited`] | SIP messages with pending edits of the script |

mod bind_endpoints;
mod bypass;
pub mod content;
mod dialogs;
pub mod edited;
mod endpoint_hash;
mod frames;
mod invites;
mod pages;
pub mod raw_sip;
pub mod reserve_options;
pub mod sip_input;

pub use dialogs::RequestDecision;
pub use pages::PageOutcome;

use crate::charge::ch2::SessionKey;
use crate::charge::event::{Entry, Event};
use crate::shm::clock;
use crate::shm::record::{Command, CommandResult, Record, Reply};
use crate::shm::region::{AttachError, EventProducer, Region};
use crate::shm::statistic::Statistic;
use crate::simulate::crash_point;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Maximum length of a Call-ID, tag or ICID, octets.
const FIELD_MAX: usize = 256;

/// Maximum time that an operator's command waits for the engine.
const COMMAND_PATIENCE: Duration = Duration::from_secs(1);

/// A host process's connection to the engine: its event ring, and the gate.
pub struct Worker {
    region: Arc<Region>,
    ring: EventProducer,
    process: usize,
    sequence: u64,
    own_addresses: Option<IsOwn>,
}

/// Whether the host listens on this address, or knows it as an alias of itself: a name or an IP address without brackets,
/// and a port.
pub type IsOwn = fn(host: &str, port: u16) -> bool;

/// Why an INVITE or MESSAGE is not charged; the number is the return code for the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum InviteRefusal {
    /// No Call-ID, no From tag, or a field is too long.
    Malformed = -1,
    /// The engine is down or refuses new sessions.
    EngineDown = -2,
    /// The event ring of this process or the gate is full, or all resume workers are stuck or too far behind.
    Full = -3,
    /// The client's description bypasses this relay, and `bypass` is `refuse`. Hosts use -4 and -5.
    Bypass = -6,
    /// The body of the MESSAGE is larger than `message_max`.
    TooLarge = -7,
    /// The script has chosen a tariff that is not configured.
    UnknownTariff = -8,
}

/// Decision about an MSRP frame; the number is the return code for the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum FrameDecision {
    /// Passes; it belongs to a charged session.
    Pass = 1,
    /// Passes; it belongs to no charged session.
    NotCharged = 2,
    /// Stopped: beyond the grant.
    BeyondGrant = -1,
    /// Stopped: not an MSRP frame, or content without a Message-ID.
    Malformed = -2,
    /// Stopped: the event ring of this process or the gate is full.
    Full = -3,
    /// Stopped: it was sent by the other side of the session than its From-Path names.
    Forged = -4,
    /// Stopped: it comes from an endpoint of a charged session, or from an IM server, but belongs to no session.
    NoSession = -5,
}

/// When the engine must read an event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    /// Now: someone waits for the result.
    Now,
    /// In its next tick.
    Soon,
}

impl Worker {
    /// Attaches this process, after `fork`, to event ring `index` (0..processes). Each process has its own index; an
    /// index that is out of range or attached already in this process is refused.
    pub fn attach(region: &Arc<Region>, index: usize) -> Result<Worker, AttachError> {
        let ring = region.event_producer(index)?;
        region.prefault();
        // Above the numbers of a process that had this index before: its commands may still be answered.
        let sequence = region.reply_slot(index).sequence.load(Ordering::Acquire).max(clock::now().0);
        Ok(Worker { region: Arc::clone(region), ring, process: index, sequence, own_addresses: None })
    }

    /// Sets how to recognise the host's own addresses; without it, `bypass` has no effect.
    pub fn with_own_addresses(self, own_addresses: IsOwn) -> Worker {
        Worker { own_addresses: Some(own_addresses), ..self }
    }

    /// Returns the region that it is attached to.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Sends an operator's command to the engine and waits up to one second until it is committed. `None`: the engine does
    /// not answer, or the record does not fit the event ring. It blocks: for processes that serve commands.
    pub fn command(&mut self, command: Command<'_>) -> Option<Reply> {
        let sequence = self.order(command)?;
        let slot = self.region.reply_slot(self.process);
        let asked = Instant::now();
        while slot.sequence.load(Ordering::Acquire) < sequence {
            if asked.elapsed() > COMMAND_PATIENCE {
                return None;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Some(Reply {
            result: CommandResult::from_code(slot.code.load(Ordering::Relaxed))?,
            balance: slot.balance.load(Ordering::Relaxed),
            held: slot.held.load(Ordering::Relaxed),
            limit: slot.limit.load(Ordering::Relaxed),
        })
    }

    /// Sends a command without waiting. Returns its number; `None` if the event ring is full.
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

    /// Pushes an event that is not urgent. Returns `false` and counts it if there is no room.
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
