//! What a tick does to the rest of the world once it is committed.

use super::sessions::SessionTable;
use crate::charge::ch2::{Request, SessionKey};
use crate::charge::event::Event;
use crate::enabler::{AccountCommand, Call, Enabler, ReservationState, ServerRequest, SessionState};
use crate::shm::clock;
use crate::shm::gate::Opening;
use crate::shm::record;
use crate::shm::region::Region;
use crate::shm::statistic::Statistic;
use std::sync::atomic::Ordering;

/// An effect that must not happen before the commit. Slots are those of the gate.
pub enum Effect {
    /// Open a slot.
    Open(u32, Opening),
    /// Set the total grant of a slot.
    Grant(u32, u32),
    /// Close a slot.
    Close(u32),
    /// Free a slot.
    Free(u32),
    /// Forget a lost connection of a slot, so that another one may take its place.
    Disconnected(u32, u64),
    /// Stop the rest of a message: slot, session, hash of the message.
    StopMessage(u32, SessionKey, u64),
    /// Charge a message like a new one: slot, session, hash of the message.
    ForgetMessage(u32, SessionKey, u64),
    /// Reply to a command.
    Reply {
        /// Process that sent the command.
        process: u32,
        /// Sequence of the command.
        sequence: u64,
        /// The reply.
        reply: record::Reply,
    },
    /// Pass the new state of a session to the enabler, for other nodes.
    Replicate(SessionState),
    /// Send a request to the enabler.
    Ask(Request),
    /// Let the enabler change an account.
    ChangeAccount(AccountCommand),
    /// Answer a request of the enabler's server.
    Answer {
        /// The request.
        request: ServerRequest,
        /// What it did to the session.
        event: Event<'static>,
        /// State of the reservation that it concerned.
        state: ReservationState,
    },
    /// Increment a statistic.
    Count(Statistic),
    /// Add to a statistic.
    Add(Statistic, u64),
}

impl Effect {
    /// Whether it must wait until the commit survives a power failure, because it leaves this machine.
    pub fn leaves_the_machine(&self) -> bool {
        matches!(self, Effect::Replicate(_) | Effect::Ask(_) | Effect::ChangeAccount(_) | Effect::Answer { .. })
    }

    /// Whether it is the state of a session, which goes before the requests of its tick: a node that takes the session over
    /// must know of them.
    pub fn is_state(&self) -> bool {
        matches!(self, Effect::Replicate(_))
    }

    /// Whether it must wait for the tables, which the sender of the command may read next.
    pub fn is_reply(&self) -> bool {
        matches!(self, Effect::Reply { .. })
    }
}

impl SessionTable {
    /// Executes effects after the commit and updates the gauges.
    pub fn publish(&mut self, region: &Region, effects: Vec<Effect>, enabler: &mut dyn Enabler) {
        let table = region.table();
        for effect in effects {
            match effect {
                Effect::Open(slot, opening) => table.open(slot, &opening),
                Effect::Disconnected(slot, connection) => table.slots[slot as usize].forget_connection(connection),
                Effect::Grant(slot, total) => table.slots[slot as usize].set_granted(total),
                Effect::StopMessage(slot, session, message) => table.stop_message(slot, session, message),
                Effect::ForgetMessage(slot, session, message) => table.forget_message(slot, session, message),
                Effect::Close(slot) => {
                    table.slots[slot as usize].close();
                }
                Effect::Free(slot) => {
                    table.free(slot);
                    self.add_free_slot(slot);
                }
                Effect::Reply { process, sequence, reply } => write_reply(region, process, sequence, reply),
                Effect::Replicate(state) => enabler.replicate(state),
                Effect::Ask(request) => self.ask_enabler(request, enabler),
                Effect::ChangeAccount(command) => enabler.change_account(command, clock::now()),
                Effect::Answer { request, event, state } => enabler.answer(request, &event, state),
                Effect::Count(statistic) => region.count(statistic),
                Effect::Add(statistic, amount) => {
                    region.counter(statistic).fetch_add(amount, Ordering::Relaxed);
                }
            }
        }
        enabler.flush(clock::now());
        self.publish_gauges(region);
    }

    /// Sends a request, unless it was answered while it waited for the sync: an earlier copy may have had a late answer.
    fn ask_enabler(&self, request: Request, enabler: &mut dyn Enabler) {
        if let Some(session) = self.session_with_pending(request.session, request.number) {
            let (call_id, other) = (session.call_id(), session.other());
            let method = if session.is_page() { "MESSAGE" } else { "INVITE" };
            let call = Call { call_id, other, icid: session.icid(), direction: session.direction(), method };
            enabler.ask(request, &call, clock::now(), clock::wall_ms() / 1000);
        }
    }
}

fn write_reply(region: &Region, process: u32, sequence: u64, reply: record::Reply) {
    let slot = region.reply_slot(process as usize);
    // The process has given up waiting for this command, and a later one is answered.
    if slot.sequence.load(Ordering::Relaxed) >= sequence {
        return;
    }
    slot.code.store(reply.result as u32, Ordering::Relaxed);
    slot.balance.store(reply.balance, Ordering::Relaxed);
    slot.held.store(reply.held, Ordering::Relaxed);
    slot.limit.store(reply.limit, Ordering::Relaxed);
    slot.sequence.store(sequence, Ordering::Release);
}
