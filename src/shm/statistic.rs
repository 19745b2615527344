//! The counters and gauges an operator sees, one word each on every host, and each with what Prometheus wants to know.

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// How often something has happened; it only rises.
    Counter,
    /// How much of something there is now.
    Gauge,
    /// How long something takes or lasts now, in seconds.
    Seconds,
    /// The same in microseconds.
    Micros,
    /// A part of a [`Latency`](super::latency::Latency): for hosts whose statistics know plain numbers only.
    OfLatency,
}

/// Declares the statistics: one list for names, kinds, meaning and place in the shared region.
macro_rules! statistics {
    ($($variant:ident $name:literal $kind:ident $meaning:literal,)*) => {
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

            /// What it is.
            pub fn kind(self) -> Kind {
                match self { $(Statistic::$variant => Kind::$kind,)* }
            }

            /// What it means, one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Statistic::$variant => $meaning,)* }
            }
        }
    };
}

statistics! {
    Reserves "reserves" Counter "Reservations asked for by INVITEs.",
    ReservesGranted "reserves_granted" Counter "Reservations of INVITEs that were granted.",
    ReservesDenied "reserves_denied" Counter "Reservations of INVITEs that the enabler refused.",
    ReservesFailed "reserves_failed" Counter "Reservations of INVITEs not answered, or impossible to ask for.",
    Debits "debits" Counter "Messages debited.",
    DebitsOnResponse "debits_on_response" Counter "Messages debited on MSRP 200 or a success REPORT.",
    DebitsOnError "debits_on_error" Counter "Messages debited on MSRP 4xx or 5xx or a failure REPORT.",
    DebitsOnTimeout "debits_on_timeout" Counter "Messages debited because the response did not come in time.",
    DebitsOnClose "debits_on_close" Counter "Messages debited because the session ended before the response.",
    DebitsDenied "debits_denied" Counter "Messages whose debit the enabler refused: with the client, and not paid for.",
    Refunds "refunds" Counter "Messages whose debit was given back.",
    RefundsDenied "refunds_denied" Counter "Messages whose debit the enabler does not give back.",
    Releases "releases" Counter "Sessions whose unused units were given back.",
    SessionsActive "sessions_active" Gauge "Sessions open now.",
    OutboxDepth "outbox_depth" Gauge "Debits not yet acknowledged by the enabler, now.",
    OutboxOldestAge "outbox_oldest_age" Seconds "Age of the oldest debit not acknowledged; 0: none.",
    HoldsStuck "holds_stuck" Gauge "Sessions over for more than a minute that the enabler has not settled yet.",
    Frames "frames" Counter "MSRP frames seen.",
    FramesMalformed "frames_malformed" Counter "MSRP frames that are none, or a SEND with content and no Message-ID.",
    FramesForged "frames_forged" Counter "MSRP frames refused: they claimed to be of the other side than they came from.",
    FramesUnattributed "frames_unattributed" Counter "MSRP frames refused: of a charged endpoint or an IM server, and of no session.",
    AnswersForeign "answers_foreign" Counter "SIP offers and answers within a dialog that bind nothing: not of the dialog's server.",
    PathsWithoutRelay "paths_without_relay" Counter "Descriptions of clients whose a=path leaves this relay out.",
    DroppedRingFull "dropped_ring_full" Counter "Events refused because the ring of the process was full.",
    DroppedTableFull "dropped_table_full" Counter "Reservations, bindings or messages refused: the grant table was full.",
    DroppedMalformed "dropped_malformed" Counter "SIP messages of no use: no Call-ID, tag or method, or too long.",
    DroppedUnknown "dropped_unknown" Counter "Events of sessions that are not known, or no more.",
    DroppedNotices "dropped_notices" Counter "Runs of event routes skipped because the event workers were behind.",
    DroppedResumeBusy "dropped_resume_busy" Counter "INVITEs refused because all resume workers were stuck or too far behind.",
    DroppedVerdicts "dropped_verdicts" Counter "Verdicts for which no process of the host had room; their INVITEs time out.",
    ResumeWorkersStuck "resume_workers_stuck" Gauge "Processes in one run of a resume route for more than a second.",
    EventWorkersStuck "event_workers_stuck" Gauge "Event workers in one run of an event route for more than a second.",
    SlowRuns "slow_runs" Counter "Runs of a resume route or an event route that took more than a second.",
    InitialCcrs "initial_ccrs" Counter "Diameter: INITIAL requests sent.",
    InterimCcrs "interim_ccrs" Counter "Diameter: UPDATE requests sent.",
    FinalCcrs "final_ccrs" Counter "Diameter: TERMINATION requests sent.",
    EventCcrs "event_ccrs" Counter "Diameter: EVENT requests sent.",
    CcrAnswers "ccr_answers" Counter "Diameter: requests answered in time.",
    CcrTimeouts "ccr_timeouts" Counter "Diameter: requests not answered in time.",
    CcrFailures "ccr_failures" Counter "Diameter: requests lost with their peer.",
    CcrLateAnswers "ccr_late_answers" Counter "Diameter: answers that came too late.",
    CcrUnmatchedAnswers "ccr_unmatched_answers" Counter "Diameter: answers that match no request.",
    CcrMalformed "ccr_malformed" Counter "Diameter: messages and streams of peers that cannot be read or used.",
    CcrResent "ccr_resent" Counter "Diameter: requests given to another peer.",
    CcrNoPeer "ccr_no_peer" Counter "Diameter: requests not sent: no peer was open that may have them.",
    CcrOverload "ccr_overload" Counter "Diameter: requests not sent: too many waited for an answer.",
    CcrAvgResponseTime "ccr_avg_response_time" Micros "Diameter: from request to answer, on average.",
    ReserveLatencyCount "reserve_latency_count" OfLatency "INVITEs that got a verdict.",
    ReserveLatencySum "reserve_latency_sum" OfLatency "Microseconds from INVITE to verdict, in all.",
    DebitLatencyCount "debit_latency_count" OfLatency "Debits acknowledged by the enabler and in the journal.",
    DebitLatencySum "debit_latency_sum" OfLatency "Microseconds from what fired a debit to the debit, in all.",
    EnablerLatencyCount "enabler_latency_count" OfLatency "Requests that the enabler has answered.",
    EnablerLatencySum "enabler_latency_sum" OfLatency "Microseconds from request to answer, in all.",
    EngineRestarts "engine_restarts" Counter "Times the engine was started again after it died or hung.",
    EngineUp "engine_up" Gauge "1: the engine is at work; 0: it is down, hangs, or refuses new sessions.",
    StoreFailing "store_failing" Gauge "1: the ledger cannot be written; new sessions are refused when the journal is full.",
    JournalOctets "journal_octets" Gauge "Octets that the journal keeps because the ledger cannot be written; else 0.",
    LedgerLogOctets "ledger_log_octets" Gauge "Octets that readers keep in the ledger's write-ahead log; 0: none.",
}
