//! Page mode: SIP MESSAGEs.

use super::*;
use crate::charge::content::ContentClass;
use crate::charge::event::PageContent;

const OCTETS: u64 = 2000;

pub(super) fn message(copies: u32) -> Reserve<'static> {
    Reserve { page: Some(PageContent { class: ContentClass::Text, octets: OCTETS }), ..invite(copies) }
}

pub(super) fn page_of(copies: u32, tariff: &str, policy: Policy) -> Run {
    let tariff = tariff.parse().expect("a tariff");
    let session = Session::open(KEY, &message(copies), tariff, policy, 0, s(0));
    let mut run = Run { session, out: Vec::new(), request: None, trace: Vec::new() };
    run.drain();
    run
}

pub(super) fn page(policy: Policy) -> Run {
    page_of(0, "message:5", policy)
}

pub(super) fn granted_page(policy: Policy) -> Run {
    let mut run = page(policy);
    run.accept();
    run
}

pub(super) fn prepay() -> Policy {
    policy(|p| p.model = Model::Prepay)
}

pub(super) fn delivered(code: u16) -> Event<'static> {
    Event::Delivered { code, transaction: None }
}

fn failed(code: u16) -> Event<'static> {
    Event::Failed { code, transaction: None }
}

const UNANSWERED: Event<'static> = Event::Unanswered { transaction: None };

impl Run {
    /// Answers all requests and returns them, with the rules of what was not charged.
    fn finish(&mut self) -> (Vec<String>, Vec<&'static str>) {
        while self.request.is_some() {
            self.accept();
        }
        (self.requests(), self.not_charged())
    }
}

#[test]
fn message_is_debited_on_2xx_and_closed_without_gate() {
    let mut run = granted_page(Policy::default());
    assert_eq!(run.verdicts(), [(Decision::Granted, 1)]);
    assert_eq!(run.session.unanswered_messages().count(), 1);
    run.event(delivered(200), s(1));
    assert_eq!(
        run.request.as_ref().map(|asked| asked.reservation),
        Some(Reservation::Last { opened_by: 0, outstanding: Quota(1) })
    );
    let wanted = ["reserve 1", "debit msg response"].map(str::to_owned);
    assert_eq!(run.finish(), (wanted.to_vec(), vec![]));
    assert_eq!((run.closed(), run.is_gate_closing()), (Some("delivered"), false));
    assert_eq!(run.session.counts().debited, 1);
    assert!(run.session.unanswered_messages().next().is_none());
    run.timer(s(34));
    assert_eq!(run.out.last(), Some(&Output::Forget));
}

#[test]
fn outcome_decides_by_policy() {
    let release = policy(|p| (p.accepted, p.message_timeout) = (Settle::Release, Settle::Release));
    for (event, policy, result, end) in [
        (delivered(202), Policy::default(), "debit msg response", "delivered"),
        (delivered(202), release, "202=release", "delivered"),
        (delivered(200), release, "debit msg response", "delivered"),
        (failed(404), Policy::default(), "not-delivered", "not-delivered"),
        (failed(606), release, "not-delivered", "not-delivered"),
        (UNANSWERED, Policy::default(), "debit msg timeout", "unanswered"),
        (UNANSWERED, release, "message-timeout=release", "unanswered"),
        (Event::HostStopped, Policy::default(), "debit msg timeout", "host-stopped"),
        (Event::HostStopped, release, "message-timeout=release", "host-stopped"),
    ] {
        let mut run = granted_page(policy);
        run.event(event.clone(), s(1));
        let (requests, not_charged) = run.finish();
        if result.starts_with("debit") {
            assert_eq!((requests, not_charged), (vec!["reserve 1".into(), result.into()], vec![]), "{event:?}");
        } else {
            assert_eq!(
                (requests, not_charged),
                (vec!["reserve 1".into(), "release".into()], vec![result]),
                "{event:?}"
            );
        }
        assert_eq!(run.closed(), Some(end), "{event:?}");
    }
}

#[test]
fn only_the_first_outcome_counts() {
    let outcomes = [delivered(200), failed(480), UNANSWERED, Event::HostStopped];
    for first in &outcomes {
        let mut run = granted_page(Policy::default());
        run.event(first.clone(), s(1));
        let wanted = run.finish();
        for later in &outcomes {
            run.event(later.clone(), s(2));
            assert_eq!(run.finish(), wanted, "{first:?}, then {later:?}");
        }
    }
}

#[test]
fn delivery_after_release_by_silence_is_debited() {
    let mut run = granted_page(policy(|p| p.message_timeout = Settle::Release));
    run.timer(s(300));
    assert_eq!(run.finish().1, ["message-timeout=release"]);
    assert_eq!(run.closed(), Some("idle"));
    run.event(delivered(200), s(301));
    assert_eq!(run.request.as_ref().map(|asked| asked.reservation), Some(Reservation::None));
    assert_eq!(run.finish().0, ["reserve 1", "release", "debit msg response"]);
    run.event(delivered(200), s(302));
    assert_eq!(run.debits(), ["debit msg response"]);
}

#[test]
fn outcome_before_the_verdict_releases() {
    for event in [failed(408), Event::HostStopped] {
        let mut run = page(Policy::default());
        run.event(event, s(1));
        assert_eq!(run.finish(), (vec!["reserve 1".into(), "release".into()], vec![]));
        assert_eq!(run.verdicts(), [(Decision::Failed(Failure::Ended), 0)]);
        assert!(run.closed().is_some());
    }
}

#[test]
fn copies_and_kilobytes_are_reserved_and_debited_at_once() {
    for (copies, tariff, quota) in
        [(1, "message:5", 1), (7, "message:5", 7), (0, "kilobyte:5", 2), (3, "kilobyte:5", 6)]
    {
        let mut run = page_of(copies, tariff, Policy::default());
        assert_eq!(run.pending(), format!("reserve {quota}"));
        run.accept();
        run.event(delivered(200), s(1));
        let (operation, _) = pending_operation(&run);
        let Operation::Debit { octets, units, quota: debited, part: 0, .. } = operation else { panic!("no debit") };
        let wanted = OCTETS * u64::from(copies.max(1));
        assert_eq!((octets, units, debited), (wanted, Units(5 * u64::from(quota)), Quota(quota)));
        run.finish();
        assert_eq!(run.closed(), Some("delivered"));
    }
}

#[test]
fn partial_grant_is_a_denial() {
    let mut run = page_of(3, "message:5", Policy::default());
    run.answer(Response::granted(Quota(2), Some(1)));
    assert_eq!(run.verdicts(), [(Decision::Denied(Denial::NoCredit), 0)]);
    assert_eq!(run.finish().0, ["reserve 3", "release"]);
    let mut run = page_of(3, "message:5", Policy::default());
    run.answer(Response::Denied(Denial::NotSoMany));
    assert_eq!(run.verdicts(), [(Decision::Denied(Denial::NotSoMany), 0)]);
    assert_eq!((run.finish().0, run.closed()), (vec!["reserve 3".into()], Some("no-credit")));
}

#[test]
fn refused_message_ignores_its_error_response() {
    let mut run = page(Policy::default());
    run.answer(Response::Denied(Denial::NoCredit));
    run.event(failed(402), s(1));
    assert_eq!((run.finish(), run.closed()), ((vec!["reserve 1".into()], vec![]), Some("no-credit")));
}

#[test]
fn failing_enabler_grants_whole_messages_only() {
    for (copies, verdict) in [(2, Decision::Granted), (3, Decision::Failed(Failure::Unreachable))] {
        let grant = policy(|p| (p.on_failure, p.on_failure_cap) = (OnFailure::Grant, 2));
        let mut run = page_of(copies, "message:5", grant);
        run.answer(Response::Failed(Failure::Unreachable));
        assert_eq!(run.verdicts()[0].0, verdict);
        run.event(delivered(200), s(1));
        assert_eq!(run.debits().len(), usize::from(verdict == Decision::Granted));
    }
}

#[test]
fn immediate_model_debits_after_delivery_only() {
    for (event, requests) in [(delivered(200), vec!["debit msg response"]), (failed(480), vec![])] {
        let mut run = page(policy(|p| p.model = Model::Immediate));
        assert_eq!(run.verdicts(), [(Decision::Granted, 1)]);
        run.event(event, s(1));
        assert_eq!(run.finish().0, requests);
        assert!(run.closed().is_some());
    }
}

#[test]
fn prepay_debits_before_the_verdict_and_refunds_failures() {
    let release = policy(|p| (p.model, p.message_timeout) = (Model::Prepay, Settle::Release));
    for (event, policy, is_refunded) in [
        (delivered(200), prepay(), false),
        (failed(480), prepay(), true),
        (UNANSWERED, prepay(), false),
        (UNANSWERED, release, true),
        (Event::HostStopped, release, true),
    ] {
        let mut run = page(policy);
        assert_eq!((run.pending(), run.verdicts()), ("debit msg prepay".to_owned(), vec![]));
        run.accept();
        assert_eq!(run.verdicts(), [(Decision::Granted, 1)]);
        run.event(event.clone(), s(1));
        let mut wanted = vec!["debit msg prepay"];
        wanted.extend(is_refunded.then_some("refund msg"));
        assert_eq!(run.finish().0, wanted, "{event:?}");
        assert_eq!(run.session.counts().refunded, u32::from(is_refunded));
        assert!(run.closed().is_some());
    }
}

#[test]
fn prepay_that_is_refused_is_a_denial() {
    let mut run = page(prepay());
    run.answer(Response::Denied(Denial::NoCredit));
    assert_eq!(run.verdicts(), [(Decision::Denied(Denial::NoCredit), 0)]);
    assert_eq!((run.finish().0.len(), run.closed()), (1, Some("no-credit")));
}

#[test]
fn prepay_is_refunded_if_the_transaction_ends_before_the_verdict() {
    for event in [failed(408), Event::HostStopped] {
        let mut run = page(prepay());
        run.event(event, s(1));
        assert_eq!(run.finish().0, ["debit msg prepay", "refund msg"]);
        assert_eq!(run.verdicts(), [(Decision::Failed(Failure::Ended), 0)]);
        assert!(run.closed().is_some());
    }
}

#[test]
fn prepay_that_may_be_done_is_resent_and_refunded() {
    for (failure, requests) in [
        (Failure::Silent, vec!["debit msg prepay", "debit msg prepay", "refund msg"]),
        (Failure::Unreachable, vec!["debit msg prepay"]),
    ] {
        let mut run = page(prepay());
        run.answer(Response::Failed(failure));
        assert_eq!(run.verdicts(), [(Decision::Failed(failure), 0)]);
        run.event(failed(503), s(1));
        run.timer(s(2));
        assert_eq!(run.finish().0, requests, "{failure:?}");
        assert_eq!(run.closed(), Some(failure.as_str()));
    }
}

#[test]
fn prepay_that_may_be_done_and_is_denied_later_refunds_nothing() {
    let mut run = page(prepay());
    run.answer(Response::Failed(Failure::Silent));
    run.timer(s(2));
    run.answer(Response::Denied(Denial::NoCredit));
    assert_eq!(run.finish(), (vec!["debit msg prepay".into(); 2], vec![]));
    assert!(run.closed().is_some());
}

#[test]
fn prepay_granted_by_on_failure_is_refunded_once_acknowledged() {
    let mut run = page(policy(|p| (p.model, p.on_failure) = (Model::Prepay, OnFailure::Grant)));
    run.answer(Response::Failed(Failure::Silent));
    assert_eq!(run.verdicts(), [(Decision::Granted, 1)]);
    run.event(failed(480), s(1));
    run.timer(s(2));
    assert_eq!(run.finish().0, ["debit msg prepay", "debit msg prepay", "refund msg"]);
}

#[test]
fn prepay_of_a_free_service_charges_nothing() {
    let mut run = page(prepay());
    run.answer(Response::Free);
    assert_eq!(run.verdicts(), [(Decision::Granted, 1)]);
    run.event(delivered(200), s(1));
    assert_eq!(run.finish(), (vec!["debit msg prepay".into()], vec!["free-of-charge"]));
}

#[test]
fn prepay_held_back_after_a_restart_fails_the_message() {
    let mut run = page(policy(|p| (p.model, p.resend) = (Model::Prepay, Resend::Hold)));
    run.session.repeat_outputs(s(1));
    run.drain();
    assert_eq!(run.verdicts(), [(Decision::Failed(Failure::Silent), 0)]);
    assert!(run.session.resolve(false, s(2)));
    run.drain();
    assert_eq!(run.pending(), "refund msg");
    run.finish();
    assert_eq!(run.closed(), Some("enabler-silent"));
}

#[test]
fn prepay_means_reserve_for_an_invite() {
    let run = Run::new(3, "message:5", prepay());
    assert_eq!(run.pending(), "reserve 3");
}

#[test]
fn message_without_identity_is_refused() {
    let reserve = Reserve { account: "", ..message(0) };
    let session = Session::open(KEY, &reserve, "message:1".parse().expect("a tariff"), prepay(), 0, s(0));
    let mut run = Run { session, out: Vec::new(), request: None, trace: Vec::new() };
    run.drain();
    assert_eq!(run.verdicts(), [(Decision::Failed(Failure::NoIdentity), 0)]);
    assert_eq!((run.requests(), run.closed()), (vec![], Some("no-identity")));
}

#[test]
fn debit_of_a_message_is_resent_under_its_number_after_a_restart() {
    for policy in [Policy::default(), prepay()] {
        let mut run = granted_page(policy);
        run.event(if policy.model == Model::Prepay { failed(480) } else { delivered(200) }, s(1));
        let asked = run.request.clone().expect("a debit or refund");
        let stored = run.session.head();
        run.session = Session::load(&stored, []).expect("a session");
        run.session.repeat_outputs(s(2));
        run.drain();
        let again = run.request.clone().expect("the same request");
        assert_eq!((again.number, &again.operation), (asked.number, &asked.operation));
        assert!(again.possible_duplicate);
        run.finish();
        assert!(run.closed().is_some());
    }
}

#[test]
fn reauthorization_of_a_message_renews_its_reservation() {
    let mut run = granted_page(Policy::default());
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    assert_eq!(run.pending(), "reserve 0");
    run.accept();
    run.event(Event::Abort, s(2));
    run.event(delivered(200), s(3));
    assert_eq!(run.finish().0, ["reserve 1", "reserve 0", "debit msg response"]);
}
