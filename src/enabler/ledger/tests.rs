//! The ledger over a store in memory.

use super::*;
use crate::charge::account::AccountId;
use crate::charge::ch2::{SessionKey, Trigger};
use crate::charge::tariff::Tariff;

const ALICE: &str = "sip:alice@example.org";

fn connection() -> Connection {
    let connection = Connection::open_in_memory().expect("memory");
    connection.execute_batch(crate::engine::store::SCHEMA).expect("the schema is SQL");
    connection
}

fn account(balance: i64, held: i64, debited: i64, credit_limit: i64) -> Account {
    Account { balance, held, debited, credit_limit }
}

fn ask(ledger: &Ledger<'_>, row: i64, tariff: &str, operation: Operation) -> (Response, Units) {
    let tariff: Tariff = tariff.parse().expect("a tariff");
    let request =
        Request { session: SessionKey(1, 1), number: 0, account: AccountId(ALICE.into()), tariff, operation };
    ledger.answer(&request, row, 0).expect("SQL works in memory")
}

fn reserve(quota: u32) -> Operation {
    Operation::Reserve { quota: Quota(quota) }
}

fn debit(units: u64) -> Operation {
    let (octets, quota, trigger) = (10, Quota(1), Trigger::Response);
    Operation::Debit { message_id: "m1".into(), octets, units: Units(units), quota, trigger }
}

#[test]
fn reserve_debit_release_move_units_and_lose_none() {
    let connection = connection();
    let ledger = Ledger::over(&connection, None);
    ledger.put(ALICE, &account(100, 0, 0, 0)).expect("written");
    let granted = Response::Granted { quota: Quota(3), balance: Some(25) };
    assert_eq!(ask(&ledger, 1, "message:25", reserve(3)).0, granted);
    assert_eq!(ledger.account(ALICE), Ok(Some(account(25, 75, 0, 0))));
    assert_eq!(ask(&ledger, 1, "message:25", debit(25)), (Response::Debited { balance: Some(25) }, Units(25)));
    assert_eq!(ledger.account(ALICE), Ok(Some(account(25, 50, 25, 0))));
    assert_eq!(ask(&ledger, 1, "message:25", Operation::Release).0, Response::Released { balance: Some(75) });
    assert_eq!(ledger.account(ALICE), Ok(Some(account(75, 0, 25, 0))));
}

#[test]
fn as_many_are_granted_as_the_account_can_pay_for() {
    let connection = connection();
    let ledger = Ledger::over(&connection, None);
    ledger.put(ALICE, &account(99, 0, 0, 0)).expect("written");
    assert_eq!(
        ask(&ledger, 1, "message:25", reserve(10)).0,
        Response::Granted { quota: Quota(3), balance: Some(24) }
    );
    assert_eq!(ask(&ledger, 2, "message:25", reserve(1)).0, Response::Denied(Denial::NoCredit));
    assert_eq!(ledger.account(ALICE), Ok(Some(account(24, 75, 0, 0))));
}

#[test]
fn the_limit_lets_the_balance_go_below_zero_and_no_further() {
    let connection = connection();
    let ledger = Ledger::over(&connection, None);
    ledger.put(ALICE, &account(1, 0, 0, 2)).expect("written");
    assert_eq!(ask(&ledger, 1, "message:1", reserve(9)).0, Response::Granted { quota: Quota(3), balance: Some(-2) });
    assert_eq!(ask(&ledger, 2, "message:1", reserve(1)).0, Response::Denied(Denial::NoCredit));
}

#[test]
fn a_debit_beyond_the_hold_takes_from_the_balance_what_is_there() {
    let connection = connection();
    let ledger = Ledger::over(&connection, None);
    ledger.put(ALICE, &account(30, 0, 0, 0)).expect("written");
    assert_eq!(ask(&ledger, 1, "message:25", debit(25)).1, Units(25));
    assert_eq!(ask(&ledger, 1, "message:25", debit(25)).1, Units(5));
    assert_eq!(ledger.account(ALICE), Ok(Some(account(0, 0, 30, 0))));
}

#[test]
fn an_unknown_subscriber_is_denied_unless_there_is_a_default_balance() {
    let connection = connection();
    assert_eq!(
        ask(&Ledger::over(&connection, None), 1, "message:1", reserve(1)).0,
        Response::Denied(Denial::UnknownSubscriber)
    );
    let ledger = Ledger::over(&connection, Some(5));
    assert_eq!(ask(&ledger, 1, "message:1", reserve(2)).0, Response::Granted { quota: Quota(2), balance: Some(3) });
    assert_eq!(ledger.account(ALICE), Ok(Some(account(3, 2, 0, 0))));
}

#[test]
fn a_release_of_nothing_changes_nothing() {
    let connection = connection();
    let ledger = Ledger::over(&connection, None);
    ledger.put(ALICE, &account(7, 0, 0, 0)).expect("written");
    assert_eq!(ask(&ledger, 1, "message:1", Operation::Release).0, Response::Released { balance: Some(7) });
}
