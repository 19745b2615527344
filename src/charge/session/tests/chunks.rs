//! Messages in chunks, messages that pass or are sent twice, and messages that cannot be relayed.

use super::*;

#[test]
fn chunked_message_is_debited_after_last_200() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(chunk("m1", 2, 51, 50, Flag::Last), s(1));
    run.event(responded(1, 200), s(2));
    assert_eq!(run.debits(), [""; 0]);
    run.event(responded(2, 200), s(2));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn chunks_and_200s_are_accepted_in_any_order() {
    let mut run = Run::open();
    run.sent(chunk("m1", 2, 51, 50, Flag::Last), s(1));
    run.event(responded(2, 200), s(2));
    assert_eq!(run.debits(), [""; 0]);
    run.event(responded(1, 200), s(2));
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn msrp_4xx_for_any_chunk_debits_once() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.event(responded(1, 413), s(2));
    run.sent(chunk("m1", 2, 51, 50, Flag::More), s(2));
    run.event(responded(2, 413), s(2));
    run.sent(abort("m1", 3), s(3));
    run.event(Event::Bye { leg: 1 }, s(4));
    run.settle();
    assert_eq!(run.debits(), ["debit m1 error 413"]);
    assert_eq!(run.not_charged(), [""; 0]);
}

#[test]
fn silence_on_one_chunk_debits_message() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(chunk("m1", 2, 51, 50, Flag::Last), s(5));
    run.event(responded(2, 200), s(6));
    run.timer(s(31));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

#[test]
fn empty_last_chunk_completes_message() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.event(responded(1, 200), s(1));
    assert_eq!(run.debits(), [""; 0]);
    run.sent(Sent { taken: 0, ..chunk("m1", 2, 51, 0, Flag::Last) }, s(2));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn transactions_beyond_limit_end_by_deadline() {
    let mut run = Run::open();
    for part in 0..400 {
        run.sent(chunk("m1", part, part * 10 + 1, 10, Flag::More), s(part / 100));
    }
    for part in 0..400 {
        run.event(responded(part, 200), s(5));
    }
    assert_eq!(run.debits(), [""; 0]);
    assert_eq!(run.session.deadline(), Some(s(32)));
    run.timer(s(32));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

#[test]
fn resend_in_same_transaction_is_debited_once() {
    let mut run = Run::open();
    // The gate takes nothing for a paid message.
    let again = || Sent { taken: 0, ..whole("m1", 1) };
    run.sent(whole("m1", 1), s(1));
    run.sent(again(), s(1));
    assert_eq!(run.session.taken(), 1);
    run.event(responded(1, 200), s(2));
    run.event(responded(1, 200), s(2));
    run.sent(again(), s(3));
    run.timer(s(60));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn second_pass_counts_no_octets() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(passed_again("m1", 2), s(1));
    assert_eq!(run.session.messages.open[0].octets(), whole("m1", 1).octets);
    run.event(passed_again("m2", 3), s(1));
    assert_eq!(run.session.messages.open.len(), 1);
}

#[test]
fn answer_to_second_pass_settles_message() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(passed_again("m1", 2), s(1));
    run.event(responded(2, 200), s(2));
    run.accept();
    run.event(responded(1, 200), s(2));
    run.timer(s(60));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn same_message_id_is_debited_once() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(2));
    run.accept();
    run.sent(Sent { taken: 0, connection: 11, ..whole("m1", 7) }, s(9));
    run.event(responded(7, 200), s(9));
    run.timer(s(60));
    run.event(Event::Bye { leg: 1 }, s(61));
    run.settle();
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn unrelayed_message_is_not_debited() {
    let mut run = Run::open_with(8, policy(|p| p.cases.abort = Settle::Debit));
    run.sent(whole("m1", 1), s(1));
    run.event(unsent("m1", 1), s(1));
    run.timer(s(60));
    run.event(Event::Bye { leg: 1 }, s(61));
    run.settle();
    assert_eq!((run.debits().len(), run.not_charged().len()), (0, 0));
    assert_eq!(run.requests(), ["reserve 8", "release"]);
}

#[test]
fn unrelayed_second_pass_is_not_debited() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(passed_again("m1", 2), s(1));
    run.event(unsent("m1", 2), s(1));
    run.timer(s(60));
    assert_eq!(run.debits().len(), 0);
}

#[test]
fn message_relayed_at_second_attempt_is_debited() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(unsent("m1", 1), s(1));
    run.sent(Sent { taken: 0, ..whole("m1", 2) }, s(2));
    run.event(responded(2, 200), s(3));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn unrelayed_chunk_leaves_other_chunks_charged() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(chunk("m1", 2, 51, 50, Flag::Last), s(1));
    run.event(unsent("m1", 2), s(1));
    run.timer(s(31));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
    // An unknown transaction or message is ignored.
    run.event(unsent("m1", 9), s(32));
    run.event(unsent("m2", 9), s(32));
    assert_eq!(run.debits().len(), 1);
}

/// The second chunk of a message whose first 50 octets passed as free content.
fn second_chunk_after_a_free_one() -> Sent<'static> {
    Sent { taken: 1, free_octets: 50, ..chunk("m1", 2, 51, 50, Flag::Last) }
}

#[test]
fn message_charged_from_its_second_chunk_is_debited_on_the_200_to_that_chunk() {
    for debit_on in [DebitOn::Response, DebitOn::Report] {
        let mut run = Run::open_with(8, policy(|p| p.debit_on = debit_on));
        run.sent(Sent { success_report: true, ..second_chunk_after_a_free_one() }, s(1));
        run.event(responded(2, 200), s(2));
        if debit_on == DebitOn::Report {
            assert_eq!(run.debits(), [""; 0]);
            run.event(reported("m1", 51, Some(100), 200), s(3));
        }
        assert_eq!(run.debits(), ["debit m1 response"]);
        run.accept();
        run.timer(s(60));
        assert_eq!(run.debits().len(), 1);
    }
}

#[test]
fn message_charged_from_its_second_chunk_is_released_only_if_nothing_answers() {
    for (is_answered, debits, released) in
        [(true, vec!["debit m1 response".to_owned()], vec![]), (false, vec![], vec!["timeout=release"])]
    {
        let mut run = Run::open_with(8, policy(|p| p.cases.timeout = Settle::Release));
        run.sent(second_chunk_after_a_free_one(), s(1));
        if is_answered {
            run.event(responded(2, 200), s(2));
        }
        run.timer(s(31));
        assert_eq!((run.debits(), run.not_charged()), (debits, released));
    }
}

#[test]
fn message_whose_charged_chunk_was_not_relayed_costs_nothing() {
    let mut run = Run::open();
    run.sent(second_chunk_after_a_free_one(), s(1));
    run.event(unsent("m1", 2), s(2));
    run.timer(s(60));
    assert_eq!(run.debits(), [""; 0]);
}

#[test]
fn free_octets_do_not_fill_a_later_gap() {
    let mut run = Run::open();
    run.sent(Sent { taken: 1, free_octets: 50, ..chunk("m1", 2, 61, 40, Flag::Last) }, s(1));
    run.event(responded(2, 200), s(2));
    assert_eq!(run.debits(), [""; 0]);
    run.timer(s(31));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}
