//! The reservations that the enabler holds for a session.

use super::rule::Rule;
use super::validity::Validity;
use crate::charge::tariff::Quota;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thin_vec::ThinVec;

/// An open reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OpenReservation {
    /// Number of the request that opened it.
    pub(super) opened_by: u32,
    /// Reserved and not yet debited.
    pub(super) outstanding: Quota,
    /// The enabler's text that says which server holds it.
    pub(super) server_binding: Option<Arc<str>>,
    /// How long it is valid; `None`: without limit.
    pub(super) validity: Option<Validity>,
    /// It is to be renewed, and why.
    pub(super) renewal: Option<Rule>,
    /// Requests sent for it so far.
    pub(super) requests: u32,
}

/// A reservation that the enabler may hold and the session does not use; it is to be released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AbandonedReservation {
    pub(super) opened_by: u32,
    pub(super) server_binding: Option<Arc<str>>,
    pub(super) rule: Rule,
}

/// Open reservations in the order in which they were opened. Requests concern the first one; see `ahead` for the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reservations(ThinVec<OpenReservation>);

impl Reservations {
    pub(super) fn first(&self) -> Option<&OpenReservation> {
        self.0.first()
    }

    pub(super) fn first_mut(&mut self) -> Option<&mut OpenReservation> {
        self.0.first_mut()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &OpenReservation> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut OpenReservation> {
        self.0.iter_mut()
    }

    /// The reservation that the request of this number opened.
    pub(super) fn get_mut(&mut self, opened_by: u32) -> Option<&mut OpenReservation> {
        self.iter_mut().find(|reservation| reservation.opened_by == opened_by)
    }

    pub(super) fn contains(&self, opened_by: u32) -> bool {
        self.iter().any(|reservation| reservation.opened_by == opened_by)
    }

    /// Reserved by the first one and not yet debited; 0 without one.
    pub(super) fn outstanding(&self) -> Quota {
        self.first().map_or(Quota(0), |first| first.outstanding)
    }

    /// Reserved by all of them and not yet debited.
    pub(super) fn total_outstanding(&self) -> Quota {
        Quota(self.iter().map(|reservation| reservation.outstanding.0).fold(0, u32::saturating_add))
    }

    pub(super) fn add(&mut self, reservation: OpenReservation) {
        self.0.reserve_exact(1);
        self.0.push(reservation);
    }

    /// Removes the first one, of which the enabler holds nothing any more.
    pub(super) fn end_first(&mut self) {
        if !self.0.is_empty() {
            self.0.remove(0);
        }
    }

    /// Makes another reservation that satisfies the predicate the first one, while no request is pending. Returns
    /// whether there is one.
    pub(super) fn bring_to_front(&mut self, is_wanted: impl Fn(&OpenReservation) -> bool) -> bool {
        let place = self.iter().skip(1).position(is_wanted);
        if let Some(place) = place {
            self.0.swap(0, place + 1);
        }
        place.is_some()
    }

    /// Takes what a debit used beyond the first reservation from the others.
    pub(super) fn take_from_others(&mut self, mut excess: u32) {
        for reservation in self.iter_mut().skip(1) {
            let taken = excess.min(reservation.outstanding.0);
            reservation.outstanding = Quota(reservation.outstanding.0 - taken);
            excess -= taken;
        }
    }
}

#[cfg(test)]
impl Reservations {
    /// Octets on the heap.
    pub(super) fn heap_octets(&self) -> usize {
        self.0.capacity() * size_of::<OpenReservation>()
    }
}
