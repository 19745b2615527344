//! The one table of parameters: `modparam`, the C ABI, the checks and the manual's tests read it.

use super::parameter::ParameterType::{Format, Integer, Text};
use super::parameter::{Parameter, ParameterHost};
use super::records::RecordFormat;
use super::{BALANCE_MAX, Bypass, DirectionRule, NoSession, Subscriber};
use crate::charge::policy::{DebitOn, Model, OnFailure, Resend};
use crate::enabler::postgres::TakeoverRule as Takeover;
use crate::enabler::{Binding, diameter, node, postgres};
use crate::wire::identity::{self, Preference};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// Stores a parsed value; `None` if there is none.
fn store<T>(place: &mut T, value: Option<T>) -> Option<()> {
    *place = value?;
    Some(())
}

/// Parses a number of the given range.
fn number<T: FromStr + PartialOrd>(text: &str, range: RangeInclusive<T>) -> Option<T> {
    text.parse().ok().filter(|number| range.contains(number))
}

/// Picks the value that belongs to a word.
fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Option<T> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
}

/// Parses an absolute path.
fn path(text: &str) -> Option<PathBuf> {
    text.starts_with('/').then(|| PathBuf::from(text))
}

fn direction(text: &str) -> Option<DirectionRule> {
    match text {
        "asserted" => Some(DirectionRule::Asserted),
        "pull" => Some(DirectionRule::Pull),
        "push" => Some(DirectionRule::Push),
        server => {
            identity::canonical(server.as_bytes()).filter(|server| server.contains('@')).map(DirectionRule::Server)
        }
    }
}

const IDENTITY: &str = "a DiameterIdentity: a domain name like ocs.example.org";
const PEM_FILE: &str = "the absolute path of a PEM file";
const UNSIGNED32: &str = "a whole number from 0 to 4294967295";

/// Every parameter, in the order of the manual.
pub const PARAMETERS: &[Parameter] = &[
    Parameter::new(
        c"enabler",
        Text,
        Some("ledger"),
        "ledger, diameter or postgres",
        "The charging back end.",
        |config, text| store(&mut config.enabler, Binding::from_name(text)),
    ),
    Parameter::new(
        c"state_dir",
        Text,
        Some("/var/lib/imcharge"),
        "the absolute path of a folder",
        "The folder of the ledger.",
        |config, text| store(&mut config.state_dir, path(text)),
    ),
    Parameter::new(
        c"subscriber",
        Format,
        Some("asserted"),
        "asserted, from, or (in a proxy's script) a text with pseudo-variables",
        "The identity that pays.",
        |config, text| {
            let subscribers = [("asserted", Subscriber::Asserted), ("from", Subscriber::From)];
            store(&mut config.subscriber, word(text, &subscribers))
        },
    ),
    Parameter::new(
        c"direction",
        Format,
        Some("asserted"),
        "asserted, pull, push, the SIP URI of a store-and-forward server, or (in a proxy's script) a text with \
         pseudo-variables",
        "What makes an INVITE a retrieval (pull) or a delivery (push).",
        |config, text| store(&mut config.direction, direction(text)),
    ),
    Parameter::new(
        c"identity",
        Text,
        Some("first"),
        "first, sip or tel",
        "Which of several asserted identities pays.",
        |config, text| store(&mut config.identity, Preference::named(text)),
    ),
    Parameter::new(
        c"tariff",
        Text,
        Some("message:1"),
        "message:PRICE, kilobyte:PRICE or message:PRICE+kilobyte:PRICE, PRICE 1 to 1000000000, and optionally \
         ;name=NAME, ;class=text, file, notification or other, ;direction=received or sent, ;service=retrieval, sending, \
         receiving or page; up to 64 tariffs",
        "What a message costs, in units of the account; may be set several times.",
        |config, text| text.parse().ok().and_then(|row| config.tariffs.set(row)),
    ),
    Parameter::new(
        c"unit",
        Text,
        Some("message"),
        "message, octets or money",
        "What one unit of an account is.",
        |config, text| store(&mut config.unit, text.parse().ok()),
    ),
    Parameter::new(
        c"free_content",
        Text,
        Some("message/imdn+xml, application/im-iscomposing+xml"),
        "media types like message/imdn+xml, separated by commas, without parameters, wildcards, message/cpim and \
         multipart types; or an empty text",
        "Media types of content that is not charged, plain or in message/cpim.",
        |config, text| store(&mut config.free_content, text.parse().ok()),
    ),
    Parameter::new(
        c"free_content_max",
        Integer,
        Some("16384"),
        "a whole number from 1 to 1048576",
        "Octets up to which a message is free by its type; a larger one is charged.",
        |config, text| store(&mut config.free_content_max, number(text, 1..=1_048_576)),
    ),
    Parameter::new(
        c"file_size_max",
        Integer,
        Some("104857600"),
        "a whole number from 1 to 2147483647",
        "Octets up to which the stated size of a file is believed; a larger one counts as not stated.",
        |config, text| store(&mut config.file_size_max, number(text, 1..=2_147_483_647)),
    ),
    Parameter::new(
        c"response_timeout",
        Integer,
        Some("30"),
        "a whole number from 1 to 3600",
        "Seconds to wait for the response to a SEND before the message is debited.",
        |config, text| store(&mut config.policy.response_timeout, number(text, 1..=3600)),
    ),
    Parameter::new(
        c"hold_timeout",
        Integer,
        Some("300"),
        "a whole number from 1 to 86400",
        "Seconds without activity after which a session is settled.",
        |config, text| store(&mut config.policy.hold_timeout, number(text, 1..=86_400)),
    ),
    Parameter::new(
        c"resume_workers",
        Integer,
        Some("2"),
        "a whole number from 1 to 64",
        "Host processes that run resume routes.",
        |config, text| store(&mut config.resume_workers, number(text, 1..=64)),
    ),
    Parameter::new(
        c"event_workers",
        Integer,
        Some("1"),
        "a whole number from 1 to 64",
        "Host processes that run event routes.",
        |config, text| store(&mut config.event_workers, number(text, 1..=64)),
    ),
    Parameter::new(
        c"im_server",
        Text,
        None,
        "an IPv4 or IPv6 address, or a network like 192.0.2.0/24",
        "An address of an IM server; may be set several times.",
        |config, text| config.im_servers.add(text).then_some(()),
    ),
    Parameter::new(
        c"bypass",
        Text,
        Some("allow"),
        "allow or refuse",
        "What happens to a client whose SDP leaves this relay out of its a=path.",
        |config, text| store(&mut config.bypass, word(text, &[("allow", Bypass::Allow), ("refuse", Bypass::Refuse)])),
    ),
    Parameter::new(
        c"max_sessions",
        Integer,
        Some("50000"),
        "a whole number from 1 to 4000000",
        "Sessions open at once.",
        |config, text| store(&mut config.max_sessions, number(text, 1..=4_000_000)),
    ),
    Parameter::new(
        c"debit_on",
        Text,
        Some("response"),
        "response or report",
        "Whether the response or the REPORT triggers the debit.",
        |config, text| {
            let triggers = [("response", DebitOn::Response), ("report", DebitOn::Report)];
            store(&mut config.policy.debit_on, word(text, &triggers))
        },
    ),
    Parameter::new(
        c"model",
        Text,
        Some("reserve"),
        "reserve, immediate or prepay",
        "Whether units are reserved before they are debited.",
        |config, text| {
            let models = [Model::Reserve, Model::Immediate, Model::Prepay].map(|model| (model.as_str(), model));
            store(&mut config.policy.model, word(text, &models))
        },
    ),
    Parameter::new(
        c"on_failure",
        Text,
        Some("deny"),
        "deny or grant",
        "What happens to an INVITE while the charging back end fails.",
        |config, text| {
            store(&mut config.policy.on_failure, word(text, &[("deny", OnFailure::Deny), ("grant", OnFailure::Grant)]))
        },
    ),
    Parameter::new(
        c"on_failure_cap",
        Integer,
        Some("100"),
        "a whole number from 1 to 1000000",
        "Messages that one subscriber gets unreserved with on_failure=grant.",
        |config, text| store(&mut config.policy.on_failure_cap, number(text, 1..=1_000_000)),
    ),
    Parameter::new(
        c"policy",
        Text,
        Some(
            "received.4xx=debit;received.5xx=debit;received.abort=release;sent.4xx=release;sent.5xx=release;\
             sent.abort=debit;timeout=debit;close=debit;report=debit;202=debit;message-timeout=debit",
        ),
        "[CONTENT.]CASE=CHOICE;..., CONTENT received or sent, CASE one of 4xx, 5xx, timeout, close, abort, report, 202, \
         message-timeout, CHOICE debit or release",
        "How to treat cases that the OMA specification leaves open.",
        |config, text| config.policy.set_cases(text).ok(),
    ),
    Parameter::new(
        c"message_max",
        Integer,
        Some("65535"),
        "a whole number from 1 to 65535",
        "Octets of the largest SIP MESSAGE body that is charged; a larger one is refused.",
        |config, text| store(&mut config.message_max, number(text, 1..=65_535)),
    ),
    Parameter::new(
        c"default_balance",
        Integer,
        None,
        "a whole number from 0 to 1000000000000000",
        "Balance of a subscriber who has no account yet; not set: such a subscriber is denied.",
        |config, text| store(&mut config.default_balance, number(text, 0..=BALANCE_MAX).map(Some)),
    ),
    Parameter::new(
        c"low_balance",
        Text,
        None,
        "units from 0 to 1000000000000000, or a percentage from 1% to 99%",
        "Units left of an account that raise the low-balance event; not set: it is never raised.",
        |config, text| store(&mut config.low_balance, text.parse().ok().map(Some)),
    ),
    Parameter::new(
        c"history_days",
        Integer,
        Some("30"),
        "a whole number from 1 to 3650",
        "Days for which closed sessions are kept.",
        |config, text| store(&mut config.history_days, number(text, 1..=3650)),
    ),
    Parameter::new(
        c"cdr_dir",
        Text,
        None,
        "the absolute path of a folder",
        "Folder of the files of charging records; not set: there are no records.",
        |config, text| store(&mut config.records.dir, path(text).map(Some)),
    ),
    Parameter::new(
        c"cdr_format",
        Text,
        Some("json"),
        "json or csv",
        "Format of the charging records.",
        |config, text| {
            store(&mut config.records.format, word(text, &[("json", RecordFormat::Json), ("csv", RecordFormat::Csv)]))
        },
    ),
    Parameter::new(
        c"cdr_file_size",
        Integer,
        Some("16777216"),
        "a whole number from 4096 to 1073741824",
        "Octets from which a file of charging records is closed.",
        |config, text| store(&mut config.records.file_size, number(text, 4096..=1_073_741_824)),
    ),
    Parameter::new(
        c"cdr_file_seconds",
        Integer,
        Some("3600"),
        "a whole number from 1 to 86400",
        "Seconds after its first record at which a file of charging records is closed.",
        |config, text| store(&mut config.records.file_seconds, number(text, 1..=86_400)),
    ),
    Parameter::new(
        c"cdr_node",
        Text,
        None,
        "at most 128 letters, digits, dots, hyphens and underscores, beginning with a letter or digit",
        "Name of this node in charging records and their file names; not set: the host name.",
        |config, text| store(&mut config.records.node, node::parse(text).map(Some)),
    ),
    Parameter::new(
        c"postgres",
        Text,
        None,
        "host=NAME, and optionally ;port=1..65535, ;dbname=NAME, ;user=NAME, ;password_file=PATH and ;tls=verify or off",
        "A server of the shared ledger; may be set several times.",
        |config, text| text.parse().ok().map(|server| config.postgres.servers.push(server)),
    ),
    Parameter::new(
        c"node",
        Text,
        None,
        "at most 128 letters, digits, dots, hyphens and underscores, beginning with a letter or digit",
        "Name of this node in the shared ledger; not set: the host name.",
        |config, text| store(&mut config.postgres.node, node::parse(text).map(Some)),
    ),
    Parameter::new(
        c"lease",
        Integer,
        Some("60"),
        "a whole number from 10 to 600",
        "Seconds for which each answer of the shared ledger lets this node relay.",
        |config, text| store(&mut config.postgres.lease, number(text, postgres::LEASE_SECONDS)),
    ),
    Parameter::new(
        c"takeover",
        Text,
        Some("settle"),
        "settle or off",
        "What this node does with the sessions of a dead node.",
        |config, text| {
            let takeovers = [("settle", Takeover::Settle), ("off", Takeover::Off)];
            store(&mut config.postgres.takeover, word(text, &takeovers))
        },
    ),
    Parameter::new(
        c"postgres_async",
        Text,
        Some("no"),
        "no or yes",
        "Whether a server without a synchronous standby is accepted.",
        |config, text| store(&mut config.postgres.accepts_async, word(text, &[("no", false), ("yes", true)])),
    ),
    Parameter::new(c"origin_host", Text, None, IDENTITY, "Origin-Host of this node.", |config, text| {
        store(&mut config.diameter.origin_host, diameter::identity(text))
    }),
    Parameter::new(c"origin_realm", Text, None, IDENTITY, "Origin-Realm of this node.", |config, text| {
        store(&mut config.diameter.origin_realm, diameter::identity(text))
    }),
    Parameter::new(c"destination_realm", Text, None, IDENTITY, "Realm of the OCS.", |config, text| {
        store(&mut config.diameter.destination_realm, diameter::identity(text))
    }),
    Parameter::new(
        c"peer",
        Text,
        None,
        "host=NAME;address=HOST:PORT, and optionally ;priority=0..65535 and ;transport=tcp or tls",
        "A Diameter peer; may be set several times.",
        |config, text| text.parse().ok().map(|peer| config.diameter.peers.push(peer)),
    ),
    Parameter::new(
        c"service_context_id",
        Text,
        None,
        "a service context like 32274@3gpp.org, as your OCS knows it",
        "Service-Context-Id of the requests.",
        |config, text| store(&mut config.diameter.service_context_id, text.contains('@').then(|| text.to_owned())),
    ),
    Parameter::new(
        c"profile",
        Text,
        Some("rfc8506"),
        "rfc8506 or 3gpp-ro",
        "The profile of Diameter Credit-Control that the OCS expects.",
        |config, text| store(&mut config.diameter.profile, text.parse().ok()),
    ),
    Parameter::new(c"service_identifier", Integer, None, UNSIGNED32, "Service-Identifier.", |config, text| {
        store(&mut config.diameter.service_identifier, text.parse().ok().map(Some))
    }),
    Parameter::new(c"rating_group", Integer, None, UNSIGNED32, "Rating-Group.", |config, text| {
        store(&mut config.diameter.rating_group, text.parse().ok().map(Some))
    }),
    Parameter::new(c"currency_code", Integer, None, UNSIGNED32, "Currency-Code, with unit=money.", |config, text| {
        store(&mut config.diameter.currency_code, text.parse().ok().map(Some))
    }),
    Parameter::new(
        c"currency_exponent",
        Integer,
        Some("-2"),
        "a whole number from -9 to 9",
        "Exponent of the unit that the tariff counts, with unit=money.",
        |config, text| store(&mut config.diameter.currency_exponent, number(text, -9..=9)),
    ),
    Parameter::new(
        c"tx_timeout",
        Integer,
        Some("10"),
        "a whole number from 1 to 600",
        "Seconds that an answer of the OCS (Tx, RFC 8506, 13) or of the shared ledger may take.",
        |config, text| store(&mut config.diameter.tx_timeout, number(text, 1..=600)),
    ),
    Parameter::new(
        c"resend",
        Text,
        Some("again"),
        "again or hold",
        "What happens to a debit whose answer is missing.",
        |config, text| {
            store(&mut config.policy.resend, word(text, &[("again", Resend::Again), ("hold", Resend::Hold)]))
        },
    ),
    Parameter::new(
        c"tls_ca",
        Text,
        None,
        PEM_FILE,
        "Certificates that peers and servers are verified with.",
        |config, text| store(&mut config.diameter.tls_ca, path(text)),
    ),
    Parameter::new(c"tls_certificate", Text, None, PEM_FILE, "Certificate of this node.", |config, text| {
        store(&mut config.diameter.tls_certificate, path(text))
    }),
    Parameter::new(c"tls_key", Text, None, PEM_FILE, "Private key of this node's certificate.", |config, text| {
        store(&mut config.diameter.tls_key, path(text))
    }),
    Parameter::new(
        c"event_callback",
        Text,
        None,
        "the name of one function of the script",
        "The KEMI function that is called for events.",
        |config, text| {
            let is_first = !text.is_empty() && config.event_callback.is_none();
            is_first.then(|| config.event_callback = Some(text.to_owned()))
        },
    )
    .only(ParameterHost::Kamailio),
    Parameter::new(
        c"no_session",
        Text,
        Some("pass"),
        "pass or refuse",
        "What happens to MSRP frames that belong to no charged session.",
        |config, text| {
            store(&mut config.no_session, word(text, &[("pass", NoSession::Pass), ("refuse", NoSession::Refuse)]))
        },
    )
    .only(ParameterHost::OpenSips),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// An accepted value of each parameter that differs from its default.
    const OTHER: &[(&str, &str)] = &[
        ("enabler", "diameter"),
        ("state_dir", "/srv/imcharge"),
        ("subscriber", "from"),
        ("direction", "sip:foreign@store.example.org"),
        ("identity", "tel"),
        ("tariff", "kilobyte:3"),
        ("unit", "octets"),
        ("free_content", "message/imdn+xml"),
        ("free_content_max", "1048576"),
        ("file_size_max", "2147483647"),
        ("response_timeout", "3600"),
        ("hold_timeout", "86400"),
        ("resume_workers", "64"),
        ("event_workers", "64"),
        ("im_server", "192.0.2.0/24"),
        ("bypass", "refuse"),
        ("max_sessions", "4000000"),
        ("debit_on", "report"),
        ("model", "immediate"),
        ("on_failure", "grant"),
        ("on_failure_cap", "1000000"),
        ("policy", "5xx=release;sent.close=release"),
        ("message_max", "1300"),
        ("default_balance", "100"),
        ("low_balance", "10%"),
        ("history_days", "3650"),
        ("cdr_dir", "/var/spool/imcharge"),
        ("cdr_format", "csv"),
        ("cdr_file_size", "4096"),
        ("cdr_file_seconds", "60"),
        ("cdr_node", "proxy1.example.org"),
        ("postgres", "host=db1.example.org;port=6432;dbname=charging;user=proxy;password_file=/etc/imcharge/password"),
        ("node", "proxy1"),
        ("lease", "600"),
        ("takeover", "off"),
        ("postgres_async", "yes"),
        ("origin_host", "proxy.example.org"),
        ("origin_realm", "example.org"),
        ("destination_realm", "ocs.example.org"),
        ("peer", "host=ocs1.example.org;address=[2001:db8::1]:3868;priority=2;transport=tls"),
        ("service_context_id", "32274@3gpp.org"),
        ("profile", "3gpp-ro"),
        ("service_identifier", "7"),
        ("rating_group", "4294967295"),
        ("currency_code", "978"),
        ("currency_exponent", "-3"),
        ("tx_timeout", "600"),
        ("resend", "hold"),
        ("tls_ca", "/etc/ssl/ca.pem"),
        ("tls_certificate", "/etc/ssl/own.pem"),
        ("tls_key", "/etc/ssl/own.key"),
        ("event_callback", "ksr_imcharge_event"),
        ("no_session", "refuse"),
    ];

    #[test]
    fn parameters_have_the_defaults_of_the_table() {
        for parameter in PARAMETERS {
            let mut config = Config::default();
            if let Some(default) = parameter.default {
                parameter.set(&mut config, default).unwrap_or_else(|error| panic!("{error}"));
            }
            assert_eq!(config, Config::default(), "{}", parameter.name());
        }
    }

    #[test]
    fn parameters_store_what_they_accept_and_refuse_the_rest_by_name() {
        assert_eq!(
            OTHER.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            PARAMETERS.iter().map(Parameter::name).collect::<Vec<_>>()
        );
        for ((name, value), parameter) in OTHER.iter().zip(PARAMETERS) {
            let mut config = Config::default();
            parameter.set(&mut config, value).unwrap_or_else(|error| panic!("{error}"));
            assert_ne!(config, Config::default(), "{name} stored nothing");
            if *name == "event_callback" {
                // Any name of a function is accepted, but only once.
                assert!(parameter.set(&mut config, "another").is_err());
                continue;
            }
            let mut config = Config::default();
            let wrong = parameter.set(&mut config, "-1 bogus").expect_err(name).to_string();
            assert!(wrong.starts_with(&format!("parameter {name}: '-1 bogus' is not allowed; accepted: ")), "{wrong}");
            assert_eq!(config, Config::default(), "{name} stored a refused value");
        }
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        for (name, wrong) in [
            ("free_content_max", "0"),
            ("free_content_max", "1048577"),
            ("file_size_max", "0"),
            ("file_size_max", "2147483648"),
            ("response_timeout", "0"),
            ("response_timeout", "3601"),
            ("hold_timeout", "86401"),
            ("resume_workers", "65"),
            ("max_sessions", "4000001"),
            ("default_balance", "-1"),
            ("default_balance", "1000000000000001"),
            ("low_balance", "1000000000000001"),
            ("low_balance", "100%"),
            ("rating_group", "4294967296"),
            ("currency_exponent", "10"),
            ("tx_timeout", "0"),
            ("lease", "9"),
            ("lease", "601"),
        ] {
            assert!(Config::default().set(name, wrong).is_err(), "{name}={wrong}");
        }
    }

    #[test]
    fn parameters_of_one_host_are_refused_by_the_c_abi() {
        for name in ["event_callback", "no_session"] {
            let refused = Config::default().set(name, "refuse").expect_err(name).to_string();
            assert_eq!(refused, format!("parameter {name}: there is no such parameter on this host"));
        }
        let unknown = Config::default().set("colour", "red").expect_err("no such parameter").to_string();
        assert_eq!(unknown, "parameter colour: there is no such parameter on this host");
    }
}
