//! Settings of the simulator, with the same names on the command line (`--price 2`) and at the control port
//! (`set price=2`).

use imcharge::wire::diameter::codes::{
    ApplicationServiceType, DebitFailureHandling, FailureHandling, FinalUnitAction, RedirectAddressType,
    SessionFailover,
};
use imcharge::wire::diameter::credit_control::{FinalUnitIndication, RedirectServer};

/// Behaviour of the simulator without faults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Origin-Host.
    pub origin_host: String,
    /// Origin-Realm.
    pub origin_realm: String,
    /// Price of one service unit.
    pub price: i64,
    /// Other prices, for services and content classes.
    pub rates: Vec<Rate>,
    /// Exponent of the unit of accounts: -2 for cents.
    pub money_exponent: i32,
    /// Units granted for a request without an amount.
    pub quota: u64,
    /// Initial balance of unknown accounts; `None`: they are refused with USER_UNKNOWN.
    pub default_balance: Option<i64>,
    /// Grants less than requested if the balance does not suffice.
    pub partial: bool,
    /// Answers repeated requests as before, without processing them again.
    pub duplicate_detection: bool,
    /// Tolerates repeated names, accounting AVPs, a missing Auth-Application-Id and the Destination-Host of another server.
    pub lenient: bool,
    /// Number of answers kept for `duplicate_detection`.
    pub remember: usize,
    /// Accepted Service-Context-Ids; empty: any.
    pub service_contexts: Vec<String>,
    /// Adds Remaining-Balance (TS 32.299) to answers.
    pub tell_balance: bool,
    /// Answers SUCCESS at command level even if every service is refused.
    pub success_on_top: bool,
    /// Validity-Time of grants, in seconds.
    pub validity_time: Option<u32>,
    /// Final-Unit-Indication of the last grant.
    pub final_unit: Option<FinalUnit>,
    /// Credit-Control-Failure-Handling.
    pub failure_handling: Option<FailureHandling>,
    /// Direct-Debiting-Failure-Handling.
    pub debit_failure_handling: Option<DebitFailureHandling>,
    /// CC-Session-Failover.
    pub session_failover: Option<SessionFailover>,
    /// Seconds of silence until the server sends a DWR. After three times as long it closes the connection.
    pub watchdog: Option<u64>,
}

/// Price of one service unit of a service, or of messages of one content class in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Application-Service-Type; `None`: any.
    pub service: Option<ApplicationServiceType>,
    /// Content class; `None`: any.
    pub class: Option<String>,
    /// Price of one service unit.
    pub price: i64,
}

/// Final-Unit-Action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinalUnit {
    Terminate,
    Redirect(String),
    Restrict,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            origin_host: "ocs.example.com".into(),
            origin_realm: "example.com".into(),
            price: 1,
            rates: Vec::new(),
            money_exponent: 0,
            quota: 1,
            default_balance: None,
            partial: true,
            duplicate_detection: true,
            lenient: false,
            remember: 100_000,
            service_contexts: Vec::new(),
            tell_balance: false,
            success_on_top: false,
            validity_time: None,
            final_unit: None,
            failure_handling: None,
            debit_failure_handling: None,
            session_failover: None,
            watchdog: None,
        }
    }
}

impl Settings {
    /// Names and accepted values of all settings.
    pub const NAMES: &[(&str, &str)] = &[
        ("origin-host", "a name"),
        ("origin-realm", "a name"),
        ("price", "an integer from 0"),
        ("rate", "SERVICE=PRICE or SERVICE/CLASS=PRICE, SERVICE sending, receiving, retrieval or any; may be repeated"),
        ("money-exponent", "an integer from -9 to 9"),
        ("quota", "an integer from 1"),
        ("default-balance", "an integer or none"),
        ("partial", "yes or no"),
        ("duplicate-detection", "yes or no"),
        ("lenient", "yes or no: tolerates the mistakes of common clients"),
        ("remember", "an integer from 0"),
        ("service-context", "a Service-Context-Id; may be repeated"),
        ("tell-balance", "yes or no"),
        ("success-on-top", "yes or no"),
        ("validity-time", "seconds or none"),
        ("final-unit", "terminate, redirect=URI, restrict or none"),
        ("failure-handling", "terminate, continue, retry or none"),
        ("debit-failure-handling", "buffer, continue or none"),
        ("session-failover", "yes, no or none"),
        ("watchdog", "seconds or none"),
    ];

    /// Changes a setting. The error names the accepted values.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let Some((_, accepted)) = Settings::NAMES.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = Settings::NAMES.iter().map(|(name, _)| *name).collect();
            return Err(format!("unknown setting {name}; known are {}", names.join(", ")));
        };
        self.assign(name, value).ok_or_else(|| format!("{name}: {value:?} is invalid; expected {accepted}"))
    }

    fn assign(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "origin-host" => self.origin_host = word(value)?,
            "origin-realm" => self.origin_realm = word(value)?,
            "price" => self.price = number(value, 0, 1 << 30)?,
            "rate" => self.rates.push(rate(value)?),
            "money-exponent" => self.money_exponent = number(value, -9, 9)? as i32,
            "quota" => self.quota = number(value, 1, 1 << 30)? as u64,
            "default-balance" => self.default_balance = optional(value, |text| number(text, 0, 1 << 60))?,
            "partial" => self.partial = yes(value)?,
            "duplicate-detection" => self.duplicate_detection = yes(value)?,
            "lenient" => self.lenient = yes(value)?,
            "remember" => self.remember = number(value, 0, 1 << 24)? as usize,
            "service-context" => self.service_contexts.push(word(value)?),
            "tell-balance" => self.tell_balance = yes(value)?,
            "success-on-top" => self.success_on_top = yes(value)?,
            "validity-time" => self.validity_time = optional(value, seconds)?,
            "final-unit" => self.final_unit = optional(value, final_unit)?,
            "failure-handling" => self.failure_handling = optional(value, failure_handling)?,
            "debit-failure-handling" => self.debit_failure_handling = optional(value, debit_failure_handling)?,
            "session-failover" => {
                self.session_failover = optional(value, |text| yes(text).map(|yes| SessionFailover(yes.into())))?;
            }
            "watchdog" => self.watchdog = optional(value, |text| number(text, 1, 3600).map(|seconds| seconds as u64))?,
            _ => return None,
        }
        Some(())
    }

    /// Returns the price of a service unit: that of the first rate that matches. `class`: `None` if units of any class are
    /// reserved.
    pub fn price_of(&self, service: Option<ApplicationServiceType>, class: Option<&str>) -> i64 {
        let matches = |rate: &&Rate| {
            (rate.service.is_none() || rate.service == service)
                && (rate.class.is_none() || rate.class.as_deref() == class)
        };
        self.rates.iter().find(matches).map_or(self.price, |rate| rate.price)
    }

    /// Returns the Final-Unit-Indication of the last grant.
    pub fn final_unit_indication(&self) -> Option<FinalUnitIndication<'_>> {
        let indication = |action| FinalUnitIndication { action: Some(action), ..FinalUnitIndication::default() };
        Some(match self.final_unit.as_ref()? {
            FinalUnit::Terminate => indication(FinalUnitAction::TERMINATE),
            FinalUnit::Restrict => indication(FinalUnitAction::RESTRICT_ACCESS),
            FinalUnit::Redirect(address) => FinalUnitIndication {
                redirect_server: Some(RedirectServer { address_type: RedirectAddressType::SIP_URI, address }),
                ..indication(FinalUnitAction::REDIRECT)
            },
        })
    }
}

fn word(text: &str) -> Option<String> {
    (!text.is_empty() && !text.contains(char::is_whitespace)).then(|| text.to_owned())
}

fn number(text: &str, least: i64, most: i64) -> Option<i64> {
    text.parse().ok().filter(|number| (least..=most).contains(number))
}

fn rate(text: &str) -> Option<Rate> {
    let (wanted, price) = text.split_once('=')?;
    let (service, class) = wanted.split_once('/').map_or((wanted, None), |(service, class)| (service, Some(class)));
    let service = match service {
        "any" => None,
        "sending" => Some(ApplicationServiceType::SENDING),
        "receiving" => Some(ApplicationServiceType::RECEIVING),
        "retrieval" => Some(ApplicationServiceType::RETRIEVAL),
        _ => return None,
    };
    let class = match class {
        Some(class) => Some(word(class)?),
        None => None,
    };
    Some(Rate { service, class, price: number(price, 0, 1 << 30)? })
}

fn seconds(text: &str) -> Option<u32> {
    text.parse().ok()
}

fn yes(text: &str) -> Option<bool> {
    match text {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// Parses `none` or a value.
fn optional<T>(text: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text == "none" { Some(None) } else { read(text).map(Some) }
}

fn final_unit(text: &str) -> Option<FinalUnit> {
    match text.split_once('=') {
        None if text == "terminate" => Some(FinalUnit::Terminate),
        None if text == "restrict" => Some(FinalUnit::Restrict),
        Some(("redirect", address)) => word(address).map(FinalUnit::Redirect),
        _ => None,
    }
}

fn failure_handling(text: &str) -> Option<FailureHandling> {
    match text {
        "terminate" => Some(FailureHandling::TERMINATE),
        "continue" => Some(FailureHandling::CONTINUE),
        "retry" => Some(FailureHandling::RETRY_AND_TERMINATE),
        _ => None,
    }
}

fn debit_failure_handling(text: &str) -> Option<DebitFailureHandling> {
    match text {
        "buffer" => Some(DebitFailureHandling::TERMINATE_OR_BUFFER),
        "continue" => Some(DebitFailureHandling::CONTINUE),
        _ => None,
    }
}
