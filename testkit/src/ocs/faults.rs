//! Faults on demand: kind, affected requests and frequency.
//!
//! ```text
//! fault delay=20ms                       fault refuse=4012 on=initial times=1
//! fault drop=1/3 on=termination          fault close=mid-answer on=update,termination
//! ```

use std::fmt;
use std::time::Duration;

/// Maximum number of active faults.
pub const FAULTS_MAX: usize = 64;

/// Set of request kinds that a fault applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requests(u8);

impl Requests {
    pub const INITIAL: Requests = Requests(1);
    pub const UPDATE: Requests = Requests(2);
    pub const TERMINATION: Requests = Requests(4);
    pub const EVENT: Requests = Requests(8);
    pub const CER: Requests = Requests(16);
    pub const DWR: Requests = Requests(32);
    pub const DPR: Requests = Requests(64);
    /// All CCRs.
    const CREDIT_CONTROL: Requests = Requests(15);
    const EVERYTHING: Requests = Requests(127);

    const NAMES: &[(&str, Requests)] = &[
        ("initial", Requests::INITIAL),
        ("update", Requests::UPDATE),
        ("termination", Requests::TERMINATION),
        ("event", Requests::EVENT),
        ("cer", Requests::CER),
        ("dwr", Requests::DWR),
        ("dpr", Requests::DPR),
        ("all", Requests::CREDIT_CONTROL),
        ("everything", Requests::EVERYTHING),
    ];

    fn parse(text: &str) -> Option<Requests> {
        text.split(',').try_fold(Requests(0), |sum, word| {
            let (_, these) = Requests::NAMES.iter().find(|(name, _)| *name == word)?;
            Some(Requests(sum.0 | these.0))
        })
    }
}

/// Kind of fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Delays the answer by a time between these two.
    Delay(Duration, Duration),
    /// Processes the request and drops the answer.
    Drop,
    /// Drops the request.
    Lose,
    /// Answers with this Result-Code without processing the request.
    Refuse(u32),
    /// As `Refuse`, with the E flag and without CC-Request-Type and CC-Request-Number.
    ProtocolError(u32),
    /// Answers SUCCESS with this Result-Code in every service, without processing the request.
    RefuseMscc(u32),
    /// Adds a service that was not requested, before or after the others.
    Foreign { granted: bool, first: bool },
    /// Omits the Result-Code of services.
    NoMsccResult,
    /// Omits the services.
    NoMscc,
    /// Grants time instead of the requested units.
    GrantTime,
    /// Sends the answer twice.
    Duplicate,
    /// Changes the Hop-by-Hop Identifier.
    WrongHbh,
    /// Changes the End-to-End Identifier.
    WrongE2e,
    /// Omits the Session-Id.
    NoSessionId,
    /// Changes the Session-Id.
    WrongSessionId,
    /// Adds an unknown AVP; `true`: with the M flag.
    UnknownAvp(bool),
    /// Sends octets that are not Diameter.
    Garbage,
    /// Writes this length into the header.
    HeaderLength(u32),
    /// Writes a wrong length into the Result-Code AVP.
    AvpLength(AvpLength),
    /// Sends the answer in small pieces.
    PartialWrites,
    /// Closes the connection instead of answering.
    CloseBefore,
    /// Closes the connection after half of the answer.
    CloseMid,
    /// Answers nothing, not even the base protocol.
    Silent,
}

/// Wrong length of the Result-Code AVP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AvpLength {
    /// This value.
    Is(u8),
    /// Past the end of the message.
    Beyond,
    /// 9, which leaves one octet for the value.
    OneByte,
}

/// An active fault.
#[derive(Clone, Debug)]
pub struct Fault {
    kind: Kind,
    on: Requests,
    /// Applies to every n-th request.
    one_in: u32,
    /// Remaining number of times; `None`: unlimited.
    times: Option<u32>,
    seen: u32,
    text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.times.map_or_else(|| "-".to_owned(), |times| times.to_string());
        write!(out, "fault {} seen={} left={left}", self.text, self.seen)
    }
}

/// All active faults.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Adds a fault: `NAME[=VALUE] [on=REQUESTS] [times=N] [rate=1/N]`.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        if self.0.len() >= FAULTS_MAX {
            return Err(format!("{FAULTS_MAX} faults are active; remove them with fault off"));
        }
        self.0.push(Fault::parse(text)?);
        Ok(())
    }

    /// Removes all faults.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the active faults.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// Returns the faults that are due for a request, and counts it.
    pub fn due(&mut self, request: Requests) -> Vec<Kind> {
        let mut due = Vec::new();
        for fault in &mut self.0 {
            if fault.on.0 & request.0 == 0 || fault.times == Some(0) {
                continue;
            }
            fault.seen = fault.seen.wrapping_add(1);
            if fault.seen % fault.one_in == 0 {
                fault.times = fault.times.map(|times| times - 1);
                due.push(fault.kind.clone());
            }
        }
        due
    }
}

impl Fault {
    fn parse(text: &str) -> Result<Fault, String> {
        let mut words = text.split_whitespace();
        let first = words.next().ok_or("expected fault NAME[=VALUE] [on=REQUESTS] [times=N] [rate=1/N]")?;
        let (name, value) = first.split_once('=').map_or((first, None), |(name, value)| (name, Some(value)));
        let (kind, rate) = kind(name, value)?;
        let on = if kind == Kind::Silent { Requests::EVERYTHING } else { Requests::CREDIT_CONTROL };
        let mut fault =
            Fault { kind, on, one_in: rate.unwrap_or(1), times: None, seen: 0, text: text.trim().to_owned() };
        for word in words {
            let invalid = |expected: &str| format!("{word}: expected {expected}");
            match word.split_once('=') {
                Some(("on", value)) => {
                    let names: Vec<&str> = Requests::NAMES.iter().map(|(name, _)| *name).collect();
                    fault.on = Requests::parse(value)
                        .ok_or_else(|| invalid(&format!("on= and a list of {}", names.join(", "))))?;
                }
                Some(("times", value)) => {
                    fault.times = Some(value.parse().map_err(|_| invalid("times= and a number"))?);
                }
                Some(("rate", value)) => fault.one_in = one_in(value).ok_or_else(|| invalid("rate=1/N"))?,
                _ => return Err(invalid("on=, times= or rate=")),
            }
        }
        Ok(fault)
    }
}

/// Parses `1/3`.
fn one_in(text: &str) -> Option<u32> {
    text.strip_prefix("1/")?.parse().ok().filter(|n| *n > 0)
}

/// Parses `20ms`, `2s` or `5-50ms`.
fn delay(text: &str) -> Option<Kind> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s')?, 1000),
    };
    let (least, most) = number.split_once('-').unwrap_or((number, number));
    let span = |text: &str| text.parse().ok().filter(|ms| *ms <= 3_600_000).map(|ms: u64| ms * unit);
    let (least, most) = (span(least)?, span(most)?);
    (least <= most).then(|| Kind::Delay(Duration::from_millis(least), Duration::from_millis(most)))
}

/// Faults without a value; they accept `1/N` instead.
const PLAIN: &[(&str, Kind)] = &[
    ("drop", Kind::Drop),
    ("lose", Kind::Lose),
    ("no-mscc-result", Kind::NoMsccResult),
    ("no-mscc", Kind::NoMscc),
    ("grant-time", Kind::GrantTime),
    ("duplicate", Kind::Duplicate),
    ("wrong-hbh", Kind::WrongHbh),
    ("wrong-e2e", Kind::WrongE2e),
    ("no-session-id", Kind::NoSessionId),
    ("wrong-session-id", Kind::WrongSessionId),
    ("unknown-avp", Kind::UnknownAvp(false)),
    ("unknown-mandatory-avp", Kind::UnknownAvp(true)),
    ("garbage", Kind::Garbage),
    ("partial-writes", Kind::PartialWrites),
    ("silent", Kind::Silent),
];

/// Faults with a value, and its form.
const VALUED: &[(&str, &str)] = &[
    ("delay", "20ms, 2s or 5-50ms"),
    ("refuse", "a Result-Code"),
    ("protocol-error", "a Result-Code"),
    ("refuse-mscc", "a Result-Code"),
    ("foreign", "granted-before, granted-after, refused-before or refused-after"),
    ("header-length", "a length below 16777216"),
    ("avp-length", "0 to 255, beyond or one-byte-result-code"),
    ("close", "before-answer or mid-answer"),
];

/// Returns the kind with this name, and the rate if the value is one.
fn kind(name: &str, value: Option<&str>) -> Result<(Kind, Option<u32>), String> {
    if let Some((_, kind)) = PLAIN.iter().find(|(known, _)| *known == name) {
        let rate = value.map(|value| one_in(value).ok_or_else(|| format!("{name}={value}: expected 1/N")));
        return Ok((kind.clone(), rate.transpose()?));
    }
    let Some((_, expected)) = VALUED.iter().find(|(known, _)| *known == name) else {
        let names = PLAIN.iter().map(|(name, _)| *name).chain(VALUED.iter().map(|(name, _)| *name));
        return Err(format!("unknown fault {name}; known are {}", names.collect::<Vec<_>>().join(", ")));
    };
    let value = value.unwrap_or_default();
    let kind = valued(name, value).ok_or_else(|| format!("{name}={value}: expected {expected}"))?;
    Ok((kind, None))
}

fn valued(name: &str, value: &str) -> Option<Kind> {
    let number = || value.parse::<u32>().ok();
    Some(match (name, value) {
        ("delay", _) => delay(value)?,
        ("refuse", _) => Kind::Refuse(number()?),
        ("protocol-error", _) => Kind::ProtocolError(number()?),
        ("refuse-mscc", _) => Kind::RefuseMscc(number()?),
        ("foreign", "granted-before") => Kind::Foreign { granted: true, first: true },
        ("foreign", "granted-after") => Kind::Foreign { granted: true, first: false },
        ("foreign", "refused-before") => Kind::Foreign { granted: false, first: true },
        ("foreign", "refused-after") => Kind::Foreign { granted: false, first: false },
        ("header-length", _) => Kind::HeaderLength(number().filter(|length| *length < 1 << 24)?),
        ("avp-length", "beyond") => Kind::AvpLength(AvpLength::Beyond),
        ("avp-length", "one-byte-result-code") => Kind::AvpLength(AvpLength::OneByte),
        ("avp-length", _) => Kind::AvpLength(AvpLength::Is(value.parse().ok()?)),
        ("close", "before-answer") => Kind::CloseBefore,
        ("close", "mid-answer") => Kind::CloseMid,
        _ => return None,
    })
}
