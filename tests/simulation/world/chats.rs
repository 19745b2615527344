//! Chats, large messages and messages to a store: their parties, honest and hostile, and the rules about them.

use super::checks::{price_of, was_granted_uncovered};
use super::setup::{charges_notifications, is_by_size, sending_tariff_of};
use super::{Death, FAULT_PERIOD, PROCESSES, SECOND, Step, World, print_trace};
use crate::call::{CLIENT, Content, MERGED, SERVER, Stage};
use crate::chat::{Answer, Chargeable, Chat, Chunk, Circumstances, Fate, Note, OTHER_PATH, OWN_PATH, Passed, Response};
use crate::delivery::{Charge, Place};
use imcharge::charge::ch2::SessionKey;
use imcharge::charge::service::ChargedContent;
use imcharge::shm::notification::Outcome;
use imcharge::shm::record::Command;
use imcharge::shm::statistic::Statistic;
use imcharge::simulate::machine::Crash;
use imcharge::worker::sip_input::Frame;
use imcharge::worker::{FrameDecision, Worker};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Time after the end of a chat in which frames still arrive, in microseconds.
const LATE_FRAMES_MICROS: u64 = SECOND;

/// Chunk, message and chat of a frame, and number of earlier copies.
type FrameOf = (usize, usize, u32, u32);

impl World<'_> {
    pub(super) fn random_chats(&mut self) {
        let suffix = self.name_suffix();
        for number in 0..self.random.usize(0..5) {
            let is_hostile = self.random.bool();
            let has_equal_ids = self.random.u8(0..3) == 0;
            let forks = self.random.u8(0..5) == 0;
            let notes = (0..self.random.usize(1..9)).map(|at| {
                let from = has_equal_ids.then_some(at % 2);
                self.random_note(is_hostile, forks, from)
            });
            let notes = notes.collect();
            let random = &mut self.random;
            let mut account = || random.choice(&self.balances).expect("there is one").0.clone();
            let accounts = [account(), account()];
            let own = 100 + 3 * number as u64;
            self.chats.push(Chat {
                number,
                suffix: suffix.clone(),
                is_lost: false,
                is_taken_over: false,
                accounts,
                content: if random.u8(0..4) == 0 { ChargedContent::Sent } else { ChargedContent::Both },
                recipients: if random.u8(0..4) == 0 { random.u32(2..4) } else { 0 },
                has_equal_ids,
                forks,
                notes,
                connections: [own, own + 1, own + 2],
                known: [[None; 2]; 2],
                stage: Stage::Invited,
                has_answered: [false; 2],
                verdicts: 0,
                taken_by: None,
                moved_at: 0,
                ended_at: None,
                aborted_at: [None; 2],
                is_captured: false,
                has_moved: false,
                passed: BTreeMap::new(),
                was_stopped: [false; 2],
                has_passed: [false; 2],
            });
            let at = self.random.u64(0..FAULT_PERIOD * 2 / 3);
            self.after(at, Step::Chat(number));
            if self.random.u8(0..6) == 0 {
                self.after(at + self.random_up_to(5 * SECOND), Step::ChatCopy(number));
            }
            match self.random.u8(0..8) {
                0 => self.after(at + self.random_up_to(2 * SECOND), Step::ChatFails(number, 486)),
                1 => self.after(at + self.random_up_to(10 * SECOND), Step::ChatLoses(number)),
                2 => {}
                _ => self.after(at + self.random_up_to(25 * SECOND), Step::ChatEnds(number)),
            }
            for _ in 0..if is_hostile { self.random.usize(0..3) } else { 0 } {
                self.after(at + self.random_up_to(15 * SECOND), Step::ChatForges(number));
            }
        }
    }

    fn random_note(&mut self, is_hostile: bool, forks: bool, from: Option<usize>) -> Note {
        let by_size = is_by_size(&self.config);
        let random = &mut self.random;
        let content = [Content::Text, Content::Text, Content::File, Content::Position, Content::Composing];
        let content = random.choice(content).expect("there is one");
        let may_be_long = content != Content::Composing && random.u8(0..3) == 0;
        let chunks = if may_be_long { random.u32(2..4) } else { 1 };
        let failure = random.choice([400, 413, 415, 481, 501, 506, 408]).expect("there is one");
        Note {
            from: from.unwrap_or(random.usize(0..2)),
            leg: if forks { random.usize(0..2) } else { 0 },
            content,
            chunks,
            octets: match by_size {
                true => random.choice([1, 100, 1024, 1025, 4000]).expect("there is one"),
                false => 100,
            },
            answer: match random.u8(0..10) {
                0 => Answer::None,
                1 | 2 => Answer::Code(failure),
                3 => Answer::Changed(failure),
                _ => Answer::Code(200),
            },
            is_aborted: chunks > 1 && random.u8(0..6) == 0,
            is_again: is_hostile && random.u8(0..4) == 0,
            poses: (is_hostile && random.u8(0..4) == 0).then(|| random.bool()),
        }
    }

    /// Calls a hook of a random worker. Returns its result and the fate of its records. `None`: there is no host, or it has
    /// just died.
    fn chat_hook<R>(&mut self, number: usize, work: impl FnOnce(&mut Worker, &Chat) -> R) -> Option<(R, Fate)> {
        self.region.as_ref()?;
        let process = self.random.usize(0..PROCESSES);
        let dropped = self.region().statistic(Statistic::DroppedRingFull);
        let (worker, chat) = (&mut self.workers[process], &self.chats[number]);
        match catch_unwind(AssertUnwindSafe(|| work(worker, chat))) {
            Ok(result) if self.region().statistic(Statistic::DroppedRingFull) == dropped => {
                self.chats[number].moved_at = self.machine.clock.get();
                let region = self.region();
                Some((result, Fate::At((region.instance(), process, region.event_ring(process).head()))))
            }
            Ok(result) => Some((result, Fate::Lost)),
            Err(panic) if panic.is::<Crash>() => {
                // If a worker dies, the whole host does.
                self.die(if self.next_death == Death::Engine { Death::Host } else { self.next_death });
                None
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    pub(super) fn chat(&mut self, number: usize) {
        if self.chats[number].stage != Stage::Invited {
            return;
        }
        let taken = self.chat_hook(number, |worker, chat| chat.invite(worker, OWN_PATH));
        let instance = self.region.as_ref().map(|region| region.instance());
        let chat = &mut self.chats[number];
        match taken {
            Some((true, _)) => chat.taken_by = instance,
            _ => chat.stage = Stage::Over,
        }
    }

    /// A copy of the INVITE arrives by another path.
    pub(super) fn chat_copy(&mut self, number: usize) {
        self.chat_hook(number, |worker, chat| chat.invite(worker, OTHER_PATH));
    }

    /// The copy ends on its own path, whatever its verdict was.
    pub(super) fn chat_copy_ends(&mut self, number: usize, code: u16) {
        self.chat_hook(number, |worker, chat| worker.failed(chat.session(), Some(chat.transaction(OTHER_PATH)), code));
    }

    pub(super) fn on_chat_verdict(&mut self, number: usize, path: u64, result: Outcome, is_merged: bool) {
        if path == OTHER_PATH {
            self.within(SECOND, Step::ChatCopyEnds(number, if is_merged { MERGED } else { 487 }));
            return;
        }
        print_trace(format_args!("{} chat {number}: verdict {result:?}", self.machine.clock.get()));
        let chat = &mut self.chats[number];
        chat.verdicts += 1;
        if chat.stage != Stage::Invited {
            return;
        }
        if result != Outcome::Granted {
            chat.stage = Stage::Over;
            return;
        }
        chat.stage = Stage::Granted;
        self.within(SECOND, Step::ChatAnswers(number, 0));
        if self.chats[number].forks {
            self.within(3 * SECOND, Step::ChatAnswers(number, 1));
        }
    }

    pub(super) fn chat_answers(&mut self, number: usize, leg: usize) {
        let stage = self.chats[number].stage;
        if !matches!((stage, leg), (Stage::Granted, 0) | (Stage::Answered, 1)) {
            return;
        }
        let Some((is_known, _)) = self.chat_hook(number, |worker, chat| chat.answer(worker, leg)) else { return };
        if !is_known && !self.chats[number].is_lost {
            return self.violations.push(format!("chat {number} was granted, but is unknown when it is answered"));
        }
        let chat = &mut self.chats[number];
        (chat.stage, chat.has_answered[leg]) = (Stage::Answered, true);
        for note in 0..self.chats[number].notes.len() {
            if self.chats[number].notes[note].leg == leg {
                let begin = self.random.u64(0..10 * SECOND);
                self.send_note(number, note, begin);
            }
        }
    }

    /// Sends a message, beginning after `begin` microseconds.
    fn send_note(&mut self, number: usize, note: usize, begin: u64) {
        let Note { chunks, is_aborted, is_again, .. } = self.chats[number].notes[note];
        let sent = if is_aborted { 1 } else { chunks };
        for chunk in 0..sent {
            // Chunks are mostly in order.
            let late = if self.random.u8(0..10) == 0 { 2 * SECOND } else { 0 };
            self.after(begin + u64::from(chunk) * 50_000 + late, Step::ChatSends(number, note, chunk, 0));
        }
        if is_aborted {
            let wait = self.random.u64(0..SECOND);
            self.after(begin + 50_000 + wait, Step::ChatSends(number, note, chunks, 0));
        }
        if is_again {
            let wait = self.random.u64(0..8 * SECOND);
            (0..chunks).for_each(|chunk| self.after(begin + wait, Step::ChatSends(number, note, chunk, 1)));
        }
    }

    pub(super) fn chat_sends(&mut self, (number, note, chunk, again): FrameOf) {
        let chat = &self.chats[number];
        let Note { from, leg, chunks, octets, content, .. } = chat.notes[note];
        let is_late = chat.ended_at.is_some_and(|at| self.machine.clock.get() < at + LATE_FRAMES_MICROS);
        if chat.stage != Stage::Answered && !is_late || !chat.has_answered[leg] {
            return;
        }
        let (line, id, is_charged) = (chat.line(from, leg), chat.message_id(note), chat.is_charged(from));
        let (connection, bytes) = (chat.connections[line], chat.send(note, chunk, again));
        let is_abort = chunk >= chunks;
        let given = self.chat_frame(number, &bytes, connection, from);
        let (now, charge) = (self.machine.clock.get(), self.charge_of(content, is_charged));
        print_trace(format_args!("{now} chat {number} note {note}.{chunk} again {again} from {from}: {given:?}"));
        let decision = given.map(|(decision, _)| decision);
        self.tally.note(decision.map_or(0, |decision| decision as i32 as u64));
        if is_charged {
            let fate = given.map_or(Fate::Lost, |(_, fate)| fate);
            let passes = decision.is_none_or(|decision| decision == FrameDecision::Pass);
            if decision == Some(FrameDecision::Pass) && charge == Charge::Due && !is_abort {
                self.check_lease(
                    self.chats[number].is_taken_over,
                    &format_args!("chat {number}: message {note}.{chunk}"),
                );
            }
            let of_id = self.chats[number].passed.entry((from, id)).or_default();
            of_id.content.get_or_insert(content);
            if passes && is_abort {
                of_id.is_aborted = true;
            } else if passes {
                of_id.chunks.push(Chunk { at: now, octets: octets.into(), is_last: chunk + 1 == chunks, charge, fate });
            }
        }
        let Some(decision) = decision else { return };
        self.check_send((number, note, chunk, again), decision);
        if decision == FrameDecision::Pass && !is_abort {
            self.react_to_note((number, note, chunk, again), connection);
        }
    }

    /// Whether content must be paid for.
    fn charge_of(&self, content: Content, is_charged: bool) -> Charge {
        let is_free = content.is_notification() && !charges_notifications(&self.config);
        if is_charged && !is_free { Charge::Due } else { Charge::Free }
    }

    /// Rules for a frame that a party sends itself.
    fn check_send(&mut self, (number, note, chunk, _): FrameOf, decision: FrameDecision) {
        let instance = self.region.as_ref().map_or(0, |region| region.instance());
        let chat = &mut self.chats[number];
        let Note { from, leg, content, chunks, .. } = chat.notes[note];
        let is_charged = chat.is_charged(from);
        let may_pass = chunk >= chunks || content.is_notification();
        let is_live = chat.stage == Stage::Answered && chat.aborted_at == [None; 2] && !chat.is_lost;
        let is_simple = is_live && !chat.is_captured && !chat.has_moved;
        let wrong = match decision {
            FrameDecision::NotCharged => Some("passes without a known session"),
            FrameDecision::NoSession if is_live => Some("is stopped for lack of a session"),
            FrameDecision::Forged if is_simple => Some("is refused as forged"),
            FrameDecision::BeyondGrant if is_simple && !is_charged => Some("is stopped, but is not charged"),
            FrameDecision::Pass if is_charged && chat.aborted_at[from].is_some() && !may_pass => {
                Some("passes after an abort by the OCS")
            }
            _ => None,
        };
        match decision {
            FrameDecision::Pass | FrameDecision::BeyondGrant if is_charged => {
                chat.known[from][leg] = Some((instance, chat.connections[chat.line(from, leg)]));
                chat.has_passed[from] |= decision == FrameDecision::Pass;
                chat.was_stopped[from] |= decision == FrameDecision::BeyondGrant;
            }
            _ => {}
        }
        let sender = format!("chat {number}: a message of party {from}");
        self.violations.extend(wrong.map(|wrong| format!("{sender} {wrong}")));
    }

    /// The receiver answers, and a hostile sender in its name.
    fn react_to_note(&mut self, of: FrameOf, connection: u64) {
        let (number, note, ..) = of;
        let Note { answer, poses, .. } = self.chats[number].notes[note];
        let max = if self.random.u8(0..8) == 0 { 20 * SECOND } else { 200_000 };
        let answers = match answer {
            Answer::Code(code) => vec![code],
            Answer::Changed(code) => vec![code, 200],
            Answer::None => Vec::new(),
        };
        let mut wait = 0;
        for code in answers {
            wait += self.random.u64(0..max);
            // Some responses are lost, some are duplicated.
            let times = [1, 1, 1, 1, 1, 1, 1, 1, 0, 2][self.random.usize(0..10)];
            (0..times).for_each(|_| self.after(wait, Step::ChatResponds(number, note, of.2, of.3, code)));
        }
        if let Some(is_new) = poses {
            let connection = if is_new { self.connections.open() } else { connection };
            let wait = self.random.u64(0..200_000);
            self.after(wait, Step::ChatPoses(number, note, of.2, of.3, connection));
        }
    }

    pub(super) fn chat_responds(&mut self, of: FrameOf, code: u16) {
        let (number, note, chunk, again) = of;
        let chat = &self.chats[number];
        let Note { from, leg, .. } = chat.notes[note];
        if chat.stage != Stage::Answered {
            return;
        }
        let connection = chat.connections[chat.line(1 - from, leg)];
        let decision = self.take_response(of, code, connection);
        let chat = &self.chats[number];
        let is_simple = !chat.is_captured && !chat.has_moved && chat.stage == Stage::Answered;
        if decision == Some(FrameDecision::Forged) && is_simple {
            let what = format!("{code} to {note}.{chunk} again {again}");
            self.violations.push(format!("chat {number}: {what} of the receiver is refused as forged"));
        }
    }

    /// The sender of a message refuses it in the name of its receiver.
    pub(super) fn chat_poses(&mut self, of: FrameOf, connection: u64) {
        let (number, note, ..) = of;
        let chat = &self.chats[number];
        let Note { from, leg, content, .. } = chat.notes[note];
        if chat.stage != Stage::Answered {
            return;
        }
        let instance = self.region.as_ref().map_or(0, |region| region.instance());
        let is_charged = self.charge_of(content, chat.is_charged(from)) == Charge::Due;
        let is_own = is_charged && chat.known[from][leg] == Some((instance, connection));
        let is_clear = is_own && !chat.is_captured && !chat.has_moved;
        match self.take_response(of, 415, connection) {
            Some(FrameDecision::Forged) => self.tally.forged += 1,
            Some(FrameDecision::Pass) if is_clear => {
                self.violations.push(format!("chat {number}: party {from} has refused its own message {note}"));
            }
            _ => {}
        }
    }

    /// Passes a response to a worker.
    fn take_response(&mut self, of: FrameOf, code: u16, connection: u64) -> Option<FrameDecision> {
        let (number, note, chunk, again) = of;
        let chat = &self.chats[number];
        let (from, id, bytes) = (chat.notes[note].from, chat.message_id(note), chat.respond(note, chunk, again, code));
        let given = self.chat_frame(number, &bytes, connection, 1 - from);
        let at = self.machine.clock.get();
        print_trace(format_args!("{at} chat {number} response {code} to {note}.{chunk} over {connection}: {given:?}"));
        let (decision, fate) = given.unwrap_or((FrameDecision::Pass, Fate::Lost));
        let chat = &mut self.chats[number];
        let of_id = chat.passed.get_mut(&(from, id)).filter(|_| decision == FrameDecision::Pass);
        if let Some(of_id) = of_id {
            of_id.responses.push(Response { at, code, fate });
        }
        given.map(|(decision, _)| decision)
    }

    /// A party sends a message in the name of the other one, over its own connection.
    pub(super) fn chat_forges(&mut self, number: usize) {
        let chat = &self.chats[number];
        let party = self.random.usize(0..2);
        let notes: Vec<usize> = (0..chat.notes.len()).filter(|note| chat.notes[*note].from == 1 - party).collect();
        let Some(note) = self.random.choice(notes) else { return };
        let Note { leg, content, octets, chunks, .. } = chat.notes[note];
        if chat.stage != Stage::Answered || !chat.has_answered[leg] || !chat.is_charged(1 - party) {
            return;
        }
        let line = |party: usize| chat.connections[chat.line(party, leg)];
        let (connection, id) = (line(party), chat.message_id(note));
        let instance = self.region.as_ref().map_or(0, |region| region.instance());
        // A party that has sent over its own connection cannot send in the name of the other one over it, nor can one in
        // the name of a party that has sent.
        let is_known = |party: usize| chat.known[party][leg] == Some((instance, line(party)));
        let must_refuse = (is_known(party) || is_known(1 - party)) && !chat.is_captured && !chat.has_moved;
        let bytes = chat.send(note, 0, 50);
        let given = self.chat_frame(number, &bytes, connection, party);
        let (decision, fate) = given.unwrap_or((FrameDecision::Pass, Fate::Lost));
        let now = self.machine.clock.get();
        print_trace(format_args!("{now} chat {number}: party {party} sends note {note} of the other: {given:?}"));
        match decision {
            FrameDecision::Forged => self.tally.forged += 1,
            FrameDecision::Pass | FrameDecision::BeyondGrant if given.is_some() && must_refuse => {
                self.violations.push(format!("chat {number}: a message of party {party} is accepted as the other's"));
            }
            _ => self.chats[number].is_captured = true,
        }
        if decision == FrameDecision::Pass {
            let charge = self.charge_of(content, true);
            let of_id = self.chats[number].passed.entry((1 - party, id)).or_default();
            of_id.content.get_or_insert(content);
            of_id.chunks.push(Chunk { at: now, octets: octets.into(), is_last: chunks == 1, charge, fate });
        }
    }

    /// Passes a frame of a party to a worker.
    fn chat_frame(
        &mut self,
        number: usize,
        bytes: &str,
        connection: u64,
        party: usize,
    ) -> Option<(FrameDecision, Fate)> {
        let connections = std::mem::take(&mut self.connections);
        let (source, from_self) = (Some(if party == 0 { CLIENT } else { SERVER }), false);
        let frame = Frame { bytes: bytes.as_bytes(), connection, source, from_self, connections: &connections };
        let given = self.chat_hook(number, |worker, _| worker.frame(&frame));
        self.connections = connections;
        given
    }

    /// A party ends all dialogs by BYE.
    pub(super) fn chat_ends(&mut self, number: usize) {
        if self.chats[number].stage != Stage::Answered {
            return;
        }
        self.chats[number].stage = Stage::Over;
        let party = self.random.usize(0..2);
        let mut is_recorded = true;
        for leg in 0..2 {
            if self.chats[number].has_answered[leg] {
                let ended = self.chat_hook(number, |worker, chat| chat.bye(worker, party, leg));
                let Some((_, fate)) = ended else { return };
                is_recorded &= matches!(fate, Fate::At(_));
            }
        }
        self.note_end(number, is_recorded);
    }

    /// The INVITE fails or is cancelled.
    pub(super) fn chat_fails(&mut self, number: usize, code: u16) {
        if !matches!(self.chats[number].stage, Stage::Invited | Stage::Granted) || self.chats[number].taken_by.is_none()
        {
            return;
        }
        self.chats[number].stage = Stage::Over;
        let is_cancelled = self.random.bool();
        let ended = self.chat_hook(number, |worker, chat| {
            let transaction = Some(chat.transaction(OWN_PATH));
            if is_cancelled {
                worker.cancelled(chat.session(), transaction);
            }
            worker.failed(chat.session(), transaction, code);
        });
        self.note_end(number, ended.is_some_and(|(_, fate)| matches!(fate, Fate::At(_))));
    }

    fn note_end(&mut self, number: usize, is_recorded: bool) {
        let now = self.machine.clock.get();
        let chat = &mut self.chats[number];
        chat.ended_at = Some(now).filter(|_| is_recorded);
    }

    /// The connection of a party is lost; the party opens another one.
    pub(super) fn chat_loses(&mut self, number: usize) {
        let line = self.random.usize(0..3);
        let connection = self.chats[number].connections[line];
        self.connections.closed.insert(connection);
        let new = self.connections.open();
        let chat = &mut self.chats[number];
        (chat.connections[line], chat.has_moved) = (new, true);
        chat.passed.values_mut().for_each(|passed| passed.has_lost = true);
        self.chat_hook(number, |worker, _| worker.connection_lost(connection));
    }

    /// An operator resends what is held back, for some of the unsettled chats.
    pub(super) fn operate_chats(&mut self, unsettled: &[SessionKey]) {
        for number in 0..self.chats.len() {
            let (call_id, moved_at) = (self.chats[number].call_id(), self.chats[number].moved_at);
            let sessions = [0, 1].map(|party| self.chats[number].session_of(party));
            if sessions.iter().any(|session| unsettled.contains(session)) && self.random.bool() {
                sessions.iter().for_each(|session| self.network.borrow_mut().allow_resend(*session));
                self.chat_hook(number, |worker, _| worker.order(Command::Resolve { call_id: &call_id, again: true }));
                self.chats[number].moved_at = moved_at;
            }
        }
    }

    /// Sessions that the OCS has ended.
    pub(super) fn abort_chats(&mut self, aborted: &[SessionKey]) {
        let now = self.machine.clock.get();
        for chat in &mut self.chats {
            let ended = [0, 1].map(|party| aborted.contains(&chat.session_of(party)));
            let all = chat.aborted_at.iter_mut().zip(ended).filter(|(_, ended)| *ended);
            all.for_each(|(at, _)| _ = at.get_or_insert(now));
        }
    }

    /// The dialogs of a host end with it.
    pub(super) fn leave_chats(&mut self) {
        for chat in self.chats.iter_mut().filter(|chat| chat.taken_by.is_some()) {
            (chat.stage, chat.ended_at) = (Stage::Over, None);
        }
    }

    /// The machine has lost its memory: records that were not read are lost.
    pub(super) fn lose_chats(&mut self, is_read: impl Fn(&Place) -> bool) {
        self.chats.iter_mut().flat_map(|chat| chat.passed.values_mut()).for_each(|passed| passed.lose(&is_read));
    }

    /// Descriptions of the chats that hold credit for too long.
    pub(super) fn overdue_chats(&self, unsettled: &[SessionKey], since: u64, now: u64) -> Vec<String> {
        let mut overdue = Vec::new();
        for chat in &self.chats {
            let moved = since.max(chat.moved_at);
            let due = moved + if chat.ended_at.is_some() { self.longest_after_end() } else { self.longest_hold() };
            for party in (0..2).filter(|party| now > due && unsettled.contains(&chat.session_of(*party))) {
                let (number, late) = (chat.number, (now - due) / SECOND);
                overdue.push(format!(
                    "chat {number}, ended {:?}: party {party} holds credit {late} s too long",
                    chat.ended_at
                ));
            }
        }
        overdue
    }

    /// What each party has sent is debited from its own account, and nothing else. One verdict for both parties.
    pub(super) fn check_chats(&mut self) -> Result<(), String> {
        let instance = self.region().instance();
        for number in 0..self.chats.len() {
            let chat = &self.chats[number];
            let lives = chat.taken_by == Some(instance);
            if chat.verdicts > 1 || (lives && chat.verdicts == 0) {
                return Err(format!("chat {number} has {} verdicts", chat.verdicts));
            }
            let ids: Vec<_> = chat.passed.keys().cloned().collect();
            for (party, id) in ids {
                self.tally.debits += self.check_note(number, party, &id)?;
            }
            let chat = &self.chats[number];
            let stopped_alone =
                |party: usize| chat.was_stopped[party] && !chat.has_passed[party] && chat.has_passed[1 - party];
            self.tally.chats += 1;
            self.tally.stopped_alone += u64::from((0..2).any(stopped_alone));
        }
        Ok(())
    }

    /// Checks the debits of one Message-ID of a party, and returns their number.
    fn check_note(&mut self, number: usize, party: usize, id: &str) -> Result<u64, String> {
        let (chat, ledger) = (&self.chats[number], self.ledger());
        let passed = &chat.passed[&(party, id.to_owned())];
        let session = chat.session_of(party).to_string();
        let count = |what: &str| -> u64 {
            let sql = format!(
                "SELECT {what} FROM debits d JOIN sessions s ON d.session=s.id \
                 WHERE s.key=?1 AND message_id=?2 AND d.account=?3"
            );
            ledger.query_row(&sql, (&session, id, &chat.accounts[party]), |row| row.get(0)).expect("a number")
        };
        let (debits, refunds) = (count("count(*)"), count("count(refunded_at)"));
        let (units, octets) = (count("coalesce(sum(d.units), 0)"), count("coalesce(sum(d.octets), 0)"));
        let refused = "SELECT count(*) FROM undebited u JOIN sessions s ON u.session=s.id \
                       WHERE s.key=?1 AND message_id=?2 AND rule='no-credit'";
        let refused: u64 = ledger.query_row(refused, (&session, id), |row| row.get(0)).expect("a number");
        let chargeable = self.chargeable_by(chat, party, passed);
        let may_be_refused =
            self.is_short || passed.is_contradicted() || was_granted_uncovered(&ledger, chat.session_of(party));
        let min = if refused > 0 && may_be_refused { 0 } else { chargeable.min };
        let is_right = (min..=chargeable.max).contains(&units) && octets <= passed.octets() && refunds == 0;
        self.tally.released += u64::from(chargeable == (Chargeable { min: 0, max: 0 }) && !passed.responses.is_empty());
        self.tally.contradicted += u64::from(chargeable.min > 0 && passed.is_contradicted());
        match is_right {
            true => Ok(debits),
            false => Err(format!(
                "chat {number}, party {party}, message {id}: {units} units for {octets} octets in {debits} debits with \
                 {refunds} refunds, but {chargeable:?}: {passed:?}"
            )),
        }
    }

    fn chargeable_by(&self, chat: &Chat, party: usize, passed: &Passed) -> Chargeable {
        let Some(content) = passed.content else { return Chargeable { min: 0, max: 0 } };
        let tariffs = chat.taken_by.and_then(|instance| self.tariffs.get(&instance)).unwrap_or(&self.config.tariffs);
        let tariff = sending_tariff_of(tariffs, content.class());
        let price = |octets: u64| price_of(tariff, octets) * u64::from(chat.recipients.max(1));
        let of_party = chat.passed.iter().filter(|((of, _), _)| *of == party);
        // An OCS that refuses credit ends the session at some time.
        let unknown_end = self.is_short.then_some(0);
        let circumstances = Circumstances {
            cases: self.config.policy.sent,
            response_timeout: u64::from(self.config.policy.response_timeout) * SECOND,
            ended_at: unknown_end.or([chat.ended_at, chat.aborted_at[party]].into_iter().flatten().min()),
            has_doubts: of_party.clone().any(|(_, passed)| passed.is_contradicted()),
        };
        passed.chargeable(price, tariff.kilobyte > 0, &circumstances)
    }
}
