//! Counters and gauges for operators, with the name, kind and description that statistics and Prometheus show.

use crate::charge::content::ContentClass;
use crate::charge::service::Service;

/// Kind of a statistic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Counts events; never decreases while the proxy runs.
    Counter,
    /// A counter of units: `units_SERVICE_CLASS`.
    Units,
    /// A counter of answers: `answers_RESULT`.
    Answers,
    /// A current number.
    Gauge,
    /// A current duration in seconds.
    Seconds,
    /// A current duration in microseconds.
    Micros,
    /// Count or sum of a [`Latency`](super::latency::Latency), for hosts whose statistics are plain numbers.
    OfLatency,
}

/// Declares the statistics: variant, name, kind and description. The order is that of the manual and of shared memory.
macro_rules! statistics {
    ($($variant:ident $name:literal $kind:ident $meaning:literal,)*) => {
        /// A statistic of the group `imcharge`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Statistic { $(#[doc = $meaning] $variant,)* }

        impl Statistic {
            /// All statistics, in the order of the manual.
            pub const ALL: &'static [Statistic] = &[$(Statistic::$variant,)*];

            /// Returns the name that operators use.
            pub fn name(self) -> &'static str {
                match self { $(Statistic::$variant => $name,)* }
            }

            /// Returns the statistic of this name.
            pub fn from_name(name: &str) -> Option<Statistic> {
                Statistic::ALL.iter().copied().find(|statistic| statistic.name() == name)
            }

            /// Returns the kind.
            pub fn kind(self) -> Kind {
                match self { $(Statistic::$variant => Kind::$kind,)* }
            }

            /// Returns a description of one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Statistic::$variant => $meaning,)* }
            }
        }
    };
}

statistics! {
    Reserves "reserves" Counter "Reservations requested for INVITEs and SIP MESSAGEs.",
    ReservesGranted "reserves_granted" Counter "Reservations that were granted.",
    ReservesDenied "reserves_denied" Counter "Reservations that the enabler denied.",
    ReservesFailed "reserves_failed" Counter "Reservations that got no answer or could not be requested.",
    Messages "messages" Counter "Reservations requested for SIP MESSAGEs.",
    MessagesFree "messages_free" Counter "SIP MESSAGEs whose content is free of charge.",
    MessagesUnclassified "messages_unclassified" Counter "SIP MESSAGEs charged as content of unknown type.",
    Debits "debits" Counter "Messages debited.",
    DebitsOnResponse "debits_on_response" Counter "Messages debited on MSRP 200 or a success REPORT, or on a final 2xx to a SIP MESSAGE.",
    DebitsOnError "debits_on_error" Counter "Messages debited on MSRP 4xx or 5xx or a failure REPORT.",
    DebitsOnTimeout "debits_on_timeout" Counter "Messages debited because the response did not arrive in time, or because a SIP MESSAGE got no final response.",
    DebitsOnClose "debits_on_close" Counter "Messages debited because the session ended before the response.",
    DebitsPrepaid "debits_prepaid" Counter "SIP MESSAGEs debited before they were relayed (model=prepay).",
    DebitsDenied "debits_denied" Counter "Messages delivered to the client whose debit the enabler denied.",
    FailuresContradicted "failures_contradicted" Counter "Messages of paying senders debited because a 200 or success REPORT contradicted the failure, or the silence, that releases them.",
    Refunds "refunds" Counter "Messages whose debit was refunded.",
    RefundsDenied "refunds_denied" Counter "Messages whose refund the enabler denied.",
    Releases "releases" Counter "Sessions whose unused units were released.",
    TopUps "top_ups" Counter "Top-ups: account.add with a positive amount, each reference once.",
    LowBalances "low_balances" Counter "Accounts whose units left have fallen to low_balance.",
    AccountsUnbalanced "accounts_unbalanced" Gauge "Accounts that the last imcharge.audit of accounts found unequal to their recorded changes.",
    UnitsRetrievalText "units_retrieval_text" Units "Units debited for messages of class text, service retrieval.",
    UnitsRetrievalFile "units_retrieval_file" Units "Units debited for messages of class file, service retrieval.",
    UnitsRetrievalNotification "units_retrieval_notification" Units "Units debited for messages of class notification, service retrieval.",
    UnitsRetrievalOther "units_retrieval_other" Units "Units debited for messages of class other, service retrieval.",
    UnitsSendingText "units_sending_text" Units "Units debited for messages of class text, service sending.",
    UnitsSendingFile "units_sending_file" Units "Units debited for messages of class file, service sending.",
    UnitsSendingNotification "units_sending_notification" Units "Units debited for messages of class notification, service sending.",
    UnitsSendingOther "units_sending_other" Units "Units debited for messages of class other, service sending.",
    UnitsReceivingText "units_receiving_text" Units "Units debited for messages of class text, service receiving.",
    UnitsReceivingFile "units_receiving_file" Units "Units debited for messages of class file, service receiving.",
    UnitsReceivingNotification "units_receiving_notification" Units "Units debited for messages of class notification, service receiving.",
    UnitsReceivingOther "units_receiving_other" Units "Units debited for messages of class other, service receiving.",
    UnitsRefunded "units_refunded" Counter "Units refunded.",
    Answers2001 "answers_2001" Answers "Answers of the enabler with Result-Code 2001, or that mean the same.",
    Answers3002 "answers_3002" Answers "Answers of the enabler with Result-Code 3002, or that mean the same.",
    Answers3004 "answers_3004" Answers "Answers of the enabler with Result-Code 3004, or that mean the same.",
    Answers4010 "answers_4010" Answers "Answers of the enabler with Result-Code 4010, or that mean the same.",
    Answers4011 "answers_4011" Answers "Answers of the enabler with Result-Code 4011, or that mean the same.",
    Answers4012 "answers_4012" Answers "Answers of the enabler with Result-Code 4012, or that mean the same.",
    Answers5002 "answers_5002" Answers "Answers of the enabler with Result-Code 5002, or that mean the same.",
    Answers5003 "answers_5003" Answers "Answers of the enabler with Result-Code 5003, or that mean the same.",
    Answers5030 "answers_5030" Answers "Answers of the enabler with Result-Code 5030, or that mean the same.",
    Answers5031 "answers_5031" Answers "Answers of the enabler with Result-Code 5031, or that mean the same.",
    AnswersOther "answers_other" Answers "Answers of the enabler with another Result-Code, or that cannot be used.",
    AnswersNone "answers_none" Answers "Requests to the enabler without an answer.",
    SessionsActive "sessions_active" Gauge "Open sessions.",
    SessionsUnreadable "sessions_unreadable" Counter "Sessions of dead nodes whose state could not be decoded: what they held was released, and their outstanding messages were not debited.",
    OutboxDepth "outbox_depth" Gauge "Debits not yet acknowledged by the enabler.",
    OutboxOldestAge "outbox_oldest_age" Seconds "Age of the oldest unacknowledged debit; 0 if there is none.",
    HoldsStuck "holds_stuck" Gauge "Sessions that ended more than a minute ago and still hold credit.",
    Frames "frames" Counter "MSRP frames seen.",
    FramesMalformed "frames_malformed" Counter "Frames that are not MSRP, or content without a Message-ID.",
    FramesForged "frames_forged" Counter "MSRP frames refused: sent by the other side of the session than their From-Path names.",
    FramesUnattributed "frames_unattributed" Counter "MSRP frames refused: from a charged endpoint or an IM server, but of no open session.",
    FramesFree "frames_free" Counter "MSRP frames with content that was not charged, because its type is in free_content.",
    FramesLeaseOver "frames_lease_over" Counter "MSRP frames with content of charged sessions that were stopped after the lease of this node: another one may have taken the sessions over.",
    FramesUnclassified "frames_unclassified" Counter "MSRP messages whose media type is unknown: a Content-Type that is missing, repeated or malformed, or CPIM headers that are malformed or not in the first chunk. They were charged.",
    FilesUnsized "files_unsized" Counter "Files in INVITEs whose a=file-selector has no valid size.",
    FilesOversized "files_oversized" Counter "Files whose stated size is larger than file_size_max, in INVITEs or in documents of file transfer over HTTP. The size was ignored.",
    FilesUnread "files_unread" Counter "Documents of file transfer over HTTP, of a price by size, that do not tell the size of the file or span several chunks. They were charged by their own size.",
    AnswersForeign "answers_foreign" Counter "SIP offers and answers within a dialog that were not bound: not exchanged with the dialog's server.",
    PathsWithoutRelay "paths_without_relay" Counter "Session descriptions of clients whose a=path bypasses this relay.",
    DroppedRingFull "dropped_ring_full" Counter "Events refused because the event ring of the process was full.",
    DroppedTableFull "dropped_table_full" Counter "Reservations, bindings or messages refused because the gate had no room.",
    DroppedTooLarge "dropped_too_large" Counter "SIP MESSAGEs refused because their body is larger than message_max.",
    DroppedUnknownTariff "dropped_unknown_tariff" Counter "INVITEs and SIP MESSAGEs refused because the script chose a tariff that is not configured.",
    DroppedMalformed "dropped_malformed" Counter "SIP messages that cannot be charged: no Call-ID, tag or method, or a field too long.",
    DroppedUnknown "dropped_unknown" Counter "Events of unknown or forgotten sessions.",
    DroppedNotifications "dropped_notifications" Counter "Runs of event routes skipped because the event workers' queue was full.",
    DroppedResumeBusy "dropped_resume_busy" Counter "INVITEs refused because all resume workers were stuck or too far behind.",
    DroppedVerdicts "dropped_verdicts" Counter "Verdicts dropped because their queue was full; their INVITEs time out.",
    ResumeWorkersStuck "resume_workers_stuck" Gauge "Processes that have been in one run of a resume route for more than a second.",
    EventWorkersStuck "event_workers_stuck" Gauge "Event workers that have been in one run of an event route for more than a second.",
    SlowRuns "slow_runs" Counter "Runs of a resume route or an event route that took more than a second.",
    InitialCcrs "initial_ccrs" Counter "Diameter: INITIAL requests sent.",
    InterimCcrs "interim_ccrs" Counter "Diameter: UPDATE requests sent.",
    FinalCcrs "final_ccrs" Counter "Diameter: TERMINATION requests sent.",
    EventCcrs "event_ccrs" Counter "Diameter: EVENT requests sent.",
    CcrAnswers "ccr_answers" Counter "Diameter: requests answered in time.",
    CcrTimeouts "ccr_timeouts" Counter "Diameter: requests not answered in time.",
    CcrFailures "ccr_failures" Counter "Diameter: requests lost with the connection to their peer.",
    CcrLateAnswers "ccr_late_answers" Counter "Diameter: answers received after the timeout.",
    CcrUnmatchedAnswers "ccr_unmatched_answers" Counter "Diameter: answers that match no request.",
    CcrMalformed "ccr_malformed" Counter "Diameter: messages and streams of peers that cannot be parsed or used.",
    CcrResent "ccr_resent" Counter "Diameter: requests resent to another peer.",
    CcrNoPeer "ccr_no_peer" Counter "Diameter: requests not sent because no suitable peer was open.",
    CcrOverload "ccr_overload" Counter "Diameter: requests not sent because too many were pending.",
    CcrAvgResponseTime "ccr_avg_response_time" Micros "Diameter: average time from request to answer.",
    PgTicks "pg_ticks" Counter "Shared ledger: ticks that the database has committed.",
    PgRequests "pg_requests" Counter "Shared ledger: requests in these ticks.",
    PgStale "pg_stale" Counter "Shared ledger: late copies of ticks that the database refused.",
    PgFenced "pg_fenced" Counter "Shared ledger: times that another node had taken over the sessions of this node.",
    PgRefused "pg_refused" Counter "Shared ledger: ticks and requests that the database refused with an error.",
    PgLost "pg_lost" Counter "Shared ledger: ticks whose answer was lost; they were sent again.",
    PgReconnects "pg_reconnects" Counter "Shared ledger: connections to the database that were replaced.",
    PgDown "pg_down" Gauge "Shared ledger: 1: no database server can be used.",
    PgStandbys "pg_standbys" Gauge "Shared ledger: standbys that confirm commits.",
    PgTickAvgTime "pg_tick_avg_time" Micros "Shared ledger: average time from sending a tick to its answer.",
    LeaseLeft "lease_left" Seconds "Shared ledger: time for which content is relayed without a further tick; 0 without a lease.",
    Takeovers "takeovers" Counter "Shared ledger: dead nodes whose sessions this node has taken over.",
    SessionsTakenOver "sessions_taken_over" Counter "Shared ledger: sessions of dead nodes that this node has taken over.",
    ReserveLatencyCount "reserve_latency_count" OfLatency "INVITEs that got a verdict.",
    ReserveLatencySum "reserve_latency_sum" OfLatency "Total microseconds from INVITE to verdict.",
    DebitLatencyCount "debit_latency_count" OfLatency "Debits acknowledged by the enabler and committed.",
    DebitLatencySum "debit_latency_sum" OfLatency "Total microseconds from the trigger of a debit to its acknowledgement.",
    EnablerLatencyCount "enabler_latency_count" OfLatency "Requests answered by the enabler.",
    EnablerLatencySum "enabler_latency_sum" OfLatency "Total microseconds from request to answer.",
    EngineRestarts "engine_restarts" Counter "Restarts of the engine after it died or hung.",
    EngineUp "engine_up" Gauge "1: the engine runs; 0: it is down, hangs, or refuses new sessions.",
    StoreFailing "store_failing" Gauge "1: the ledger file cannot be written; sessions are charged from the journal until it is full.",
    JournalOctets "journal_octets" Gauge "Octets kept in the journal while the ledger file cannot be written; else 0.",
    LedgerLogOctets "ledger_log_octets" Gauge "Octets that readers keep in the ledger's write-ahead log; 0 if none.",
    CdrRecords "cdr_records" Counter "Charging records in files that were closed.",
    CdrPending "cdr_pending" Gauge "Charging records that are in no closed file yet.",
    CdrFailing "cdr_failing" Gauge "1: charging records cannot be written to cdr_dir and wait in the ledger.",
}

impl Statistic {
    /// Returns the statistic of the units debited for a service and a class.
    pub fn of_units(service: Service, class: ContentClass) -> Statistic {
        match (service, class) {
            (Service::Retrieval, ContentClass::Text) => Statistic::UnitsRetrievalText,
            (Service::Retrieval, ContentClass::File) => Statistic::UnitsRetrievalFile,
            (Service::Retrieval, ContentClass::Notification) => Statistic::UnitsRetrievalNotification,
            (Service::Retrieval, ContentClass::Other) => Statistic::UnitsRetrievalOther,
            (Service::Sending, ContentClass::Text) => Statistic::UnitsSendingText,
            (Service::Sending, ContentClass::File) => Statistic::UnitsSendingFile,
            (Service::Sending, ContentClass::Notification) => Statistic::UnitsSendingNotification,
            (Service::Sending, ContentClass::Other) => Statistic::UnitsSendingOther,
            (Service::Receiving, ContentClass::Text) => Statistic::UnitsReceivingText,
            (Service::Receiving, ContentClass::File) => Statistic::UnitsReceivingFile,
            (Service::Receiving, ContentClass::Notification) => Statistic::UnitsReceivingNotification,
            (Service::Receiving, ContentClass::Other) => Statistic::UnitsReceivingOther,
        }
    }

    /// Returns the statistic of the answers with a Result-Code (RFC 6733, 7.1; RFC 8506, 9).
    pub fn of_result_code(code: u32) -> Statistic {
        match code {
            2001 => Statistic::Answers2001,
            3002 => Statistic::Answers3002,
            3004 => Statistic::Answers3004,
            4010 => Statistic::Answers4010,
            4011 => Statistic::Answers4011,
            4012 => Statistic::Answers4012,
            5002 => Statistic::Answers5002,
            5003 => Statistic::Answers5003,
            5030 => Statistic::Answers5030,
            5031 => Statistic::Answers5031,
            _ => Statistic::AnswersOther,
        }
    }
}
