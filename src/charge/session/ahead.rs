//! How much is reserved, and when more is requested.
//!
//! **The INVITE announces the number of messages.** That many are reserved, and no more are requested until a SEND beyond
//! them is stopped at the gate; the announced number was wrong then, and the session continues as one without a number.
//! If fewer are granted, the rest of the announced number is requested ahead of need. With a tariff by size,
//! [`RESERVED_KILOBYTES_PER_MESSAGE`] are reserved for each message, more if a message turns out to be larger, and the
//! debit of the last announced message returns the rest. With prices that differ by class, each announced message counts
//! as text, and one as the class that costs most.
//!
//! **The INVITE describes files** (RFC 5547). Their price by size is reserved in addition, or alone if the session carries
//! nothing else and all sizes are stated; each file counts as an announced message then.
//!
//! **The number is not announced.** A relay answers a SEND at once (RFC 4976, 6.4.1), so a server that waits for each
//! response sends the next message within about 0.1 ms, long before an enabler could answer a request made then.
//! Therefore a window is kept granted ahead of what was sent: [`WINDOW_MESSAGES_MIN`] messages, and as many as can be sent
//! while the enabler answers if an answer takes longer. It is refilled when a quarter of it is used.
//!
//! **Each request for more opens a new reservation.** A server that refuses an UPDATE may end the session with it
//! (RFC 8506, 7: it is Idle then), and with the session everything it has reserved, while messages that were to be debited
//! from it have been delivered. So an open reservation is never asked for more than it has: more is a new reservation,
//! whose refusal costs nothing. Debits use the oldest one, and the debit that uses it up ends it.
//!
//! While the enabler answers, a session holds at any time what the gate may still let pass plus what has passed and is
//! not settled. If the enabler cuts a reservation short (it refuses an UPDATE or grants less), only what it reports counts
//! from then on: the grant at the gate shrinks at once, and a reservation with nothing left is ended.

use super::common::{Common, Context};
use super::credit::Credit;
use super::messages::Messages;
use super::rule::Rule;
use crate::charge::content::ContentClass;
use crate::charge::event::{Flag, OfferedFiles, Sent};
use crate::charge::policy::Model;
use crate::charge::tariff::{PriceList, Quota, QuotaUnit, Weight};
use serde::{Deserialize, Serialize};

/// Messages kept granted ahead if their number is not announced.
pub(super) const WINDOW_MESSAGES_MIN: u32 = 128;
/// The same if the enabler is slow, at most.
const WINDOW_MESSAGES_MAX: u32 = 1024;
/// Microseconds between two messages of the fastest server, with a margin: the time in which a host receives one, answers
/// it and relays it.
const MICROS_PER_MESSAGE: u64 = 75;
/// Kilobytes kept granted for each message of the window if size has a price; stored messages are smaller on average.
const WINDOW_KILOBYTES_PER_MESSAGE: u32 = 8;
/// Kilobytes reserved for each announced message, and requested when a message was stopped: more than the largest frame
/// that a host accepts.
pub(super) const RESERVED_KILOBYTES_PER_MESSAGE: u32 = 16;
/// Reservations open at once; the next one waits until one is used up.
const RESERVATIONS_MAX: usize = 64;

/// How much credit the session asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ahead {
    /// What the INVITE asks for.
    pub(super) requested: Quota,
    /// Upper limit of one request: halved when the enabler refuses that much, doubled when it grants it.
    pub(super) request_max: Quota,
    /// Messages announced by the INVITE; 0: none, or a wrong number.
    announced: u32,
    /// Messages kept granted if their number is not announced; 0: [`WINDOW_MESSAGES_MIN`].
    window: u32,
    /// The last grant if it was less than requested; 0: everything was granted.
    partial_grant: Quota,
}

impl Ahead {
    /// Demand of an INVITE that announces this many messages, and files, each of which is a message. If nothing is reserved,
    /// the quota is what may be unpaid.
    pub(super) fn new(prices: &PriceList, model: Model, messages: u32, files: &OfferedFiles) -> Ahead {
        if messages == 0 && !files.has_other_media && files.sized > 0 && files.unsized_files == 0 {
            let quota = quota_of_files(prices, files);
            return Ahead { requested: quota, request_max: quota, announced: files.sized, ..Ahead::default() };
        }
        let mut ahead = Ahead { announced: messages, ..Ahead::default() };
        let requested = match (messages, model) {
            (0, Model::Reserve | Model::Prepay) => ahead.window_quota(prices),
            (messages, _) => reserved_quota(prices, messages.max(1)),
        };
        let requested = Quota(requested.saturating_add(quota_of_files(prices, files).0));
        (ahead.requested, ahead.request_max) = (requested, requested);
        ahead
    }

    /// Demand of a MESSAGE, which needs no more than this.
    pub(super) fn of_page(quota: Quota) -> Ahead {
        Ahead { requested: quota, request_max: quota, ..Ahead::default() }
    }

    /// What is kept granted if the number of messages is not announced.
    fn window_quota(&self, prices: &PriceList) -> u32 {
        prices.quota_of_messages(self.window.max(WINDOW_MESSAGES_MIN), WINDOW_KILOBYTES_PER_MESSAGE).0
    }

    /// The enabler has less than it had granted: the next request may have to do with `left`.
    pub(super) fn note_shortage(&mut self, left: Quota) {
        self.partial_grant = Quota(left.0.max(1));
    }

    /// Adapts window and request size to a grant. `micros`: how long the enabler took, if known.
    pub(super) fn adapt(&mut self, asked: Quota, granted: Quota, micros: Option<u64>, prices: &PriceList) {
        if let Some(micros) = micros {
            let messages = u32::try_from(micros / MICROS_PER_MESSAGE).unwrap_or(u32::MAX);
            self.window = self.window.max(messages.min(WINDOW_MESSAGES_MAX));
        }
        let is_whole = granted >= asked;
        self.partial_grant = if is_whole { Quota(0) } else { granted };
        if is_whole && asked >= self.request_max {
            let most = self.window_quota(prices).max(self.requested.0);
            self.request_max = Quota(asked.0.saturating_mul(2).min(most));
        }
    }
}

/// What is reserved for this many announced messages.
fn reserved_quota(prices: &PriceList, messages: u32) -> u32 {
    prices.quota_of_messages(messages, RESERVED_KILOBYTES_PER_MESSAGE).0
}

/// Quota of files of stated sizes.
fn quota_of_files(prices: &PriceList, files: &OfferedFiles) -> Quota {
    if files.sized == 0 {
        return Quota(0);
    }
    let weight = prices.weight(ContentClass::File);
    let sizes = Weight { message: 0, ..weight }.of_kilobytes(files.kilobytes);
    Quota(sizes.0.saturating_add(weight.message.saturating_mul(files.sized)))
}

/// Quota of what is still to be sent of this SEND's message; 0 if its size has no price.
pub(super) fn quota_to_come(sent: &Sent<'_>, prices: &PriceList) -> u32 {
    let weight = prices.weight(sent.class);
    if weight.kilobyte == 0 || sent.flag != Flag::More {
        return 0;
    }
    let end = sent.start.max(1).saturating_add(sent.octets).saturating_sub(1);
    let unknown = u64::from(RESERVED_KILOBYTES_PER_MESSAGE) * 1024;
    let rest = sent.total.map_or(unknown, |total| total.saturating_sub(end));
    Weight { message: 0, ..weight }.of_kilobytes(rest.div_ceil(1024)).0
}

impl Credit {
    /// Requests more while enough is left for the SENDs that arrive until the answer. `to_come`: what is still to be sent of
    /// the current message.
    pub(super) fn ask_ahead(&mut self, to_come: u32, messages: &Messages, cx: &Context<'_>) {
        let is_unlimited =
            self.is_free_of_charge || cx.common.policy.model == Model::Immediate || cx.common.page.is_some();
        if is_unlimited || !cx.dialog.is_granted() || self.refused_at.is_some() || self.is_last_grant {
            return;
        }
        let missing = self.missing(to_come, messages, cx.common).min(self.ahead.request_max.0);
        if missing > 0 {
            self.want(Quota(missing), Rule::Ahead, cx);
        }
    }

    /// Requests more for a SEND that was stopped at the gate. `quota`: what it takes, if known.
    pub(super) fn want_beyond(&mut self, quota: u32, messages: &Messages, cx: &Context<'_>) {
        let prices = &cx.common.prices;
        let so_far = self.announced_so_far(messages, cx.common);
        if self.ahead.announced > 0 && so_far >= self.ahead.announced {
            self.ahead.announced = 0;
            self.ahead.request_max = Quota(self.ahead.window_quota(prices));
        }
        let left = self.granted().0.saturating_sub(self.taken());
        let least = reserved_quota(prices, 1).max(quota.saturating_sub(left));
        let missing = self.missing(least, messages, cx.common);
        self.want(Quota(missing.min(self.ahead.request_max.0).max(least)), Rule::BeyondGrant, cx);
    }

    /// How much should be requested now.
    fn missing(&self, to_come: u32, messages: &Messages, common: &Common) -> u32 {
        let prices = &common.prices;
        let left = self.granted().0.saturating_sub(self.taken());
        let Ahead { announced, partial_grant, .. } = self.ahead;
        let window = self.ahead.window_quota(prices);
        // An enabler that grants in part has no more, or grants that much at a time.
        let low = if partial_grant.0 > 0 { partial_grant.0 / 2 } else { window - window / 4 };
        match (announced, prices.measure().unit) {
            (0, _) if left <= low => (window - left.min(window)).max(to_come.saturating_sub(left)).max(1),
            (0, _) => 0,
            (announced, QuotaUnit::Message) if left <= low => {
                reserved_quota(prices, announced).saturating_sub(self.granted().0)
            }
            (_, QuotaUnit::Message) => 0,
            (announced, QuotaUnit::Kilobyte | QuotaUnit::AccountUnit) => {
                let unsent = announced.saturating_sub(self.messages_begun(messages, common));
                let reserve = reserved_quota(prices, unsent);
                // With prices that differ, one message of the class that costs most must fit at any time.
                let must_fit = match prices.measure().unit {
                    QuotaUnit::AccountUnit if left <= low => {
                        reserved_quota(prices, unsent.min(1)).min(self.ahead.requested.0)
                    }
                    _ => 0,
                };
                let is_short = left < to_come.saturating_add(must_fit);
                if is_short { reserve.saturating_add(to_come).saturating_sub(left) } else { 0 }
            }
        }
    }

    /// Announced messages that are used up: granted if messages are counted, else begun.
    fn announced_so_far(&self, messages: &Messages, common: &Common) -> u32 {
        match common.prices.measure().unit {
            QuotaUnit::Message => self.granted().0 / common.prices.least().0.max(1),
            QuotaUnit::Kilobyte | QuotaUnit::AccountUnit => self.messages_begun(messages, common),
        }
    }

    /// Messages so far, settled or not.
    fn messages_begun(&self, messages: &Messages, common: &Common) -> u32 {
        let unsettled = self.debits_pending() + messages.debits_queued() + messages.open_count();
        settled_count(common).saturating_add(u32::try_from(unsettled).unwrap_or(u32::MAX))
    }

    /// Whether all announced messages are settled, or will be by `more` debits, so that the rest of a reservation is not
    /// needed. Of counted messages, nothing is left then.
    pub(super) fn is_announced_complete(&self, more: u32, messages: &Messages, common: &Common) -> bool {
        let announced = self.ahead.announced;
        announced > 0
            && common.prices.measure().unit != QuotaUnit::Message
            && common.policy.model == Model::Reserve
            && !messages.has_unsettled_content()
            && settled_count(common).saturating_add(more) >= announced
    }

    /// Asks for more at the next opportunity, if the session may.
    fn want(&mut self, quota: Quota, rule: Rule, cx: &Context<'_>) {
        let is_asked = self.pending().is_some_and(|pending| pending.asks_for_more());
        let has_room = self.reservations.len() < RESERVATIONS_MAX;
        let is_wanted = self.wanted.is_some_and(|(wanted, _)| wanted.0 > 0);
        if cx.dialog.is_served() && !is_asked && has_room && !is_wanted {
            self.wanted = Some((quota, rule));
        }
    }
}

fn settled_count(common: &Common) -> u32 {
    common.counts.debited.saturating_add(common.counts.not_debited)
}
