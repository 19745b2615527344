//! Accounts and the sessions that hold units of them. For every account, the sum of balance, held and debited changes
//! only when the balance is set.

use super::settings::Settings;
use imcharge::wire::diameter::codes::SubscriptionIdType;
use imcharge::wire::diameter::credit_control::{Money, UnitValue};
use imcharge::wire::diameter::{CreditControlRequest, ResultCode, Service, ServiceUnits};
use std::collections::HashMap;

/// Maximum units per request, far below the overflow of any sum.
const AMOUNT_MAX: i64 = 1 << 40;

/// An account, in its smallest unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Available. Negative only if more was used than granted.
    pub balance: i64,
    /// Reserved by sessions.
    pub held: i64,
    /// Used.
    pub debited: i64,
}

/// An open session.
#[derive(Debug)]
pub struct Session {
    /// Index of the charged account.
    pub account: usize,
    /// Connection of its last request.
    pub connection: u64,
    /// Origin-Host of the client.
    pub client: String,
    /// Origin-Realm of the client.
    pub client_realm: String,
    /// CC-Request-Number of its last request.
    pub number: u32,
    holds: Vec<Hold>,
}

/// Units reserved for one service of a session.
#[derive(Debug)]
struct Hold {
    rating_group: Option<u32>,
    service_identifier: Vec<u32>,
    amount: i64,
}

/// All accounts and sessions.
#[derive(Debug, Default)]
pub struct Accounts {
    names: HashMap<String, usize>,
    accounts: Vec<Account>,
    /// By Session-Id.
    pub sessions: HashMap<String, Session>,
    /// TERMINATIONs that did not report a service for which units were held.
    pub unreported: u64,
}

/// Kind of unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Specific,
    Time,
    TotalOctets,
    InputOctets,
    OutputOctets,
    Money,
}

/// An amount of units; money is in the smallest unit of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    pub kind: Kind,
    pub amount: i64,
}

impl Quantity {
    /// Reads a service unit AVP. Returns `None` if it contains no amount.
    pub fn from_units(units: &ServiceUnits, settings: &Settings) -> Result<Option<Quantity>, ResultCode> {
        let wide = |kind, amount: Option<u64>| amount.map(|amount| (kind, i64::try_from(amount).ok()));
        let money = |money: &Money| (Kind::Money, in_account_units(&money.unit_value, settings.money_exponent));
        let first = wide(Kind::Specific, units.service_specific)
            .or_else(|| wide(Kind::Time, units.time.map(u64::from)))
            .or_else(|| wide(Kind::TotalOctets, units.total_octets))
            .or_else(|| wide(Kind::OutputOctets, units.output_octets))
            .or_else(|| wide(Kind::InputOctets, units.input_octets))
            .or_else(|| units.money.as_ref().map(money));
        match first {
            None => Ok(None),
            Some((kind, Some(amount))) if (0..=AMOUNT_MAX).contains(&amount) => Ok(Some(Quantity { kind, amount })),
            Some(_) => Err(ResultCode::RATING_FAILED),
        }
    }

    /// Returns the service unit AVP with this amount.
    pub fn to_units(self, settings: &Settings) -> ServiceUnits {
        let mut units = ServiceUnits::default();
        let wide = Some(self.amount as u64);
        match self.kind {
            Kind::Specific => units.service_specific = wide,
            Kind::Time => units.time = Some(u32::try_from(self.amount).unwrap_or(u32::MAX)),
            Kind::TotalOctets => units.total_octets = wide,
            Kind::InputOctets => units.input_octets = wide,
            Kind::OutputOctets => units.output_octets = wide,
            Kind::Money => {
                let exponent = Some(settings.money_exponent).filter(|exponent| *exponent != 0);
                units.money =
                    Some(Money { unit_value: UnitValue { digits: self.amount, exponent }, currency_code: None });
            }
        }
        units
    }

    /// Returns the price of one unit; `service_unit` is that of a service unit.
    fn price(self, service_unit: i64) -> i64 {
        if self.kind == Kind::Money { 1 } else { service_unit }
    }

    /// Returns the price of the amount; `service_unit` is that of a service unit.
    pub fn cost(self, service_unit: i64) -> Result<i64, ResultCode> {
        let cost = self.amount.checked_mul(self.price(service_unit)).filter(|cost| *cost <= AMOUNT_MAX);
        cost.ok_or(ResultCode::RATING_FAILED)
    }
}

/// Converts `digits * 10^exponent` to units of `10^account_exponent`. Returns `None` if the result is not an integer.
fn in_account_units(value: &UnitValue, account_exponent: i32) -> Option<i64> {
    let shift = value.exponent.unwrap_or(0).checked_sub(account_exponent)?;
    let power = 10_i64.checked_pow(shift.unsigned_abs())?;
    match shift >= 0 {
        true => value.digits.checked_mul(power),
        false => (value.digits % power == 0).then(|| value.digits / power),
    }
}

/// Returns the account name for a Subscription-Id: a SIP URI unchanged, `tel:+DIGITS` or `imsi:DIGITS`.
fn name_of(kind: SubscriptionIdType, data: &str) -> String {
    match kind {
        SubscriptionIdType::END_USER_E164 => format!("tel:+{}", data.trim_start_matches('+')),
        SubscriptionIdType::END_USER_IMSI => format!("imsi:{data}"),
        _ => data.to_owned(),
    }
}

impl Accounts {
    /// Sets the balance of an account; creates it if it does not exist.
    pub fn set_balance(&mut self, name: &str, balance: i64) {
        let account = self.index_of(name);
        if let Some(account) = self.accounts.get_mut(account) {
            account.balance = balance;
        }
    }

    /// Returns the index of an account; creates it if it does not exist.
    fn index_of(&mut self, name: &str) -> usize {
        if let Some(account) = self.names.get(name) {
            return *account;
        }
        self.accounts.push(Account::default());
        self.names.insert(name.to_owned(), self.accounts.len() - 1);
        self.accounts.len() - 1
    }

    /// Returns all accounts with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Account)> {
        self.names.iter().filter_map(|(name, account)| Some((name.as_str(), self.accounts.get(*account)?)))
    }

    /// Returns an account, an empty one if the index is unknown.
    pub fn get(&self, account: usize) -> Account {
        self.accounts.get(account).copied().unwrap_or_default()
    }

    /// Returns the name of an account.
    pub fn name(&self, account: usize) -> &str {
        self.names.iter().find(|(_, known)| **known == account).map_or("?", |(name, _)| name)
    }

    /// Returns the account that a request is charged to: that of the first Subscription-Id with an account. With a default
    /// balance, a missing account is created, preferably for the SIP URI.
    pub fn payer(&mut self, request: &CreditControlRequest<'_>, settings: &Settings) -> Result<usize, ResultCode> {
        let identities = &request.subscription_id;
        // A SIP URI is the account name itself.
        let is_sip_uri = |identity: &&imcharge::wire::diameter::credit_control::SubscriptionId<'_>| {
            identity.kind == SubscriptionIdType::END_USER_SIP_URI
        };
        let known = identities.iter().find_map(|identity| match is_sip_uri(&identity) {
            true => self.names.get(identity.data),
            false => self.names.get(&name_of(identity.kind, identity.data)),
        });
        if let Some(account) = known {
            return Ok(*account);
        }
        let balance = settings.default_balance.ok_or(ResultCode::USER_UNKNOWN)?;
        let first = identities.iter().find(is_sip_uri).or(identities.first()).ok_or(ResultCode::USER_UNKNOWN)?;
        let name = name_of(first.kind, first.data);
        self.set_balance(&name, balance);
        Ok(self.index_of(&name))
    }

    /// Debits from the balance if it suffices.
    pub fn debit(&mut self, account: usize, cost: i64) -> Result<(), ResultCode> {
        let account = self.accounts.get_mut(account).ok_or(ResultCode::USER_UNKNOWN)?;
        if account.balance < cost {
            return Err(ResultCode::CREDIT_LIMIT_REACHED);
        }
        account.balance -= cost;
        account.debited += cost;
        Ok(())
    }

    /// Reverses a debit.
    pub fn refund(&mut self, account: usize, cost: i64) {
        if let Some(account) = self.accounts.get_mut(account) {
            account.balance += cost;
            account.debited -= cost;
        }
    }

    /// Returns a session that holds nothing yet.
    pub fn open_session(account: usize) -> Session {
        Session { account, connection: 0, client: String::new(), client_realm: String::new(), number: 0, holds: vec![] }
    }

    /// Debits the used units of a service from what it holds, then from the balance, which may become negative. Releases
    /// what was held and not used.
    pub fn report(&mut self, session: &mut Session, service: &Service<'_>, used: i64) {
        let place = session.holds.iter().position(|hold| {
            hold.rating_group == service.rating_group && hold.service_identifier == service.service_identifier
        });
        let held = place.map_or(0, |place| session.holds.swap_remove(place).amount);
        if let Some(account) = self.accounts.get_mut(session.account) {
            account.held -= held;
            account.balance += held - used;
            account.debited += used;
        }
    }

    /// Reserves units for a service, or as many as the balance allows. The second value is `true` if they are the last.
    pub fn reserve(
        &mut self,
        session: &mut Session,
        service: &Service<'_>,
        wanted: Quantity,
        service_unit: i64,
        partial: bool,
    ) -> Result<(Quantity, bool), ResultCode> {
        let account = self.accounts.get_mut(session.account).ok_or(ResultCode::USER_UNKNOWN)?;
        wanted.cost(service_unit)?;
        let price = wanted.price(service_unit);
        let affordable = if price == 0 { wanted.amount } else { account.balance.max(0) / price };
        let granted = Quantity { amount: wanted.amount.min(affordable), ..wanted };
        if (granted.amount == 0 || !partial) && granted.amount < wanted.amount {
            return Err(ResultCode::CREDIT_LIMIT_REACHED);
        }
        let amount = granted.cost(service_unit)?;
        account.balance -= amount;
        account.held += amount;
        session.holds.push(Hold {
            rating_group: service.rating_group,
            service_identifier: service.service_identifier.clone(),
            amount,
        });
        Ok((granted, granted.amount < wanted.amount || account.balance < price))
    }

    /// Releases all units that a session holds.
    pub fn close(&mut self, session: &mut Session) {
        let held = session.held();
        session.holds.clear();
        if let Some(account) = self.accounts.get_mut(session.account) {
            account.held -= held;
            account.balance += held;
        }
    }
}

impl Session {
    /// Returns the units that the session holds.
    pub fn held(&self) -> i64 {
        self.holds.iter().map(|hold| hold.amount).sum()
    }
}
