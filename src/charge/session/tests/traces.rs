//! The trace: each decision names its rule, message and amount.

use super::*;

/// Summary of a trace event: kind, rule, cause and code.
fn line(event: &TraceEvent) -> String {
    let mut line = event.kind.as_str().to_owned();
    let mut add = |word: &str| line = format!("{line} {word}");
    event.rule.map(|rule| rule.as_str()).into_iter().for_each(&mut add);
    event.rule.and_then(Rule::cause).into_iter().for_each(&mut add);
    if event.code != 0 {
        add(&event.code.to_string());
    }
    line
}

impl Run {
    /// Summaries of the trace events of a kind.
    fn of(&self, kind: TraceEventKind) -> Vec<String> {
        self.trace.iter().filter(|event| event.kind == kind).map(line).collect()
    }

    fn last(&self, kind: TraceEventKind) -> &TraceEvent {
        self.trace.iter().rfind(|event| event.kind == kind).unwrap_or_else(|| panic!("no {} event", kind.as_str()))
    }

    /// A session with one message, after `settle` and its debit.
    fn with_message(policy: Policy, settle: impl FnOnce(&mut Run)) -> Run {
        let mut run = Run::open_with(8, policy);
        run.sent(whole("m1", 1), s(1));
        settle(&mut run);
        if run.request.is_some() {
            run.accept();
        }
        run
    }
}

#[test]
fn trace_lists_requests_answers_and_debits() {
    let mut run = Run::with_message(Policy::default(), |run| run.event(responded(1, 200), s(2)));
    run.event(Event::Bye { leg: 1 }, s(3));
    run.settle();
    let lines: Vec<_> = run.trace.iter().map(line).collect();
    let wanted = [
        "invite",
        "reserve invite",
        "granted",
        "verdict granted",
        "answered",
        "send",
        "response 200",
        "debit debit_on=response 200",
        "debited debit_on=response 200",
        "bye",
        "release unused",
        "released",
        "closed bye",
    ];
    assert_eq!(lines, wanted);
    let debit = run.last(TraceEventKind::Debit);
    assert_eq!((debit.message_id.as_deref(), debit.octets, debit.request), (Some("m1"), 100, Some(1)));
    assert_eq!((debit.quota, debit.units, debit.micros), (Some(Quota(1)), Some(Units(5)), 2_000_000));
    for what in [TraceEventKind::Send, TraceEventKind::Response, TraceEventKind::Debited] {
        assert_eq!(run.last(what).message_id.as_deref(), Some("m1"), "{}", what.as_str());
    }
    assert_eq!(run.last(TraceEventKind::Debited).balance, Some(7));
    assert_eq!(
        (run.last(TraceEventKind::Granted).units, run.last(TraceEventKind::Granted).balance),
        (Some(Units(40)), Some(7))
    );
    // One of 8 is used.
    assert_eq!(
        (run.last(TraceEventKind::Release).quota, run.last(TraceEventKind::Release).units),
        (Some(Quota(7)), Some(Units(35)))
    );
    assert_eq!(run.last(TraceEventKind::Closed).messages, 1);
}

#[test]
fn answer_debits_by_rule_of_its_code() {
    let release = policy(|p| p.cases.server_error = Settle::Release);
    for (policy, code, wanted) in [
        (Policy::default(), 415, "debit 4xx=debit 415"),
        (Policy::default(), 506, "debit 5xx=debit 506"),
        (Policy::default(), 408, "debit 408 408"),
        (release, 506, "not-debited 5xx=release 506"),
    ] {
        let run = Run::with_message(policy, |run| run.event(responded(1, code), s(2)));
        let decided = if wanted.starts_with("not") { TraceEventKind::NotDebited } else { TraceEventKind::Debit };
        assert_eq!(run.of(decided), [wanted]);
        assert_eq!(run.last(decided).message_id.as_deref(), Some("m1"));
        assert_eq!(run.last(decided).units, Some(Units(5)));
    }
}

#[test]
fn timeout_debits_by_rule_of_its_timer() {
    let run = Run::with_message(Policy { response_timeout: 12, ..Policy::default() }, |run| run.timer(s(13)));
    assert_eq!(run.of(TraceEventKind::Timeout), ["timeout response_timeout"]);
    assert_eq!(run.of(TraceEventKind::Debit), ["debit response_timeout"]);
    assert_eq!(run.last(TraceEventKind::Debit).rule.and_then(Rule::seconds), Some(12));
}

#[test]
fn close_rule_names_policy_and_cause() {
    let ends: [(Event<'_>, &str); 4] = [
        (Event::Bye { leg: 1 }, "bye"),
        (Event::HostStopped, "host-stopped"),
        (Event::End { reason: "script" }, "ended"),
        (Event::Abort, "enabler-ended"),
    ];
    for (end, word) in ends {
        for (close, what, choice) in [
            (Settle::Debit, TraceEventKind::Debit, "close=debit"),
            (Settle::Release, TraceEventKind::NotDebited, "close=release"),
        ] {
            let policy = policy(|p| p.cases.close = close);
            let end = end.clone();
            let run = Run::with_message(policy, |run| {
                run.event(end, s(2));
                run.gate_closed(s(2));
            });
            assert_eq!(run.of(what), [format!("{} {choice} {word}", what.as_str())]);
        }
    }
    let lost = Event::ConnectionLost { connection: SERVER };
    let run = Run::with_message(Policy::default(), |run| run.event(lost, s(2)));
    assert_eq!(run.of(TraceEventKind::Debit), ["debit close=debit connection-lost"]);
    assert_eq!(run.last(TraceEventKind::ConnectionLost).messages, 1);
    let mut idle = Run::with_message(policy(|p| p.response_timeout = 3600), |run| run.timer(s(302)));
    idle.settle();
    assert_eq!(idle.of(TraceEventKind::Debit), ["debit close=debit idle"]);
}

#[test]
fn abort_rule_names_policy() {
    for (choice, what, wanted) in [
        (Settle::Release, TraceEventKind::NotDebited, "not-debited abort=release"),
        (Settle::Debit, TraceEventKind::Debit, "debit abort=debit"),
    ] {
        let mut run = Run::open_with(8, policy(|p| p.cases.abort = choice));
        run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
        run.sent(abort("m1", 2), s(2));
        run.timer(s(5));
        assert_eq!(run.of(what), [wanted]);
        assert_eq!(run.of(TraceEventKind::Abort), ["abort"]);
    }
}

#[test]
fn debit_on_report_rule_is_named() {
    let mut run = Run::open_with(8, policy(|p| p.debit_on = DebitOn::Report));
    run.sent(Sent { success_report: true, ..whole("m1", 1) }, s(1));
    run.event(responded(1, 200), s(2));
    run.event(reported("m1", 1, None, 200), s(3));
    assert_eq!(run.of(TraceEventKind::Debit), ["debit debit_on=report 200"]);
}

#[test]
fn refund_rule_names_report() {
    let report = reported("m1", 1, None, 413);
    // The debit is acknowledged, pending or queued.
    let acknowledged = |run: &mut Run| {
        run.event(responded(1, 200), s(2));
        run.accept();
        run.event(report.clone(), s(3));
    };
    let pending = |run: &mut Run| {
        run.event(responded(1, 200), s(2));
        run.event(report.clone(), s(3));
        run.accept();
    };
    let refunds = policy(|p| p.cases.report = Settle::Release);
    for run in [Run::with_message(refunds, acknowledged), Run::with_message(refunds, pending)] {
        assert_eq!(run.of(TraceEventKind::Refund), ["refund report=release 413"]);
        assert_eq!(run.of(TraceEventKind::Refunded), ["refunded report=release 413"]);
        assert_eq!(run.last(TraceEventKind::Refunded).message_id.as_deref(), Some("m1"));
    }
    let mut waits = Run::open_with(8, refunds);
    for (name, transaction) in [("m0", 1), ("m1", 2)] {
        waits.sent(whole(name, transaction), s(1));
        waits.event(responded(transaction, 200), s(2));
    }
    waits.event(report, s(3));
    assert_eq!(waits.of(TraceEventKind::NotDebited), ["not-debited report=release 413"]);
}

#[test]
fn denial_names_reason_of_enabler() {
    let mut run = Run::reserving(8);
    run.answer(Response::Denied(Denial::NoCredit));
    assert_eq!(run.of(TraceEventKind::Denied), ["denied no-credit 4012"]);
    assert_eq!(run.of(TraceEventKind::Verdict), ["verdict no-credit 4012"]);
    assert_eq!(run.of(TraceEventKind::Closed), ["closed no-credit 4012"]);
    assert_eq!(run.last(TraceEventKind::Denied).request, Some(0));
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(2));
    run.answer(Response::Denied(Denial::Refused(5012)));
    assert_eq!(run.of(TraceEventKind::NotDebited), ["not-debited refused 5012"]);
    assert_eq!(run.last(TraceEventKind::Denied).message_id.as_deref(), Some("m1"));
}

#[test]
fn stopped_message_requests_beyond_grant() {
    let mut run = Run::open();
    run.event(Event::Stopped { message_id: "m9", why: Stop::Beyond, quota: 0 }, s(1));
    assert_eq!(run.of(TraceEventKind::Stopped), ["stopped beyond-grant"]);
    assert_eq!(run.last(TraceEventKind::Stopped).message_id.as_deref(), Some("m9"));
    assert_eq!(run.of(TraceEventKind::Reserve), ["reserve invite", "reserve beyond-grant"]);
}

#[test]
fn reserve_names_rule_that_requested_it() {
    let mut run = Run::open_with(0, Policy::default());
    for number in 0..32 {
        run.event(Event::Sent(Sent { message_id: &number.to_string(), ..whole("", number) }), s(1));
    }
    assert_eq!(run.of(TraceEventKind::Reserve), ["reserve invite", "reserve ahead-of-need"]);
    let mut run = Run::open();
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    assert_eq!(run.of(TraceEventKind::Reserve).last().map(String::as_str), Some("reserve reauthorization"));
    let mut run = Run::reserving(8);
    run.answer(Response::Denied(Denial::NotSoMany));
    assert_eq!(run.of(TraceEventKind::Reserve), ["reserve invite", "reserve one-at-least"]);
    let mut run = Run::reserving(8);
    let grant = Grant { quota: Quota(8), valid_for: Some(10), ..Grant::default() };
    run.answer(Response::Granted(grant));
    run.timer(s(11));
    assert_eq!(run.of(TraceEventKind::Reserve), ["reserve invite", "reserve validity-time"]);
    run.answer(Response::NoReservation);
    assert_eq!(run.of(TraceEventKind::Reserve).last().map(String::as_str), Some("reserve no-reservation"));
}

#[test]
fn unreserved_grant_names_its_rule() {
    let mut run = Run::new(8, "message:5", policy(|p| p.on_failure = OnFailure::Grant));
    run.answer(Response::Failed(Failure::Silent));
    assert_eq!(run.of(TraceEventKind::Granted), ["granted on_failure=grant"]);
    assert_eq!(run.of(TraceEventKind::EnablerFailed), ["enabler-failed enabler-silent"]);
    assert_eq!(run.of(TraceEventKind::Release), ["release maybe-held"]);
    let run = Run::new(8, "message:5", policy(|p| p.model = Model::Immediate));
    assert_eq!(run.of(TraceEventKind::Granted), ["granted model=immediate"]);
    let mut run = Run::reserving(8);
    run.answer(Response::Free);
    assert_eq!(run.of(TraceEventKind::Free), ["free free-of-charge 4011"]);
}

#[test]
fn late_grant_is_released_by_its_rule() {
    let mut run = Run::reserving(8);
    run.answer(Response::Failed(Failure::Unreachable));
    run.session.on_late_grant(0, None, s(9));
    run.drain();
    assert_eq!(run.of(TraceEventKind::LateGrant), ["late-grant"]);
    assert_eq!(run.of(TraceEventKind::Release), ["release late-grant"]);
}

#[test]
fn held_back_and_resolved_requests_are_traced() {
    for (again, word) in [(true, "outbox.resend"), (false, "outbox.release")] {
        let mut run = Run::open_with(8, policy(|p| p.resend = Resend::Hold));
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, 200), s(2));
        run.answer(Response::Failed(Failure::Silent));
        assert_eq!(run.of(TraceEventKind::HeldBack), ["held-back resend=hold"]);
        let waiting: Vec<_> = run.session.unacknowledged().map(|one| (one.state, one.message_id)).collect();
        assert_eq!(waiting, [("held-back", Some("m1"))]);
        run.session.resolve(again, s(9));
        run.drain();
        assert_eq!(run.of(TraceEventKind::Resolved), [format!("resolved {word}")]);
    }
}

#[test]
fn unsettled_items_are_listed_with_time_and_price() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.sent(whole("m2", 2), s(3));
    let outstanding: Vec<_> =
        run.session.unanswered_messages().map(|one| (one.message_id, one.units, one.since)).collect();
    assert_eq!(outstanding, [(Some("m1"), Units(5), s(1)), (Some("m2"), Units(5), s(3))]);
    run.event(responded(1, 200), s(4));
    run.event(responded(2, 415), s(5));
    let waiting: Vec<_> = run.session.unacknowledged().collect();
    let listed: Vec<_> = waiting.iter().map(|one| (one.kind.as_str(), one.state, one.message_id, one.since)).collect();
    assert_eq!(listed, [("debit", "asked", Some("m1"), s(4)), ("debit", "queued", Some("m2"), s(5))]);
    assert_eq!(run.session.oldest_debit(), Some(s(4)));
    assert!(run.session.has_unsettled_work());
}

#[test]
fn trace_limits_keep_money_events_and_count_dropped() {
    let mut run = Run::open();
    let most = TraceClass::Traffic.events_max() as usize;
    let messages = most as u64 + 100;
    for number in 0..messages {
        let id = format!("m{number}");
        run.event(Event::Sent(Sent { message_id: &id, ..whole("", number) }), s(1));
        run.event(responded(number, 200), s(1));
        while run.request.is_some() {
            run.accept();
        }
    }
    assert_eq!(run.of(TraceEventKind::Debited).len() as u64, messages);
    let traffic = run.trace.iter().filter(|event| event.kind.class() == TraceClass::Traffic).count();
    // The 2xx to the INVITE, and a SEND and a response for each message.
    assert_eq!((traffic, run.session.trace_events_dropped() as usize), (most, 1 + 2 * messages as usize - most));
    for number in 0..400 {
        run.event(Event::Stopped { message_id: "m", why: Stop::Beyond, quota: 0 }, s(2 + number));
    }
    assert_eq!(run.of(TraceEventKind::Stopped).len(), TraceClass::Repeated.events_max() as usize);
    run.event(Event::Bye { leg: 1 }, s(1000));
    run.settle();
    assert_eq!(run.of(TraceEventKind::Closed), ["closed bye"]);
}

#[test]
fn trace_event_names_are_unique() {
    let words: std::collections::BTreeSet<_> = TraceEventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(words.len(), TraceEventKind::ALL.len());
}

#[test]
fn trace_numbers_requests_within_reservation() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(2));
    let asked = run.request.clone().expect("a request");
    assert_eq!(run.trace.last().and_then(|event| event.request), Some(asked.sequence));
    // The enabler has lost the reservation: numbers restart with the request that opens the next one.
    run.answer(Response::NoReservation);
    assert_eq!(run.last(TraceEventKind::NoReservation).request, Some(asked.sequence));
    let next = run.request.clone().expect("a request");
    assert_eq!((next.sequence, run.trace.last().and_then(|event| event.request)), (0, Some(0)));
}
