//! The sessions in memory: takes records to them, does what they want done, writes what has changed.

mod notify;
mod stops;

use super::outstanding::Outstanding;
use super::store::change::{Change, Debit, MessageRecord, NotDebited, Refund, SessionChange};
use super::store::{Store, StoreError, StoredSession};
use crate::charge::ch2::{Failure, Operation, Request, Response, SessionKey, Trigger};
use crate::charge::event::{Entry, Event, InviteTransaction, Reserve};
use crate::charge::session::{Decision, FIRST_NUMBER_END, Output, Session};
use crate::charge::tariff::Units;
use crate::charge::time::Time;
use crate::config;
use crate::enabler::{Account, Call, Enabler, EnablerEvent, ReservationState, ServerRequest, Settlement};
use crate::engine::notification_writer::NotificationWriter;
use crate::shm::clock;
use crate::shm::gate::{Opening, REUSE_AFTER_SECONDS};
use crate::shm::latency::Latency;
use crate::shm::record::{Command, CommandResult, Record};
use crate::shm::region::Region;
use crate::shm::statistic::Statistic;
use crate::simulate::{self, InjectedBug};
use notify::{count_debit, is_gate_opened, refuse, tell_debit, tell_failure, tell_verdict};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::num::NonZeroI64;
use std::sync::atomic::Ordering;

/// How long an event waits for the INVITE that it belongs to: they come through different rings.
const ORPHAN_SECONDS: u32 = 5;

/// Timers, and closed sessions, that are not looked through for those that mean nothing any more.
const STALE_LEAST: usize = 1024;

/// Events that wait so at a time.
const ORPHANS_MAX: usize = 10_000;

/// Requests that are asked again, each second at most: a server that comes back after an outage has others to serve as
/// well, and would be drowned in what has waited for it. The same for renewals, if there are not more sessions than can
/// be renewed at that rate within [`RENEWED_WITHIN`].
const PATIENT_A_SECOND: u64 = 1000;

/// Microseconds of that which may be made up for at once.
const PATIENT_BURST: u64 = 50_000;

/// Seconds within which all open sessions can be renewed: a renewal is never postponed by more.
const RENEWED_WITHIN: u64 = 60;

/// What is done after the commit.
pub enum Effect {
    /// Open a slot of the gate.
    Open(u32, Opening),
    /// Set the total grant of a slot.
    Grant(u32, u32),
    /// Close the gate of a slot.
    Close(u32),
    /// Free a slot.
    Free(u32),
    /// Let another connection speak for the server's side of a slot.
    Disconnected(u32, u64),
    /// Let nothing more of a message of a session pass: its slot, the session, the hash of the message.
    StopMessage(u32, SessionKey, u64),
    /// Charge a message of a session like a new one, the same way.
    ForgetMessage(u32, SessionKey, u64),
    /// Answer an operator's command.
    Reply { process: u32, sequence: u64, result: CommandResult, balance: i64, held: i64 },
    /// Ask the enabler.
    Ask(Request),
    /// Answer a request of the enabler's server.
    Answer { request: ServerRequest, event: Event<'static>, state: ReservationState },
    /// Count one.
    Count(Statistic),
}

impl Effect {
    /// Whether it must not happen before it is certain that this machine remembers it.
    pub fn leaves_the_machine(&self) -> bool {
        matches!(self, Effect::Ask(_) | Effect::Answer { .. })
    }

    /// Whether it answers an operator, who may read the tables next.
    pub fn is_reply(&self) -> bool {
        matches!(self, Effect::Reply { .. })
    }
}

/// What one turn of the engine works with.
pub struct Tick<'a> {
    /// Whether anything must be committed.
    pub changed: bool,
    /// Whether an operator waits, who reads the tables next.
    pub operator_waits: bool,
    /// What is done after the commit.
    pub effects: Vec<Effect>,
    /// What is to be measured when it is told, and since when it went on.
    pub latencies: Vec<(Latency, Time)>,
    region: &'a Region,
    store: &'a mut Store,
    notices: &'a mut NotificationWriter,
    enabler: &'a dyn Enabler,
    /// Which run of the host the records are of.
    instance: u64,
    now: Time,
    wall_ms: i64,
}

impl<'a> Tick<'a> {
    /// A turn over records of this instance.
    pub fn new(
        region: &'a Region,
        store: &'a mut Store,
        notices: &'a mut NotificationWriter,
        enabler: &'a dyn Enabler,
        instance: u64,
    ) -> Tick<'a> {
        let (now, wall_ms) = (clock::now(), clock::wall_ms());
        let (changed, operator_waits, effects, latencies) = (false, false, Vec::new(), Vec::new());
        Tick { changed, operator_waits, effects, latencies, region, store, notices, enabler, instance, now, wall_ms }
    }

    fn count(&mut self, statistic: Statistic) {
        self.effects.push(Effect::Count(statistic));
    }
}

/// A session and what the engine keeps beside it.
struct SessionEntry {
    session: Session,
    row: i64,
    instance: u64,
    slot: Option<u32>,
    /// When it is in the heap of timers.
    scheduled: Option<Time>,
    /// UNIX milliseconds.
    opened_at: i64,
    /// Whether the store knows it.
    stored: bool,
    /// UNIX milliseconds.
    closed_at: Option<NonZeroI64>,
    dirty: bool,
    /// Its share of [`SessionTable::debits_pending`].
    debits_pending: u32,
    /// Its share of [`SessionTable::uncovered`].
    uncovered: u32,
}

impl SessionEntry {
    fn new(session: Session, row: i64, instance: u64, opened_at: i64) -> SessionEntry {
        SessionEntry {
            session,
            row,
            instance,
            slot: None,
            scheduled: None,
            opened_at,
            stored: false,
            closed_at: None,
            dirty: false,
            debits_pending: 0,
            uncovered: 0,
        }
    }
}

impl SessionEntry {
    /// Tells the session of its 2xx where the event of it found no room in its ring: the worker has noted it in the slot.
    fn recall_answer(&mut self, region: &Region, at: Time) {
        let slot = self.slot.and_then(|slot| region.table().slots.get(slot as usize));
        let is_answered = slot.is_some_and(|slot| slot.session() == Some(self.session.key()) && slot.is_answered());
        if is_answered && !self.session.is_answered() {
            self.session.event(&Event::Answered { leg: 0 }, at);
        }
    }

    /// Returns the record of a message for the history.
    fn message_record(&self, message_id: Box<str>, octets: u64, units: Units, wall_ms: i64) -> MessageRecord {
        let (call_id, account) = (self.session.call_id().into(), self.session.account().into());
        MessageRecord { row: self.row, call_id, message_id, account, octets, units: units.0, wall_ms }
    }
}

/// Spreads requests that nobody waits for over time.
#[derive(Default)]
struct Pace {
    /// When the next request may be sent.
    next: Time,
}

impl Pace {
    /// When a request that could be sent `now` is to be sent.
    fn turn(&mut self, now: Time, a_second: u64) -> Time {
        let turn = Time(now.0.saturating_sub(PATIENT_BURST)).max(self.next);
        self.next = Time(turn.0.saturating_add(1_000_000 / a_second.clamp(1, 1_000_000)));
        turn
    }
}

/// All sessions that are not forgotten.
pub struct SessionTable {
    /// Boxed: a growing table moves pointers, and its empty places cost little.
    sessions: HashMap<SessionKey, Box<SessionEntry>>,
    dirty: Vec<SessionKey>,
    timers: BinaryHeap<Reverse<(Time, SessionKey)>>,
    free_slots: Vec<u32>,
    /// Closed sessions that still have a slot, oldest first, and some that are forgotten.
    lingering: VecDeque<(Time, SessionKey)>,
    /// Sessions that a connection carries.
    connections: HashMap<u64, BTreeSet<SessionKey>>,
    /// Sessions whose request of this number is to be asked again, the first to come first.
    patient: VecDeque<(SessionKey, u32)>,
    /// Pace at which they are asked.
    patient_pace: Pace,
    /// Pace of renewals (Validity-Time). Many may be due at the same moment, after a restart or a pause.
    renewal_pace: Pace,
    /// Events whose INVITE is not read yet.
    orphans: VecDeque<(Time, SessionKey, Orphan)>,
    open: u64,
    /// Debits of all sessions that are not acknowledged.
    debits_pending: u64,
    outstanding: Outstanding,
    /// What each account was granted while no enabler answered, as long as it is not settled.
    uncovered: HashMap<Box<str>, u32>,
}

/// The events that can overtake the INVITE.
#[derive(Clone, Copy)]
enum Orphan {
    Failed(u16, Option<InviteTransaction>),
    Cancelled(Option<InviteTransaction>),
}

impl SessionTable {
    /// Takes over what is stored, and the slots that sessions of this instance have.
    pub fn load(region: &Region, stored: Vec<StoredSession>) -> SessionTable {
        let mut book = SessionTable {
            sessions: HashMap::new(),
            dirty: Vec::new(),
            timers: BinaryHeap::new(),
            free_slots: Vec::new(),
            lingering: VecDeque::new(),
            connections: HashMap::new(),
            patient: VecDeque::new(),
            patient_pace: Pace::default(),
            renewal_pace: Pace::default(),
            orphans: VecDeque::new(),
            open: 0,
            debits_pending: 0,
            outstanding: Outstanding::default(),
            uncovered: HashMap::new(),
        };
        for StoredSession { row, instance, opened_at, session } in stored {
            let key = session.key();
            book.open += u64::from(session.is_open());
            for connection in session.connections() {
                book.connections.entry(*connection).or_default().insert(key);
            }
            let live = SessionEntry { stored: true, ..SessionEntry::new(session, row, instance, opened_at) };
            book.sessions.insert(key, Box::new(live));
        }
        book.take_over_slots(region);
        book
    }

    /// Says again what an engine that died may not have told of a session: grants, closed gates, requests in flight.
    pub fn resume(&mut self, turn: &mut Tick<'_>, key: SessionKey) -> Result<(), StoreError> {
        let Some(live) = self.sessions.get_mut(&key) else { return Ok(()) };
        self.outstanding.add_loaded(&live.session, turn.now);
        if !simulate::is_injected(InjectedBug::OutboxDropped) {
            live.session.resume(turn.now);
        }
        // One whose reservation has no answer yet has no slot in the table either, and needs one for its grant.
        if live.session.is_open() && live.slot.is_none() && live.instance == turn.instance {
            live.slot = self.free_slots.pop();
            if live.session.decision() == Some(Decision::Granted) {
                is_gate_opened(turn, live);
            }
        }
        self.drain(turn, key)
    }

    /// The connections of a session are gone with the host's processes.
    pub fn host_stopped(&mut self, turn: &mut Tick<'_>, key: SessionKey) -> Result<(), StoreError> {
        self.event(turn, key, turn.now, &Event::HostStopped)
    }

    /// All sessions.
    pub fn all_sessions(&self) -> Vec<SessionKey> {
        self.in_order(|_| true)
    }

    /// Slots are found again by their sessions; the others are free.
    fn take_over_slots(&mut self, region: &Region) {
        let table = region.table();
        for at in (0..table.slots.len() as u32).rev() {
            let owner = table.slots[at as usize].session().and_then(|key| self.sessions.get_mut(&key));
            match owner {
                Some(live) if live.slot.is_none() => live.slot = Some(at),
                _ => {
                    table.free(at);
                    self.free_slots.push(at);
                }
            }
        }
        let closed = self.in_order(|live| !live.session.is_open() && live.slot.is_some());
        self.lingering = closed.into_iter().map(|key| (clock::now(), key)).collect();
    }

    /// Sessions that an earlier run of the host opened and nobody has settled.
    pub fn opened_by_others(&self, instance: u64) -> Vec<SessionKey> {
        self.in_order(|live| live.instance != instance && live.session.is_open())
    }

    /// Sessions that are not settled.
    pub fn open_sessions(&self) -> Vec<SessionKey> {
        self.in_order(|live| live.session.is_open())
    }

    /// Sessions, in the order in which they were opened.
    fn in_order(&self, wanted: impl Fn(&SessionEntry) -> bool) -> Vec<SessionKey> {
        let mut found: Vec<_> = self.sessions.iter().filter(|(_, live)| wanted(live)).collect();
        found.sort_by_key(|(_, live)| live.row);
        found.into_iter().map(|(key, _)| *key).collect()
    }

    /// Whether a session is not settled.
    pub fn any_open(&self) -> bool {
        self.open > 0
    }

    /// When the next timer is due.
    pub fn next_deadline(&self) -> Option<Time> {
        let patient = self.patient.front().map(|_| self.patient_pace.next);
        self.timers.peek().map(|Reverse((at, _))| *at).into_iter().chain(patient).min()
    }

    /// Takes one record to whom it concerns.
    pub fn record(&mut self, turn: &mut Tick<'_>, record: &Record<'_>) -> Result<(), StoreError> {
        match record {
            Record::Event(Entry { session, at, event: Event::Reserve(reserve) }) => {
                self.reserve(turn, *session, *at, reserve)
            }
            Record::Event(entry) => self.event(turn, entry.session, entry.at, &entry.event),
            Record::ConnectionLost { at, connection } => {
                let concerned = self.connections.remove(connection).unwrap_or_default();
                let lost = Event::ConnectionLost { connection: *connection };
                let slots = concerned.iter().filter_map(|key| self.sessions.get(key)?.slot);
                turn.effects.extend(slots.map(|slot| Effect::Disconnected(slot, *connection)));
                concerned.into_iter().try_for_each(|session| self.event(turn, session, *at, &lost))
            }
            Record::Command { process, sequence, command, .. } => self.command(turn, *process, *sequence, command),
        }
    }

    /// Step 1: a new session.
    fn reserve(
        &mut self,
        turn: &mut Tick<'_>,
        key: SessionKey,
        at: Time,
        reserve: &Reserve<'_>,
    ) -> Result<(), StoreError> {
        let here = turn.instance == turn.region.instance();
        if let Some(live) = self.sessions.get(&key) {
            let is_another = reserve.suspended.transaction() != live.session.suspended().transaction();
            if here && (is_another || live.instance != turn.instance) {
                refuse(turn, key, at, reserve, Failure::Merged);
            }
            return Ok(());
        }
        let slot = if here { self.free_slot(turn) } else { None };
        if here && (slot.is_none() || self.open >= u64::from(turn.region.config.max_sessions)) {
            self.free_slots.extend(slot);
            turn.count(Statistic::DroppedTableFull);
            refuse(turn, key, at, reserve, Failure::Full);
            return Ok(());
        }
        turn.count(Statistic::Reserves);
        let (tariff, policy) = (turn.region.tariff(), turn.region.config.policy);
        let first = turn.region.next_end_to_end_id() % FIRST_NUMBER_END;
        let session = Session::open(key, reserve, tariff, policy, first, at);
        let row = turn.store.new_row();
        self.open += 1;
        // The INVITE has waited in its ring since.
        let waited = i64::try_from(turn.now.micros_since(at) / 1000).unwrap_or(i64::MAX);
        let opened_at = turn.wall_ms.saturating_sub(waited);
        let live = SessionEntry { slot, ..SessionEntry::new(session, row, turn.instance, opened_at) };
        self.sessions.insert(key, Box::new(live));
        self.drain(turn, key)?;
        let early: Vec<Orphan> = self.orphans.iter().filter(|orphan| orphan.1 == key).map(|orphan| orphan.2).collect();
        self.orphans.retain(|orphan| orphan.1 != key);
        for orphan in early {
            match orphan {
                Orphan::Failed(code, transaction) => self.event(turn, key, at, &Event::Failed { code, transaction })?,
                Orphan::Cancelled(transaction) => self.event(turn, key, at, &Event::Cancelled { transaction })?,
            }
        }
        Ok(())
    }

    /// A free slot; if there is none, that of the session closed longest ago.
    fn free_slot(&mut self, turn: &Tick<'_>) -> Option<u32> {
        if let Some(slot) = self.free_slots.pop() {
            return Some(slot);
        }
        while let Some((closed, key)) = self.lingering.front().copied() {
            if closed.after_seconds(REUSE_AFTER_SECONDS) > turn.now {
                break;
            }
            self.lingering.pop_front();
            // The same INVITE may have opened another one since.
            let closed = self.sessions.get_mut(&key).filter(|live| !live.session.is_open());
            if let Some(slot) = closed.and_then(|live| live.slot.take()) {
                turn.region.table().free(slot);
                return Some(slot);
            }
        }
        None
    }

    /// Something happened to a session.
    pub fn event(
        &mut self,
        turn: &mut Tick<'_>,
        key: SessionKey,
        at: Time,
        event: &Event<'_>,
    ) -> Result<(), StoreError> {
        let Some(live) = self.sessions.get_mut(&key) else {
            self.keep_orphan(turn, key, event);
            return Ok(());
        };
        if let Event::Failed { transaction: Some(ended), .. } | Event::Cancelled { transaction: Some(ended) } = event
            && *ended != live.session.suspended().transaction()
        {
            return Ok(());
        }
        if let Event::Sent(crate::charge::event::Sent { connection, .. })
        | Event::Responded { connection, .. }
        | Event::Activity { connection } = event
            && *connection != 0
            && !live.session.connections().contains(connection)
        {
            self.connections.entry(*connection).or_default().insert(key);
        }
        if live.session.is_failing() {
            live.session.set_on_failure_cap(left_of_cap(turn, &self.uncovered, live.session.account()));
        }
        if let Event::Failed { .. } | Event::Cancelled { .. } = event {
            live.recall_answer(turn.region, at);
        }
        if let Event::Stopped { message_id, why } = event {
            stops::log(live.session.call_id(), message_id, *why);
        }
        live.session.event(event, at);
        match event {
            // Says only that the session is alive; not worth a commit.
            Event::Activity { .. } => Ok(()),
            _ => self.drain(turn, key),
        }
    }

    /// Handles an event of the enabler.
    pub fn enabler_event(&mut self, turn: &mut Tick<'_>, event: EnablerEvent) -> Result<(), StoreError> {
        match event {
            EnablerEvent::ServerRequest { session, opened_by, event, request } => {
                // The state after all earlier events, which may include the answer that opened the reservation.
                let state = self.reservation_state(session, opened_by);
                turn.effects.push(Effect::Answer { request, event: event.clone(), state });
                match state {
                    ReservationState::Unknown => Ok(()),
                    ReservationState::Open | ReservationState::Pending => self.event(turn, session, turn.now, &event),
                }
            }
            EnablerEvent::LateGrant { session, number, server_binding } => {
                let Some(live) = self.sessions.get_mut(&session) else { return Ok(()) };
                live.session.on_late_grant(number, Some(server_binding), turn.now);
                self.drain(turn, session)
            }
            EnablerEvent::Rebound { session, opened_by, server_binding } => {
                if let Some(live) = self.sessions.get_mut(&session) {
                    live.session.set_server_binding(opened_by, server_binding);
                }
                Ok(())
            }
            EnablerEvent::Response { session, number, response, may_be_at } => {
                let Some(live) = self.sessions.get_mut(&session) else { return Ok(()) };
                if let Some(server_binding) = may_be_at {
                    live.session.on_request_lost(number, &server_binding);
                }
                live.session.set_on_failure_cap(left_of_cap(turn, &self.uncovered, live.session.account()));
                respond(turn, live, number, &response);
                self.drain(turn, session)
            }
        }
    }

    /// Returns the state of the reservation that this request of a session opened.
    fn reservation_state(&self, session: SessionKey, opened_by: u32) -> ReservationState {
        match self.sessions.get(&session).filter(|live| live.session.has_reservation(opened_by)) {
            Some(live) if live.session.is_updating(opened_by) => ReservationState::Pending,
            Some(_) => ReservationState::Open,
            None => ReservationState::Unknown,
        }
    }

    /// The request of this number, as long as it has no answer.
    pub fn unanswered(&self, session: SessionKey, number: u32) -> Option<Request> {
        self.sessions.get(&session)?.session.pending_request(number)
    }

    /// CANCEL and failures can be read before the INVITE; everything else comes after the verdict.
    fn keep_orphan(&mut self, turn: &mut Tick<'_>, key: SessionKey, event: &Event<'_>) {
        let orphan = match event {
            Event::Cancelled { transaction } => Orphan::Cancelled(*transaction),
            Event::Failed { code, transaction } => Orphan::Failed(*code, *transaction),
            _ => return turn.count(Statistic::DroppedUnknown),
        };
        if self.orphans.len() >= ORPHANS_MAX {
            self.orphans.pop_front();
            turn.count(Statistic::DroppedUnknown);
        }
        self.orphans.push_back((turn.now, key, orphan));
    }

    /// Timers that are due.
    pub fn timers(&mut self, turn: &mut Tick<'_>) -> Result<(), StoreError> {
        while self.orphans.front().is_some_and(|orphan| orphan.0.after_seconds(ORPHAN_SECONDS) <= turn.now) {
            self.orphans.pop_front();
            turn.count(Statistic::DroppedUnknown);
        }
        while let Some(Reverse((at, key))) = self.timers.peek().copied().filter(|due| due.0.0 <= turn.now) {
            self.timers.pop();
            let Some(live) = self.sessions.get_mut(&key).filter(|live| live.scheduled == Some(at)) else { continue };
            live.scheduled = None;
            match live.session.deadline() {
                Some(deadline) if deadline <= turn.now => {
                    if live.session.is_renewal_due(turn.now) {
                        let a_second = PATIENT_A_SECOND.max(self.open / RENEWED_WITHIN);
                        live.session.postpone_renewals(turn.now, self.renewal_pace.turn(turn.now, a_second));
                        if live.session.deadline().is_none_or(|deadline| deadline > turn.now) {
                            self.schedule(key, turn.now);
                            continue;
                        }
                    }
                    live.recall_answer(turn.region, turn.now);
                    live.session.timer(turn.now);
                    self.drain(turn, key)?;
                }
                _ => self.schedule(key, turn.now),
            }
        }
        self.outstanding.timers(turn.now);
        self.ask_again(turn)
    }

    /// Asks again what has waited for its turn, unless it was answered or given to an operator meanwhile.
    fn ask_again(&mut self, turn: &mut Tick<'_>) -> Result<(), StoreError> {
        while self.patient_pace.next <= turn.now
            && let Some((key, number)) = self.patient.pop_front()
        {
            let Some(live) = self.sessions.get_mut(&key) else { continue };
            let Some(request) =
                live.session.pending_request(number).filter(|_| live.session.held_back_message().is_none())
            else {
                continue;
            };
            self.patient_pace.turn(turn.now, PATIENT_A_SECOND);
            if let Some(response) = ask(turn, live, request)? {
                respond(turn, live, response.0, &response.1);
            }
            self.drain(turn, key)?;
        }
        Ok(())
    }

    fn schedule(&mut self, key: SessionKey, now: Time) {
        let Some(live) = self.sessions.get_mut(&key) else { return };
        let pending = live.session.debits_pending() as u32;
        self.debits_pending = self.debits_pending + u64::from(pending) - u64::from(live.debits_pending);
        live.debits_pending = pending;
        self.outstanding.update(&live.session, now);
        let uncovered = live.session.uncovered().0;
        if uncovered != live.uncovered {
            let account = self.uncovered.entry(live.session.account().into()).or_default();
            *account = account.saturating_add(uncovered).saturating_sub(live.uncovered);
            live.uncovered = uncovered;
            self.uncovered.retain(|_, had| *had > 0);
        }
        let Some(deadline) = live.session.deadline() else { return };
        if live.scheduled.is_none_or(|scheduled| deadline < scheduled) {
            live.scheduled = Some(deadline);
            self.timers.push(Reverse((deadline, key)));
        }
        self.drop_old_timers();
    }

    /// Entries of sessions that have ended, or have an earlier one, would stay until their time.
    fn drop_old_timers(&mut self) {
        if self.timers.len() > STALE_LEAST + 2 * self.sessions.len() {
            let mut timers = std::mem::take(&mut self.timers).into_vec();
            let is_meant =
                |at: Time, key: &SessionKey| self.sessions.get(key).is_some_and(|live| live.scheduled == Some(at));
            timers.retain(|Reverse((at, key))| is_meant(*at, key));
            self.timers = timers.into();
        }
    }

    /// Entries of sessions that are forgotten would stay until no slot is free.
    fn drop_old_lingering(&mut self) {
        if self.lingering.len() > STALE_LEAST + 2 * self.sessions.len() {
            self.lingering.retain(|(_, key)| self.sessions.contains_key(key));
        }
    }

    /// Does everything a session wants done.
    fn drain(&mut self, turn: &mut Tick<'_>, key: SessionKey) -> Result<(), StoreError> {
        turn.changed = true;
        while let Some(live) = self.sessions.get_mut(&key) {
            if !live.dirty {
                live.dirty = true;
                self.dirty.push(key);
            }
            let Some(output) = live.session.poll() else { break };
            match output {
                Output::Ask(request)
                    if request.rate_limited && turn.region.config.enabler.capabilities.limits_retries =>
                {
                    self.patient.push_back((key, request.number));
                }
                Output::Ask(request) => {
                    if let Some(response) = ask(turn, live, request)? {
                        respond(turn, live, response.0, &response.1);
                    }
                }
                Output::Verdict(verdict) => tell_verdict(turn, live, &verdict),
                Output::Grant(total) => {
                    if let Some(slot) = live.slot {
                        turn.effects.push(Effect::Grant(slot, total.0));
                    }
                }
                Output::StopMessage { message_id } => {
                    let message = turn.region.hash_of_message(key, &message_id);
                    turn.effects.extend(live.slot.map(|slot| Effect::StopMessage(slot, key, message)));
                }
                Output::ForgetMessage { message_id } => {
                    let message = turn.region.hash_of_message(key, &message_id);
                    turn.effects.extend(live.slot.map(|slot| Effect::ForgetMessage(slot, key, message)));
                }
                Output::CloseGate => {
                    let taken = live.slot.map_or(0, |slot| {
                        turn.effects.push(Effect::Close(slot));
                        let slot = &turn.region.table().slots[slot as usize];
                        if slot.session() == Some(key) { slot.close() } else { 0 }
                    });
                    live.session.gate_closed(taken, turn.now);
                }
                Output::Debited { message_id, part, octets, units, trigger, since, balance, .. } => {
                    turn.latencies.push((Latency::Debit, since));
                    if turn.enabler.in_tick().is_none() {
                        record_debit(turn, live, (&message_id, part), octets, units, trigger);
                    }
                    count_debit(turn, trigger);
                    tell_debit(turn, &live.session, &message_id, units.0, trigger, balance);
                }
                Output::Refunded { message_id, part, .. } => {
                    turn.count(Statistic::Refunds);
                    let (row, wall_ms) = (live.row, turn.wall_ms);
                    turn.store.put(Change::Refunded(Refund { row, message_id, part, wall_ms }));
                }
                Output::HeldBack { message_id } => {
                    let call_id = live.session.call_id();
                    log::warn!(
                        "call {call_id}: nobody knows whether the debit of message {message_id} was taken; \
                         imcharge.outbox.resend or imcharge.outbox.release decides"
                    );
                }
                Output::DebitDenied { message_id, denial } => {
                    turn.count(Statistic::DebitsDenied);
                    let (call_id, reason, code) = (live.session.call_id(), denial.as_str(), denial.code());
                    log::warn!(
                        "call {call_id}: the enabler does not take the debit of message {message_id}: {reason} {code}"
                    );
                }
                Output::RefundDenied { message_id, denial } => {
                    turn.count(Statistic::RefundsDenied);
                    let (call_id, reason) = (live.session.call_id(), denial.as_str());
                    log::error!("call {call_id}: the enabler does not give back message {message_id}: {reason}");
                }
                Output::NotDebited { message_id, octets, units, rule } => {
                    let message = live.message_record(message_id, octets, units, turn.wall_ms);
                    turn.store.put(Change::NotDebited(NotDebited { message, rule }));
                }
                Output::EnablerFailed(failure) => tell_failure(turn, &live.session, failure),
                Output::Closed { .. } => {
                    live.closed_at = NonZeroI64::new(turn.wall_ms);
                    self.open = self.open.saturating_sub(1);
                    let was_let_in = live.session.decision() == Some(Decision::Granted);
                    match (live.slot, was_let_in) {
                        (Some(slot), false) => {
                            live.slot = None;
                            turn.effects.push(Effect::Free(slot));
                        }
                        (Some(_), true) => self.lingering.push_back((turn.now, key)),
                        (None, _) => {}
                    }
                }
                Output::Forget => {
                    self.forget(turn, key)?;
                    return Ok(());
                }
            }
        }
        self.schedule(key, turn.now);
        Ok(())
    }

    fn forget(&mut self, turn: &mut Tick<'_>, key: SessionKey) -> Result<(), StoreError> {
        let Some(mut live) = self.sessions.remove(&key) else { return Ok(()) };
        write_steps(turn, &mut live);
        turn.store.put(Change::Forgotten { row: live.row });
        if let Some(slot) = live.slot {
            turn.effects.push(Effect::Free(slot));
        }
        self.drop_old_lingering();
        for connection in live.session.connections() {
            if let Some(sessions) = self.connections.get_mut(connection) {
                sessions.remove(&key);
                if sessions.is_empty() {
                    self.connections.remove(connection);
                }
            }
        }
        Ok(())
    }

    /// Does what an operator asked for.
    fn command(
        &mut self,
        turn: &mut Tick<'_>,
        process: u32,
        sequence: u64,
        command: &Command<'_>,
    ) -> Result<(), StoreError> {
        let (result, balance, held) = match command {
            Command::ShowAll => (CommandResult::Done, 0, 0),
            Command::Resolve { call_id, again } => (self.resolve(turn, call_id, *again)?, 0, 0),
            Command::SetBalance { account, balance } => {
                let found = turn.store.account(account)?.unwrap_or_default();
                set_balance(turn.store, account, found, Some(*balance))
            }
            Command::AddBalance { account, amount } => match turn.store.account(account)? {
                Some(found) => set_balance(turn.store, account, found, found.balance.checked_add(*amount)),
                None => (CommandResult::UnknownAccount, 0, 0),
            },
        };
        (turn.changed, turn.operator_waits) = (true, true);
        // Who asked an earlier run of the host is gone, and the slot of its number may be somebody else's, or none.
        let here = turn.instance == turn.region.instance();
        if here && (process as usize) < turn.region.processes() {
            turn.effects.push(Effect::Reply { process, sequence, result, balance, held });
        }
        Ok(())
    }

    /// An operator decides about what the sessions of a call hold back.
    fn resolve(&mut self, turn: &mut Tick<'_>, call_id: &str, again: bool) -> Result<CommandResult, StoreError> {
        let keys =
            self.in_order(|live| live.session.call_id() == call_id && live.session.held_back_message().is_some());
        for key in &keys {
            if let Some(live) = self.sessions.get_mut(key) {
                live.session.resolve(again, turn.now);
                self.drain(turn, *key)?;
            }
        }
        Ok(if keys.is_empty() { CommandResult::NothingHeld } else { CommandResult::Done })
    }

    /// Writes what has changed of the sessions.
    pub fn write(&mut self, turn: &mut Tick<'_>) {
        for key in std::mem::take(&mut self.dirty) {
            let Some(live) = self.sessions.get_mut(&key) else { continue };
            live.dirty = false;
            write_steps(turn, live);
            let opened = (!live.stored).then_some((live.instance, live.opened_at));
            live.stored = true;
            let (head, parts) = (live.session.head(), live.session.take_changed_parts());
            let (row, closed_at) = (live.row, live.closed_at.map(NonZeroI64::get));
            turn.store.put_session(SessionChange { row, opened, closed_at, head, parts }, &live.session);
        }
    }

    /// After the commit: shows it to workers and operators.
    pub fn publish(&mut self, region: &Region, effects: Vec<Effect>, enabler: &mut dyn Enabler) {
        let table = region.table();
        for effect in effects {
            match effect {
                Effect::Open(at, opening) => table.open(at, &opening),
                Effect::Disconnected(at, connection) => table.slots[at as usize].forget_connection(connection),
                Effect::Grant(at, total) => table.slots[at as usize].set_granted(total),
                Effect::StopMessage(at, session, message) => table.stop_message(at, session, message),
                Effect::ForgetMessage(at, session, message) => table.forget_message(at, session, message),
                Effect::Close(at) => {
                    table.slots[at as usize].close();
                }
                Effect::Free(at) => {
                    table.free(at);
                    self.free_slots.push(at);
                }
                Effect::Reply { process, sequence, result, balance, held } => {
                    let slot = region.reply_slot(process as usize);
                    slot.code.store(result as u32, Ordering::Relaxed);
                    slot.balance.store(balance, Ordering::Relaxed);
                    slot.held.store(held, Ordering::Relaxed);
                    slot.sequence.store(sequence, Ordering::Release);
                }
                Effect::Ask(request) => {
                    // It may have been answered while it waited for the sync: a late answer to its first copy.
                    let live = self.sessions.get(&request.session);
                    let live = live.filter(|live| live.session.pending_request(request.number).is_some());
                    if let Some(live) = live {
                        let session = &live.session;
                        let (call_id, other) = (session.call_id(), session.other());
                        let call = Call { call_id, other, icid: session.icid(), direction: session.direction() };
                        enabler.ask(request, &call, clock::now(), clock::wall_ms() / 1000);
                    }
                }
                Effect::Answer { request, event, state } => enabler.answer(request, &event, state),
                Effect::Count(statistic) => region.count(statistic),
            }
        }
        enabler.flush(clock::now());
        region.counter(Statistic::OutboxDepth).store(self.debits_pending, Ordering::Relaxed);
        region.counter(Statistic::SessionsActive).store(self.open, Ordering::Relaxed);
        region.counter(Statistic::HoldsStuck).store(self.outstanding.stuck(), Ordering::Relaxed);
        region.set_oldest_debit(self.outstanding.oldest_debit());
    }
}

/// What a subscriber may still be granted while no enabler answers.
fn left_of_cap(turn: &Tick<'_>, uncovered: &HashMap<Box<str>, u32>, account: &str) -> u32 {
    let had = uncovered.get(account).copied().unwrap_or(0);
    turn.region.config.policy.on_failure_cap.saturating_sub(had)
}

/// How far the clocks may drift from each other before the times of steps go by the wall clock again, microseconds.
const DRIFT: u64 = 2_000_000;

/// Puts what has happened in a session into the history.
fn write_steps(turn: &mut Tick<'_>, live: &mut SessionEntry) {
    let (first, events) = live.session.take_trace();
    if events.is_empty() {
        return;
    }
    let since = turn.now.micros_since(live.session.opened());
    let zero = turn.wall_ms.saturating_mul(1000).saturating_sub_unsigned(since);
    // The machine's own clock begins anew with the machine, and an operator may set the other one.
    let drifts = zero.abs_diff(live.opened_at.saturating_mul(1000)) > DRIFT;
    turn.store.put(Change::Trace { row: live.row, first, zero: drifts.then_some(zero), events });
}

/// Asks the enabler. Returns the answer of one that settles requests within the tick; any other is asked after the
/// commit.
fn ask(
    turn: &mut Tick<'_>,
    live: &mut SessionEntry,
    mut request: Request,
) -> Result<Option<(u32, Response)>, StoreError> {
    let number = request.number;
    // Each message is debited once.
    let is_debited = match &request.operation {
        Operation::Debit { message_id, part, .. } => turn.store.is_debited(live.row, key_of(message_id), *part)?,
        Operation::Reserve { .. } | Operation::Refund { .. } | Operation::Release => false,
    };
    match turn.enabler.in_tick() {
        Some(rules) => {
            let funds = turn.store.funds(live.row, &request)?;
            let settlement = match is_debited {
                true => rules.settle_repeated_debit(&request, &funds),
                false => rules.settle(&request, &funds),
            };
            if !is_debited {
                turn.latencies.push((Latency::Enabler, turn.now));
                record_settled_debit(turn, live, &request, &settlement);
            }
            Ok(Some((number, settle(turn, live, settlement))))
        }
        None if is_debited => Ok(Some((number, Response::debited(None)))),
        None => {
            if turn.region.config.enabler.capabilities.needs_end_to_end_id {
                // Committed with the session: resends keep the id (RFC 6733, 3).
                request.end_to_end_id = live.session.end_to_end_id(turn.region.next_end_to_end_id());
            }
            turn.effects.push(Effect::Ask(request));
            Ok(None)
        }
    }
}

/// Puts a debit that was settled within the tick into the history.
fn record_settled_debit(turn: &mut Tick<'_>, live: &SessionEntry, request: &Request, settlement: &Settlement) {
    if let (Operation::Debit { message_id, part, octets, trigger, .. }, Response::Debited { .. }) =
        (&request.operation, &settlement.response)
    {
        record_debit(turn, live, (message_id, *part), *octets, settlement.charged, *trigger);
    }
}

/// Writes the effect of a settlement on the account, and returns the answer.
fn settle(turn: &mut Tick<'_>, live: &SessionEntry, settlement: Settlement) -> Response {
    if let Some(held) = settlement.held {
        turn.store.put_held(live.row, held);
    }
    if let Some(account) = settlement.account {
        turn.store.put_account(live.session.account(), account);
    }
    settlement.response
}

/// Tells a session what the enabler said.
fn respond(turn: &mut Tick<'_>, live: &mut SessionEntry, number: u32, response: &Response) {
    if let Response::Released { .. } = response {
        turn.count(Statistic::Releases);
    }
    live.session.response(number, response, turn.now);
}

/// What tells the debits of a session apart.
fn key_of(message_id: &str) -> &str {
    if simulate::is_injected(InjectedBug::KeyWithoutMessageId) { "" } else { message_id }
}

/// Puts a debit into the history.
fn record_debit(
    turn: &mut Tick<'_>,
    live: &SessionEntry,
    (message_id, part): (&str, u32),
    octets: u64,
    units: Units,
    trigger: Trigger,
) {
    let message = live.message_record(key_of(message_id).into(), octets, units, turn.wall_ms);
    turn.store.put(Change::Debited(Debit { message, part, trigger }));
}

/// Gives an account this balance, if it is within the range.
fn set_balance(store: &mut Store, id: &str, mut account: Account, wanted: Option<i64>) -> (CommandResult, i64, i64) {
    let Some(balance) = wanted.filter(|b| (0..=config::BALANCE_MAX).contains(b)) else {
        return (CommandResult::OutOfRange, account.balance, account.held);
    };
    account.balance = balance;
    store.put_account(id, account);
    (CommandResult::Done, account.balance, account.held)
}
