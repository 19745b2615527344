//! The trace of a session: what happened and why, for `explain`. The engine takes the events as they are made; the
//! session keeps none and counts those beyond a limit.

use super::rule::Rule;
use crate::charge::tariff::{Quota, Units};
use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

/// One event of the trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEvent {
    /// Microseconds since the INVITE.
    pub micros: u64,
    pub kind: TraceEventKind,
    /// The rule that decided it; `None`: nothing was decided.
    pub rule: Option<Rule>,
    /// The message it is about.
    pub message_id: Option<Box<str>>,
    /// Number of the request to the enabler that it is about.
    pub request: Option<u32>,
    /// MSRP or SIP status, or the enabler's Result-Code; 0: none.
    pub code: u32,
    /// Number of messages; 0: not applicable.
    pub messages: u32,
    /// Octets of content.
    pub octets: u64,
    /// Messages or kilobytes, depending on the tariff.
    pub quota: Option<Quota>,
    /// Price of the quota, in units of the account.
    pub units: Option<Units>,
    /// Available balance of the account, if the enabler reports it.
    pub balance: Option<i64>,
}

impl TraceEvent {
    /// An event without details; [`Trace::add`] sets its time.
    pub(super) fn new(kind: TraceEventKind) -> TraceEvent {
        TraceEvent {
            micros: 0,
            kind,
            rule: None,
            message_id: None,
            request: None,
            code: 0,
            messages: 0,
            octets: 0,
            quota: None,
            units: None,
            balance: None,
        }
    }

    /// Sets the rule, and the rule's code unless the event has one.
    pub(super) fn by(self, rule: Rule) -> TraceEvent {
        let code = if self.code == 0 { rule.code() } else { self.code };
        TraceEvent { rule: Some(rule), code, ..self }
    }

    /// Sets the Message-ID; an empty one is ignored.
    pub(super) fn about(self, message_id: &str) -> TraceEvent {
        let message_id = (!message_id.is_empty()).then(|| message_id.into());
        TraceEvent { message_id, ..self }
    }

    pub(super) fn request(self, number: u32) -> TraceEvent {
        TraceEvent { request: Some(number), ..self }
    }

    pub(super) fn code(self, code: u32) -> TraceEvent {
        TraceEvent { code, ..self }
    }

    pub(super) fn messages(self, messages: u32) -> TraceEvent {
        TraceEvent { messages, ..self }
    }

    pub(super) fn octets(self, octets: u64) -> TraceEvent {
        TraceEvent { octets, ..self }
    }

    pub(super) fn worth(self, quota: Quota, units: Units) -> TraceEvent {
        TraceEvent { quota: Some(quota), units: Some(units), ..self }
    }

    pub(super) fn balance(self, balance: Option<i64>) -> TraceEvent {
        TraceEvent { balance, ..self }
    }
}

/// Limit that an event counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceClass {
    /// Moves money or decides about it: reservations, debits, messages that are not charged.
    Money,
    /// May recur without limit: stopped SENDs, failures of the enabler.
    Repeated,
    /// SIP and MSRP traffic.
    Traffic,
}

impl TraceClass {
    /// Events kept per session. A message takes up to three `Money` events (timeout, debit, debited) and two of `Traffic`.
    pub const fn events_max(self) -> u32 {
        match self {
            TraceClass::Money => 32_768,
            TraceClass::Repeated => 256,
            TraceClass::Traffic => 2048,
        }
    }
}

/// Declares the kinds of trace events: class, name in `explain` and meaning.
macro_rules! kinds {
    ($($variant:ident $class:ident $word:literal $meaning:literal,)*) => {
        /// What a [`TraceEvent`] is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum TraceEventKind { $(#[doc = $meaning] $variant,)* }

        impl TraceEventKind {
            /// All kinds, in the order of the manual.
            pub const ALL: &'static [TraceEventKind] = &[$(TraceEventKind::$variant,)*];

            /// Returns the name used in `explain`.
            pub fn as_str(self) -> &'static str {
                match self { $(TraceEventKind::$variant => $word,)* }
            }

            /// Returns the limit that the event counts against.
            pub fn class(self) -> TraceClass {
                match self { $(TraceEventKind::$variant => TraceClass::$class,)* }
            }
        }
    };
}

kinds! {
    Invite Money "invite" "INVITE; messages: number announced.",
    Message Money "message" "SIP MESSAGE; messages: number of copies, octets: those of all copies.",
    Reserve Money "reserve" "A reservation is requested; rule: why.",
    Granted Money "granted" "Credit is granted; rule: why, if granted without the enabler.",
    Denied Money "denied" "The enabler refuses; rule and code: its reason.",
    EnablerFailed Repeated "enabler-failed" "A request was not answered; rule: why.",
    LateGrant Money "late-grant" "The enabler granted a request after its timeout; the grant is released.",
    HeldBack Money "held-back" "A debit or refund waits for the operator; rule: why.",
    NoReservation Money "no-reservation" "The enabler does not know the reservation.",
    Free Money "free" "The service is free of charge for this subscriber.",
    Verdict Money "verdict" "Answer to the INVITE; rule: granted, or why not.",
    Reauthorize Repeated "reauthorize" "The enabler asks for a renewal.",
    Renew Repeated "renew" "The validity of a grant has ended; quota: what is outstanding.",
    EnablerEnds Money "enabler-ends" "The enabler ends the service.",
    Answered Traffic "answered" "2xx to the INVITE.",
    Delivered Money "delivered" "2xx to the MESSAGE; code: SIP status.",
    NotDelivered Money "not-delivered" "The MESSAGE ended with a final failure; code: SIP status.",
    Unanswered Money "unanswered" "The MESSAGE got no final response.",
    InviteFailed Traffic "invite-failed" "The INVITE ended without a 2xx; code: SIP status.",
    Cancelled Traffic "cancel" "CANCEL.",
    Bye Money "bye" "BYE.",
    End Money "end" "The script ends the session.",
    HostStopped Money "host-stopped" "The host has stopped.",
    TakenOver Money "taken-over" "Another node has taken the session over: nothing more passes, and no reservation is left.",
    Adopted Money "adopted" "This node has taken the session over from a dead one.",
    Idle Money "idle" "No activity for `hold_timeout`.",
    ConnectionLost Traffic "connection-lost" "A connection of the session was closed; messages: those settled by it.",
    Send Traffic "send" "A SEND of the server passed the gate.",
    Abort Traffic "abort" "The server aborted a message (`#`).",
    Unsent Traffic "unsent" "The proxy could not relay the SEND; it is not charged.",
    Stopped Repeated "stopped" "A frame was stopped at the gate; rule: why.",
    StopRest Money "stop-rest" "The rest of a message is stopped; what has passed is settled after 2 s; rule: why.",
    Response Traffic "response" "MSRP response of the client.",
    Report Traffic "report" "REPORT of the client.",
    Timeout Money "timeout" "No response within the timeout.",
    Debit Money "debit" "A debit is requested; rule: why.",
    Debited Money "debited" "The enabler acknowledged the debit; rule: as of the debit.",
    NotDebited Money "not-debited" "A message is not charged; rule: why.",
    Refund Money "refund" "A refund is requested; rule: why.",
    Refunded Money "refunded" "The enabler acknowledged the refund.",
    RefundDenied Money "refund-denied" "The enabler refuses the refund; rule and code: its reason.",
    Resolved Money "resolved" "The operator decided about a request that was held back; rule: how.",
    Release Money "release" "The release of unused credit is requested; rule: why.",
    Released Money "released" "The enabler acknowledged the release.",
    Closed Money "closed" "The session is settled; rule: what ended it; messages: those debited.",
}

/// Events that the engine has not taken yet, and how many there were of each class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trace {
    #[serde(skip)]
    untaken: ThinVec<TraceEvent>,
    money: u32,
    repeated: u32,
    traffic: u32,
    dropped: u32,
}

impl Trace {
    /// Adds an event, or counts it as dropped once the limit of its class is reached.
    pub(super) fn add(&mut self, micros: u64, event: TraceEvent) {
        let class = event.kind.class();
        let count = match class {
            TraceClass::Money => &mut self.money,
            TraceClass::Repeated => &mut self.repeated,
            TraceClass::Traffic => &mut self.traffic,
        };
        if *count >= class.events_max() {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        *count += 1;
        self.untaken.push(TraceEvent { micros, ..event });
    }

    /// Takes the events added since the last call, oldest first, with the number of the first; numbers count up from 0.
    pub(super) fn take(&mut self) -> (u32, ThinVec<TraceEvent>) {
        let untaken = u32::try_from(self.untaken.len()).unwrap_or(u32::MAX);
        let kept = self.money + self.repeated + self.traffic;
        (kept.saturating_sub(untaken), std::mem::take(&mut self.untaken))
    }

    /// Events that exceeded a limit.
    pub(super) fn dropped(&self) -> u32 {
        self.dropped
    }
}
