//! What the enabler has not settled: how long the oldest debit waits, and sessions that are over and hold units still.
//! Kept session by session as they move, so that nobody has to look through all of them.

use crate::charge::ch2::SessionKey;
use crate::charge::session::Session;
use crate::charge::time::Time;
use std::collections::{BTreeSet, HashMap, HashSet};

/// A session that has been over for so many seconds should hold nothing any more.
const SETTLED_WITHIN: u32 = 60;

/// Sessions that wait for something, the one that waits longest first.
#[derive(Default)]
struct Queue {
    since: HashMap<SessionKey, Time>,
    order: BTreeSet<(Time, SessionKey)>,
}

impl Queue {
    /// Since when a session waits; `None`: it does not.
    fn set(&mut self, key: SessionKey, since: Option<Time>) {
        // With the embedded ledger nothing ever waits here.
        if since.is_none() && self.since.is_empty() {
            return;
        }
        let before = match since {
            Some(since) => self.since.insert(key, since),
            None => self.since.remove(&key),
        };
        if before == since {
            return;
        }
        if let Some(before) = before {
            self.order.remove(&(before, key));
        }
        self.order.extend(since.map(|since| (since, key)));
    }

    fn first(&self) -> Option<(Time, SessionKey)> {
        self.order.first().copied()
    }
}

/// See the module.
#[derive(Default)]
pub struct Outstanding {
    debits: Queue,
    /// Over and not settled, since when that was seen; not for long.
    over: Queue,
    /// Over and not settled, for longer than [`SETTLED_WITHIN`].
    stuck: HashSet<SessionKey>,
}

impl Outstanding {
    /// A session was loaded that may have been over for long: since it last moved.
    pub fn adopt(&mut self, session: &Session, now: Time) {
        if session.is_unsettled() {
            self.over.set(session.key(), Some(session.last_activity().min(now)));
        }
    }

    /// A session has moved.
    pub fn look(&mut self, session: &Session, now: Time) {
        let key = session.key();
        self.debits.set(key, session.oldest_debit());
        if !session.is_unsettled() {
            self.over.set(key, None);
            if !self.stuck.is_empty() {
                self.stuck.remove(&key);
            }
        } else if !self.stuck.contains(&key) && !self.over.since.contains_key(&key) {
            self.over.set(key, Some(now));
        }
    }

    /// Time has passed.
    pub fn timers(&mut self, now: Time) {
        while let Some((_, key)) = self.over.first().filter(|first| first.0.after_seconds(SETTLED_WITHIN) <= now) {
            self.over.set(key, None);
            self.stuck.insert(key);
        }
    }

    /// Since when the oldest debit waits.
    pub fn oldest_debit(&self) -> Option<Time> {
        self.debits.first().map(|(since, _)| since)
    }

    /// Sessions that should have been settled.
    pub fn stuck(&self) -> u64 {
        self.stuck.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charge::ch2::{Failure, Operation, Response};
    use crate::charge::event::{Direction, Event, FailureReport, Flag, Reserve, Sent, Suspended};
    use crate::charge::policy::Policy;
    use crate::charge::session::Output;
    use crate::charge::tariff::Quota;

    fn s(seconds: u64) -> Time {
        Time(1_000_000_000 + seconds * 1_000_000)
    }

    /// A session that is open since second 0, and what it asks is answered by hand.
    fn open(number: u64) -> Session {
        let reserve = Reserve {
            call_id: "call",
            account: "sip:alice@example.org",
            other: "",
            icid: "",
            direction: Direction::Pull,
            messages: 2,
            suspended: Suspended::default(),
            inviting_tag: 0,
        };
        let tariff = "message:1".parse().expect("a tariff");
        let mut session = Session::open(SessionKey(number, 1), &reserve, tariff, Policy::default(), 0, s(0));
        answer(&mut session, &Response::granted(Quota(2), None), s(0));
        session
    }

    /// Drains the session and answers the request that it makes, if it makes one.
    fn answer(session: &mut Session, response: &Response, now: Time) -> Option<Operation> {
        let mut asked = None;
        while let Some(output) = session.poll() {
            if let Output::Ask(request) = output {
                asked = Some(request);
            }
        }
        let request = asked?;
        session.response(request.number, response, now);
        while session.poll().is_some() {}
        Some(request.operation)
    }

    /// A message is sent, and answered at second `at`: its debit is asked for.
    fn take(session: &mut Session, transaction: u64, at: u64) {
        let id = format!("m{transaction}");
        let sent = Sent {
            message_id: &id,
            transaction,
            start: 1,
            octets: 10,
            total: None,
            flag: Flag::Last,
            failure_report: FailureReport::Yes,
            success_report: false,
            taken: 1,
            connection: 0,
        };
        session.event(&Event::Sent(sent), s(at));
        session.event(&Event::Responded { transaction, code: 200, connection: 0 }, s(at));
    }

    const SILENT: Response = Response::Failed(Failure::Silent);

    #[test]
    fn the_oldest_debit_counts_from_what_fired_it() {
        let (mut outstanding, mut one, mut two) = (Outstanding::default(), open(1), open(2));
        assert_eq!(outstanding.oldest_debit(), None);
        take(&mut one, 1, 5);
        take(&mut one, 2, 6);
        take(&mut two, 1, 7);
        outstanding.look(&one, s(7));
        outstanding.look(&two, s(7));
        assert_eq!(outstanding.oldest_debit(), Some(s(5)));
        // Asked again, it is as old as before.
        answer(&mut one, &SILENT, s(20));
        one.timer(s(30));
        outstanding.look(&one, s(30));
        assert_eq!(outstanding.oldest_debit(), Some(s(5)));
        // Acknowledged: the next one has waited since its own response.
        answer(&mut one, &Response::debited(None), s(31));
        outstanding.look(&one, s(31));
        assert_eq!(outstanding.oldest_debit(), Some(s(6)));
        answer(&mut one, &Response::debited(None), s(31));
        one.timer(s(32));
        answer(&mut two, &Response::debited(None), s(32));
        outstanding.look(&two, s(32));
        assert_eq!(outstanding.oldest_debit(), one.oldest_debit());
    }

    #[test]
    fn a_session_that_is_over_and_not_settled_is_stuck_after_a_minute_until_it_is() {
        let (mut outstanding, mut session) = (Outstanding::default(), open(1));
        outstanding.look(&session, s(0));
        outstanding.timers(s(10_000));
        assert_eq!(outstanding.stuck(), 0, "an open session holds what it may");
        session.event(&Event::Bye { leg: 1 }, s(100));
        session.gate_closed(0, s(100));
        assert_eq!(answer(&mut session, &SILENT, s(102)), Some(Operation::Release));
        outstanding.look(&session, s(102));
        outstanding.timers(s(161));
        assert_eq!(outstanding.stuck(), 0);
        outstanding.timers(s(162));
        assert_eq!(outstanding.stuck(), 1);
        session.timer(s(163));
        outstanding.look(&session, s(163));
        assert_eq!(outstanding.stuck(), 1, "asked again is not settled");
        answer(&mut session, &Response::Released { balance: None }, s(164));
        outstanding.look(&session, s(164));
        assert_eq!(outstanding.stuck(), 0);
        assert!(outstanding.over.order.is_empty() && outstanding.over.since.is_empty());
    }

    #[test]
    fn a_session_that_was_over_before_a_restart_is_as_old_as_it_was() {
        let mut session = open(1);
        let mut outstanding = Outstanding::default();
        outstanding.adopt(&session, s(50));
        session.event(&Event::Bye { leg: 1 }, s(100));
        session.gate_closed(0, s(100));
        assert_eq!(answer(&mut session, &SILENT, s(102)), Some(Operation::Release));
        for (restarted, stuck) in [(110, 0), (1000, 1)] {
            let mut outstanding = Outstanding::default();
            outstanding.adopt(&session, s(restarted));
            outstanding.look(&session, s(restarted));
            outstanding.timers(s(restarted));
            assert_eq!(outstanding.stuck(), stuck, "restarted at second {restarted}");
        }
        outstanding.timers(s(10_000));
        assert_eq!(outstanding.stuck(), 0, "it was open then");
    }
}
