//! Faults on demand: which, for which requests, how often.
//!
//! ```text
//! fault delay=20ms                       fault refuse=4012 on=initial times=1
//! fault drop=1/3 on=termination          fault close=mid-answer on=update,termination
//! ```

use std::fmt;
use std::time::Duration;

/// Faults set at a time at most.
pub const FAULTS_MAX: usize = 64;

/// What requests a fault is for.
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

    fn read(text: &str) -> Option<Requests> {
        text.split(',').try_fold(Requests(0), |sum, word| {
            let (_, these) = Requests::NAMES.iter().find(|(name, _)| *name == word)?;
            Some(Requests(sum.0 | these.0))
        })
    }
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The answer comes so much later, at least and at most.
    Delay(Duration, Duration),
    /// Booked, not answered.
    Drop,
    /// Neither booked nor answered: the request never came.
    Lose,
    /// This Result-Code, nothing booked.
    Refuse(u32),
    /// The same with the E flag, and without CC-Request-Type and -Number.
    ProtocolError(u32),
    /// SUCCESS, and this Result-Code in every service; nothing booked.
    RefuseMscc(u32),
    /// Another service in the answer, before or after the others.
    Foreign { granted: bool, first: bool },
    /// Services without Result-Code.
    NoMsccResult,
    /// No services in the answer.
    NoMscc,
    /// Units of time in place of what was asked for.
    GrantTime,
    /// The answer twice.
    Duplicate,
    /// Another Hop-by-Hop Identifier.
    WrongHbh,
    /// Another End-to-End Identifier.
    WrongE2e,
    /// No Session-Id.
    NoSessionId,
    /// Somebody else's.
    WrongSessionId,
    /// An AVP that nobody knows; with the M flag or without.
    UnknownAvp(bool),
    /// Bytes that are no Diameter.
    Garbage,
    /// This length in the header.
    HeaderLength(u32),
    /// This length in the Result-Code AVP.
    AvpLength(AvpLength),
    /// The answer a few octets at a time.
    PartialWrites,
    /// The connection ends instead of an answer.
    CloseBefore,
    /// The connection ends within the answer.
    CloseMid,
    /// No answer; of the base protocol neither.
    Silent,
}

/// How the length of the Result-Code AVP is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AvpLength {
    /// This, whatever is there.
    Is(u8),
    /// Beyond the end of the message.
    Beyond,
    /// 9: a Result-Code of one octet.
    OneByte,
}

/// A fault that is set.
#[derive(Clone, Debug)]
pub struct Set {
    kind: Kind,
    on: Requests,
    /// Of so many requests one, the last.
    one_in: u32,
    /// How often still; `None`: for ever.
    times: Option<u32>,
    seen: u32,
    text: String,
}

impl fmt::Display for Set {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.times.map_or_else(|| "-".to_owned(), |times| times.to_string());
        write!(out, "fault {} seen={} left={left}", self.text, self.seen)
    }
}

/// All faults that are set.
#[derive(Debug, Default)]
pub struct Faults(Vec<Set>);

impl Faults {
    /// Sets one: `NAME[=VALUE] [on=REQUESTS] [times=N] [rate=1/N]`.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        if self.0.len() >= FAULTS_MAX {
            return Err(format!("{FAULTS_MAX} faults are set already; reset takes them away"));
        }
        self.0.push(Set::read(text)?);
        Ok(())
    }

    /// Takes all away.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Those that are set.
    pub fn iter(&self) -> impl Iterator<Item = &Set> {
        self.0.iter()
    }

    /// What goes wrong with this request. Nothing at all costs nothing.
    pub fn of(&mut self, request: Requests) -> Vec<Kind> {
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

impl Set {
    fn read(text: &str) -> Result<Set, String> {
        let mut words = text.split_whitespace();
        let first = words.next().ok_or("a fault is wanted: fault NAME[=VALUE] [on=REQUESTS] [times=N] [rate=1/N]")?;
        let (name, value) = first.split_once('=').map_or((first, None), |(name, value)| (name, Some(value)));
        let (kind, rate) = kind(name, value)?;
        let on = if kind == Kind::Silent { Requests::EVERYTHING } else { Requests::CREDIT_CONTROL };
        let mut set = Set { kind, on, one_in: rate.unwrap_or(1), times: None, seen: 0, text: text.trim().to_owned() };
        for word in words {
            let wrong = |wanted: &str| format!("{word} will not do; {wanted} is wanted");
            match word.split_once('=') {
                Some(("on", value)) => {
                    let names: Vec<&str> = Requests::NAMES.iter().map(|(name, _)| *name).collect();
                    set.on = Requests::read(value).ok_or_else(|| wrong(&format!("on= and {}", names.join(", "))))?;
                }
                Some(("times", value)) => {
                    set.times = Some(value.parse().map_err(|_| wrong("times= and a number"))?);
                }
                Some(("rate", value)) => set.one_in = one_in(value).ok_or_else(|| wrong("rate=1/N"))?,
                _ => return Err(wrong("on=, times= or rate=")),
            }
        }
        Ok(set)
    }
}

/// `1/3`
fn one_in(text: &str) -> Option<u32> {
    text.strip_prefix("1/")?.parse().ok().filter(|n| *n > 0)
}

/// `20ms`, `2s` or `5-50ms`.
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

/// The names without a value; these take `1/N` instead.
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

/// The names with a value, and what it is.
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

/// The fault of this name, and its rate if the value is one.
fn kind(name: &str, value: Option<&str>) -> Result<(Kind, Option<u32>), String> {
    if let Some((_, kind)) = PLAIN.iter().find(|(known, _)| *known == name) {
        let rate = value.map(|value| one_in(value).ok_or_else(|| format!("{name}={value}: 1/N is wanted")));
        return Ok((kind.clone(), rate.transpose()?));
    }
    let Some((_, wanted)) = VALUED.iter().find(|(known, _)| *known == name) else {
        let names = PLAIN.iter().map(|(name, _)| *name).chain(VALUED.iter().map(|(name, _)| *name));
        return Err(format!("there is no fault {name}; there are {}", names.collect::<Vec<_>>().join(", ")));
    };
    let value = value.unwrap_or_default();
    let kind = valued(name, value).ok_or_else(|| format!("{name}={value} will not do; {wanted} is wanted"))?;
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
