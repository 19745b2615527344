//! What is reserved, when more is asked for, and what an enabler that refuses is taken to hold.

use super::*;

fn denied(denial: Denial) -> Response {
    Response::Denied(denial)
}

/// Sends whole messages numbered from `first` to `last`.
fn send(run: &mut Run, first: u64, last: u64, at: Time) {
    for number in first..=last {
        let id = format!("m{number}");
        run.event(Event::Sent(Sent { message_id: &id, ..whole("", number) }), at);
    }
}

/// Sends them, and the client takes each; the enabler says yes.
fn deliver(run: &mut Run, first: u64, last: u64, at: Time) {
    send(run, first, last, at);
    (first..=last).for_each(|number| run.event(responded(number, 200), at));
    while run.asked.is_some() {
        run.yes();
    }
}

/// Every request with what it finds of a reservation, from the `from`th on.
fn requests(run: &Run, from: usize) -> Vec<String> {
    let word = |output: &Output| match output {
        Output::Ask(request) => Some(match request.reservation {
            Reservation::None => ask_word(&request.operation),
            Reservation::Open { opened_by, outstanding } => {
                format!("{} of {opened_by} with {}", ask_word(&request.operation), outstanding.0)
            }
            Reservation::Last { opened_by, .. } => format!("{} ends {opened_by}", ask_word(&request.operation)),
        }),
        _ => None,
    };
    run.out.iter().filter_map(word).skip(from).collect()
}

fn open_untold() -> Run {
    Run::open_with(0, Policy::default())
}

// The number is told.

#[test]
fn nothing_beyond_the_told_number_is_asked_for_and_the_last_told_debit_ends_the_reservation() {
    let mut run = Run::open_with(3, Policy::default());
    deliver(&mut run, 1, 3, s(1));
    let debits = ["debit m1 response of 0 with 3", "debit m2 response of 0 with 2", "debit m3 response ends 0"];
    assert_eq!(requests(&run, 1), debits);
    assert_eq!(run.session.reserved(), Units(0), "nothing is held until the BYE");
    run.event(Event::Bye { leg: 1 }, s(2));
    run.settle();
    assert_eq!((run.asks().len(), run.closed()), (4, Some("bye")));
}

#[test]
fn a_message_beyond_the_told_number_is_stopped_and_the_session_goes_on_as_without_one() {
    let mut run = Run::open_with(1, Policy::default());
    send(&mut run, 1, 1, s(1));
    assert_eq!(run.asking(), "");
    run.event(Event::Stopped { message_id: "m2", why: Stop::Beyond }, s(2));
    assert_eq!(asked(&run), (Operation::Reserve { quota: Quota(128) }, Reservation::None));
    run.yes();
    assert_eq!(run.session.granted(), Quota(129));
    run.event(responded(1, 200), s(2));
    assert_eq!(requests(&run, 2), ["debit m1 response ends 0"], "each reservation ends by itself");
}

#[test]
fn what_was_not_granted_of_the_told_number_is_asked_for_ahead() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.answer(Response::granted(Quota(4), None));
    run.event(Event::Answered { leg: 1 }, s(0));
    send(&mut run, 1, 1, s(1));
    assert_eq!(run.asking(), "");
    send(&mut run, 2, 2, s(1));
    assert_eq!(run.asking(), "reserve 4");
    run.yes();
    send(&mut run, 3, 8, s(1));
    assert_eq!(run.asking(), "", "that is all");
}

#[test]
fn what_is_reserved_for_a_message_that_is_not_debited_serves_another() {
    let mut run = Run::open_with(1, Policy::default());
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(abort("m1", 2), s(2));
    run.timer(s(4));
    assert_eq!((run.free(), run.session.granted(), run.session.taken()), (vec!["abort=release"], Quota(2), 1));
    deliver(&mut run, 3, 3, s(5));
    assert_eq!(requests(&run, 1), ["debit m3 response ends 0"]);
}

// It is not.

#[test]
fn without_a_number_a_window_is_kept_granted_ahead() {
    let mut run = open_untold();
    send(&mut run, 1, 31, s(1));
    assert_eq!(run.asks(), ["reserve 128"]);
    send(&mut run, 32, 32, s(1));
    assert_eq!(asked(&run), (Operation::Reserve { quota: Quota(32) }, Reservation::None));
    send(&mut run, 33, 64, s(1));
    assert_eq!(run.asks().len(), 2, "one request at a time");
    run.yes();
    assert_eq!((run.session.granted(), run.asking()), (Quota(160), "reserve 32".to_owned()));
}

#[test]
fn a_slow_enabler_is_asked_further_ahead() {
    for (micros, more) in [(1_000, 0), (20_000, 138), (10_000_000, 896)] {
        let mut run = Run::invited(0);
        let request = run.asked.take().expect("the reservation");
        let granted = Response::granted(Quota(128), None);
        run.session.response(request.number, &granted, Time(s(0).0 + micros));
        run.drain();
        let asked = if more > 0 { format!("reserve {}", more.min(256)) } else { String::new() };
        assert_eq!(run.asking(), asked, "after {micros} us");
    }
}

#[test]
fn an_account_that_grants_in_part_is_asked_again_when_half_is_used() {
    let mut run = Run::invited(0);
    run.answer(Response::granted(Quota(10), Some(0)));
    run.event(Event::Answered { leg: 1 }, s(0));
    send(&mut run, 1, 4, s(1));
    assert_eq!(run.asking(), "");
    send(&mut run, 5, 5, s(1));
    assert_eq!(run.asking(), "reserve 123");
    run.answer(denied(Denial::NoCredit));
    send(&mut run, 6, 10, s(0));
    assert_eq!((run.asking(), run.session.granted()), (String::new(), Quota(10)), "what is granted stays");
}

#[test]
fn a_refusal_of_more_costs_nothing_of_what_is_granted() {
    for refusal in [denied(Denial::NoCredit), denied(Denial::Refused(5012)), Response::Failed(Failure::Unreachable)] {
        let mut run = open_untold();
        send(&mut run, 1, 32, s(1));
        run.answer(refusal);
        assert_eq!((run.session.granted(), run.session.phase()), (Quota(128), "open"));
        assert_eq!(run.session.reserved(), Units(5 * 128));
        assert_eq!(run.verdicts().len(), 1);
    }
}

#[test]
fn after_a_refusal_a_stopped_message_asks_once_a_second_and_so_does_one_that_passes() {
    let mut run = Run::invited(0);
    run.answer(Response::granted(Quota(2), Some(0)));
    run.event(Event::Answered { leg: 1 }, s(0));
    send(&mut run, 1, 1, s(0));
    run.answer(denied(Denial::NoCredit));
    run.event(Event::Stopped { message_id: "m9", why: Stop::Beyond }, Time(s(1).0 - 1));
    run.event(responded(1, 200), s(0));
    run.yes();
    assert_eq!(run.asking(), "");
    run.event(Event::Stopped { message_id: "m9", why: Stop::Beyond }, s(1));
    assert_eq!(run.asking(), "reserve 127");
    run.answer(denied(Denial::NoCredit));
    send(&mut run, 2, 2, s(2));
    assert_eq!(run.asking(), "reserve 128", "the account may have been topped up");
}

#[test]
fn where_nothing_is_granted_in_part_fewer_are_asked_for_until_they_are_granted() {
    let mut run = Run::invited(0);
    run.answer(denied(Denial::NotSoMany));
    assert_eq!(run.asking(), "reserve 1", "the INVITE waits");
    run.yes();
    assert_eq!(run.verdicts(), [(Decision::Granted, 1)]);
    run.event(Event::Answered { leg: 1 }, s(0));
    for fewer in [64, 32, 16] {
        assert_eq!(run.asking(), format!("reserve {fewer}"));
        run.answer(denied(Denial::NotSoMany));
    }
    run.yes();
    assert_eq!((run.session.granted(), run.asking()), (Quota(9), "reserve 16".to_owned()));
    for _ in 0..4 {
        run.answer(denied(Denial::NotSoMany));
    }
    run.answer(denied(Denial::NoCredit));
    assert_eq!((run.session.granted(), run.asking()), (Quota(9), String::new()));
}

#[test]
fn by_kilobytes_more_is_asked_for_ahead_as_well() {
    let kilobytes = |id: &'static str, number: u64, taken: u32| Sent { taken, ..whole(id, number) };
    let mut run = Run::new(0, "kilobyte:3", Policy::default());
    run.yes();
    run.sent(kilobytes("m1", 1, 255), s(1));
    assert_eq!(run.asking(), "");
    run.sent(kilobytes("m2", 2, 1), s(1));
    assert_eq!(run.asking(), "reserve 256");
}

#[test]
fn by_kilobytes_a_large_message_of_a_told_number_asks_for_its_size_and_the_last_one_gives_back_the_rest() {
    let mut run = Run::new(2, "kilobyte:3", Policy::default());
    run.yes();
    run.event(Event::Answered { leg: 1 }, s(0));
    let large = |transaction: u64, start: u64, flag: Flag| Sent {
        octets: 10 * 1024,
        total: Some(50 * 1024),
        taken: 10,
        ..chunk("m1", transaction, start, 0, flag)
    };
    run.sent(large(1, 1, Flag::More), s(1));
    // 22 are left of 32; 40 of this message are to come, and 16 for the other.
    assert_eq!(run.asking(), "reserve 34");
    run.yes();
    for (chunk, flag) in [(1, Flag::More), (2, Flag::More), (3, Flag::More), (4, Flag::Last)] {
        run.sent(large(chunk + 1, chunk * 10 * 1024 + 1, flag), s(1));
    }
    (1..=5).for_each(|transaction| run.event(responded(transaction, 200), s(1)));
    run.yes();
    assert_eq!(run.asking(), "", "the second message may come");
    assert_eq!(run.session.reserved(), Units(3 * 16));
    deliver(&mut run, 9, 9, s(2));
    assert_eq!((run.session.reserved(), run.session.granted()), (Units(0), Quota(run.session.taken())));
    // The first debit was greater than its reservation: the other one was to pay for the rest, and has so much less.
    assert_eq!(requests(&run, 2), ["debit m1 response ends 0", "debit m9 response ends 1"]);
}

#[test]
fn by_kilobytes_a_stopped_frame_asks_for_enough_for_a_frame() {
    let mut run = Run::new(1, "kilobyte:3", Policy::default());
    run.yes();
    run.event(Event::Stopped { message_id: "m1", why: Stop::Beyond }, s(1));
    assert_eq!(run.asking(), "reserve 16");
}

// Several reservations.

/// Two of them: four messages of the first are with the client, and one of the second.
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
fn debits_go_out_of_the_oldest_reservation_and_all_are_released_at_the_end() {
    let mut run = two_reservations();
    for number in 1..=5 {
        run.event(responded(number, 200), s(2));
    }
    while run.asked.is_some() {
        run.yes();
    }
    run.event(Event::Bye { leg: 1 }, s(3));
    run.settle();
    let last = ["debit m4 response ends 0", "debit m5 response of 1 with 4", "release of 1 with 3"];
    assert_eq!(requests(&run, 5), last);
    assert_eq!(run.closed(), Some("bye"));
}

#[test]
fn requests_are_numbered_within_their_reservation() {
    let mut run = two_reservations();
    run.event(responded(1, 200), s(2));
    let debit = run.asked.clone().expect("the debit");
    assert_eq!((debit.number, debit.sequence), (2, 1));
    run.session.resume(s(2));
    run.drain();
    assert_eq!(run.asked.as_ref().map(|again| again.sequence), Some(1), "a resend has the same");
}

#[test]
fn a_refused_update_withdraws_what_may_still_pass_and_ends_its_reservation_alone() {
    let mut run = two_reservations();
    run.event(responded(1, 200), s(2));
    // 4012 to an UPDATE: what was used is deducted, and nothing is granted any more (RFC 8506, 9.1).
    let rest = Some(Grant { reserved: Some(Quota(0)), ..Grant::default() });
    run.answer(Response::Debited { balance: None, ended: false, rest });
    assert_eq!(requests(&run, 3), ["release of 0 with 0"]);
    // Four are with the client, and four are held: none may pass.
    assert_eq!((run.session.granted(), run.session.taken()), (Quota(5), 5));
    run.answer(Response::NoReservation);
    (2..=5).for_each(|number| run.event(responded(number, 200), s(2)));
    while run.asked.is_some() {
        run.yes();
    }
    assert_eq!(requests(&run, 4).last().map(String::as_str), Some("debit m5 response ends 1"));
    assert_eq!((run.session.counts().debited, run.session.reserved()), (5, Units(0)));
}

#[test]
fn without_any_reservation_what_is_with_the_client_is_debited_directly_or_its_debit_refused() {
    let mut run = Run::open_with(2, Policy::default());
    send(&mut run, 1, 1, s(1));
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    run.answer(denied(Denial::NoCredit));
    assert_eq!((run.asking(), run.session.granted()), ("release".to_owned(), Quota(0)));
    run.answer(Response::NoReservation);
    run.event(responded(1, 200), s(2));
    assert_eq!(asked(&run).1, Reservation::None);
    run.answer(denied(Denial::NoCredit));
    assert!(run.out.contains(&Output::DebitDenied { message_id: "m1".into(), denial: Denial::NoCredit }));
    assert!(run.gate_closing());
}

#[test]
fn each_reservation_is_renewed_when_it_is_old_or_the_enabler_wants_it() {
    let valid = |seconds| Grant { quota: Quota(4), valid_for: Some(seconds), ..Grant::default() };
    let mut run = Run::invited(0);
    run.answer(Response::Granted(valid(60)));
    run.event(Event::Answered { leg: 1 }, s(0));
    send(&mut run, 1, 2, s(1));
    run.answer(Response::Granted(valid(30)));
    assert_eq!(run.session.deadline(), Some(s(30)));
    send(&mut run, 3, 3, s(1));
    run.timer(s(30));
    assert_eq!(requests(&run, 2), ["reserve 0 of 1 with 4"]);
    run.answer(Response::granted(Quota(0), None));
    run.event(Event::Reauthorize { opened_by: 0 }, s(31));
    assert_eq!(requests(&run, 3), ["reserve 0 of 0 with 4"]);
    run.answer(Response::granted(Quota(0), None));
    assert!(run.asked.is_none());
}

/// A session with a grant of four messages, received at 0 and good for a minute.
fn valid_for_a_minute() -> Run {
    let mut run = Run::invited(0);
    run.answer(Response::Granted(Grant { quota: Quota(4), valid_for: Some(60), ..Grant::default() }));
    run.event(Event::Answered { leg: 1 }, s(0));
    run
}

#[test]
fn a_validity_time_goes_on_over_a_restart_of_the_engine() {
    let mut run = valid_for_a_minute();
    run.session.resume(s(20));
    assert_eq!(run.session.deadline(), Some(s(60)));
    run.timer(s(59));
    assert_eq!(run.asking(), "");
    run.timer(s(60));
    assert_eq!(run.asking(), "reserve 0");
}

#[test]
fn after_a_restart_of_the_machine_a_grant_is_good_for_its_validity_time_at_most() {
    let mut run = valid_for_a_minute();
    let begun_again = Time(s(0).0 / 2);
    run.session.resume(begun_again);
    assert_eq!(run.session.deadline(), Some(begun_again.after_seconds(60)));
}

#[test]
fn a_renewal_is_postponed_once() {
    let mut run = valid_for_a_minute();
    assert!(!run.session.is_renewal_due(s(59)));
    assert!(run.session.is_renewal_due(s(60)));
    run.session.postpone_renewals(s(60), s(80));
    assert_eq!(run.session.deadline(), Some(s(80)));
    run.timer(s(79));
    assert_eq!(run.asking(), "");
    assert!(!run.session.is_renewal_due(s(80)));
    run.timer(s(80));
    assert_eq!(run.asking(), "reserve 0");
    // An engine that starts paces it anew.
    let mut run = valid_for_a_minute();
    run.session.postpone_renewals(s(60), s(80));
    run.session.resume(s(80));
    assert!(run.session.is_renewal_due(s(80)));
}

#[test]
fn a_repeated_renewal_waits_for_its_turn() {
    let mut run = valid_for_a_minute();
    run.timer(s(60));
    run.session.resume(s(61));
    run.drain();
    assert!(
        run.asked.as_ref().is_some_and(|request| request.possible_duplicate && request.rate_limited),
        "{:?}",
        run.asked
    );
}

#[test]
fn reservations_are_bounded() {
    let mut run = Run::invited(0);
    run.answer(Response::granted(Quota(1), None));
    run.event(Event::Answered { leg: 1 }, s(0));
    for number in 1..200 {
        send(&mut run, number, number, s(number));
        if run.asked.is_some() {
            run.answer(Response::granted(Quota(1), None));
        }
    }
    assert_eq!((run.session.granted(), run.asking()), (Quota(64), String::new()));
}
