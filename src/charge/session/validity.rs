//! For how long grants are good, and when they are renewed (Validity-Time, RFC 8506, 8.33).

use super::{Phase, Rule, Session, TraceEvent, TraceEventKind};
use crate::charge::ch2::Grant;
use crate::charge::tariff::Quota;
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};

/// Seconds between two renewals of a grant at least.
const RENEW_LEAST: u32 = 5;

/// How long a grant is still good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Validity {
    /// When the grant is renewed.
    until: Time,
    /// Seconds from the answer until then.
    seconds: u32,
    /// Whether `until` was set by [`Session::postpone_renewals`], which happens once.
    is_postponed: bool,
}

impl Validity {
    /// Validity of a grant that was received `now`; `None`: without a limit.
    pub(super) fn of(grant: &Grant, now: Time) -> Option<Validity> {
        grant.valid_for.map(|seconds| Validity::seconds(seconds.max(RENEW_LEAST), now))
    }

    /// Validity of a grant whose renewal was not answered: it is tried again soon.
    pub(super) fn until_next_try(now: Time) -> Validity {
        Validity::seconds(RENEW_LEAST, now)
    }

    fn seconds(seconds: u32, now: Time) -> Validity {
        Validity { until: now.after_seconds(seconds), seconds, is_postponed: false }
    }

    fn is_over(&self, now: Time) -> bool {
        self.until <= now
    }
}

impl Session {
    /// Whether a grant is to be renewed now and was not postponed.
    pub fn is_renewal_due(&self, now: Time) -> bool {
        let mut all = self.validities();
        matches!(self.phase, Phase::Open) && all.any(|validity| validity.is_over(now) && !validity.is_postponed)
    }

    /// Moves renewals that are due to a time that may be later: the enabler has others to serve as well.
    pub fn postpone_renewals(&mut self, now: Time, to: Time) {
        for validity in self.validities_mut().filter(|validity| validity.is_over(now)) {
            (validity.until, validity.is_postponed) = (validity.until.max(to), true);
        }
    }

    /// When the first grant is renewed.
    pub(super) fn next_renewal_at(&self) -> Option<Time> {
        self.validities().map(|validity| validity.until).min()
    }

    /// After a restart of the engine: grants stay good for as long as they were. If the clock began again at 0, they are
    /// good for no longer than from now on.
    pub(super) fn rebase_validities(&mut self, now: Time) {
        for validity in self.validities_mut() {
            validity.until = validity.until.min(now.after_seconds(validity.seconds));
            validity.is_postponed = false;
        }
    }

    /// Wants grants renewed that are not good any longer, used or not.
    pub(super) fn renew_when_old(&mut self, now: Time) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        let mut old = Quota(0);
        if self.validity.take_if(|validity| validity.is_over(now)).is_some() {
            self.ahead.renewal = Some(Rule::ValidityTime);
            old = self.outstanding;
        }
        for further in &mut self.ahead.further {
            if further.validity.take_if(|validity| validity.is_over(now)).is_some() {
                further.renewal = Some(Rule::ValidityTime);
                old = Quota(old.0.saturating_add(further.outstanding.0));
            }
        }
        if old.0 > 0 {
            self.step(now, TraceEvent::new(TraceEventKind::Renew).worth(old, self.price_of(old)));
        }
    }

    fn validities(&self) -> impl Iterator<Item = &Validity> {
        let further = self.ahead.further.iter().map(|further| &further.validity);
        further.chain([&self.validity]).flatten()
    }

    fn validities_mut(&mut self) -> impl Iterator<Item = &mut Validity> {
        let further = self.ahead.further.iter_mut().map(|further| &mut further.validity);
        further.chain([&mut self.validity]).flatten()
    }
}
