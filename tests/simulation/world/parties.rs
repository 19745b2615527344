//! The parties: they invite, answer, send, respond and hang up, each by the hooks of some worker.

use super::{SECOND, What, World, say};
use crate::call::{ITS_WAY, OTHER_WAY, Reaction, Stage};
use imcharge::charge::tariff::Per;
use imcharge::engine::facts::Frame;
use imcharge::engine::worker::Passage;

/// For so long frames may come behind a BYE.
const BEHIND_BYE: u64 = SECOND;

impl World<'_> {
    pub(super) fn invite(&mut self, number: usize) {
        if self.calls[number].stage != Stage::Invited {
            return;
        }
        let taken = self.hook(number, |worker, call| call.invite(worker, ITS_WAY).then(|| worker.region().instance()));
        let taken = taken.and_then(|(_, taken)| taken);
        let call = &mut self.calls[number];
        call.taken_by = taken;
        if taken.is_none() {
            call.stage = Stage::Over;
        } else if self.random.u8(0..6) == 0 {
            self.soon(5 * SECOND, What::Merge(number));
        }
    }

    /// The INVITE comes by another way as well.
    pub(super) fn merge(&mut self, number: usize) {
        self.hook(number, |worker, call| call.invite(worker, OTHER_WAY));
    }

    /// What came by the other way ends there, whatever it was told.
    pub(super) fn end_other(&mut self, number: usize, code: u16) {
        self.hook(number, |worker, call| worker.failed(call.session(), Some(call.by_way(OTHER_WAY)), code));
    }

    pub(super) fn answer(&mut self, number: usize) {
        if self.calls[number].stage != Stage::Granted {
            return;
        }
        self.calls[number].stage = Stage::Answered;
        let Some((_, known)) = self.hook(number, |worker, call| call.answer(worker)) else { return };
        if !known {
            // What the server sends now would pass unseen.
            return self.wrong.push(format!("call {number} was let in, and nobody knows it when it is answered"));
        }
        if self.random.u8(0..6) == 0 {
            self.soon(2 * SECOND, What::AnswerAgain(number));
        }
        for message in 0..self.calls[number].messages.len() {
            let begin = self.random.u64(0..10 * SECOND);
            for chunk in 0..self.calls[number].messages[message].chunks {
                // Chunks come in order, mostly.
                let late = if self.random.u8(0..10) == 0 { 2 * SECOND } else { 0 };
                self.after(begin + u64::from(chunk) * 50_000 + late, What::Send(number, message, chunk, 0));
            }
        }
    }

    /// Whoever answers has not seen the ACK.
    pub(super) fn answer_again(&mut self, number: usize) {
        if self.calls[number].stage == Stage::Answered {
            self.hook(number, |worker, call| call.answer(worker));
        }
    }

    pub(super) fn send(&mut self, number: usize, message: usize, chunk: u32, again: u32) {
        let call = &self.calls[number];
        let is_behind = call.ended_at.is_some_and(|at| self.machine.clock.get() < at + BEHIND_BYE);
        if call.stage != Stage::Answered && !is_behind {
            return;
        }
        let has_passed = match self.config.tariff.per {
            Per::Message => call.passed.contains_key(&message),
            Per::Kilobyte => call.chunks.contains(&(message, chunk)),
        };
        // Where octets are paid for, the server leaves no hole: it sends on when what is before has passed.
        let is_early = !(0..chunk).all(|before| call.chunks.contains(&(message, before)));
        if is_early && self.config.tariff.per == Per::Kilobyte {
            if again < 3 {
                self.after(1_500_000, What::Send(number, message, chunk, again + 1));
            }
            return;
        }
        let bytes = call.send(message, chunk, again);
        let is_content = !bytes.trim_end().ends_with('#');
        let sent = self.hook(number, |worker, call| {
            let frame = Frame::of_connection(bytes.as_bytes(), call.connections[0]);
            worker.frame(&frame)
        });
        let Some((process, passage)) = sent else {
            self.calls[number].unsure.insert(message);
            return;
        };
        let place = (self.region().instance(), process, self.region().event_ring(process).head());
        self.tally.note(passage as i32 as u64);
        say(format_args!(
            "{} send call {number} message {message}.{chunk} again {again}: {passage:?}",
            self.machine.clock.get()
        ));
        match passage {
            Passage::NotCharged => {
                self.wrong.push(format!("call {number} message {message} passes a session that nobody knows"));
            }
            Passage::Pass if is_content => {
                if self.calls[number].is_aborted && !has_passed {
                    self.wrong.push(format!("call {number} message {message} passes, and the service is ended"));
                }
                self.calls[number].passed.entry(message).or_default().insert(place);
                self.calls[number].chunks.insert((message, chunk));
                self.react(number, message, chunk, again);
                // The server has not seen the response, or lost its connection.
                if again < 3 && self.random.u8(0..12) == 0 {
                    self.soon(3 * SECOND, What::Send(number, message, chunk, again + 1));
                }
            }
            // It is sent again a little later, as after a refusal that may pass.
            Passage::BeyondGrant | Passage::Full if again < 2 => {
                self.after(1_500_000, What::Send(number, message, chunk, again + 1));
            }
            _ => {}
        }
    }

    fn react(&mut self, number: usize, message: usize, chunk: u32, again: u32) {
        if let Reaction::Answer(_) = self.calls[number].messages[message].reaction {
            let most = if self.random.u8(0..8) == 0 { 20 * SECOND } else { 200_000 };
            // Some answers are lost, some come twice.
            let times = [1, 1, 1, 1, 1, 1, 1, 1, 0, 2][self.random.usize(0..10)];
            (0..times).for_each(|_| self.soon(most, What::Respond(number, message, chunk, again)));
            if self.random.u8(0..12) == 0 {
                let times = self.random.u8(1..3);
                (0..times).for_each(|_| self.soon(10 * SECOND, What::Report(number, message)));
            }
        }
    }

    pub(super) fn respond(&mut self, number: usize, message: usize, chunk: u32, again: u32) {
        let call = &self.calls[number];
        let (Stage::Answered, Reaction::Answer(code)) = (call.stage, call.messages[message].reaction) else { return };
        self.hear_of_client(number, &call.respond(message, chunk, again, code));
    }

    pub(super) fn report(&mut self, number: usize, message: usize) {
        if self.calls[number].stage != Stage::Answered {
            return;
        }
        self.calls[number].reported.insert(message);
        self.hear_of_client(number, &self.calls[number].report(message));
    }

    fn hear_of_client(&mut self, number: usize, bytes: &str) {
        self.hook(number, |worker, call| worker.frame(&Frame::of_connection(bytes.as_bytes(), call.connections[1])));
    }

    pub(super) fn bye(&mut self, number: usize) {
        if self.calls[number].stage != Stage::Answered {
            return;
        }
        self.calls[number].stage = Stage::Over;
        // It may be sent again.
        for _ in 0..self.random.u8(1..3) {
            if self.hook(number, |worker, call| call.bye(worker)).is_none() {
                return;
            }
            self.has_ended(number);
        }
    }

    pub(super) fn cancel(&mut self, number: usize) {
        if matches!(self.calls[number].stage, Stage::Invited | Stage::Granted) {
            self.calls[number].stage = Stage::Over;
            if self.hook(number, |worker, call| worker.cancelled(call.session(), Some(call.by_way(ITS_WAY)))).is_some()
            {
                self.has_ended(number);
            }
        }
    }

    pub(super) fn refuse(&mut self, number: usize) {
        if self.calls[number].stage == Stage::Granted {
            self.calls[number].stage = Stage::Over;
            if self
                .hook(number, |worker, call| worker.failed(call.session(), Some(call.by_way(ITS_WAY)), 486))
                .is_some()
            {
                self.has_ended(number);
            }
        }
    }

    /// What the charging system has ended, and the proxy has said so: nothing new passes from now on, and all is settled
    /// as after a BYE.
    pub(super) fn hear_of_aborts(&mut self) {
        let aborted = std::mem::take(&mut self.elsewhere.borrow_mut().inquiries.aborted);
        let now = self.machine.clock.get();
        for call in self.calls.iter_mut().filter(|call| aborted.contains(&call.session())) {
            call.is_aborted = true;
            if call.stage != Stage::Over {
                call.moved_at = now;
                call.ended_at.get_or_insert(now);
            }
        }
    }

    pub(super) fn lose(&mut self, number: usize) {
        let side = self.random.usize(0..2);
        let connection = self.calls[number].connections[side];
        self.hook(number, |worker, _| worker.connection_lost(connection));
        // Those that share it have moved as well.
        let now = self.machine.clock.get();
        for call in self.calls.iter_mut().filter(|call| call.connections[side] == connection) {
            call.moved_at = now;
        }
    }
}
