//! The books: accounts, what sessions hold of them, and what is debited. Integers only. For every account, balance, held
//! and debited together change only when somebody sets the balance.

use super::settings::Settings;
use imcharge::wire::diameter::codes::SubscriptionIdType;
use imcharge::wire::diameter::credit_control::{Money, UnitValue};
use imcharge::wire::diameter::{CreditControlRequest, ResultCode, Service, ServiceUnits};
use std::collections::HashMap;

/// Units of an account that one request may move at most: keeps every sum far from its end.
const AMOUNT_MAX: i64 = 1 << 40;

/// An account, in units of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Free to be held or debited. Below zero only where more was used than had been granted.
    pub balance: i64,
    /// Set aside for sessions.
    pub held: i64,
    /// Gone.
    pub debited: i64,
}

/// A session that is open.
#[derive(Debug)]
pub struct Session {
    /// Who pays.
    pub account: usize,
    /// The connection that its last request came by.
    pub connection: u64,
    /// Origin-Host of the client.
    pub client: String,
    /// Origin-Realm of the client.
    pub client_realm: String,
    /// CC-Request-Number of its last request.
    pub number: u32,
    holds: Vec<Hold>,
}

/// What one service of a session holds.
#[derive(Debug)]
struct Hold {
    rating_group: Option<u32>,
    service_identifier: Vec<u32>,
    amount: i64,
}

/// All accounts and sessions.
#[derive(Debug, Default)]
pub struct Book {
    names: HashMap<String, usize>,
    accounts: Vec<Account>,
    /// By Session-Id.
    pub sessions: HashMap<String, Session>,
    /// TERMINATIONs that left a service unreported for which the session held something.
    pub unreported: u64,
}

/// What units are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Specific,
    Time,
    TotalOctets,
    InputOctets,
    OutputOctets,
    Money,
}

/// So many units of something. Of money, in units of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    pub kind: Kind,
    pub amount: i64,
}

impl Quantity {
    /// What the AVP asks for or reports; `None`: it says nothing.
    pub fn of(units: &ServiceUnits, settings: &Settings) -> Result<Option<Quantity>, ResultCode> {
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

    /// The AVP that says it.
    pub fn units(self, settings: &Settings) -> ServiceUnits {
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

    /// Units of an account for one of these.
    fn price(self, settings: &Settings) -> i64 {
        if self.kind == Kind::Money { 1 } else { settings.price }
    }

    /// Units of an account for all of these.
    pub fn cost(self, settings: &Settings) -> Result<i64, ResultCode> {
        let cost = self.amount.checked_mul(self.price(settings)).filter(|cost| *cost <= AMOUNT_MAX);
        cost.ok_or(ResultCode::RATING_FAILED)
    }
}

/// Digits times ten to a power, in units of ten to another; `None`: not a whole number of them.
fn in_account_units(value: &UnitValue, account_exponent: i32) -> Option<i64> {
    let shift = value.exponent.unwrap_or(0).checked_sub(account_exponent)?;
    let power = 10_i64.checked_pow(shift.unsigned_abs())?;
    match shift >= 0 {
        true => value.digits.checked_mul(power),
        false => (value.digits % power == 0).then(|| value.digits / power),
    }
}

/// What the account of a subscriber is called: a SIP URI as it is, `tel:+` and digits, `imsi:` and digits.
fn name_of(kind: SubscriptionIdType, data: &str) -> String {
    match kind {
        SubscriptionIdType::END_USER_E164 => format!("tel:+{}", data.trim_start_matches('+')),
        SubscriptionIdType::END_USER_IMSI => format!("imsi:{data}"),
        _ => data.to_owned(),
    }
}

impl Book {
    /// Gives an account this balance; makes it if there is none.
    pub fn set_balance(&mut self, name: &str, balance: i64) {
        let account = self.named(name);
        if let Some(account) = self.accounts.get_mut(account) {
            account.balance = balance;
        }
    }

    fn named(&mut self, name: &str) -> usize {
        if let Some(account) = self.names.get(name) {
            return *account;
        }
        self.accounts.push(Account::default());
        self.names.insert(name.to_owned(), self.accounts.len() - 1);
        self.accounts.len() - 1
    }

    /// Accounts with their names.
    pub fn accounts(&self) -> impl Iterator<Item = (&str, &Account)> {
        self.names.iter().filter_map(|(name, account)| Some((name.as_str(), self.accounts.get(*account)?)))
    }

    /// An account; one that is not there is empty.
    pub fn account(&self, account: usize) -> Account {
        self.accounts.get(account).copied().unwrap_or_default()
    }

    /// What the account is called.
    pub fn name(&self, account: usize) -> &str {
        self.names.iter().find(|(_, known)| **known == account).map_or("?", |(name, _)| name)
    }

    /// Who pays for a request: the first of its identities that has an account. With a default balance, whoever has none
    /// gets one, by the SIP URI if there is one.
    pub fn payer(&mut self, request: &CreditControlRequest<'_>, settings: &Settings) -> Result<usize, ResultCode> {
        let identities = &request.subscription_id;
        // A SIP URI is looked up as it came: no name has to be made for it.
        let as_it_came = |identity: &&imcharge::wire::diameter::credit_control::SubscriptionId<'_>| {
            identity.kind == SubscriptionIdType::END_USER_SIP_URI
        };
        let known = identities.iter().find_map(|identity| match as_it_came(&identity) {
            true => self.names.get(identity.data),
            false => self.names.get(&name_of(identity.kind, identity.data)),
        });
        if let Some(account) = known {
            return Ok(*account);
        }
        let balance = settings.default_balance.ok_or(ResultCode::USER_UNKNOWN)?;
        let first = identities.iter().find(as_it_came).or(identities.first()).ok_or(ResultCode::USER_UNKNOWN)?;
        let name = name_of(first.kind, first.data);
        self.set_balance(&name, balance);
        Ok(self.named(&name))
    }

    /// Debits from the balance if it is enough.
    pub fn debit(&mut self, account: usize, cost: i64) -> Result<(), ResultCode> {
        let account = self.accounts.get_mut(account).ok_or(ResultCode::USER_UNKNOWN)?;
        if account.balance < cost {
            return Err(ResultCode::CREDIT_LIMIT_REACHED);
        }
        account.balance -= cost;
        account.debited += cost;
        Ok(())
    }

    /// Gives back what was debited.
    pub fn refund(&mut self, account: usize, cost: i64) {
        if let Some(account) = self.accounts.get_mut(account) {
            account.balance += cost;
            account.debited -= cost;
        }
    }

    /// Opens a session that holds nothing yet.
    pub fn open(account: usize) -> Session {
        Session { account, connection: 0, client: String::new(), client_realm: String::new(), number: 0, holds: vec![] }
    }

    /// Books what a service reports: from what it holds, then from the balance, to the last unit, even if that puts the
    /// balance below zero. What it held and did not use is free again. Nothing reported and nothing asked: it stays.
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

    /// Holds units for a service: all, or as many as there is money for; the second says whether these are the last.
    pub fn reserve(
        &mut self,
        session: &mut Session,
        service: &Service<'_>,
        wanted: Quantity,
        settings: &Settings,
    ) -> Result<(Quantity, bool), ResultCode> {
        let account = self.accounts.get_mut(session.account).ok_or(ResultCode::USER_UNKNOWN)?;
        wanted.cost(settings)?;
        let price = wanted.price(settings);
        let affordable = if price == 0 { wanted.amount } else { account.balance.max(0) / price };
        let granted = Quantity { amount: wanted.amount.min(affordable), ..wanted };
        if (granted.amount == 0 || !settings.partial) && granted.amount < wanted.amount {
            return Err(ResultCode::CREDIT_LIMIT_REACHED);
        }
        let amount = granted.cost(settings)?;
        account.balance -= amount;
        account.held += amount;
        session.holds.push(Hold {
            rating_group: service.rating_group,
            service_identifier: service.service_identifier.clone(),
            amount,
        });
        Ok((granted, granted.amount < wanted.amount || account.balance < price))
    }

    /// Gives back all that a session holds.
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
    /// Units of the account that are set aside for it.
    pub fn held(&self) -> i64 {
        self.holds.iter().map(|hold| hold.amount).sum()
    }
}
