//! Takeover: which nodes are dead, and their sessions, a portion at a time.
//!
//! ```text
//!   scan ─► dead nodes ─► take over ─► adopt ─► adopt ─► ... none left
//!                                        └─ the engine has drained the portion, and its states are stored
//! ```

use super::database::{AdoptedRow, TakeOverResult};
use crate::charge::ch2::SessionKey;
use crate::charge::time::Time;
use crate::simulate;
use std::collections::{HashSet, VecDeque};

/// Sessions of a portion.
pub const PORTION: i32 = simulate::sized(1000, 4);

/// Time between two scans, in microseconds; a random part of it is added, so that not all nodes scan at once.
const SCAN_MICROS: u64 = 4_000_000;

/// Longest random part of that time, in microseconds.
const SCAN_SPREAD_MICROS: u64 = 2_000_000;

/// Longest wait for the states of a portion, in microseconds: the engine may drop a session that it cannot read.
const PORTION_MICROS: u64 = 10_000_000;

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask which nodes are dead.
    Scan,
    /// Take over this node.
    TakeOver(String),
    /// Take the next portion of sessions of this node.
    Adopt(String),
}

/// The state of takeovers.
#[derive(Debug, Default)]
pub struct Takeover {
    next_scan: Time,
    /// Dead nodes that are to be taken over.
    dead: VecDeque<String>,
    /// Node whose sessions are taken now.
    from: Option<String>,
    /// Nodes whose sessions this one is taking over.
    own: HashSet<String>,
    /// Sessions that the engine has been given, and whose states are not stored yet.
    unconfirmed: HashSet<SessionKey>,
    /// When the last portion was given.
    portion_at: Time,
    /// Nodes taken over by this one, since the start.
    pub nodes: u64,
    /// Sessions taken over by this node, since the start.
    pub sessions: u64,
}

impl Takeover {
    /// The epoch of this node is over, and what it has taken over with it.
    pub fn fenced(&mut self) {
        (self.from, self.next_scan) = (None, Time(u64::MAX));
        self.dead.clear();
        self.own.clear();
        self.unconfirmed.clear();
    }

    /// Returns the step that is due. `has_drained`: the engine has taken all adopted sessions.
    pub fn step(&self, has_drained: bool, now: Time) -> Option<Step> {
        if let Some(from) = &self.from {
            let is_stored = self.unconfirmed.is_empty() || now.micros_since(self.portion_at) >= PORTION_MICROS;
            return (has_drained && is_stored).then(|| Step::Adopt(from.clone()));
        }
        match self.dead.front() {
            Some(dead) => Some(Step::TakeOver(dead.clone())),
            None => (self.next_scan <= now).then_some(Step::Scan),
        }
    }

    /// When [`Takeover::step`] may return another step, unless an event comes first.
    pub fn deadline(&self) -> Time {
        match self.from {
            Some(_) => Time(self.portion_at.0.saturating_add(PORTION_MICROS)),
            None => self.next_scan,
        }
    }

    /// These nodes are dead. This node is among them if sessions of its earlier epochs are left.
    pub fn found(&mut self, dead: Vec<String>, random: u64, now: Time) {
        self.abandon(random, now);
        self.dead = dead.into();
    }

    /// The first dead node was taken over, or not.
    pub fn taken_over(&mut self, result: TakeOverResult, now: Time) {
        let dead = self.dead.pop_front();
        if result == TakeOverResult::Won {
            (self.from, self.portion_at) = (dead, now);
        }
    }

    /// These sessions were adopted. Returns the node that had them and those that the engine does not have yet. A node
    /// counts when its first sessions are taken: one that has stopped in order has none.
    pub fn adopted(&mut self, rows: Vec<AdoptedRow>, now: Time) -> Option<(String, Vec<AdoptedRow>)> {
        let from = self.from.clone()?;
        let fresh: Vec<AdoptedRow> = rows.into_iter().filter(|row| self.unconfirmed.insert(row.session)).collect();
        if fresh.is_empty() {
            self.own.remove(&from);
            self.from = None;
        } else if self.own.insert(from.clone()) {
            self.nodes += 1;
            log::warn!("node '{from}' has left open sessions: this node takes them over and settles them");
        }
        self.portion_at = now;
        self.sessions = self.sessions.saturating_add(fresh.len() as u64);
        Some((from, fresh))
    }

    /// The state of this session is stored.
    pub fn confirmed(&mut self, session: SessionKey) {
        self.unconfirmed.remove(&session);
    }

    /// A step has failed, or this node has joined: the next scan finds what is left.
    pub fn abandon(&mut self, random: u64, now: Time) {
        self.dead.clear();
        self.from = None;
        let wait = SCAN_MICROS.saturating_add(random % (SCAN_SPREAD_MICROS + 1));
        self.next_scan = Time(now.0.saturating_add(wait));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn row(session: u64) -> AdoptedRow {
        let account = "sip:alice@example.org".into();
        let session = SessionKey(session, 1);
        AdoptedRow { session, account, opened_at: 0, head: Some(vec![1]), parts: Vec::new() }
    }

    fn scanned(dead: &[&str]) -> Takeover {
        let mut takeover = Takeover::default();
        takeover.found(dead.iter().map(|name| (*name).to_owned()).collect(), 0, Time(5 * SECOND));
        takeover
    }

    #[test]
    fn scans_are_spread_and_repeated() {
        let mut takeover = Takeover::default();
        takeover.abandon(SECOND, Time(0));
        assert_eq!(takeover.step(true, Time(5 * SECOND - 1)), None);
        assert_eq!(takeover.step(true, Time(5 * SECOND)), Some(Step::Scan));
        takeover.found(Vec::new(), 0, Time(5 * SECOND));
        assert_eq!((takeover.step(true, Time(8 * SECOND)), takeover.deadline()), (None, Time(9 * SECOND)));
    }

    #[test]
    fn node_that_another_one_has_taken_over_is_left_alone() {
        let mut takeover = scanned(&["b", "c"]);
        let now = Time(5 * SECOND);
        assert_eq!(takeover.step(true, now), Some(Step::TakeOver("b".into())));
        takeover.taken_over(TakeOverResult::NotNow, now);
        assert_eq!(takeover.step(true, now), Some(Step::TakeOver("c".into())));
        takeover.taken_over(TakeOverResult::Won, now);
        assert_eq!(takeover.step(true, now), Some(Step::Adopt("c".into())));
        takeover.adopted(Vec::new(), now);
        assert_eq!(takeover.nodes, 0, "it had no sessions");
    }

    #[test]
    fn next_portion_waits_until_the_engine_has_stored_the_one_before() {
        let mut takeover = scanned(&["b"]);
        let now = Time(5 * SECOND);
        takeover.taken_over(TakeOverResult::Won, now);
        let (from, fresh) = takeover.adopted(vec![row(1), row(2)], now).expect("it adopts");
        assert_eq!((from.as_str(), fresh.len(), takeover.sessions, takeover.nodes), ("b", 2, 2, 1));
        assert_eq!(takeover.step(true, now), None);
        takeover.confirmed(SessionKey(1, 1));
        assert_eq!(takeover.step(true, now), None);
        takeover.confirmed(SessionKey(2, 1));
        assert_eq!((takeover.step(false, now), takeover.step(true, now)), (None, Some(Step::Adopt("b".into()))));
        assert_eq!(takeover.adopted(Vec::new(), now), Some(("b".into(), Vec::new())));
        assert_eq!(takeover.step(true, now), None);
    }

    #[test]
    fn session_that_is_returned_again_is_given_once() {
        let mut takeover = scanned(&["b"]);
        takeover.taken_over(TakeOverResult::Won, Time(5 * SECOND));
        takeover.adopted(vec![row(1)], Time(5 * SECOND));
        let later = Time(15 * SECOND);
        assert_eq!(takeover.step(true, later), Some(Step::Adopt("b".into())));
        let (_, fresh) = takeover.adopted(vec![row(1), row(2)], later).expect("it adopts");
        assert_eq!((fresh, takeover.nodes), (vec![row(2)], 1));
    }

    #[test]
    fn fenced_node_takes_nothing_over_until_it_has_joined() {
        let mut takeover = scanned(&["b"]);
        takeover.fenced();
        assert_eq!(takeover.step(true, Time(1000 * SECOND)), None);
        takeover.abandon(0, Time(1000 * SECOND));
        assert_eq!(takeover.step(true, Time(1004 * SECOND)), Some(Step::Scan));
    }
}
