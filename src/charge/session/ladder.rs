//! What happened in a session, step by step, for `explain`.

use crate::charge::time::Time;
use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

/// Steps kept per session; later ones are only counted.
const MOST: usize = 64;

/// One rung of the message ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When.
    pub at: Time,
    /// What.
    pub what: StepKind,
    /// A number that goes with it, as [`StepKind`] says; saturates.
    pub detail: u32,
}

/// Declares the kinds of steps: word and meaning of the detail in one list.
macro_rules! kinds {
    ($($variant:ident $word:literal $meaning:literal,)*) => {
        /// What a [`Step`] is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum StepKind { $(#[doc = $meaning] $variant,)* }

        impl StepKind {
            /// The word in `explain`.
            pub fn word(self) -> &'static str {
                match self { $(StepKind::$variant => $word,)* }
            }
        }
    };
}

kinds! {
    Invite "invite" "INVITE; detail: messages it asks for, 0 where it does not say.",
    Reserve "reserve" "Reservation asked for; detail: quota.",
    Granted "granted" "Reservation granted; detail: quota.",
    Denied "denied" "Refused by the enabler; detail: number of the request.",
    EnablerFailed "enabler-failed" "No answer of the enabler; detail: number of the request.",
    LateGrant "late-grant" "The enabler granted a request after all; detail: number of the request.",
    HeldBack "held-back" "A debit or refund waits for an operator; detail: number of the request.",
    NoReservation "no-reservation" "The enabler knows no such reservation; detail: number of the request.",
    Free "free" "The service costs this subscriber nothing; detail: number of the request.",
    Reauthorize "reauthorize" "The enabler wants to be asked again; detail: 0.",
    Renew "renew" "The grant has become old; detail: what is outstanding.",
    EnablerEnds "enabler-ends" "The enabler ends the service; detail: 0.",
    Answered "answered" "2xx to the INVITE; detail: 0.",
    InviteFailed "invite-failed" "The INVITE ended without a 2xx; detail: SIP status.",
    Cancelled "cancel" "CANCEL; detail: 0.",
    Bye "bye" "BYE; detail: 0.",
    End "end" "The script closes the session; detail: 0.",
    HostStopped "host-stopped" "The host is gone; detail: 0.",
    Idle "idle" "Nothing moved for `hold_timeout`; detail: 0.",
    ConnectionLost "connection-lost" "A connection of the session is closed; detail: messages it settled.",
    Send "send" "A SEND of the server passed; detail: octets of content.",
    Abort "abort" "The server gave a message up (`#`); detail: octets of content in that chunk.",
    Stopped "stopped" "A SEND was stopped at the gate; detail: 0.",
    Response "response" "MSRP response of the client; detail: its code.",
    Report "report" "REPORT of the client; detail: its code.",
    Timeout "timeout" "No response in time; detail: octets of the message.",
    Debit "debit" "Debit asked for; detail: quota.",
    Debited "debited" "Debit acknowledged; detail: quota.",
    Refund "refund" "Refund asked for; detail: quota.",
    Refunded "refunded" "Refund acknowledged; detail: quota.",
    RefundDenied "refund-denied" "Refund refused by the enabler; detail: its Result-Code.",
    NotDebited "not-debited" "A message costs nothing; detail: octets of the message.",
    Release "release" "Release asked for; detail: 0.",
    Released "released" "What was reserved and unused is given back; detail: 0.",
    Closed "closed" "Settled; detail: messages debited.",
}

/// The steps of a session, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ladder {
    steps: ThinVec<Step>,
    dropped: u32,
}

impl Ladder {
    /// Adds a step, or counts it when the ladder is full.
    pub(super) fn add(&mut self, at: Time, what: StepKind, detail: u64) {
        if self.steps.len() >= MOST {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.steps.reserve_exact(1);
        self.steps.push(Step { at, what, detail: u32::try_from(detail).unwrap_or(u32::MAX) });
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub(super) fn dropped(&self) -> u32 {
        self.dropped
    }
}
