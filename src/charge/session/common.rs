//! What the machines of a session share: the terms fixed by its INVITE, and the trace, counts and outputs they write.

use super::dialog::Dialog;
use super::messages::Debit;
use super::output::Output;
use super::page::Page;
use super::trace::{Trace, TraceEvent, TraceEventKind};
use crate::charge::ch2::SessionKey;
use crate::charge::event::{Direction, Reserve, Suspended};
use crate::charge::policy::Policy;
use crate::charge::service::Service;
use crate::charge::tariff::{PriceList, Quota, Units};
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

/// Call-ID, account, other party and icid of a session: one text, cut where each part but the last ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Parties {
    text: Box<str>,
    ends: [u16; 3],
}

impl Parties {
    fn new(reserve: &Reserve<'_>) -> Parties {
        let mut text = String::new();
        let ends = [reserve.call_id, reserve.account, reserve.other].map(|part| {
            text.push_str(part);
            u16::try_from(text.len()).unwrap_or(u16::MAX)
        });
        text.push_str(reserve.icid);
        Parties { text: text.into(), ends }
    }

    fn part(&self, start: u16, end: u16) -> &str {
        self.text.get(start.into()..self.text.len().min(end.into())).unwrap_or_default()
    }
}

/// Totals of the messages of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Debits that the enabler has acknowledged.
    pub debited: u32,
    /// Sum of these debits, in units of the account.
    pub units: Units,
    /// Debits that the enabler has refunded.
    pub refunded: u32,
    /// Messages with content that were not charged.
    pub not_debited: u32,
}

/// Terms of a session, and what all of its machines write to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Common {
    pub(super) key: SessionKey,
    parties: Parties,
    pub(super) suspended: Suspended,
    pub(super) inviting_tag: u64,
    pub(super) direction: Direction,
    pub(super) service: Service,
    /// Number of recipients of each message; 0: unknown, counts as one.
    pub(super) recipients: u32,
    /// The message of a page-mode session; `None`: an INVITE. Boxed, so that an INVITE costs little more.
    pub(super) page: Option<Box<Page>>,
    pub(super) prices: PriceList,
    /// The INVITE has opened another session, for the other party.
    pub(super) is_paired: bool,
    /// The operator's policy; the enabler may replace what concerns failures.
    pub(super) policy: Policy,
    pub(super) opened: Time,
    pub(super) counts: Counts,
    /// Another node has taken the session over.
    pub(super) is_taken_over: bool,
    pub(super) trace: Trace,
    #[serde(skip)]
    pub(super) outputs: ThinVec<Output>,
}

impl Common {
    pub(super) fn new(
        key: SessionKey,
        reserve: &Reserve<'_>,
        page: Option<Page>,
        prices: PriceList,
        policy: Policy,
        now: Time,
    ) -> Common {
        Common {
            key,
            parties: Parties::new(reserve),
            suspended: reserve.suspended,
            inviting_tag: reserve.inviting_tag,
            direction: reserve.direction,
            service: reserve.service,
            recipients: reserve.recipients,
            page: page.map(Box::new),
            prices,
            is_paired: reserve.called.is_some(),
            policy,
            opened: now,
            counts: Counts::default(),
            is_taken_over: false,
            trace: Trace::default(),
            outputs: ThinVec::new(),
        }
    }

    pub(super) fn call_id(&self) -> &str {
        self.parties.part(0, self.parties.ends[0])
    }

    pub(super) fn account(&self) -> &str {
        self.parties.part(self.parties.ends[0], self.parties.ends[1])
    }

    pub(super) fn other(&self) -> &str {
        self.parties.part(self.parties.ends[1], self.parties.ends[2])
    }

    pub(super) fn icid(&self) -> &str {
        self.parties.part(self.parties.ends[2], u16::MAX)
    }

    /// Adds an event to the trace.
    pub(super) fn record(&mut self, at: Time, event: TraceEvent) {
        self.trace.add(at.micros_since(self.opened), event);
    }

    /// Queues an output for the engine.
    pub(super) fn push(&mut self, output: Output) {
        self.outputs.push(output);
    }

    /// Price of a quota, in units of the account.
    pub(super) fn price_of(&self, quota: Quota) -> Units {
        self.prices.price_of(quota)
    }

    /// A trace event about a debit, with its message, size and price.
    pub(super) fn event_about(&self, kind: TraceEventKind, debit: &Debit) -> TraceEvent {
        let event = TraceEvent::new(kind).about(&debit.message_id).octets(debit.octets);
        event.worth(debit.quota, self.price_of(debit.quota))
    }
}

#[cfg(test)]
impl Common {
    /// Octets of the texts on the heap.
    pub(super) fn text_octets(&self) -> usize {
        self.parties.text.len()
    }
}

/// What a machine uses besides its own state.
pub(super) struct Context<'a> {
    pub(super) common: &'a mut Common,
    pub(super) dialog: &'a mut Dialog,
    /// Time of the event that is handled; it may be earlier than that of the event before.
    pub(super) now: Time,
}

impl Context<'_> {
    /// Adds an event to the trace.
    pub(super) fn record(&mut self, event: TraceEvent) {
        self.common.record(self.now, event);
    }

    /// Queues an output for the engine.
    pub(super) fn push(&mut self, output: Output) {
        self.common.push(output);
    }
}
