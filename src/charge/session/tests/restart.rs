//! Sessions after a restart of the engine or the machine.

use super::*;

#[test]
fn restart_repeats_pending_request_and_grant() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    let asked = run.request.clone().expect("the debit");
    run.out.clear();
    run.session.repeat_outputs(s(1));
    run.drain();
    let again = Request { possible_duplicate: true, rate_limited: true, ..asked };
    assert_eq!(run.out, [Output::Ask(again), Output::Grant(Quota(8))]);
}

#[test]
fn restart_holds_back_pending_debit() {
    let mut run = Run::open_with(8, Policy { resend: Resend::Hold, ..Policy::default() });
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run.request = None;
    run.session.repeat_outputs(s(1));
    run.drain();
    assert_eq!((run.request.clone(), run.session.held_back_message()), (None, Some("m1")));
}

#[test]
fn restart_releases_reservation_that_may_be_held() {
    let mut run = Run::reserving(3);
    run.request = None;
    run.session.repeat_outputs(s(1));
    run.drain();
    run.answer(Response::Failed(Failure::Unreachable));
    assert_eq!(run.verdicts(), [(Decision::Failed(Failure::Unreachable), 0)]);
    assert_eq!(run.pending(), "release");
}

#[test]
fn restart_with_new_clock_limits_all_timers() {
    let old = Time(s(0).0 + 8_640_000_000_000);
    let mut run = Run::open();
    run.sent(whole("m1", 1), old);
    run.event(responded(1, 200), old);
    run.session.on_response(1, &Response::Failed(Failure::Unreachable), old);
    run.drain();
    run.session.repeat_outputs(s(1));
    run.drain();
    assert!(run.session.deadline().is_some_and(|deadline| deadline <= s(61)), "{:?}", run.session.deadline());
}
