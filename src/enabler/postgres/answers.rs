//! Results of items, as the sessions and operators know them. They are those of the embedded ledger.

use super::database::ItemResult;
use crate::charge::ch2::{Denial, Failure, Operation, Request, Reservation, Response};
use crate::charge::tariff::Quota;
use crate::enabler::{Account, AccountOutcome, Refusal};

/// Result codes of `imcharge.tick`.
pub mod code {
    /// Executed.
    pub const DONE: i16 = 0;
    /// The account cannot pay.
    pub const NO_CREDIT: i16 = 1;
    /// There is no such account.
    pub const UNKNOWN_ACCOUNT: i16 = 2;
    /// A sum overflows.
    pub const OVERFLOW: i16 = 3;
    /// A later request of the session was executed, or another node has the session.
    pub const OLD: i16 = 4;
    /// The balance would be above its maximum.
    pub const ABOVE_MAXIMUM: i16 = 10;
    /// The balance would be below minus the credit limit.
    pub const BELOW_LIMIT: i16 = 11;
    /// The account has a balance, or units of it are held.
    pub const NOT_EMPTY: i16 = 12;
    /// The reference was used for another amount.
    pub const REFERENCE_USED: i16 = 13;
    /// The reference was used for this amount.
    pub const DUPLICATE: i16 = 14;
}

/// Result-Code of a request that can never be executed (DIAMETER_UNABLE_TO_COMPLY).
const IMPOSSIBLE: u32 = 5012;

/// Returns the response to a request.
pub fn response(request: &Request, result: &ItemResult) -> Response {
    let balance = Some(result.balance);
    match (result.code, &request.operation) {
        (code::DONE, Operation::Reserve { .. }) => {
            Response::granted(Quota(u32::try_from(result.granted).unwrap_or(0)), balance)
        }
        (code::DONE, Operation::Debit { .. }) => {
            let ended = matches!(request.reservation, Reservation::Last { .. });
            Response::Debited { balance, ended, rest: None }
        }
        (code::DONE, Operation::Refund { .. }) => Response::Refunded { balance },
        (code::DONE, Operation::Release) => Response::Released { balance },
        // Nothing is held for a session that another node has, nor of an account that was removed.
        (code::OLD | code::UNKNOWN_ACCOUNT, Operation::Release) => Response::Released { balance: None },
        (code::OLD, Operation::Reserve { quota: Quota(0) }) => Response::NoReservation,
        (code::OLD, _) => Response::Denied(Denial::Refused(IMPOSSIBLE)),
        (code::NO_CREDIT, _) => Response::Denied(Denial::NoCredit),
        (code::UNKNOWN_ACCOUNT, _) => Response::Denied(Denial::UnknownSubscriber),
        _ => Response::Failed(Failure::Enabler),
    }
}

/// Returns what became of an operator's command.
pub fn outcome(result: &ItemResult) -> AccountOutcome {
    match result.code {
        code::DONE => AccountOutcome::Done,
        code::DUPLICATE => AccountOutcome::Duplicate,
        code::REFERENCE_USED => AccountOutcome::ReferenceUsed,
        code::UNKNOWN_ACCOUNT => AccountOutcome::UnknownAccount,
        code::ABOVE_MAXIMUM => AccountOutcome::Refused(Refusal::AboveMaximum),
        code::BELOW_LIMIT => AccountOutcome::Refused(Refusal::BelowLimit),
        code::NOT_EMPTY => AccountOutcome::Refused(Refusal::NotEmpty),
        _ => AccountOutcome::Refused(Refusal::Overflow),
    }
}

/// Returns the account after an item, as far as its result tells it.
pub fn account(result: &ItemResult) -> Account {
    let ItemResult { balance, held, limit, became_low, .. } = *result;
    Account { balance, held, limit, is_low: became_low, ..Account::default() }
}
