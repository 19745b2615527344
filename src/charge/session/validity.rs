//! Validity of reservations and their renewal (Validity-Time, RFC 8506, 8.33).

use super::common::Context;
use super::credit::Credit;
use super::dialog::Phase;
use super::rule::Rule;
use super::takeover::ClockShift;
use super::trace::{TraceEvent, TraceEventKind};
use crate::charge::ch2::Grant;
use crate::charge::tariff::Quota;
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};

/// Least number of seconds between two renewals of a reservation.
const RENEWAL_SECONDS_MIN: u32 = 5;

/// How long a reservation is still valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Validity {
    /// When it is renewed.
    until: Time,
    /// Seconds from the answer until then.
    seconds: u32,
    /// `until` was set by [`Credit::postpone_renewals`], which happens once.
    is_postponed: bool,
}

impl Validity {
    /// Validity of a grant received `now`; `None`: without limit.
    pub(super) fn from_grant(grant: &Grant, now: Time) -> Option<Validity> {
        grant.valid_for.map(|seconds| Validity::from_seconds(seconds.max(RENEWAL_SECONDS_MIN), now))
    }

    /// Validity of a reservation whose renewal was not answered: it is retried soon.
    pub(super) fn until_retry(now: Time) -> Validity {
        Validity::from_seconds(RENEWAL_SECONDS_MIN, now)
    }

    fn from_seconds(seconds: u32, now: Time) -> Validity {
        Validity { until: now.after_seconds(seconds), seconds, is_postponed: false }
    }

    fn is_over(&self, now: Time) -> bool {
        self.until <= now
    }
}

impl Credit {
    /// Whether a renewal that was not postponed is due.
    pub(super) fn is_renewal_due(&self, now: Time) -> bool {
        self.validities().any(|validity| validity.is_over(now) && !validity.is_postponed)
    }

    /// Moves renewals that are due to `to`, to spread the load of the enabler.
    pub(super) fn postpone_renewals(&mut self, now: Time, to: Time) {
        for validity in self.validities_mut().filter(|validity| validity.is_over(now)) {
            (validity.until, validity.is_postponed) = (validity.until.max(to), true);
        }
    }

    /// When the first reservation is to be renewed.
    pub(super) fn next_renewal_at(&self) -> Option<Time> {
        self.validities().map(|validity| validity.until).min()
    }

    /// After a restart of the engine reservations stay valid as before. If the clock started anew, they are valid for
    /// at most their whole period from now on.
    pub(super) fn rebase_validities(&mut self, now: Time) {
        for validity in self.validities_mut() {
            validity.until = validity.until.min(now.after_seconds(validity.seconds));
            validity.is_postponed = false;
        }
    }

    pub(super) fn shift_validities(&mut self, shift: ClockShift) {
        shift.apply_all(self.validities_mut().map(|validity| &mut validity.until));
    }

    /// Marks reservations that are no longer valid for renewal, whether used or not.
    pub(super) fn renew_expired(&mut self, cx: &mut Context<'_>) {
        if cx.dialog.phase() != Phase::Open {
            return;
        }
        let mut expired = Quota(0);
        for reservation in self.reservations.iter_mut() {
            if reservation.validity.take_if(|validity| validity.is_over(cx.now)).is_some() {
                reservation.renewal = Some(Rule::ValidityTime);
                expired = Quota(expired.0.saturating_add(reservation.outstanding.0));
            }
        }
        if expired.0 > 0 {
            let units = cx.common.price_of(expired);
            cx.record(TraceEvent::new(TraceEventKind::Renew).worth(expired, units));
        }
    }

    fn validities(&self) -> impl Iterator<Item = &Validity> {
        self.reservations.iter().filter_map(|reservation| reservation.validity.as_ref())
    }

    fn validities_mut(&mut self) -> impl Iterator<Item = &mut Validity> {
        self.reservations.iter_mut().filter_map(|reservation| reservation.validity.as_mut())
    }
}
