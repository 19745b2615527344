//! Accounts of the embedded ledger, and what operators may do with them. All sums are checked.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Largest balance and largest credit limit that an operator can set, in units. Sums stay far below the limit of an `i64`.
pub const BALANCE_MAX: i64 = 1_000_000_000_000_000;

/// An account of the engine's store. `balance + held + debited` changes only by recorded changes: commands of operators,
/// and the initial balance (`default_balance`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Units, without those that are held. Not below `-limit`.
    pub balance: i64,
    /// Units that are reserved.
    pub held: i64,
    /// Units debited since the account was created, less refunds.
    pub debited: i64,
    /// Credit limit: how far the balance may fall below 0.
    pub limit: i64,
    /// Units that were left after the last top-up: what a percentage of [`LowBalance`] refers to.
    pub full: i64,
    /// Whether the units left have fallen to `low_balance` and not risen above it since.
    pub is_low: bool,
}

/// What an operator changes of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountChange {
    /// Set the balance, without held units; creates the account if necessary.
    Set(i64),
    /// Add to the balance; negative to subtract. Executed once for each reference.
    Add(i64),
    /// Set the credit limit.
    Limit(i64),
    /// Remove the account.
    Remove,
}

/// Why an operator's command is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The balance would be above [`BALANCE_MAX`].
    AboveMaximum,
    /// A sum of balance, held units and credit limit would not fit into 64 bits.
    Overflow,
    /// The balance would be below minus the credit limit.
    BelowLimit,
    /// The account has a balance, or units of it are held.
    NotEmpty,
}

impl Account {
    /// Returns a new account with this balance.
    pub fn new(balance: i64) -> Account {
        Account { balance, full: balance, ..Account::default() }
    }

    /// Returns the units that can be reserved now, not below 0; `None`: the sum overflows.
    pub fn available(&self) -> Option<i64> {
        Some(self.balance.checked_add(self.limit)?.max(0))
    }

    /// Returns the units that are not debited yet: balance and held. `None`: the sum overflows.
    pub fn funds(&self) -> Option<i64> {
        self.balance.checked_add(self.held)
    }

    /// Returns the units that can still be used: balance, held and credit limit. `None`: the sum overflows.
    pub fn left(&self) -> Option<i64> {
        self.funds()?.checked_add(self.limit)
    }

    /// Sets the balance.
    pub fn with_balance(self, balance: i64) -> Result<Account, Refusal> {
        let account = Account { balance, ..self }.checked()?;
        account.topped_up()
    }

    /// Adds to the balance. Only a positive amount is a top-up.
    pub fn plus(self, amount: i64) -> Result<Account, Refusal> {
        let balance = self.balance.checked_add(amount).ok_or(Refusal::Overflow)?;
        let account = Account { balance, ..self }.checked()?;
        if amount > 0 { account.topped_up() } else { Ok(account) }
    }

    /// Sets the credit limit. What the account owes must stay within it.
    pub fn with_limit(self, limit: i64) -> Result<Account, Refusal> {
        let account = Account { limit, ..self }.checked()?;
        account.topped_up()
    }

    /// Checks that the account may be removed.
    pub fn check_empty(&self) -> Result<(), Refusal> {
        if (self.balance, self.held) == (0, 0) { Ok(()) } else { Err(Refusal::NotEmpty) }
    }

    fn checked(self) -> Result<Account, Refusal> {
        match self.balance {
            balance if balance > BALANCE_MAX => Err(Refusal::AboveMaximum),
            balance if balance < -self.limit => Err(Refusal::BelowLimit),
            _ => Ok(self),
        }
    }

    fn topped_up(self) -> Result<Account, Refusal> {
        Ok(Account { full: self.left().ok_or(Refusal::Overflow)?, ..self })
    }
}

/// The parameter `low_balance`: how many units left are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowBalance {
    /// A number of units.
    Units(i64),
    /// A percentage of the units that were left after the last top-up.
    Percent(i64),
}

impl LowBalance {
    /// Whether the units left of an account are that few.
    pub fn is_reached(self, account: &Account) -> bool {
        let left = i128::from(account.balance) + i128::from(account.held) + i128::from(account.limit);
        match self {
            LowBalance::Units(units) => left <= i128::from(units),
            LowBalance::Percent(percent) => left * 100 <= i128::from(account.full) * i128::from(percent),
        }
    }
}

impl fmt::Display for LowBalance {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LowBalance::Units(units) => write!(out, "{units}"),
            LowBalance::Percent(percent) => write!(out, "{percent}%"),
        }
    }
}

impl FromStr for LowBalance {
    type Err = ();

    /// Parses `N` (0 to [`BALANCE_MAX`]) or `N%` (1 to 99).
    fn from_str(text: &str) -> Result<LowBalance, ()> {
        let number = |digits: &str| {
            let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
            digits.parse().ok().filter(|_| is_number)
        };
        let threshold = match text.strip_suffix('%') {
            Some(percent) => number(percent).filter(|percent| (1..=99).contains(percent)).map(LowBalance::Percent),
            None => number(text).filter(|units| *units <= BALANCE_MAX).map(LowBalance::Units),
        };
        threshold.ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balance_stays_within_maximum_and_credit_limit() {
        let account = Account::new(10);
        assert_eq!(account.plus(-11), Err(Refusal::BelowLimit));
        assert_eq!(account.plus(BALANCE_MAX), Err(Refusal::AboveMaximum));
        assert_eq!(account.plus(i64::MAX), Err(Refusal::Overflow));
        assert_eq!(account.with_balance(-1), Err(Refusal::BelowLimit));
        assert_eq!(account.with_balance(BALANCE_MAX + 1), Err(Refusal::AboveMaximum));
        let postpaid = account.with_limit(5).and_then(|account| account.plus(-15)).expect("within the limit");
        assert_eq!((postpaid.balance, postpaid.available()), (-5, Some(0)));
        assert_eq!(postpaid.plus(-1), Err(Refusal::BelowLimit));
        assert_eq!(postpaid.with_limit(4), Err(Refusal::BelowLimit));
        assert!(postpaid.with_limit(6).is_ok());
    }

    #[test]
    fn overflow_of_any_sum_is_refused() {
        let account = Account { held: i64::MAX, ..Account::new(0) };
        assert_eq!(account.plus(1), Err(Refusal::Overflow));
        assert_eq!(account.with_balance(1), Err(Refusal::Overflow));
        assert_eq!(account.with_limit(1), Err(Refusal::Overflow));
        assert_eq!(account.with_balance(i64::MIN), Err(Refusal::BelowLimit));
        assert_eq!((Account { balance: 1, ..account }.funds(), Account { limit: 1, ..account }.left()), (None, None));
        assert_eq!(Account { limit: 1, ..Account::new(i64::MAX) }.available(), None);
    }

    #[test]
    fn only_an_empty_account_may_be_removed() {
        assert_eq!(Account { debited: 9, limit: 5, ..Account::default() }.check_empty(), Ok(()));
        assert_eq!(Account::new(1).check_empty(), Err(Refusal::NotEmpty));
        assert_eq!(Account { held: 1, ..Account::new(0) }.check_empty(), Err(Refusal::NotEmpty));
        assert_eq!(Account { limit: 5, ..Account::new(-1) }.check_empty(), Err(Refusal::NotEmpty));
    }

    #[test]
    fn threshold_compares_what_is_left_including_held_units_and_credit() {
        let account = Account { held: 4, limit: 3, ..Account::new(3) };
        assert!(LowBalance::Units(10).is_reached(&account));
        assert!(!LowBalance::Units(9).is_reached(&account));
        assert!(LowBalance::Units(0).is_reached(&Account { limit: 5, ..Account::new(-5) }));
    }

    #[test]
    fn percentage_is_of_what_was_left_after_the_last_top_up() {
        let topped_up = Account::new(0).plus(200).expect("in range");
        let at = |funds: i64| Account { balance: funds, ..topped_up };
        let ten = LowBalance::Percent(10);
        assert_eq!([at(21), at(20), at(19)].map(|account| ten.is_reached(&account)), [false, true, true]);
        // Taking units away is no top-up.
        assert_eq!(topped_up.plus(-100).map(|account| account.full), Ok(200));
        assert_eq!(topped_up.with_limit(100).map(|account| account.full), Ok(300));
    }

    #[test]
    fn threshold_is_a_number_of_units_or_a_percentage() {
        assert_eq!("0".parse(), Ok(LowBalance::Units(0)));
        assert_eq!("1000000000000000".parse(), Ok(LowBalance::Units(BALANCE_MAX)));
        assert_eq!("10%".parse(), Ok(LowBalance::Percent(10)));
        for wrong in ["", "%", "-1", "+1", "0%", "100%", "1.5", "10 %", "1000000000000001", "x"] {
            assert_eq!(wrong.parse::<LowBalance>(), Err(()), "{wrong}");
        }
    }
}
