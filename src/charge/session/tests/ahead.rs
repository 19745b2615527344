//! How much is reserved, when more is requested, and several reservations at once.

use super::*;

fn denied(denial: Denial) -> Response {
    Response::Denied(denial)
}

/// Sends whole messages with the numbers `first` to `last`.
fn send(run: &mut Run, first: u64, last: u64, at: Time) {
    for number in first..=last {
        let id = format!("m{number}");
        run.event(Event::Sent(Sent { message_id: &id, ..whole("", number) }), at);
    }
}

/// Sends whole messages, the client accepts them, and the enabler accepts all requests.
fn deliver(run: &mut Run, first: u64, last: u64, at: Time) {
    send(run, first, last, at);
    (first..=last).for_each(|number| run.event(responded(number, 200), at));
    while run.request.is_some() {
        run.accept();
    }
}

/// Descriptions of all requests with their reservations, from index `from` on.
fn requests_from(run: &Run, from: usize) -> Vec<String> {
    let description = |output: &Output| match output {
        Output::Ask(request) => Some(match request.reservation {
            Reservation::None => describe(&request.operation),
            Reservation::Open { opened_by, outstanding } => {
                format!("{} of {opened_by} with {}", describe(&request.operation), outstanding.0)
            }
            Reservation::Last { opened_by, .. } => format!("{} ends {opened_by}", describe(&request.operation)),
        }),
        _ => None,
    };
    run.out.iter().filter_map(description).skip(from).collect()
}

fn open_unannounced() -> Run {
    Run::open_with(0, Policy::default())
}

// The number is announced.

#[test]
fn announced_number_is_not_exceeded_and_last_debit_ends_reservation() {
    let mut run = Run::open_with(3, Policy::default());
    deliver(&mut run, 1, 3, s(1));
    let debits = ["debit m1 response of 0 with 3", "debit m2 response of 0 with 2", "debit m3 response ends 0"];
    assert_eq!(requests_from(&run, 1), debits);
    assert_eq!(run.session.reserved(), Units(0), "nothing stays reserved until the BYE");
    run.event(Event::Bye { leg: 1 }, s(2));
    run.settle();
    assert_eq!((run.requests().len(), run.closed()), (4, Some("bye")));
}

#[test]
fn message_beyond_announced_number_switches_to_window() {
    let mut run = Run::open_with(1, Policy::default());
    send(&mut run, 1, 1, s(1));
    assert_eq!(run.pending(), "");
    run.event(Event::Stopped { message_id: "m2", why: Stop::Beyond, quota: 0 }, s(2));
    assert_eq!(pending_operation(&run), (Operation::Reserve { quota: Quota(128) }, Reservation::None));
    run.accept();
    assert_eq!(run.session.granted(), Quota(129));
    run.event(responded(1, 200), s(2));
    assert_eq!(requests_from(&run, 2), ["debit m1 response ends 0"], "each reservation is ended by its last debit");
}

#[test]
fn price_of_a_message_beyond_the_grant_is_requested_in_full() {
    let mut run = Run::open_with(1, Policy::default());
    run.event(Event::Stopped { message_id: "m1", why: Stop::Beyond, quota: 3000 }, s(1));
    assert_eq!(pending_operation(&run), (Operation::Reserve { quota: Quota(2999) }, Reservation::None));
}

#[test]
fn rest_of_announced_number_is_requested_ahead() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.answer(Response::granted(Quota(4), None));
    run.event(Event::Answered { leg: 1 }, s(0));
    send(&mut run, 1, 1, s(1));
    assert_eq!(run.pending(), "");
    send(&mut run, 2, 2, s(1));
    assert_eq!(run.pending(), "reserve 4");
    run.accept();
    send(&mut run, 3, 8, s(1));
    assert_eq!(run.pending(), "", "the announced number is granted");
}

#[test]
fn quota_of_aborted_message_serves_another() {
    let mut run = Run::open_with(1, Policy::default());
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(abort("m1", 2), s(2));
    run.timer(s(4));
    assert_eq!((run.not_charged(), run.session.granted(), run.session.taken()), (vec!["abort=release"], Quota(2), 1));
    deliver(&mut run, 3, 3, s(5));
    assert_eq!(requests_from(&run, 1), ["debit m3 response ends 0"]);
}

// The number is not announced.

#[test]
fn window_is_kept_granted_without_announced_number() {
    let mut run = open_unannounced();
    send(&mut run, 1, 31, s(1));
    assert_eq!(run.requests(), ["reserve 128"]);
    send(&mut run, 32, 32, s(1));
    assert_eq!(pending_operation(&run), (Operation::Reserve { quota: Quota(32) }, Reservation::None));
    send(&mut run, 33, 64, s(1));
    assert_eq!(run.requests().len(), 2, "one request at a time");
    run.accept();
    assert_eq!((run.session.granted(), run.pending()), (Quota(160), "reserve 32".to_owned()));
}

#[test]
fn slow_enabler_widens_window() {
    for (micros, more) in [(1_000, 0), (20_000, 138), (10_000_000, 896)] {
        let mut run = Run::reserving(0);
        let request = run.request.take().expect("the reservation");
        let granted = Response::granted(Quota(128), None);
        run.session.on_response(request.number, &granted, Time(s(0).0 + micros));
        run.drain();
        let asked = if more > 0 { format!("reserve {}", more.min(256)) } else { String::new() };
        assert_eq!(run.pending(), asked, "after {micros} us");
    }
}

#[test]
fn partial_grant_is_extended_when_half_is_used() {
    let mut run = Run::reserving(0);
    run.answer(Response::granted(Quota(10), Some(0)));
    run.event(Event::Answered { leg: 1 }, s(0));
    send(&mut run, 1, 4, s(1));
    assert_eq!(run.pending(), "");
    send(&mut run, 5, 5, s(1));
    assert_eq!(run.pending(), "reserve 123");
    run.answer(denied(Denial::NoCredit));
    send(&mut run, 6, 10, s(0));
    assert_eq!((run.pending(), run.session.granted()), (String::new(), Quota(10)), "the grant is kept");
}

#[test]
fn refusal_of_more_keeps_grant() {
    for refusal in [denied(Denial::NoCredit), denied(Denial::Refused(5012)), Response::Failed(Failure::Unreachable)] {
        let mut run = open_unannounced();
        send(&mut run, 1, 32, s(1));
        run.answer(refusal);
        assert_eq!((run.session.granted(), run.session.phase()), (Quota(128), "open"));
        assert_eq!(run.session.reserved(), Units(5 * 128));
        assert_eq!(run.verdicts().len(), 1);
    }
}

#[test]
fn refused_request_is_retried_once_per_second() {
    let mut run = Run::reserving(0);
    run.answer(Response::granted(Quota(2), Some(0)));
    run.event(Event::Answered { leg: 1 }, s(0));
    send(&mut run, 1, 1, s(0));
    run.answer(denied(Denial::NoCredit));
    run.event(Event::Stopped { message_id: "m9", why: Stop::Beyond, quota: 0 }, Time(s(1).0 - 1));
    run.event(responded(1, 200), s(0));
    run.accept();
    assert_eq!(run.pending(), "");
    run.event(Event::Stopped { message_id: "m9", why: Stop::Beyond, quota: 0 }, s(1));
    assert_eq!(run.pending(), "reserve 127");
    run.answer(denied(Denial::NoCredit));
    send(&mut run, 2, 2, s(2));
    assert_eq!(run.pending(), "reserve 128", "the account may have been topped up");
}

#[test]
fn denied_quota_is_halved_until_granted() {
    let mut run = Run::reserving(0);
    run.answer(denied(Denial::NotSoMany));
    assert_eq!(run.pending(), "reserve 1", "the INVITE needs only one");
    run.accept();
    assert_eq!(run.verdicts(), [(Decision::Granted, 1)]);
    run.event(Event::Answered { leg: 1 }, s(0));
    for fewer in [64, 32, 16] {
        assert_eq!(run.pending(), format!("reserve {fewer}"));
        run.answer(denied(Denial::NotSoMany));
    }
    run.accept();
    assert_eq!((run.session.granted(), run.pending()), (Quota(9), "reserve 16".to_owned()));
    for _ in 0..4 {
        run.answer(denied(Denial::NotSoMany));
    }
    run.answer(denied(Denial::NoCredit));
    assert_eq!((run.session.granted(), run.pending()), (Quota(9), String::new()));
}

#[test]
fn window_by_kilobyte_is_refilled_ahead() {
    let kilobytes = |id: &'static str, number: u64, taken: u32| Sent { taken, ..whole(id, number) };
    let mut run = Run::new(0, "kilobyte:3", Policy::default());
    run.accept();
    run.sent(kilobytes("m1", 1, 255), s(1));
    assert_eq!(run.pending(), "");
    run.sent(kilobytes("m2", 2, 1), s(1));
    assert_eq!(run.pending(), "reserve 256");
}

#[test]
fn large_message_by_kilobyte_requests_its_size_and_last_debit_returns_rest() {
    let mut run = Run::new(2, "kilobyte:3", Policy::default());
    run.accept();
    run.event(Event::Answered { leg: 1 }, s(0));
    let large = |transaction: u64, start: u64, flag: Flag| Sent {
        octets: 10 * 1024,
        total: Some(50 * 1024),
        taken: 10,
        ..chunk("m1", transaction, start, 0, flag)
    };
    run.sent(large(1, 1, Flag::More), s(1));
    // 22 of 32 are left; this message still needs 40, and the other one 16.
    assert_eq!(run.pending(), "reserve 34");
    run.accept();
    for (chunk, flag) in [(1, Flag::More), (2, Flag::More), (3, Flag::More), (4, Flag::Last)] {
        run.sent(large(chunk + 1, chunk * 10 * 1024 + 1, flag), s(1));
    }
    (1..=5).for_each(|transaction| run.event(responded(transaction, 200), s(1)));
    run.accept();
    assert_eq!(run.pending(), "", "the rest is kept for the second message");
    assert_eq!(run.session.reserved(), Units(3 * 16));
    deliver(&mut run, 9, 9, s(2));
    assert_eq!((run.session.reserved(), run.session.granted()), (Units(0), Quota(run.session.taken())));
    // The first debit exceeded its reservation, so the other one holds less by the excess.
    assert_eq!(requests_from(&run, 2), ["debit m1 response ends 0", "debit m9 response ends 1"]);
}

#[test]
fn stopped_frame_by_kilobyte_requests_whole_frame() {
    let mut run = Run::new(1, "kilobyte:3", Policy::default());
    run.accept();
    run.event(Event::Stopped { message_id: "m1", why: Stop::Beyond, quota: 0 }, s(1));
    assert_eq!(run.pending(), "reserve 16");
}

// Several reservations.

/// Two reservations of four; four messages of the first and one of the second are delivered.
fn two_reservations() -> Run {
    let mut run = Run::new(0, "message:5", Policy::default());
    run.answer(Response::granted(Quota(4), None));
    run.event(Event::Answered { leg: 1 }, s(0));
    send(&mut run, 1, 2, s(1));
    run.answer(Response::granted(Quota(4), None));
    send(&mut run, 3, 5, s(1));
    assert_eq!((run.session.granted(), run.session.reserved()), (Quota(8), Units(40)));
    run
}

#[test]
fn debits_use_oldest_reservation_and_rest_is_released() {
    let mut run = two_reservations();
    for number in 1..=5 {
        run.event(responded(number, 200), s(2));
    }
    while run.request.is_some() {
        run.accept();
    }
    run.event(Event::Bye { leg: 1 }, s(3));
    run.settle();
    let last = ["debit m4 response ends 0", "debit m5 response of 1 with 4", "release of 1 with 3"];
    assert_eq!(requests_from(&run, 5), last);
    assert_eq!(run.closed(), Some("bye"));
}

#[test]
fn requests_are_numbered_within_reservation() {
    let mut run = two_reservations();
    run.event(responded(1, 200), s(2));
    let debit = run.request.clone().expect("the debit");
    assert_eq!((debit.number, debit.sequence), (2, 1));
    run.session.repeat_outputs(s(2));
    run.drain();
    assert_eq!(run.request.as_ref().map(|again| again.sequence), Some(1), "a resend has the same number");
}

#[test]
fn refused_update_ends_its_reservation_only() {
    let mut run = two_reservations();
    run.event(responded(1, 200), s(2));
    // 4012 to an UPDATE: the used units are deducted and nothing more is granted (RFC 8506, 9.1).
    let rest = Some(Grant { reserved: Some(Quota(0)), ..Grant::default() });
    run.answer(Response::Debited { balance: None, ended: false, rest });
    assert_eq!(requests_from(&run, 3), ["release of 0 with 0"]);
    // Four are delivered and four are reserved: no more may pass.
    assert_eq!((run.session.granted(), run.session.taken()), (Quota(5), 5));
    run.answer(Response::NoReservation);
    (2..=5).for_each(|number| run.event(responded(number, 200), s(2)));
    while run.request.is_some() {
        run.accept();
    }
    assert_eq!(requests_from(&run, 4).last().map(String::as_str), Some("debit m5 response ends 1"));
    assert_eq!((run.session.counts().debited, run.session.reserved()), (5, Units(0)));
}

#[test]
fn delivered_message_without_reservation_is_debited_directly() {
    let mut run = Run::open_with(2, Policy::default());
    send(&mut run, 1, 1, s(1));
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    run.answer(denied(Denial::NoCredit));
    assert_eq!((run.pending(), run.session.granted()), ("release".to_owned(), Quota(0)));
    run.answer(Response::NoReservation);
    run.event(responded(1, 200), s(2));
    assert_eq!(pending_operation(&run).1, Reservation::None);
    run.answer(denied(Denial::NoCredit));
    assert!(run.out.contains(&Output::DebitDenied { message_id: "m1".into(), denial: Denial::NoCredit }));
    assert!(run.is_gate_closing());
}

#[test]
fn each_reservation_is_renewed_separately() {
    let valid = |seconds| Grant { quota: Quota(4), valid_for: Some(seconds), ..Grant::default() };
    let mut run = Run::reserving(0);
    run.answer(Response::Granted(valid(60)));
    run.event(Event::Answered { leg: 1 }, s(0));
    send(&mut run, 1, 2, s(1));
    run.answer(Response::Granted(valid(30)));
    assert_eq!(run.session.deadline(), Some(s(30)));
    send(&mut run, 3, 3, s(1));
    run.timer(s(30));
    assert_eq!(requests_from(&run, 2), ["reserve 0 of 1 with 4"]);
    run.answer(Response::granted(Quota(0), None));
    run.event(Event::Reauthorize { opened_by: 0 }, s(31));
    assert_eq!(requests_from(&run, 3), ["reserve 0 of 0 with 4"]);
    run.answer(Response::granted(Quota(0), None));
    assert!(run.request.is_none());
}

/// A session with a grant of four messages that is valid for a minute from 0 s on.
fn valid_for_a_minute() -> Run {
    let mut run = Run::reserving(0);
    run.answer(Response::Granted(Grant { quota: Quota(4), valid_for: Some(60), ..Grant::default() }));
    run.event(Event::Answered { leg: 1 }, s(0));
    run
}

#[test]
fn validity_continues_over_engine_restart() {
    let mut run = valid_for_a_minute();
    run.session.repeat_outputs(s(20));
    assert_eq!(run.session.deadline(), Some(s(60)));
    run.timer(s(59));
    assert_eq!(run.pending(), "");
    run.timer(s(60));
    assert_eq!(run.pending(), "reserve 0");
}

#[test]
fn validity_is_limited_after_machine_restart() {
    let mut run = valid_for_a_minute();
    let restarted_clock = Time(s(0).0 / 2);
    run.session.repeat_outputs(restarted_clock);
    assert_eq!(run.session.deadline(), Some(restarted_clock.after_seconds(60)));
}

#[test]
fn renewal_is_postponed_once() {
    let mut run = valid_for_a_minute();
    assert!(!run.session.is_renewal_due(s(59)));
    assert!(run.session.is_renewal_due(s(60)));
    run.session.postpone_renewals(s(60), s(80));
    assert_eq!(run.session.deadline(), Some(s(80)));
    run.timer(s(79));
    assert_eq!(run.pending(), "");
    assert!(!run.session.is_renewal_due(s(80)));
    run.timer(s(80));
    assert_eq!(run.pending(), "reserve 0");
    // A restarted engine may postpone it again.
    let mut run = valid_for_a_minute();
    run.session.postpone_renewals(s(60), s(80));
    run.session.repeat_outputs(s(80));
    assert!(run.session.is_renewal_due(s(80)));
}

#[test]
fn resent_renewal_is_rate_limited() {
    let mut run = valid_for_a_minute();
    run.timer(s(60));
    run.session.repeat_outputs(s(61));
    run.drain();
    assert!(
        run.request.as_ref().is_some_and(|request| request.possible_duplicate && request.rate_limited),
        "{:?}",
        run.request
    );
}

#[test]
fn reservations_beyond_limit_are_not_requested() {
    let mut run = Run::reserving(0);
    run.answer(Response::granted(Quota(1), None));
    run.event(Event::Answered { leg: 1 }, s(0));
    for number in 1..200 {
        send(&mut run, number, number, s(number));
        if run.request.is_some() {
            run.answer(Response::granted(Quota(1), None));
        }
    }
    assert_eq!((run.session.granted(), run.pending()), (Quota(64), String::new()));
}

fn requested_for(prices: &str, messages: u32, files: OfferedFiles) -> u32 {
    let reserve = Reserve { files, ..invite(messages) };
    let session = Session::open(KEY, &reserve, prices.parse().expect("prices"), Policy::default(), 0, s(0));
    session.credit.ahead.requested.0
}

#[test]
fn files_are_reserved_by_their_stated_size() {
    let files = |sized, kilobytes| OfferedFiles { sized, kilobytes, ..OfferedFiles::default() };
    let table = "message:2 file=message:10+kilobyte:1";
    for (prices, described, requested) in [
        ("message:5", files(1, 4096), 1),
        ("kilobyte:1", files(1, 4), 4),
        ("kilobyte:1", files(2, 10), 10),
        (table, files(1, 4), 14),
        (table, files(3, 100), 130),
        ("kilobyte:3", files(1, u64::MAX), u32::MAX),
    ] {
        assert_eq!(requested_for(prices, 0, described), requested, "{prices} {described:?}");
    }
    // Text beside the file, a stated number of messages, or an unknown size: in addition to the usual reservation.
    let usual = requested_for(table, 0, OfferedFiles::default());
    let beside = OfferedFiles { has_other_media: true, ..files(1, 4) };
    assert_eq!(requested_for(table, 0, beside), usual + 14);
    assert_eq!(requested_for(table, 0, OfferedFiles { unsized_files: 1, ..files(1, 4) }), usual + 14);
    assert_eq!(requested_for(table, 0, OfferedFiles { unsized_files: 1, ..files(0, 0) }), usual);
    assert_eq!(requested_for("message:5", 3, files(1, 4)), 4);
}
