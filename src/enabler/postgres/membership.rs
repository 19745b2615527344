//! Membership of this node: its epoch, the numbers of its ticks, and its lease.
//!
//! The lease counts from before the answered query was sent, on a clock that runs while the machine sleeps, and ends
//! early by [`MARGIN_PERCENT`]: it is over here before the database says so, without synchronised clocks.

use super::database::Joined;
use crate::charge::time::Time;

/// Part of the lease that is not used, because two clocks do not run equally fast.
const MARGIN_PERCENT: u64 = 10;

/// Time until a refused join is repeated, in microseconds.
pub const JOIN_RETRY_MICROS: u64 = 5_000_000;

/// Longest time between two ticks, in microseconds.
const HEARTBEAT_MICROS_MAX: u64 = 5_000_000;

/// Ticks within a lease, at least.
const HEARTBEATS_PER_LEASE: u64 = 6;

/// State of the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not a member; joins at this time.
    Outside(Time),
    /// Member, with this epoch.
    Member(i64),
}

/// What a join means for the sessions of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joining {
    /// They go on.
    Kept,
    /// They are taken over or lost. `is_known`: that was reported before.
    Anew {
        /// Whether it was reported when the earlier epoch was found to be over.
        is_known: bool,
    },
    /// Nothing: it is not a member.
    Refused,
}

/// The membership.
#[derive(Debug)]
pub struct Membership {
    state: State,
    lease_micros: u64,
    last_tick: i64,
    /// End of the lease.
    until: Time,
    /// Whether the engine still has to stop the sessions that were taken over. Until then there is no lease.
    takeover: TakeoverOfThis,
    /// When the last tick was sent.
    ticked_at: Time,
    /// Whether the end of the last epoch was reported, and no other has begun.
    is_end_known: bool,
    /// Whether the last join was refused.
    is_refused: bool,
}

/// Whether the engine knows that its sessions were taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TakeoverOfThis {
    /// Nothing was taken over, or the engine has stopped the sessions.
    Handled,
    /// The event waits.
    Pending,
    /// The engine has the event, and has not committed it yet.
    Seen,
}

impl Membership {
    /// A node that joins as soon as there is a server.
    pub fn new(lease_seconds: u32) -> Membership {
        Membership {
            state: State::Outside(Time(0)),
            lease_micros: u64::from(lease_seconds) * 1_000_000,
            last_tick: 0,
            until: Time(0),
            takeover: TakeoverOfThis::Handled,
            ticked_at: Time(0),
            is_end_known: false,
            is_refused: false,
        }
    }

    /// Returns the epoch of a member.
    pub fn epoch(&self) -> Option<i64> {
        match self.state {
            State::Outside(_) => None,
            State::Member(epoch) => Some(epoch),
        }
    }

    /// Whether it must join now: not before the engine has stopped sessions that were taken over.
    pub fn must_join(&self, now: Time) -> bool {
        self.takeover == TakeoverOfThis::Handled && matches!(self.state, State::Outside(at) if at <= now)
    }

    /// Returns the number of the next tick.
    pub fn next_tick(&mut self) -> i64 {
        self.last_tick = self.last_tick.saturating_add(1);
        self.last_tick
    }

    /// A tick is sent, for the first time or again.
    pub fn sending_tick(&mut self, now: Time) {
        self.ticked_at = now;
    }

    /// When a tick is due although nothing is queued.
    pub fn heartbeat_at(&self) -> Time {
        let interval = (self.lease_micros / HEARTBEATS_PER_LEASE).min(HEARTBEAT_MICROS_MAX);
        Time(self.ticked_at.0.saturating_add(interval))
    }

    /// When [`Membership::must_join`] or a heartbeat is due.
    pub fn deadline(&self) -> Time {
        match self.state {
            State::Outside(at) => at,
            State::Member(_) => self.heartbeat_at(),
        }
    }

    /// A join that was sent at `sent` is answered.
    pub fn joined(&mut self, joined: Joined, sent: Time, now: Time) -> Joining {
        let (joining, epoch, last_tick) = match joined {
            Joined::Kept { epoch, last_tick } => (Joining::Kept, epoch, last_tick),
            // The first epoch of a name: there is nothing that could be lost.
            Joined::Anew { epoch: epoch @ 1, last_tick } => (Joining::Kept, epoch, last_tick),
            Joined::Anew { epoch, last_tick } => (Joining::Anew { is_known: self.is_end_known }, epoch, last_tick),
            Joined::InUse => {
                self.join_again(Time(now.0.saturating_add(JOIN_RETRY_MICROS)));
                return Joining::Refused;
            }
        };
        if joining == (Joining::Anew { is_known: false }) {
            self.takeover = TakeoverOfThis::Pending;
        }
        (self.state, self.last_tick) = (State::Member(epoch), last_tick);
        (self.is_end_known, self.is_refused) = (false, false);
        self.renew(sent);
        joining
    }

    /// A tick that was sent at `sent` was executed.
    pub fn renew(&mut self, sent: Time) {
        let usable = self.lease_micros / 100 * (100 - MARGIN_PERCENT);
        self.until = self.until.max(Time(sent.0.saturating_add(usable)));
    }

    /// The epoch was ended by another node: there is no lease, and this node joins again.
    pub fn fenced(&mut self) {
        self.state = State::Outside(Time(0));
        self.until = Time(0);
        self.takeover = TakeoverOfThis::Pending;
        self.is_end_known = true;
    }

    /// This node joins again at this time, and keeps its lease.
    pub fn join_again(&mut self, at: Time) {
        self.state = State::Outside(at);
    }

    /// The engine has taken the event that its sessions were taken over.
    pub fn takeover_seen(&mut self) {
        self.takeover = TakeoverOfThis::Seen;
    }

    /// The engine has committed its last tick.
    pub fn committed(&mut self) {
        if self.takeover == TakeoverOfThis::Seen {
            self.takeover = TakeoverOfThis::Handled;
        }
    }

    /// End of the lease that the engine may use.
    pub fn lease_until(&self) -> Time {
        if self.takeover == TakeoverOfThis::Handled { self.until } else { Time(0) }
    }

    /// The database has refused this node. Returns whether that is to be logged: once until it has joined.
    pub fn refused(&mut self) -> bool {
        !std::mem::replace(&mut self.is_refused, true)
    }

    /// Whether the database has refused this node, which has not joined since.
    pub fn is_refused(&self) -> bool {
        self.is_refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn member() -> Membership {
        let mut membership = Membership::new(60);
        membership.joined(Joined::Kept { epoch: 3, last_tick: 7 }, Time(10 * SECOND), Time(11 * SECOND));
        membership
    }

    #[test]
    fn lease_counts_from_before_the_query_and_ends_a_tenth_early() {
        let mut membership = member();
        assert_eq!((membership.epoch(), membership.next_tick()), (Some(3), 8));
        assert_eq!(membership.lease_until(), Time(64 * SECOND));
        membership.renew(Time(20 * SECOND));
        assert_eq!(membership.lease_until(), Time(74 * SECOND));
        membership.renew(Time(15 * SECOND));
        assert_eq!(membership.lease_until(), Time(74 * SECOND));
    }

    #[test]
    fn fenced_node_joins_when_the_engine_has_stopped_its_sessions() {
        let mut membership = member();
        membership.fenced();
        assert_eq!((membership.lease_until(), membership.epoch()), (Time(0), None));
        membership.committed();
        assert!(!membership.must_join(Time(0)));
        membership.takeover_seen();
        assert!(!membership.must_join(Time(0)));
        membership.committed();
        assert!(membership.must_join(Time(0)));
        let joined = Joined::Anew { epoch: 5, last_tick: 0 };
        let joining = membership.joined(joined, Time(30 * SECOND), Time(31 * SECOND));
        assert_eq!((joining, membership.lease_until()), (Joining::Anew { is_known: true }, Time(84 * SECOND)));
    }

    #[test]
    fn new_epoch_of_a_started_node_has_no_lease_until_the_engine_has_stopped_its_sessions() {
        let mut membership = Membership::new(60);
        let joined = Joined::Anew { epoch: 5, last_tick: 0 };
        assert_eq!(membership.joined(joined, Time(SECOND), Time(SECOND)), Joining::Anew { is_known: false });
        assert_eq!(membership.lease_until(), Time(0));
        membership.takeover_seen();
        membership.committed();
        assert_eq!(membership.lease_until(), Time(55 * SECOND));
        let mut first = Membership::new(60);
        let joined = Joined::Anew { epoch: 1, last_tick: 0 };
        assert_eq!(first.joined(joined, Time(SECOND), Time(SECOND)), Joining::Kept);
    }

    #[test]
    fn refused_join_is_logged_once_and_repeated_later() {
        let mut membership = Membership::new(60);
        assert!(membership.must_join(Time(0)));
        assert_eq!(membership.joined(Joined::InUse, Time(0), Time(SECOND)), Joining::Refused);
        assert!(membership.refused() && !membership.refused());
        assert!(!membership.must_join(Time(SECOND)) && membership.must_join(membership.deadline()));
        assert_eq!(membership.lease_until(), Time(0));
    }

    #[test]
    fn heartbeat_is_due_after_a_sixth_of_the_lease_or_five_seconds() {
        for (lease, expected) in [(12, 2), (30, 5), (600, 5)] {
            let mut membership = Membership::new(lease);
            membership.sending_tick(Time(100 * SECOND));
            assert_eq!(membership.heartbeat_at(), Time((100 + expected) * SECOND));
        }
    }
}
