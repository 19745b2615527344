//! Tests of the Debian package: installed into a Debian with the stock Kamailio, run as the user of the service, upgraded while
//! the ledger is open, removed and purged.
//!
//! `make test` makes the package, a second one of a later revision, and the small Debian that they are installed into.

use imcharge_testkit::parties::client::{ImClient, Options as ClientOptions, Reaction};
use imcharge_testkit::parties::server::{ImServer, Options as ServerOptions};
use imcharge_testkit::{Events, eventually, send_signal};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const NAME: &str = "kamailio-imcharge-module";

/// Folder of the shipped configurations.
const EXAMPLES: &str = "/usr/share/doc/kamailio-imcharge-module/examples";

const ALICE: &str = "sip:alice@example.org";

/// The folder that the unit of the service creates before it starts the proxy.
const RUN: &str = "/run/kamailio";

fn wanted(variable: &str) -> PathBuf {
    let value = std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: run make test"));
    PathBuf::from(value)
}

/// A small Debian in a folder.
struct Debian {
    root: PathBuf,
}

impl Debian {
    /// Removes the package and leftovers of an earlier test.
    fn clean() -> Debian {
        let debian = Debian { root: wanted("IMCHARGE_DEBIAN_ROOT") };
        let _ = debian.run(&["dpkg", "--purge", NAME]);
        debian
    }

    /// Runs a command in it. Returns its output, or its error.
    fn run(&self, words: &[&str]) -> Result<String, String> {
        let run = Command::new("chroot").arg(&self.root).args(words).output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        if run.status.success() { Ok(text.into_owned()) } else { Err(format!("{words:?}: {text}")) }
    }

    #[track_caller]
    fn must(&self, words: &[&str]) -> String {
        self.run(words).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Installs a package file.
    #[track_caller]
    fn install(&self, package: &Path) {
        std::fs::copy(package, self.root.join("tmp/imcharge.deb")).expect("the package can be copied");
        self.must(&["dpkg", "-i", "/tmp/imcharge.deb"]);
    }

    fn has(&self, path: &str) -> bool {
        self.root.join(path.trim_start_matches('/')).exists()
    }

    /// Returns mode and owner of a file, like `750 kamailio:kamailio`.
    #[track_caller]
    fn mode(&self, path: &str) -> String {
        self.must(&["stat", "-c", "%a %U:%G", path]).trim().to_owned()
    }
}

/// The stock Kamailio of a small Debian, started like its service: as its user, with the installed module and the shipped
/// configuration.
struct Proxy<'a> {
    debian: &'a Debian,
    child: Child,
    sip: SocketAddr,
    msrp: SocketAddr,
    place: UdpSocket,
}

impl<'a> Proxy<'a> {
    /// Starts it with one of the installed configurations, with changed addresses.
    fn start(debian: &'a Debian, config: &str) -> Proxy<'a> {
        debian.must(&["install", "-d", "-m", "770", "-o", "kamailio", "-g", "kamailio", RUN]);
        let place = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let sip = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let msrp = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let log = std::fs::File::create(debian.root.join("tmp/log")).expect("a log");
        // The mounts are this process's own: they go with it.
        let script = "mount -t proc proc \"$0/proc\" && mount -t tmpfs tmpfs \"$0/dev/shm\" && \
                      exec chroot --userspec=kamailio:kamailio \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(&debian.root).args(["/usr/sbin/kamailio", "-DD", "-E"]);
        command.args(["-P", "/run/kamailio/kamailio.pid", "-m", "64", "-M", "8"]);
        command.args(["-f", &format!("{EXAMPLES}/{config}")]);
        let server = place.local_addr().expect("bound");
        for (name, value) in [
            ("SIP_LISTEN", format!("udp:{sip}")),
            ("MSRP_LISTEN", format!("tcp:{msrp}")),
            ("IM_SERVER", format!("\"sip:{server}\"")),
            ("CTL_SOCKET", format!("\"unix:{RUN}/ctl\"")),
        ] {
            command.arg("-A").arg(format!("{name}={value}"));
        }
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let child = command.spawn().expect("unshare runs");
        let proxy = Proxy { debian, child, sip, msrp, place };
        let serves = eventually(Duration::from_secs(20), || proxy.rpc(&["core.version"]).is_ok());
        assert!(serves, "{}", proxy.log());
        proxy
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.debian.root.join("tmp/log")).unwrap_or_default()
    }

    fn rpc(&self, words: &[&str]) -> Result<String, String> {
        let socket = format!("unix:{RUN}/ctl");
        let text = self.debian.run(&[&["kamcmd", "-s", &socket], words].concat())?;
        if text.starts_with("error") { Err(text) } else { Ok(text) }
    }

    /// Starts an IM server with these messages.
    fn server(&self, texts: &[&str]) -> ImServer {
        let options = ServerOptions::new(self.msrp, texts);
        ImServer::start(&self.place, options, Events::default()).expect("a server on a free port")
    }

    /// Starts a session of Alice.
    fn client(&self) -> ImClient {
        let options = ClientOptions::new(self.sip, self.msrp, ALICE);
        let mut client = ImClient::new(options, Events::default()).expect("the relay takes a connection");
        assert_eq!(client.invite(), 200, "{}", self.log());
        client.bind();
        client
    }

    /// Waits until Alice's account has these values.
    #[track_caller]
    fn expect(&self, balance: i64, held: i64, debited: i64) {
        let mut found = String::new();
        let wanted = [format!("balance: {balance}"), format!("held: {held}"), format!("debited: {debited}")];
        let right = eventually(Duration::from_secs(15), || {
            found = self.rpc(&["imcharge.account.get", ALICE]).unwrap_or_else(|error| error);
            wanted.iter().all(|line| found.lines().any(|found| found.trim() == line))
        });
        assert!(right, "{wanted:?}: {found}\n{}", self.log());
    }

    /// Ends it like its service: SIGTERM to all its processes.
    fn stop(mut self) {
        send_signal("TERM", -i64::from(self.child.id()));
        let ended = eventually(Duration::from_secs(10), || self.child.try_wait().ok().flatten().is_some());
        assert!(ended, "it does not end\n{}", self.log());
    }
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            send_signal("KILL", -i64::from(self.child.id()));
            let _ = self.child.wait();
        }
    }
}

#[test]
fn installed_upgraded_over_an_open_ledger_removed_and_purged() {
    let (package, later) = (wanted("IMCHARGE_PACKAGE"), wanted("IMCHARGE_PACKAGE_LATER"));
    let debian = Debian::clean();
    debian.install(&package);
    assert_eq!(debian.mode("/var/lib/imcharge"), "750 kamailio:kamailio");
    let drop_in = "usr/lib/systemd/system/kamailio.service.d/imcharge.conf";
    let drop_in = std::fs::read_to_string(debian.root.join(drop_in)).expect("the drop-in");
    assert!(drop_in.contains("StateDirectory=imcharge\nStateDirectoryMode=0750"), "{drop_in}");

    for example in
        ["kamailio-lua.cfg", "kamailio.lua", "prometheus.yml", "imcharge-alerts.yml", "grafana-dashboard.json"]
    {
        assert!(debian.has(&format!("{EXAMPLES}/{example}")), "no {example}");
    }
    // The schema of the shared ledger, which operators run by this path.
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("kamailio-config/postgres/imcharge.sql");
    let installed = debian.root.join("usr/share/imcharge/imcharge.sql");
    assert_eq!(std::fs::read(installed).ok(), std::fs::read(schema).ok());

    let proxy = Proxy::start(&debian, "kamailio.cfg");
    proxy.rpc(&["imcharge.account.set", ALICE, "s:100"]).unwrap_or_else(|error| panic!("{error}"));
    let server = proxy.server(&["one", "two"]);
    let mut client = proxy.client();
    client.take(2, Reaction::Answer(200));
    // The script states no number of messages, so units are reserved ahead of need: here, all that the account has.
    proxy.expect(0, 98, 2);
    assert_eq!(client.bye(), 200);
    proxy.expect(98, 0, 2);
    assert_eq!(debian.mode("/var/lib/imcharge/ledger.sqlite"), "640 kamailio:kamailio");

    // An upgrade while a message is pending: the running proxy continues, and nothing is lost.
    let mut client = proxy.client();
    client.take(1, Reaction::Answer(200));
    proxy.expect(0, 97, 3);
    debian.install(&later);
    client.take(1, Reaction::Answer(415));
    proxy.expect(0, 96, 4);
    proxy.stop();
    drop((server, client));

    let proxy = Proxy::start(&debian, "kamailio.cfg");
    proxy.expect(96, 0, 4);
    let _server = proxy.server(&["one"]);
    let mut client = proxy.client();
    client.take(1, Reaction::Answer(200));
    proxy.expect(0, 95, 5);
    client.bye();
    proxy.expect(95, 0, 5);
    proxy.stop();

    // The ledger is money: it stays when the package is removed, and goes when that is said twice.
    let files = debian.must(&["dpkg", "-L", NAME]);
    debian.must(&["dpkg", "--remove", NAME]);
    assert!(debian.has("/var/lib/imcharge/ledger.sqlite"));
    let left: Vec<&str> = files.lines().filter(|file| file.contains("imcharge") && debian.has(file)).collect();
    assert!(left.is_empty(), "{left:?}");
    debian.install(&later);
    let proxy = Proxy::start(&debian, "kamailio.cfg");
    proxy.expect(95, 0, 5);
    proxy.stop();
    debian.must(&["dpkg", "--purge", NAME]);
    assert!(!debian.has("/var/lib/imcharge"));
}

/// With what its first lines require: the package kamailio-lua-modules, and the script in its place.
#[test]
fn the_configuration_in_lua_runs_as_it_is() {
    let debian = Debian::clean();
    debian.install(&wanted("IMCHARGE_PACKAGE"));
    debian.must(&["install", "-m", "644", &format!("{EXAMPLES}/kamailio.lua"), "/etc/kamailio/"]);
    let proxy = Proxy::start(&debian, "kamailio-lua.cfg");
    proxy.rpc(&["imcharge.account.set", ALICE, "s:100"]).unwrap_or_else(|error| panic!("{error}"));
    let _server = proxy.server(&["one", "two"]);
    let mut client = proxy.client();
    assert_eq!(client.take(2, Reaction::Answer(200)).len(), 2, "{}", proxy.log());
    proxy.expect(0, 98, 2);
    assert_eq!(client.bye(), 200);
    proxy.expect(98, 0, 2);
    proxy.stop();
}

#[test]
fn lintian_reports_nothing() {
    let judged = Command::new("lintian").args(["--fail-on", "error"]).arg(wanted("IMCHARGE_PACKAGE")).output();
    let judged = judged.expect("lintian runs");
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));
}

#[test]
fn it_fits_one_version_of_kamailio_and_says_so() {
    let read = |field: &str| {
        let run = Command::new("dpkg-deb").arg("--field").arg(wanted("IMCHARGE_PACKAGE")).arg(field).output();
        String::from_utf8(run.expect("dpkg-deb runs").stdout).expect("text").trim().to_owned()
    };
    let debian = Debian { root: wanted("IMCHARGE_DEBIAN_ROOT") };
    let kamailio = debian.must(&["dpkg-query", "-W", "-f", "${Version}", "kamailio"]);
    assert!(
        read("Depends").split(", ").any(|needed| needed == format!("kamailio (= {kamailio})")),
        "{}",
        read("Depends")
    );
    assert!(read("Version").ends_with(&format!("+kamailio{kamailio}")), "{}", read("Version"));
}
