//! The ledger over accounts in memory.

use super::*;
use crate::charge::account::AccountId;
use crate::charge::ch2::{SessionKey, Trigger};
use crate::charge::tariff::Tariff;
use std::collections::HashMap;
use std::convert::Infallible;

const ALICE: &str = "sip:alice@example.org";

/// Accounts in memory.
#[derive(Default)]
struct Memory {
    accounts: HashMap<String, Account>,
    holds: HashMap<i64, i64>,
    /// By Message-ID; there is one session that debits.
    charged: HashMap<String, i64>,
}

impl Accounts for Memory {
    type Error = Infallible;
    fn account(&self, id: &str) -> Result<Option<Account>, Infallible> {
        Ok(self.accounts.get(id).copied())
    }
    fn put_account(&mut self, id: &str, account: Account) {
        self.accounts.insert(id.into(), account);
    }
    fn charged(&self, _: i64, message_id: &str, _: u32) -> Result<Option<i64>, Infallible> {
        Ok(self.charged.get(message_id).copied())
    }
    fn held(&self, session: i64) -> Result<i64, Infallible> {
        Ok(self.holds.get(&session).copied().unwrap_or(0))
    }
    fn put_held(&mut self, session: i64, units: i64) {
        match units {
            0 => self.holds.remove(&session),
            units => self.holds.insert(session, units),
        };
    }
}

/// Alice alone, with this account.
fn alice(account: Account) -> Memory {
    Memory { accounts: HashMap::from([(ALICE.into(), account)]), ..Memory::default() }
}

fn account(balance: i64, held: i64, debited: i64) -> Account {
    Account { balance, held, debited }
}

fn ask(memory: &mut Memory, session: i64, tariff: &str, operation: Operation) -> (Response, Units) {
    ask_with(memory, None, session, tariff, operation)
}

/// Of a reservation that has this much.
fn ask_of(memory: &mut Memory, outstanding: u32, ends: bool, operation: Operation) -> (Response, Units) {
    let outstanding = Quota(outstanding);
    let reservation = match ends {
        true => Reservation::Last { opened_by: 0, outstanding },
        false => Reservation::Open { opened_by: 0, outstanding },
    };
    let request = request(1, "message:25", reservation, operation);
    let Ok(answer) = Ledger::over(memory, None).answer(&request, 1);
    answer
}

fn ask_with(
    memory: &mut Memory,
    default_balance: Option<i64>,
    row: i64,
    tariff: &str,
    operation: Operation,
) -> (Response, Units) {
    let request = request(0, tariff, Reservation::None, operation);
    let Ok(answer) = Ledger::over(memory, default_balance).answer(&request, row);
    answer
}

fn request(number: u32, tariff: &str, reservation: Reservation, operation: Operation) -> Request {
    let tariff: Tariff = tariff.parse().expect("a tariff");
    let (session, account, sequence) = (SessionKey(1, 1), AccountId(ALICE.into()), number);
    let (possible_duplicate, rate_limited, at_most_once, server_binding, end_to_end_id) =
        (false, false, false, None, 0);
    Request {
        session,
        number,
        sequence,
        account,
        tariff,
        reservation,
        possible_duplicate,
        rate_limited,
        at_most_once,
        server_binding,
        end_to_end_id,
        operation,
    }
}

fn reserve(quota: u32) -> Operation {
    Operation::Reserve { quota: Quota(quota) }
}

fn debit(units: u64) -> Operation {
    let (octets, quota, trigger) = (10, Quota(1), Trigger::Response);
    Operation::Debit { message_id: "m1".into(), part: 0, octets, units: Units(units), quota, trigger }
}

#[test]
fn reserve_debit_release_move_units_and_lose_none() {
    let mut memory = alice(account(100, 0, 0));
    let granted = Response::granted(Quota(3), Some(25));
    assert_eq!(ask(&mut memory, 1, "message:25", reserve(3)).0, granted);
    assert_eq!(memory.accounts[ALICE], account(25, 75, 0));
    assert_eq!(ask(&mut memory, 1, "message:25", debit(25)), (Response::debited(Some(25)), Units(25)));
    assert_eq!(memory.accounts[ALICE], account(25, 50, 25));
    assert_eq!(ask_of(&mut memory, 2, false, Operation::Release).0, Response::Released { balance: Some(75) });
    assert_eq!(memory.accounts[ALICE], account(75, 0, 25));
}

#[test]
fn the_end_of_a_reservation_gives_back_what_is_left_of_it_and_nothing_of_another() {
    let mut memory = alice(account(200, 0, 0));
    ask(&mut memory, 1, "message:25", reserve(2));
    ask(&mut memory, 1, "message:25", reserve(3));
    assert_eq!(memory.accounts[ALICE], account(75, 125, 0));
    let ended = Response::Debited { balance: Some(100), ended: true, rest: None };
    assert_eq!(ask_of(&mut memory, 2, true, debit(25)), (ended, Units(25)));
    assert_eq!(memory.accounts[ALICE], account(100, 75, 25));
    // More than the reservation has comes out of the session's others.
    ask_of(&mut memory, 1, true, debit(50));
    assert_eq!(memory.accounts[ALICE], account(100, 25, 75));
    ask_of(&mut memory, 1, false, Operation::Release);
    assert_eq!(memory.accounts[ALICE], account(125, 0, 75));
    assert!(memory.holds.is_empty());
}

#[test]
fn what_is_reserved_for_a_message_that_is_debited_already_is_given_back() {
    let mut memory = alice(account(50, 0, 0));
    ask(&mut memory, 1, "message:25", reserve(2));
    let open = Reservation::Open { opened_by: 0, outstanding: Quota(2) };
    let Ok(()) = Ledger::over(&mut memory, None).debit_none(&request(1, "message:25", open, debit(25)), 1);
    assert_eq!(memory.accounts[ALICE], account(25, 25, 0));
}

#[test]
fn as_many_are_granted_as_the_account_can_pay_for() {
    let mut memory = alice(account(99, 0, 0));
    assert_eq!(ask(&mut memory, 1, "message:25", reserve(10)).0, Response::granted(Quota(3), Some(24)));
    assert_eq!(ask(&mut memory, 2, "message:25", reserve(1)).0, Response::Denied(Denial::NoCredit));
    assert_eq!(memory.accounts[ALICE], account(24, 75, 0));
}

#[test]
fn a_debit_beyond_the_hold_takes_the_whole_price_from_the_balance_or_nothing() {
    let mut memory = alice(account(30, 0, 0));
    assert_eq!(ask(&mut memory, 1, "message:25", debit(25)).1, Units(25));
    let (response, taken) = ask(&mut memory, 1, "message:25", debit(25));
    assert_eq!((response, taken), (Response::Denied(Denial::NoCredit), Units(0)));
    assert_eq!(memory.accounts[ALICE], account(5, 0, 25));
}

#[test]
fn a_refund_gives_back_what_was_really_taken() {
    let mut memory = alice(account(0, 0, 5));
    memory.charged.insert("m1".into(), 5);
    let refund = |message_id: &str| {
        let (message_id, octets, units, quota) = (message_id.into(), 10, Units(25), Quota(1));
        Operation::Refund { message_id, part: 0, octets, units, quota }
    };
    assert_eq!(ask(&mut memory, 1, "message:25", refund("m1")).0, Response::Refunded { balance: Some(5) });
    assert_eq!(memory.accounts[ALICE], account(5, 0, 0));
    memory.charged.clear();
    assert_eq!(ask(&mut memory, 1, "message:25", refund("m1")).0, Response::Refunded { balance: Some(5) });
}

#[test]
fn an_unknown_subscriber_is_denied_unless_there_is_a_default_balance() {
    let mut memory = Memory::default();
    let unknown = Response::Denied(Denial::UnknownSubscriber);
    assert_eq!(ask(&mut memory, 1, "message:1", reserve(1)).0, unknown);
    let granted = Response::granted(Quota(2), Some(3));
    assert_eq!(ask_with(&mut memory, Some(5), 1, "message:1", reserve(2)).0, granted);
    assert_eq!(memory.accounts[ALICE], account(3, 2, 0));
}

#[test]
fn a_release_of_nothing_changes_nothing() {
    let mut memory = alice(account(7, 0, 0));
    assert_eq!(ask(&mut memory, 1, "message:1", Operation::Release).0, Response::Released { balance: Some(7) });
}
