//! Parameters of `enabler=postgres`, and the checked configuration they become. These are all rules for them.

use super::client::password::Password;
use super::client::{ClientConfig, Server};
use crate::enabler::net::address::HostPort;
use crate::enabler::net::tls::{OwnCertificate, Tls, TlsConfig};
use crate::enabler::{LowBalance, ParameterError, Settings as AllSettings, StartError, diameter, node};
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// Accepted values of the parameter `lease`, in seconds.
pub const LEASE_SECONDS: RangeInclusive<u32> = 10..=600;

/// Longest name of a database or user, in octets: that of a PostgreSQL identifier.
const IDENTIFIER_MAX: usize = 63;

/// Port of a server that names none.
const PORT_DEFAULT: u16 = 5432;

/// Name of this client in the server's list of sessions.
const APPLICATION: &str = "imcharge";

/// Seconds that a connection may take, and again as many for the login.
const CONNECT_SECONDS: u32 = 3;

/// Database and user of a server that names none.
const NAME_DEFAULT: &str = "imcharge";

/// Values of the parameters. Each is valid by itself; [`Config::new`] checks them together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The servers of the database, in the order in which they are tried.
    pub servers: Vec<ServerSettings>,
    /// Name of this node; `None`: the host name.
    pub node: Option<String>,
    /// Seconds for which each answer of the database lets this node relay.
    pub lease: u32,
    /// What happens to the sessions of a node whose lease is over.
    pub takeover: Takeover,
    /// Whether a server without a synchronous standby is accepted.
    pub accepts_async: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { servers: Vec::new(), node: None, lease: 60, takeover: Takeover::Settle, accepts_async: false }
    }
}

/// What this node does with the sessions of a dead one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// It takes them over and settles them.
    Settle,
    /// Nothing.
    Off,
}

/// One value of the parameter `postgres`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Where it listens.
    pub address: HostPort,
    /// The database.
    pub database: String,
    /// The user.
    pub user: String,
    /// File whose first line is the password; `None`: the server asks for none.
    pub password_file: Option<PathBuf>,
    /// Whether the connection is TLS, with a certificate that names the host.
    pub tls: bool,
}

/// `host=NAME[;port=N][;dbname=NAME][;user=NAME][;password_file=PATH][;tls=verify|off]`
impl FromStr for ServerSettings {
    type Err = ();

    fn from_str(text: &str) -> Result<ServerSettings, ()> {
        let mut server = ServerSettings {
            address: HostPort { host: String::new(), port: PORT_DEFAULT },
            database: NAME_DEFAULT.into(),
            user: NAME_DEFAULT.into(),
            password_file: None,
            tls: true,
        };
        for field in text.split(';').map(str::trim).filter(|field| !field.is_empty()) {
            match field.split_once('=').ok_or(())? {
                ("host", name) => server.address.host = host(name).ok_or(())?,
                ("port", number) => {
                    server.address.port = number.parse().ok().filter(|port| *port != 0).ok_or(())?;
                }
                ("dbname", name) => server.database = identifier(name).ok_or(())?,
                ("user", name) => server.user = identifier(name).ok_or(())?,
                ("password_file", path) if path.starts_with('/') => server.password_file = Some(path.into()),
                ("tls", "verify") => server.tls = true,
                ("tls", "off") => server.tls = false,
                _ => return Err(()),
            }
        }
        if server.address.host.is_empty() { Err(()) } else { Ok(server) }
    }
}

/// Parses a domain name or an IP address, without brackets.
fn host(text: &str) -> Option<String> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let is_name = !text.is_empty() && text.len() <= 253 && text.bytes().all(is_valid);
    (is_name || text.parse::<Ipv6Addr>().is_ok()).then(|| text.to_owned())
}

/// Parses the name of a database or user.
fn identifier(text: &str) -> Option<String> {
    let is_allowed = !text.chars().any(|c| c.is_control() || c.is_whitespace());
    (is_allowed && (1..=IDENTIFIER_MAX).contains(&text.len())).then(|| text.to_owned())
}

/// The checked configuration of the binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The client and its servers.
    pub client: ClientConfig,
    /// Name of this node.
    pub node: String,
    /// Diameter identity of this node, for the nodes that settle its sessions; empty: none.
    pub origin_host: String,
    /// Seconds for which each answer of the database lets this node relay.
    pub lease: u32,
    /// What happens to the sessions of a node whose lease is over.
    pub takeover: Takeover,
    /// Seconds that an answer may take.
    pub tx_timeout: u32,
    /// Initial balance of an unknown subscriber; `None`: unknown subscribers are denied.
    pub default_balance: Option<i64>,
    /// How many units left of an account are few; `None`: the event is never raised.
    pub low_balance: Option<LowBalance>,
}

impl Config {
    /// Checks that nothing is missing and that the values fit together.
    pub fn new(settings: &AllSettings<'_>) -> Result<Config, ParameterError> {
        let Settings { servers, node, lease, takeover, accepts_async } = settings.postgres;
        let first = servers.first().ok_or_else(|| ParameterError::missing("postgres", "enabler=postgres"))?;
        servers.iter().try_for_each(|server| check_same_database(first, server))?;
        let tx_timeout = settings.diameter.tx_timeout;
        if tx_timeout >= *lease {
            let (value, with) = (tx_timeout.to_string(), format!("lease={lease}"));
            return Err(ParameterError::conflict("tx_timeout", value, &with, "a number of seconds below lease"));
        }
        let own = diameter::own_certificate(settings.diameter)?;
        let client = ClientConfig {
            servers: servers
                .iter()
                .map(|server| client_server(settings, own.as_ref(), server))
                .collect::<Result<_, _>>()?,
            user: first.user.clone(),
            password_file: first.password_file.clone(),
            database: first.database.clone(),
            application_name: APPLICATION.into(),
            allow_async: *accepts_async,
            connect_timeout: CONNECT_SECONDS,
            answer_timeout: tx_timeout,
        };
        Ok(Config {
            client,
            node: node::name(node.as_deref()),
            origin_host: settings.diameter.origin_host.clone(),
            lease: *lease,
            takeover: *takeover,
            tx_timeout,
            default_balance: settings.default_balance,
            low_balance: settings.low_balance,
        })
    }

    /// Reads the files that the parameters name.
    pub fn check_files(&self) -> Result<(), StartError> {
        if let Some(file) = &self.client.password_file {
            Password::load(file).map_err(StartError)?;
        }
        self.client.servers.iter().try_for_each(|server| {
            let loaded = server.tls.as_ref().map(|files| Tls::load(&server.address.host, files)).transpose();
            loaded.map(drop).map_err(|why| StartError(format!("PostgreSQL server {}: {why}", server.address)))
        })
    }
}

fn client_server(
    settings: &AllSettings<'_>,
    own: Option<&OwnCertificate>,
    server: &ServerSettings,
) -> Result<Server, ParameterError> {
    let ca = &settings.diameter.tls_ca;
    if server.tls && ca.as_os_str().is_empty() {
        return Err(ParameterError::missing("tls_ca", format!("the server {} without tls=off", server.address)));
    }
    let tls = server.tls.then(|| TlsConfig { ca: ca.clone(), own: own.cloned() });
    Ok(Server { address: server.address.clone(), tls })
}

/// All servers are copies of one database, with the same users.
fn check_same_database(first: &ServerSettings, other: &ServerSettings) -> Result<(), ParameterError> {
    let same = |server: &ServerSettings| (server.database.clone(), server.user.clone(), server.password_file.clone());
    if same(first) == same(other) {
        return Ok(());
    }
    let (value, with) = (format!("host={}", other.address.host), format!("host={}", first.address.host));
    let accepted = "servers of one database: with the same dbname, user and password_file";
    Err(ParameterError::conflict("postgres", value, &with, accepted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charge::tariff::Unit;
    use crate::enabler::diameter;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn server(text: &str) -> ServerSettings {
        text.parse().unwrap_or_else(|()| panic!("{text}"))
    }

    fn check(settings: &Settings, diameter: &diameter::Settings) -> Result<Config, ParameterError> {
        let unit = Unit::Message;
        Config::new(&AllSettings { default_balance: None, low_balance: None, unit, diameter, postgres: settings })
    }

    /// Name of the parameter that is wrong.
    fn wrong(settings: &Settings, diameter: &diameter::Settings) -> Option<&'static str> {
        check(settings, diameter).err().map(|error| error.name)
    }

    #[test]
    fn server_has_defaults_for_all_but_its_host() {
        let short = server("host=db1.example.org");
        assert_eq!(short, server("host=db1.example.org;port=5432;dbname=imcharge;user=imcharge;tls=verify"));
        assert_eq!(short.password_file, None);
        assert_eq!(server("host=2001:db8::1;port=6432").address.to_string(), "[2001:db8::1]:6432");
        for text in [
            "",
            "port=5432",
            "host=",
            "host=a b",
            "host=[::1]",
            "host=a;port=0",
            "host=a;port=65536",
            "host=a;dbname=",
            "host=a;user=a b",
            "host=a;password_file=relative",
            "host=a;tls=on",
            "host=a;color=red",
            "host",
        ] {
            assert_eq!(text.parse::<ServerSettings>(), Err(()), "{text}");
        }
    }

    #[test]
    fn check_names_the_parameter_that_is_missing_or_does_not_fit() {
        let mut diameter = diameter::Settings::default();
        let mut settings = Settings::default();
        assert_eq!(wrong(&settings, &diameter), Some("postgres"));
        settings.servers.push(server("host=db1"));
        assert_eq!(wrong(&settings, &diameter), Some("tls_ca"));
        diameter.tls_ca = "/ca.pem".into();
        assert_eq!(wrong(&settings, &diameter), None);
        settings.servers.push(server("host=db2;dbname=other"));
        assert_eq!(wrong(&settings, &diameter), Some("postgres"));
        settings.servers.pop();
        settings.lease = 10;
        assert_eq!(wrong(&settings, &diameter), Some("tx_timeout"));
        diameter.tx_timeout = 9;
        assert_eq!(wrong(&settings, &diameter), None);
    }

    #[test]
    fn unreadable_files_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        let settings = Settings {
            servers: vec![server(&format!("host=db1;tls=off;password_file={}", file.display()))],
            ..Settings::default()
        };
        let config = check(&settings, &diameter::Settings::default()).expect("valid settings");
        let refused = config.check_files().expect_err("there is no file").to_string();
        assert!(refused.contains(&file.display().to_string()), "{refused}");
        fs::write(&file, "secret\n").expect("a file");
        fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("its permissions");
        assert_eq!(config.check_files(), Ok(()));
        let with_tls = Settings { servers: vec![server("host=db1.example.org")], ..Settings::default() };
        let diameter = diameter::Settings { tls_ca: "/nonexistent/ca.pem".into(), ..diameter::Settings::default() };
        let refused =
            check(&with_tls, &diameter).expect("valid settings").check_files().expect_err("no CA").to_string();
        assert!(refused.contains("db1.example.org:5432") && refused.contains("/nonexistent/ca.pem"), "{refused}");
    }
}
