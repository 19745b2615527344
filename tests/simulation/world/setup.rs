//! How a seed chooses its world: configuration, OCS, accounts.

use crate::network::{Network, PEERS};
use imcharge::charge::content::ContentClass;
use imcharge::charge::policy::Resend;
use imcharge::charge::service::Service;
use imcharge::charge::tariff::{Tariff, Unit};
use imcharge::config::Config;
use imcharge::config::tariffs::{PricedService, TariffTable};
use imcharge::enabler::Accounts;
use imcharge::wire::diameter::codes::SessionFailover;
use std::path::Path;

/// Returns the tariff of a class.
pub fn tariff_of(tariffs: &TariffTable, class: ContentClass) -> Tariff {
    tariffs.rows()[tariffs.choose("", PricedService::Session(Service::Retrieval), class)].tariff
}

/// Returns the tariff of a class for SIP MESSAGEs that their sender pays for.
pub fn page_tariff_of(tariffs: &TariffTable, class: ContentClass) -> Tariff {
    tariffs.rows()[tariffs.choose("", PricedService::Page(Service::Sending), class)].tariff
}

/// Returns the tariff of a class for content that its sender pays for.
pub fn sending_tariff_of(tariffs: &TariffTable, class: ContentClass) -> Tariff {
    tariffs.rows()[tariffs.choose("", PricedService::Session(Service::Sending), class)].tariff
}

/// Whether notifications are charged: nothing is free by its type.
pub fn charges_notifications(config: &Config) -> bool {
    !config.free_content.contains("application/im-iscomposing+xml")
}

/// Whether messages of any class are charged by size.
pub fn is_by_size(config: &Config) -> bool {
    config.tariffs.rows().iter().any(|row| row.tariff.kilobyte > 0)
}

/// Whether classes have different tariffs.
fn has_classes(config: &Config) -> bool {
    config.tariffs.rows().len() > 1
}

/// Returns the configuration of the first start.
pub fn configure(random: &mut fastrand::Rng, state: &Path) -> Config {
    let is_distant = random.bool();
    let mut config = Config { state_dir: state.to_owned(), ..Config::default() };
    let by_kilobyte = random.u8(0..3) == 0;
    let per = if by_kilobyte { "kilobyte" } else { "message" };
    let unit = match (random.u8(0..3), by_kilobyte) {
        (0, _) => "money",
        (_, true) => "octets",
        (_, false) => "message",
    };
    let tariff = format!("{per}:{}", random.i64(1..=3));
    // A file has its own price in half of the worlds, if the accounts can count it.
    let of_file = match unit {
        "money" => Some(["message:5", "kilobyte:1", "message:2+kilobyte:1"][random.usize(0..3)]),
        "message" => Some("message:4"),
        _ => None,
    };
    let of_file = of_file.filter(|_| random.bool()).map(|price| format!("{price};class=file"));
    // With a price of their own, notifications are charged.
    let charges_all = of_file.is_some() && random.bool();
    let of_others = ["notification", "other"].map(|class| format!("{per}:{};class={class}", random.i64(1..=4)));
    let [response_timeout, hold_timeout, max_sessions] = [2..20, 20..90, 4..16].map(|of| random.u32(of).to_string());
    let mut set = vec![
        ("tariff", tariff.as_str()),
        ("unit", unit),
        ("response_timeout", &response_timeout),
        ("hold_timeout", &hold_timeout),
        ("max_sessions", &max_sessions),
        ("resume_workers", "2"),
    ];
    if is_distant {
        set.extend([
            ("enabler", "diameter"),
            ("origin_host", "proxy.example.org"),
            ("origin_realm", "example.org"),
            ("destination_realm", "example.com"),
            ("service_context_id", "32274@3gpp.org"),
            ("profile", if random.bool() { "rfc8506" } else { "3gpp-ro" }),
            ("tx_timeout", "3"),
            ("on_failure", if random.u8(0..4) == 0 { "grant" } else { "deny" }),
            ("resend", if random.u8(0..4) == 0 { "hold" } else { "again" }),
            ("model", random.choice(["immediate", "prepay", "reserve", "reserve", "reserve"]).expect("there is one")),
        ]);
    }
    if !is_distant && random.bool() {
        set.push(("low_balance", random.choice(["5", "30", "20%", "50%"]).unwrap_or("5")));
    }
    set.extend(of_file.as_deref().map(|tariff| ("tariff", tariff)));
    if charges_all {
        set.extend(of_others.iter().map(|tariff| ("tariff", tariff.as_str())));
        set.push(("free_content", ""));
    }
    let peers = PEERS.map(|(name, port)| format!("host={name};address=127.0.0.1:{port}"));
    if is_distant {
        set.extend(peers.iter().take(random.usize(1..=2)).map(|peer| ("peer", peer.as_str())));
    }
    let policies = [
        "",
        "report=release",
        "message-timeout=release",
        "report=release;202=release",
        "4xx=release;timeout=release",
        "received.4xx=release",
        "sent.timeout=release",
        "sent.4xx=debit;sent.5xx=debit",
        "sent.close=release;sent.abort=release",
    ];
    set.push(("policy", random.choice(policies).expect("there is one")));
    if unit == "money" && is_distant {
        set.extend([("currency_code", "978"), ("currency_exponent", "0")]);
    }
    for (name, value) in set {
        config.set(name, value).unwrap_or_else(|error| panic!("{error}"));
    }
    if random.bool() {
        let dir = state.join("cdr");
        std::fs::create_dir(&dir).expect("a folder in memory");
        config.records.dir = Some(dir);
        config.records.node = Some("proxy".into());
        config.records.file_size = random.u64(300..3000);
        config.records.file_seconds = random.u32(1..60);
    }
    config.check().unwrap_or_else(|error| panic!("{error}"));
    config
}

/// Changes the configuration for a restart.
pub fn reconfigure(random: &mut fastrand::Rng, config: &mut Config) {
    let is_distant = config.enabler.capabilities.accounts != Accounts::InStore;
    let mut set = vec![("hold_timeout", random.u32(20..90).to_string())];
    let tariff = tariff_of(&config.tariffs, ContentClass::Text);
    let per = if tariff.kilobyte > 0 { "kilobyte" } else { "message" };
    // An OCS that counts messages has one price, also for debits without a reservation in other units.
    if !is_distant || is_by_size(config) || has_classes(config) {
        set.push(("tariff", format!("{per}:{}", random.i64(1..=3))));
    }
    if is_distant {
        set.push(("profile", if random.bool() { "rfc8506" } else { "3gpp-ro" }.into()));
        set.push(("service_identifier", random.u32(1..3).to_string()));
        set.push(("rating_group", random.u32(1..3).to_string()));
        if !is_by_size(config) && !has_classes(config) {
            set.push(("unit", if random.bool() { "money" } else { "message" }.into()));
        }
    }
    for (name, value) in set {
        config.set(name, &value).unwrap_or_else(|error| panic!("{error}"));
    }
    config.diameter.currency_code = (config.unit == Unit::Money && is_distant).then_some(978);
    config.diameter.currency_exponent = 0;
    config.check().unwrap_or_else(|error| panic!("{error}"));
}

/// Returns accounts and their balances. At an OCS they are sufficient, unless `is_short`.
pub fn balances(random: &mut fastrand::Rng, config: &Config, is_short: bool) -> Vec<(String, i64)> {
    let one = match (is_by_size(config), config.unit) {
        (false, _) => 1,
        // As many kilobytes as are reserved for a message.
        (_, Unit::Octets) if config.enabler.capabilities.accounts != Accounts::InStore => 16 * 1024,
        _ => 16,
    };
    let accounts = (0..random.usize(1..4)).map(|number| {
        let is_rich = config.enabler.capabilities.accounts != Accounts::InStore && !is_short;
        let messages = if is_rich { random.i64(3000..4000) } else { random.i64(0..60) };
        (format!("sip:user{number}@example.org"), messages * one)
    });
    accounts.collect()
}

/// Sets up the OCS for this configuration. If accounts are short, it grants all or nothing, and drops the reservation
/// with an UPDATE that it refuses.
pub fn set_up(random: &mut fastrand::Rng, config: &Config, is_short: bool, network: &mut Network) {
    let settings = &mut network.ocs.settings;
    settings.partial = !is_short;
    settings.price = match config.unit {
        Unit::Octets => 1,
        // The quota counts units of the account.
        Unit::Message | Unit::Money if has_classes(config) => 1,
        Unit::Message | Unit::Money => {
            let tariff = tariff_of(&config.tariffs, ContentClass::Text);
            (tariff.message + tariff.kilobyte).into()
        }
    };
    settings.session_failover = random.bool().then_some(SessionFailover::FAILOVER_SUPPORTED);
    if random.bool() {
        settings.validity_time = Some(random.u32(5..30));
    }
    network.holds = config.policy.resend == Resend::Hold;
    network.sends_requests = config.enabler.capabilities.accounts != Accounts::InStore && random.bool();
}

/// Chooses the settings that all nodes with a shared ledger have, and returns the lease as well, in seconds.
pub fn settings_of_nodes(random: &mut fastrand::Rng, ports: [u16; 2]) -> (Vec<(&'static str, String)>, u64) {
    let by_kilobyte = random.u8(0..3) == 0;
    let per = if by_kilobyte { "kilobyte" } else { "message" };
    let unit = match (random.u8(0..3), by_kilobyte) {
        (0, _) => "money",
        (_, true) => "octets",
        (_, false) => "message",
    };
    let lease = random.u64(10..=20);
    let [response_timeout, hold_timeout, max_sessions] = [2..20, 20..60, 6..20].map(|of| random.u32(of).to_string());
    let policies = ["", "", "report=release", "message-timeout=release", "received.4xx=release", "sent.4xx=debit"];
    let mut set = vec![
        ("enabler", "postgres".to_owned()),
        ("tariff", format!("{per}:{}", random.i64(1..=3))),
        ("unit", unit.into()),
        ("response_timeout", response_timeout),
        ("hold_timeout", hold_timeout),
        ("max_sessions", max_sessions),
        ("resume_workers", "2".into()),
        ("lease", lease.to_string()),
        ("tx_timeout", "3".into()),
        ("on_failure", if random.u8(0..4) == 0 { "grant" } else { "deny" }.into()),
        ("model", random.choice(["immediate", "prepay", "reserve", "reserve", "reserve"]).unwrap_or("reserve").into()),
        ("policy", random.choice(policies).unwrap_or_default().into()),
    ];
    if random.bool() {
        set.push(("low_balance", random.choice(["5", "30", "20%", "50%"]).unwrap_or("5").into()));
    }
    set.extend(ports.map(|port| ("postgres", format!("host=127.0.0.1;port={port};tls=off"))));
    (set, lease)
}

/// Returns the accounts of a shared ledger and their balances, which are sufficient unless `is_short`.
pub fn shared_balances(random: &mut fastrand::Rng, config: &Config, is_short: bool) -> Vec<(String, i64)> {
    let one = if is_by_size(config) { 16 * 1024 } else { 1 };
    let accounts = (0..random.usize(1..4)).map(|number| {
        let messages = if is_short { random.i64(0..80) } else { random.i64(5000..6000) };
        (format!("sip:user{number}@example.org"), messages * one)
    });
    accounts.collect()
}
