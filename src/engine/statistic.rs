//! The counters an operator sees, one word each on every host.

/// Declares the counters: one list for names, meaning and place in the shared region.
macro_rules! statistics {
    ($($variant:ident $name:literal $meaning:literal,)*) => {
        /// A counter or gauge of the group `imcharge`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Statistic { $(#[doc = $meaning] $variant,)* }

        impl Statistic {
            /// All of them, in the order of the manual.
            pub const ALL: &'static [Statistic] = &[$(Statistic::$variant,)*];

            /// The name an operator types.
            pub fn name(self) -> &'static str {
                match self { $(Statistic::$variant => $name,)* }
            }
        }
    };
}

statistics! {
    Reserves "reserves" "Reservations asked for by INVITEs.",
    ReservesGranted "reserves_granted" "Of these, granted.",
    ReservesDenied "reserves_denied" "Of these, refused by the enabler.",
    ReservesFailed "reserves_failed" "Of these, without an answer of the enabler, or impossible to ask.",
    Debits "debits" "Messages debited.",
    DebitsOnResponse "debits_on_response" "Of these, on MSRP 200 or a success REPORT.",
    DebitsOnError "debits_on_error" "Of these, on MSRP 4xx or 5xx or a failure REPORT.",
    DebitsOnTimeout "debits_on_timeout" "Of these, because the response did not come in time.",
    DebitsOnClose "debits_on_close" "Of these, because the session ended before the response.",
    DebitsDenied "debits_denied" "Messages whose debit the enabler refused: with the client, and not paid for.",
    Refunds "refunds" "Messages whose debit was given back.",
    RefundsDenied "refunds_denied" "Messages whose debit the enabler does not give back.",
    Releases "releases" "Sessions whose unused units were given back.",
    SessionsActive "sessions_active" "Sessions open now.",
    OutboxDepth "outbox_depth" "Debits not yet acknowledged by the enabler, now.",
    Frames "frames" "MSRP frames seen.",
    FramesMalformed "frames_malformed" "MSRP frames that are none, or a SEND with content and no Message-ID.",
    DroppedRingFull "dropped_ring_full" "Events refused because the ring of the process was full.",
    DroppedTableFull "dropped_table_full" "Reservations, bindings or messages refused because the grant table was full.",
    DroppedMalformed "dropped_malformed" "SIP messages that could not be used: no Call-ID, tag or method, or too long.",
    DroppedUnknown "dropped_unknown" "Events of sessions that are not known, or no more.",
    DroppedNotices "dropped_notices" "Runs of event routes skipped because the resume workers were behind.",
    InitialCcrs "initial_ccrs" "Diameter: INITIAL requests sent.",
    InterimCcrs "interim_ccrs" "Diameter: UPDATE requests sent.",
    FinalCcrs "final_ccrs" "Diameter: TERMINATION requests sent.",
    EventCcrs "event_ccrs" "Diameter: EVENT requests sent.",
    CcrAnswers "ccr_answers" "Diameter: requests answered in time.",
    CcrTimeouts "ccr_timeouts" "Diameter: requests not answered in time.",
    CcrFailures "ccr_failures" "Diameter: requests lost with their peer.",
    CcrLateAnswers "ccr_late_answers" "Diameter: answers that came too late.",
    CcrUnmatchedAnswers "ccr_unmatched_answers" "Diameter: answers that match no request.",
    CcrResent "ccr_resent" "Diameter: requests given to another peer.",
    CcrNoPeer "ccr_no_peer" "Diameter: requests not sent, because no peer was open that may have them.",
    CcrOverload "ccr_overload" "Diameter: requests not sent, because too many waited for an answer.",
    CcrAvgResponseTime "ccr_avg_response_time" "Diameter: microseconds from request to answer, on average.",
    EngineRestarts "engine_restarts" "Times the engine was started again after it died or hung.",
}
