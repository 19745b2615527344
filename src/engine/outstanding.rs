//! Unsettled work, for monitoring: the age of the oldest unacknowledged debit, and ended sessions that still hold credit.
//! Updated whenever a session changes, so that no scan of all sessions is needed.

use crate::charge::ch2::SessionKey;
use crate::charge::session::Session;
use crate::charge::time::Time;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Seconds after which an ended session that still holds credit counts as stuck.
const STUCK_AFTER_SECONDS: u32 = 60;

/// Sessions by the time since when they wait.
#[derive(Default)]
struct Queue {
    since: HashMap<SessionKey, Time>,
    order: BTreeSet<(Time, SessionKey)>,
}

impl Queue {
    /// Sets since when a session waits; `None`: it does not.
    fn set(&mut self, key: SessionKey, since: Option<Time>) {
        // The usual case with the embedded ledger, which answers at once.
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

/// Tracks unsettled work.
#[derive(Default)]
pub struct Outstanding {
    debits: Queue,
    /// Ended and unsettled sessions, since this was noticed, for at most [`STUCK_AFTER_SECONDS`].
    ended: Queue,
    /// Ended sessions that have been unsettled for longer.
    stuck: HashSet<SessionKey>,
}

impl Outstanding {
    /// Adds a loaded session. If it ended before the restart, its last activity counts.
    pub fn add_loaded(&mut self, session: &Session, now: Time) {
        if session.is_unsettled() {
            self.ended.set(session.key(), Some(session.last_activity().min(now)));
        }
    }

    /// Updates a session that has changed.
    pub fn update(&mut self, session: &Session, now: Time) {
        let key = session.key();
        self.debits.set(key, session.oldest_debit());
        if !session.is_unsettled() {
            self.ended.set(key, None);
            if !self.stuck.is_empty() {
                self.stuck.remove(&key);
            }
        } else if !self.stuck.contains(&key) && !self.ended.since.contains_key(&key) {
            self.ended.set(key, Some(now));
        }
    }

    /// Marks sessions as stuck that have been ended for too long.
    pub fn timers(&mut self, now: Time) {
        while let Some((_, key)) = self.ended.first().filter(|first| first.0.after_seconds(STUCK_AFTER_SECONDS) <= now)
        {
            self.ended.set(key, None);
            self.stuck.insert(key);
        }
    }

    /// When the oldest unacknowledged debit was triggered.
    pub fn oldest_debit(&self) -> Option<Time> {
        self.debits.first().map(|(since, _)| since)
    }

    /// Number of stuck sessions.
    pub fn stuck(&self) -> u64 {
        self.stuck.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charge::ch2::{Failure, Operation, Response};
    use crate::charge::content::ContentClass;
    use crate::charge::event::{Direction, Event, FailureReport, Flag, OfferedFiles, Reserve, Sent, Suspended};
    use crate::charge::policy::Policy;
    use crate::charge::service::Service;
    use crate::charge::session::Output;
    use crate::charge::tariff::Quota;

    fn s(seconds: u64) -> Time {
        Time(1_000_000_000 + seconds * 1_000_000)
    }

    /// Opens a session at second 0.
    fn open(number: u64) -> Session {
        let reserve = Reserve {
            call_id: "call",
            account: "sip:alice@example.org",
            other: "",
            icid: "",
            direction: Direction::Pull,
            service: Service::Retrieval,
            recipients: 0,
            called: None,
            tariff: "",
            files: OfferedFiles::default(),
            messages: 2,
            page: None,
            suspended: Suspended::default(),
            inviting_tag: 0,
        };
        let tariff = "message:1".parse().expect("a tariff");
        let mut session = Session::open(SessionKey(number, 1), &reserve, tariff, Policy::default(), 0, s(0));
        answer(&mut session, &Response::granted(Quota(2), None), s(0));
        session
    }

    /// Polls all outputs, answers the request among them, and returns its operation.
    fn answer(session: &mut Session, response: &Response, now: Time) -> Option<Operation> {
        let mut asked = None;
        while let Some(output) = session.poll() {
            if let Output::Ask(request) = output {
                asked = Some(request);
            }
        }
        let request = asked?;
        session.on_response(request.number, response, now);
        while session.poll().is_some() {}
        Some(request.operation)
    }

    /// Sends a message and its response at second `at`, which requests a debit.
    fn deliver(session: &mut Session, transaction: u64, at: u64) {
        let id = format!("m{transaction}");
        let sent = Sent {
            message_id: &id,
            transaction,
            start: 1,
            octets: 10,
            file_octets: 0,
            total: None,
            flag: Flag::Last,
            failure_report: FailureReport::Yes,
            success_report: false,
            taken: 1,
            class: ContentClass::Text,
            free_octets: 0,
            connection: 0,
        };
        session.on_event(&Event::Sent(sent), s(at));
        session.on_event(&Event::Responded { transaction, code: 200, connection: 0 }, s(at));
    }

    const SILENT: Response = Response::Failed(Failure::Silent);

    #[test]
    fn oldest_debit_counts_from_its_trigger() {
        let (mut outstanding, mut one, mut two) = (Outstanding::default(), open(1), open(2));
        assert_eq!(outstanding.oldest_debit(), None);
        deliver(&mut one, 1, 5);
        deliver(&mut one, 2, 6);
        deliver(&mut two, 1, 7);
        outstanding.update(&one, s(7));
        outstanding.update(&two, s(7));
        assert_eq!(outstanding.oldest_debit(), Some(s(5)));
        // A resend does not change its age.
        answer(&mut one, &SILENT, s(20));
        one.on_timer(s(30));
        outstanding.update(&one, s(30));
        assert_eq!(outstanding.oldest_debit(), Some(s(5)));
        // Once acknowledged, the next one counts from its own response.
        answer(&mut one, &Response::debited(None), s(31));
        outstanding.update(&one, s(31));
        assert_eq!(outstanding.oldest_debit(), Some(s(6)));
        answer(&mut one, &Response::debited(None), s(31));
        one.on_timer(s(32));
        answer(&mut two, &Response::debited(None), s(32));
        outstanding.update(&two, s(32));
        assert_eq!(outstanding.oldest_debit(), one.oldest_debit());
    }

    #[test]
    fn ended_session_is_stuck_after_a_minute_until_it_is_settled() {
        let (mut outstanding, mut session) = (Outstanding::default(), open(1));
        outstanding.update(&session, s(0));
        outstanding.timers(s(10_000));
        assert_eq!(outstanding.stuck(), 0, "an open session is not stuck");
        session.on_event(&Event::Bye { leg: 1 }, s(100));
        session.on_gate_closed(0, s(100));
        assert_eq!(answer(&mut session, &SILENT, s(102)), Some(Operation::Release));
        outstanding.update(&session, s(102));
        outstanding.timers(s(161));
        assert_eq!(outstanding.stuck(), 0);
        outstanding.timers(s(162));
        assert_eq!(outstanding.stuck(), 1);
        session.on_timer(s(163));
        outstanding.update(&session, s(163));
        assert_eq!(outstanding.stuck(), 1, "a resend does not settle it");
        answer(&mut session, &Response::Released { balance: None }, s(164));
        outstanding.update(&session, s(164));
        assert_eq!(outstanding.stuck(), 0);
        assert!(outstanding.ended.order.is_empty() && outstanding.ended.since.is_empty());
    }

    #[test]
    fn session_that_ended_before_a_restart_keeps_its_age() {
        let mut session = open(1);
        let mut outstanding = Outstanding::default();
        outstanding.add_loaded(&session, s(50));
        session.on_event(&Event::Bye { leg: 1 }, s(100));
        session.on_gate_closed(0, s(100));
        assert_eq!(answer(&mut session, &SILENT, s(102)), Some(Operation::Release));
        for (restarted, stuck) in [(110, 0), (1000, 1)] {
            let mut outstanding = Outstanding::default();
            outstanding.add_loaded(&session, s(restarted));
            outstanding.update(&session, s(restarted));
            outstanding.timers(s(restarted));
            assert_eq!(outstanding.stuck(), stuck, "restarted at second {restarted}");
        }
        outstanding.timers(s(10_000));
        assert_eq!(outstanding.stuck(), 0, "it was open");
    }
}
