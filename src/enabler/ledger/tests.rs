//! The ledger over one account in memory.

use super::*;
use crate::charge::account::AccountId;
use crate::charge::ch2::{SessionKey, Trigger};
use crate::charge::service::Service;
use crate::charge::tariff::{Measure, QuotaUnit};
use std::collections::BTreeMap;

/// An account, and the sessions that use it.
#[derive(Default)]
struct Memory {
    default_balance: Option<i64>,
    account: Option<Account>,
    /// Units held, by session.
    held: BTreeMap<u64, i64>,
    /// Units of the debit that a refund finds.
    charged: i64,
}

impl Memory {
    fn with(account: Account) -> Memory {
        Memory { account: Some(account), ..Memory::default() }
    }

    fn ledger(&self) -> Ledger {
        Ledger { default_balance: self.default_balance }
    }

    fn funds(&self, session: u64) -> Funds {
        let held = self.held.get(&session).copied().unwrap_or(0);
        Funds { account: self.account, held, charged: self.charged }
    }

    /// Writes an update as the engine does.
    fn write(&mut self, session: u64, update: &AccountUpdate) {
        self.account = update.account.or(self.account);
        if let Some(held) = update.held {
            self.held.insert(session, held);
        }
    }

    /// Executes a request of a session; 25 units per message.
    fn ask(&mut self, session: u64, reservation: Reservation, operation: Operation) -> (Response, Units) {
        let update = self.ledger().execute(&request(session, reservation, operation), &self.funds(session));
        self.write(session, &update);
        (update.response, update.charged)
    }

    fn numbers(&self) -> (i64, i64, i64) {
        let Account { balance, held, debited, .. } = self.account.expect("an account");
        assert_eq!(self.held.values().sum::<i64>(), held, "the sessions hold what the account says is held");
        (balance, held, debited)
    }
}

fn account(balance: i64) -> Account {
    Account::new(balance)
}

fn request(session: u64, reservation: Reservation, operation: Operation) -> Request {
    Request {
        session: SessionKey(session, 1),
        number: 1,
        sequence: 1,
        account: AccountId("sip:alice@example.org".into()),
        service: Service::Retrieval,
        recipients: 0,
        measure: Measure { unit: QuotaUnit::Message, price: 25 },
        reservation,
        possible_duplicate: false,
        rate_limited: false,
        at_most_once: false,
        server_binding: None,
        end_to_end_id: 0,
        operation,
    }
}

fn open(outstanding: u32) -> Reservation {
    Reservation::Open { opened_by: 0, outstanding: Quota(outstanding) }
}

fn last(outstanding: u32) -> Reservation {
    Reservation::Last { opened_by: 0, outstanding: Quota(outstanding) }
}

fn reserve(quota: u32) -> Operation {
    Operation::Reserve { quota: Quota(quota) }
}

fn debit(units: u64) -> Operation {
    let (octets, quota, trigger) = (10, Quota(1), Trigger::Response);
    Operation::Debit {
        message_id: "m1".into(),
        part: 0,
        octets,
        class: crate::charge::content::ContentClass::Text,
        units: Units(units),
        quota,
        trigger,
    }
}

fn refund() -> Operation {
    Operation::Refund {
        message_id: "m1".into(),
        part: 0,
        octets: 10,
        class: crate::charge::content::ContentClass::Text,
        units: Units(25),
        quota: Quota(1),
    }
}

#[test]
fn reserve_debit_and_release_conserve_all_units() {
    let mut memory = Memory::with(account(100));
    let granted = Response::granted(Quota(3), Some(25));
    assert_eq!(memory.ask(1, Reservation::None, reserve(3)).0, granted);
    assert_eq!(memory.numbers(), (25, 75, 0));
    assert_eq!(memory.ask(1, open(3), debit(25)), (Response::debited(Some(25)), Units(25)));
    assert_eq!(memory.numbers(), (25, 50, 25));
    assert_eq!(memory.ask(1, open(2), Operation::Release).0, Response::Released { balance: Some(75) });
    assert_eq!(memory.numbers(), (75, 0, 25));
}

#[test]
fn last_debit_releases_the_rest_of_its_reservation_only() {
    let mut memory = Memory::with(account(200));
    memory.ask(1, Reservation::None, reserve(2));
    memory.ask(1, Reservation::None, reserve(3));
    assert_eq!(memory.numbers(), (75, 125, 0));
    let ended = Response::Debited { balance: Some(100), ended: true, rest: None };
    assert_eq!(memory.ask(1, last(2), debit(25)), (ended, Units(25)));
    assert_eq!(memory.numbers(), (100, 75, 25));
    // A debit larger than its reservation takes units of the session's other reservations.
    memory.ask(1, last(1), debit(50));
    assert_eq!(memory.numbers(), (100, 25, 75));
    memory.ask(1, open(1), Operation::Release);
    assert_eq!(memory.numbers(), (125, 0, 75));
}

#[test]
fn repeated_debit_releases_the_units_reserved_for_it() {
    let mut memory = Memory::with(account(50));
    memory.ask(1, Reservation::None, reserve(2));
    let update = memory.ledger().release_for_known_debit(&request(1, open(2), debit(25)), &memory.funds(1));
    assert_eq!((&update.response, update.charged), (&Response::debited(None), Units(0)));
    memory.write(1, &update);
    assert_eq!(memory.numbers(), (25, 25, 0));
}

#[test]
fn reserve_grants_what_the_account_can_pay_for() {
    let mut memory = Memory::with(account(99));
    assert_eq!(memory.ask(1, Reservation::None, reserve(10)).0, Response::granted(Quota(3), Some(24)));
    assert_eq!(memory.ask(2, Reservation::None, reserve(1)).0, Response::Denied(Denial::NoCredit));
    assert_eq!(memory.numbers(), (24, 75, 0));
}

#[test]
fn debit_beyond_the_hold_takes_the_whole_price_or_nothing() {
    let mut memory = Memory::with(account(30));
    assert_eq!(memory.ask(1, Reservation::None, debit(25)).1, Units(25));
    let denied = (Response::Denied(Denial::NoCredit), Units(0));
    assert_eq!(memory.ask(1, Reservation::None, debit(25)), denied);
    assert_eq!(memory.numbers(), (5, 0, 25));
}

#[test]
fn refund_returns_what_the_debit_took() {
    let mut memory = Memory { charged: 5, ..Memory::with(Account { debited: 5, ..Account::default() }) };
    assert_eq!(memory.ask(1, Reservation::None, refund()).0, Response::Refunded { balance: Some(5) });
    assert_eq!(memory.numbers(), (5, 0, 0));
    memory.charged = 0;
    assert_eq!(memory.ask(1, Reservation::None, refund()).0, Response::Refunded { balance: Some(5) });
}

#[test]
fn unknown_subscriber_is_denied_without_a_default_balance() {
    let mut memory = Memory::default();
    let unknown = Response::Denied(Denial::UnknownSubscriber);
    assert_eq!(memory.ask(1, Reservation::None, reserve(1)).0, unknown);
    assert_eq!(memory.account, None);
    memory.default_balance = Some(55);
    assert_eq!(memory.ask(1, Reservation::None, reserve(2)).0, Response::granted(Quota(2), Some(5)));
    assert_eq!(memory.numbers(), (5, 50, 0));
}

#[test]
fn account_is_created_by_a_reservation_or_a_debit_only() {
    let mut memory = Memory { default_balance: Some(55), ..Memory::default() };
    let released = Response::Released { balance: None };
    assert_eq!(memory.ask(1, Reservation::None, Operation::Release).0, released);
    assert_eq!(memory.ask(1, Reservation::None, refund()).0, Response::Denied(Denial::UnknownSubscriber));
    assert_eq!(memory.account, None);
    let update = memory.ledger().execute(&request(1, Reservation::None, debit(25)), &memory.funds(1));
    assert_eq!((update.created, update.amount), (Some(Account::new(55)), -25));
    memory.write(1, &update);
    let update = memory.ledger().execute(&request(1, Reservation::None, debit(25)), &memory.funds(1));
    assert_eq!((update.created, update.amount), (None, -25));
}

#[test]
fn balance_falls_to_minus_the_credit_limit_and_no_further() {
    let mut memory = Memory::with(Account { limit: 60, ..account(20) });
    assert_eq!(memory.ask(1, Reservation::None, reserve(9)).0, Response::granted(Quota(3), Some(-55)));
    assert_eq!(memory.numbers(), (-55, 75, 0));
    assert_eq!(memory.ask(2, Reservation::None, reserve(1)).0, Response::Denied(Denial::NoCredit));
    assert_eq!(memory.ask(2, Reservation::None, debit(25)).0, Response::Denied(Denial::NoCredit));
    assert_eq!(memory.ask(1, open(3), debit(25)).1, Units(25));
    assert_eq!(memory.ask(1, open(2), Operation::Release).0, Response::Released { balance: Some(-5) });
    assert_eq!(memory.numbers(), (-5, 0, 25));
}

#[test]
fn only_debits_and_refunds_change_balance_and_held_units_together() {
    let mut memory = Memory { charged: 25, ..Memory::with(account(100)) };
    for (reservation, operation, amount) in [
        (Reservation::None, reserve(3), 0),
        (open(3), debit(25), -25),
        (last(2), debit(50), -50),
        (open(2), refund(), 25),
        (open(2), Operation::Release, 0),
    ] {
        let before = memory.account.and_then(|account| account.funds()).expect("no overflow");
        let update = memory.ledger().execute(&request(1, reservation, operation), &memory.funds(1));
        memory.write(1, &update);
        let after = memory.account.and_then(|account| account.funds()).expect("no overflow");
        assert_eq!((update.amount, after - before), (amount, amount));
    }
}

#[test]
fn release_of_nothing_changes_nothing() {
    let mut memory = Memory::with(account(7));
    let released = Response::Released { balance: Some(7) };
    assert_eq!(memory.ask(1, Reservation::None, Operation::Release).0, released);
    assert_eq!(memory.numbers(), (7, 0, 0));
}

#[test]
fn overflow_fails_and_changes_nothing() {
    let mut memory = Memory { charged: 1, ..Memory::with(account(i64::MAX)) };
    let failed = Response::Failed(Failure::Enabler);
    assert_eq!(memory.ask(1, Reservation::None, refund()).0, failed);
    assert_eq!(memory.numbers(), (i64::MAX, 0, 0));
}
