//! What the server is set up to be: the same words on the command line (`--price 2`) and at the control port
//! (`set price=2`).

use imcharge::wire::diameter::codes::{
    DebitFailureHandling, FailureHandling, FinalUnitAction, RedirectAddressType, SessionFailover,
};
use imcharge::wire::diameter::credit_control::{FinalUnitIndication, RedirectServer};

/// How the server answers when nothing is wrong.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Origin-Host.
    pub origin_host: String,
    /// Origin-Realm.
    pub origin_realm: String,
    /// Units of the account for one unit of service.
    pub price: i64,
    /// The unit of an account is ten to this power of a unit of money: -2 for cents.
    pub money_exponent: i32,
    /// Units granted to who asks for units without saying how many.
    pub quota: u64,
    /// What an account that nobody has named begins with; `None`: USER_UNKNOWN.
    pub default_balance: Option<i64>,
    /// Whether less is granted than is asked for where the account has less.
    pub partial: bool,
    /// Whether a request that comes again is answered as before, and not booked.
    pub duplicate_detection: bool,
    /// Whether names that come twice, AVPs of accounting, a missing Auth-Application-Id and the Destination-Host of
    /// another server are passed over.
    pub lenient: bool,
    /// Answers kept for that.
    pub remember: usize,
    /// Service-Context-Ids that are rated; empty: any.
    pub service_contexts: Vec<String>,
    /// Whether answers tell the balance (Remaining-Balance of TS 32.299).
    pub tell_balance: bool,
    /// Whether the command says SUCCESS where every service in it is refused.
    pub success_on_top: bool,
    /// Validity-Time of grants, in seconds.
    pub validity_time: Option<u32>,
    /// What a grant that is the last one says.
    pub final_unit: Option<FinalUnit>,
    /// Credit-Control-Failure-Handling.
    pub failure_handling: Option<FailureHandling>,
    /// Direct-Debiting-Failure-Handling.
    pub debit_failure_handling: Option<DebitFailureHandling>,
    /// CC-Session-Failover.
    pub session_failover: Option<SessionFailover>,
    /// Seconds without a word after which the server sends a DWR; it closes after three times as long.
    pub watchdog: Option<u64>,
}

/// What to do when the last units are used.
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
    /// Names of all that can be set, with what each takes.
    pub const NAMES: &[(&str, &str)] = &[
        ("origin-host", "a name"),
        ("origin-realm", "a name"),
        ("price", "a number from 0 on"),
        ("money-exponent", "a number from -9 to 9"),
        ("quota", "a number from 1 on"),
        ("default-balance", "a number, or none"),
        ("partial", "yes or no"),
        ("duplicate-detection", "yes or no"),
        ("lenient", "yes or no: takes what common clients do wrong"),
        ("remember", "a number from 0 on"),
        ("service-context", "a Service-Context-Id; more than one may be given"),
        ("tell-balance", "yes or no"),
        ("success-on-top", "yes or no"),
        ("validity-time", "seconds, or none"),
        ("final-unit", "terminate, redirect=URI, restrict or none"),
        ("failure-handling", "terminate, continue, retry or none"),
        ("debit-failure-handling", "buffer, continue or none"),
        ("session-failover", "yes, no or none"),
        ("watchdog", "seconds, or none"),
    ];

    /// Sets one; the error says what is allowed.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let Some((_, allowed)) = Settings::NAMES.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = Settings::NAMES.iter().map(|(name, _)| *name).collect();
            return Err(format!("there is no setting {name}; there are {}", names.join(", ")));
        };
        self.take(name, value).ok_or_else(|| format!("{name}: {value:?} will not do; {allowed} is wanted"))
    }

    fn take(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "origin-host" => self.origin_host = word(value)?,
            "origin-realm" => self.origin_realm = word(value)?,
            "price" => self.price = number(value, 0, 1 << 30)?,
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

    /// What goes with a last grant.
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

/// `none` is nothing.
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
