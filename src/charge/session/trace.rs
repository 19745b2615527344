//! What happened in a session and why, step by step, for `explain`. The steps leave the session as they are made: it
//! keeps none of them, and counts those that are beyond a bound.

use super::rule::Rule;
use crate::charge::tariff::{Quota, Units};
use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

/// One rung of the message ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEvent {
    /// Microseconds since the INVITE.
    pub micros: u64,
    /// What.
    pub what: TraceEventKind,
    /// The rule that decided it; `None`: nobody has decided anything.
    pub rule: Option<Rule>,
    /// The message it is about.
    pub message_id: Option<Box<str>>,
    /// Number of the request to the enabler that it is about.
    pub request: Option<u32>,
    /// MSRP or SIP status, or the enabler's Result-Code; 0: none.
    pub code: u32,
    /// How many messages it is about; 0: it is not about a number of them.
    pub messages: u32,
    /// Octets of content; 0: none.
    pub octets: u64,
    /// Messages or kilobytes, as the tariff counts.
    pub quota: Option<Quota>,
    /// What that is in units of the account.
    pub units: Option<Units>,
    /// What is left on the account beside all that is held, where the enabler tells.
    pub balance: Option<i64>,
}

impl TraceEvent {
    /// A step that says no more than this. When it was is added with [`Ladder::add`].
    pub(super) fn new(what: TraceEventKind) -> TraceEvent {
        TraceEvent {
            micros: 0,
            what,
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

    pub(super) fn by(self, rule: Rule) -> TraceEvent {
        let code = if self.code == 0 { rule.code() } else { self.code };
        TraceEvent { rule: Some(rule), code, ..self }
    }

    /// Names the message that it is about; empty: none.
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

    pub(super) fn leaves(self, balance: Option<i64>) -> TraceEvent {
        TraceEvent { balance, ..self }
    }
}

/// Which bound a step falls under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceClass {
    /// Moves or decides about money: a reservation, a debit, what costs nothing.
    Money,
    /// What may come again and again while nothing moves: a stopped SEND, an enabler that fails.
    Repeated,
    /// What was seen of SIP and MSRP.
    Traffic,
}

impl TraceClass {
    /// Steps kept of a session. A message takes three of money (time-out, debit, debited) and two of traffic.
    pub const fn most(self) -> u32 {
        match self {
            TraceClass::Money => 32_768,
            TraceClass::Repeated => 256,
            TraceClass::Traffic => 2048,
        }
    }
}

/// Declares the kinds of steps: class, word and meaning in one list.
macro_rules! kinds {
    ($($variant:ident $class:ident $word:literal $meaning:literal,)*) => {
        /// What a [`TraceEvent`] is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum TraceEventKind { $(#[doc = $meaning] $variant,)* }

        impl TraceEventKind {
            /// Every kind, in the order of the manual.
            pub const ALL: &'static [TraceEventKind] = &[$(TraceEventKind::$variant,)*];

            /// The word in `explain`.
            pub fn as_str(self) -> &'static str {
                match self { $(TraceEventKind::$variant => $word,)* }
            }

            /// Which bound it falls under.
            pub fn class(self) -> TraceClass {
                match self { $(TraceEventKind::$variant => TraceClass::$class,)* }
            }
        }
    };
}

kinds! {
    Invite Money "invite" "INVITE; messages: what it asks for.",
    Reserve Money "reserve" "A reservation is asked for; rule: why now.",
    Granted Money "granted" "It is granted, or given without one; rule: why, where the enabler has not decided.",
    Denied Money "denied" "The enabler refuses; rule and code: its reason.",
    EnablerFailed Repeated "enabler-failed" "A request has no answer; rule: why.",
    LateGrant Money "late-grant" "The enabler has granted a request after all, and nobody uses it.",
    HeldBack Money "held-back" "A debit or refund waits for an operator; rule: why.",
    NoReservation Money "no-reservation" "The enabler knows no such reservation.",
    Free Money "free" "The service costs this subscriber nothing.",
    Verdict Money "verdict" "What the INVITE is told; rule: granted, or why not.",
    Reauthorize Repeated "reauthorize" "The enabler wants to be asked again.",
    Renew Repeated "renew" "The grant has become old; quota: what is outstanding.",
    EnablerEnds Money "enabler-ends" "The enabler ends the service.",
    Answered Traffic "answered" "2xx to the INVITE.",
    InviteFailed Traffic "invite-failed" "The INVITE ended without a 2xx; code: SIP status.",
    Cancelled Traffic "cancel" "CANCEL.",
    Bye Money "bye" "BYE.",
    End Money "end" "The script closes the session.",
    HostStopped Money "host-stopped" "The host is gone.",
    Idle Money "idle" "Nothing moved for `hold_timeout`.",
    ConnectionLost Traffic "connection-lost" "A connection of the session is closed; messages: those that it settles.",
    Send Traffic "send" "A SEND of the server passed.",
    Abort Traffic "abort" "The server gave a message up (`#`).",
    Unsent Traffic "unsent" "The proxy could not send the SEND on: it costs nothing.",
    Stopped Repeated "stopped" "A frame was stopped at the gate; rule: why.",
    StopRest Money "stop-rest" "The rest of a message is stopped, and what has passed is settled in 2 s; rule: why.",
    Response Traffic "response" "MSRP response of the client.",
    Report Traffic "report" "REPORT of the client.",
    Timeout Money "timeout" "No response in time.",
    Debit Money "debit" "A debit is asked for; rule: why now.",
    Debited Money "debited" "It stands; rule: as of the debit.",
    NotDebited Money "not-debited" "A message costs nothing; rule: why.",
    Refund Money "refund" "A debit is to be given back; rule: why.",
    Refunded Money "refunded" "It is given back.",
    RefundDenied Money "refund-denied" "The enabler does not give it back; rule and code: its reason.",
    Resolved Money "resolved" "An operator has decided about what was held back; rule: how.",
    Release Money "release" "What is reserved and unused is to be given back; rule: why.",
    Released Money "released" "It is given back.",
    Closed Money "closed" "Settled; rule: what ended the session; messages: those debited.",
}

/// The steps that nobody has taken yet, and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ladder {
    #[serde(skip)]
    fresh: ThinVec<TraceEvent>,
    money: u32,
    repeated: u32,
    traffic: u32,
    dropped: u32,
}

impl Ladder {
    /// Adds a step, or counts it when there are enough of its class.
    pub(super) fn add(&mut self, micros: u64, step: TraceEvent) {
        let class = step.what.class();
        let count = match class {
            TraceClass::Money => &mut self.money,
            TraceClass::Repeated => &mut self.repeated,
            TraceClass::Traffic => &mut self.traffic,
        };
        if *count >= class.most() {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        *count += 1;
        self.fresh.push(TraceEvent { micros, ..step });
    }

    pub(super) fn take(&mut self) -> ThinVec<TraceEvent> {
        std::mem::take(&mut self.fresh)
    }

    pub(super) fn fresh(&self) -> usize {
        self.fresh.len()
    }

    /// All that were kept.
    pub(super) fn kept(&self) -> u32 {
        self.money + self.repeated + self.traffic
    }

    pub(super) fn dropped(&self) -> u32 {
        self.dropped
    }
}
