//! Charging systems made with stacks that no one here wrote, and tshark over what goes between: the same retrieval is
//! charged, and the peers find no fault with the messages of the module.

use super::capture::{Capture, Judged, Process, free};
use super::raw::{self, RawClient};
use super::{ALICE, Stage, module};
use imcharge_testkit::certificates::Authority;
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::{Proxy, Setup};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// Folder of what `scripts/peers.sh` has made.
fn made() -> PathBuf {
    std::env::var_os("IMCHARGE_PEERS").expect("IMCHARGE_PEERS names no folder: run make test-all").into()
}

/// freeDiameter with its dictionaries of RFC 4006 and TS 32.299, and an extension that grants every request.
struct FreeDiameter {
    folder: tempfile::TempDir,
    _authority: Authority,
    _process: Process,
    address: SocketAddr,
}

impl FreeDiameter {
    fn start() -> FreeDiameter {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let authority = Authority::new();
        let (certificate, key) = authority.sign("ocs.example.com");
        let address = free();
        let extensions = Path::new("/usr/lib/freeDiameter");
        let stock = |name: &str| extensions.join(name).display().to_string();
        let files = [
            // The setting for peers without TLS.
            ("acl.conf", "ALLOW_IPSEC *.example.org\n".to_owned()),
            (
                "fd.conf",
                format!(
                    "Identity = \"ocs.example.com\";\nRealm = \"example.com\";\nPort = {};\nSecPort = 0;\nNo_SCTP;\n\
                     No_IPv6;\nTLS_Cred = \"{}\", \"{}\";\nTLS_CA = \"{}\";\n\
                     LoadExtension = \"{}\";\nLoadExtension = \"{}\";\nLoadExtension = \"{}\";\n\
                     LoadExtension = \"{}\" : \"{}\";\nLoadExtension = \"{}\" : \"0x8888\";\nLoadExtension = \"{}\";\n",
                    address.port(),
                    certificate.display(),
                    key.display(),
                    authority.ca().display(),
                    stock("dict_nasreq.fdx"),
                    stock("dict_dcca.fdx"),
                    stock("dict_dcca_3gpp.fdx"),
                    stock("acl_wl.fdx"),
                    path("acl.conf"),
                    stock("dbg_msg_dumps.fdx"),
                    made().join("freediameter_ocs.fdx").display(),
                ),
            ),
        ];
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("written");
        }
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let mut command = Command::new("freeDiameterd");
        command.arg("-c").arg(path("fd.conf")).stdout(log.try_clone().expect("a handle")).stderr(log);
        let started = FreeDiameter { _authority: authority, _process: Process::start(&mut command), address, folder };
        // A connection to look whether it listens would be a peer that is wrong.
        let listens = || started.log().contains("daemon initialized");
        assert!(eventually(SOON, listens), "{}", started.log());
        started
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// It has seen requests, and found nothing wrong with any.
    #[track_caller]
    fn assert_content(&self) {
        let log = self.log();
        // It logs ERR and NOTI lines for a message that does not parse or violates a rule of the dictionary.
        for bad in ["ERROR", "Unable to parse", "not parsed", "DIAMETER_INVALID", "DIAMETER_AVP_UNSUPPORTED"] {
            assert!(!log.contains(bad), "{bad}\n{log}");
        }
        assert!(log.contains("Credit-Control-Request") || log.contains("'Credit-Control"), "{log}");
    }
}

/// A charging system that prints its accounts on standard output when asked on standard input.
struct Scripted {
    _process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Scripted {
    /// `python_ocs.py`.
    fn python(account: &str) -> Scripted {
        let address = free();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/python_ocs.py");
        let mut command = Command::new(made().join("venv/bin/python"));
        command.arg(script).arg(address.port().to_string());
        Scripted::start(
            command.args(["ocs.example.com", "example.com", "proxy.example.org", "example.org", account]),
            address,
        )
    }

    /// `erlang_ocs.erl`, which takes what this profile may send and nothing else.
    fn erlang(balance: i64, profile: &str) -> Scripted {
        Scripted::erlang_at(free(), balance, profile)
    }

    fn erlang_at(address: SocketAddr, balance: i64, profile: &str) -> Scripted {
        let mut command = Command::new("erl");
        command.args(["-noshell", "-pa"]).arg(made()).args(["-run", "erlang_ocs", "main"]);
        command.arg(address.port().to_string());
        Scripted::start(
            command.args(["ocs.example.com", "example.com", profile, &format!("{ALICE}={balance}")]),
            address,
        )
    }

    fn start(command: &mut Command, address: SocketAddr) -> Scripted {
        let mut process = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let input = process.0.stdin.take().expect("piped");
        let output = BufReader::new(process.0.stdout.take().expect("piped"));
        let mut started = Scripted { _process: process, input, output, address };
        assert_eq!(started.line(), "ready");
        started
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        let length = self.output.read_line(&mut line).expect("it speaks");
        assert!(length > 0, "it has ended");
        line.trim_end().to_owned()
    }

    /// Returns its account, followed by its complaints about messages.
    fn accounts(&mut self) -> Vec<String> {
        self.input.write_all(b"accounts\n").expect("it reads");
        std::iter::repeat_with(|| self.line()).take_while(|line| line != "ok").collect()
    }

    /// Waits until it reports exactly this account and no complaint; otherwise returns its last output.
    fn becomes(&mut self, balance: i64, debited: i64) -> Result<(), Vec<String>> {
        let wanted = [format!("account={ALICE} balance={balance} held=0 debited={debited}")];
        let mut found = Vec::new();
        eventually(SOON, || {
            found = self.accounts();
            found == wanted
        });
        if found == wanted { Ok(()) } else { Err(found) }
    }
}

/// Another stock Kamailio as the charging system, with cdp and this configuration.
struct OtherKamailio {
    proxy: Proxy,
    _folder: tempfile::TempDir,
    address: SocketAddr,
}

impl OtherKamailio {
    fn start(config: &str) -> OtherKamailio {
        let (folder, address) = (tempfile::tempdir().expect("a folder"), free());
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
        let text = fs::read_to_string(peers.join("cdp.xml")).expect("it is there");
        let xml = folder.path().join("cdp.xml");
        fs::write(&xml, text.replace("PORT", &address.port().to_string())).expect("written");
        let setup = Setup { config: peers.join(config), ..Setup::new(&module(), address) };
        let setup = setup.defined("CDP_CONFIG", format!("\"{}\"", xml.display()));
        let proxy = Proxy::start(setup).unwrap_or_else(|error| panic!("{error}"));
        OtherKamailio { proxy, _folder: folder, address }
    }

    /// What its script has logged about requests, in their order.
    fn logged(&self) -> Vec<String> {
        let log = self.proxy.log();
        let logged = log.lines().filter_map(|line| line.split_once("<script>: ocs: "));
        logged.map(|(_, text)| text.to_owned()).collect()
    }
}

/// A proxy before this charging system.
fn stage(address: SocketAddr, profile: &str) -> Stage {
    let stage = changed_stage(address, profile, |setup| setup);
    until_open(&stage);
    stage
}

fn until_open(stage: &Stage) {
    let open = || stage.proxy.rpc(&["imcharge.peers"]).is_ok_and(|peers| peers.contains("state: OKAY"));
    assert!(eventually(SOON, open), "{}", stage.proxy.log());
}

/// The same, changed as the case wants, and not waited for.
fn changed_stage(address: SocketAddr, profile: &str, change: impl FnOnce(Setup) -> Setup) -> Stage {
    let peer = format!("\"host=ocs.example.com;address={address}\"");
    Stage::new(|setup| {
        let setup = setup.defined("WITH_DIAMETER", "1").defined("OCS_PEER", peer);
        change(setup.defined("OCS_PROFILE", format!("\"{profile}\"")).parameter("service_identifier", "7"))
    })
}

/// Two messages, one answered 200 and one never; then BYE.
fn retrieve(stage: &Stage) {
    let _server = stage.server(&["one", "two"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    client.take(1, Reaction::Silence);
    stage.until_debited(ALICE, 2);
    client.bye();
    let rests = || stage.proxy.statistic("sessions_active") == 0 && stage.proxy.statistic("outbox_depth") == 0;
    assert!(eventually(SOON, rests), "{}", stage.proxy.log());
    assert_eq!(stage.triggers(ALICE), ["response", "timeout"]);
}

#[test]
fn freediameter_parses_every_message_without_complaint() {
    for profile in ["rfc8506", "3gpp-ro"] {
        let server = FreeDiameter::start();
        let capture = Capture::start(server.address.port());
        let stage = stage(server.address, profile);
        retrieve(&stage);
        drop(stage);
        server.assert_content();
        assert_eq!(capture.complaints(), [""; 0], "{profile}");
    }
}

#[test]
fn freediameter_parses_debits_and_refunds_without_a_reservation_in_units_of_each_kind() {
    for (unit, tariff) in [("message", "message:1"), ("octets", "kilobyte:1"), ("money", "message:3")] {
        for profile in ["rfc8506", "3gpp-ro"] {
            let server = FreeDiameter::start();
            let capture = Capture::start(server.address.port());
            let stage = changed_stage(server.address, profile, |setup| {
                let setup = setup.defined("TARIFF", format!("\"{tariff}\"")).parameter("currency_code", "978");
                let setup = setup.parameter("model", "\"immediate\"").parameter("policy", "\"report=release\"");
                setup.parameter("unit", &format!("\"{unit}\"")).parameter("rating_group", "9")
            });
            until_open(&stage);
            let _messages = stage.server(&["one"], |_| {});
            let mut client = stage.bound(|_| {});
            let taken = client.take(1, Reaction::Answer(200));
            stage.until_debited(ALICE, 1);
            let (message_id, octets) = &taken[0];
            client.report(message_id, *octets, 415);
            let refunded = || stage.proxy.statistic("refunds") == 1;
            assert!(eventually(SOON, refunded), "{unit} {profile}\n{}", stage.proxy.log());
            client.bye();
            assert_eq!(stage.proxy.statistic("event_ccrs"), 2);
            drop(stage);
            server.assert_content();
            assert_eq!(capture.complaints(), [""; 0], "{unit} {profile}");
        }
    }
}

#[test]
fn tshark_decodes_the_requests_as_intended() {
    let server = FreeDiameter::start();
    let capture = Capture::start(server.address.port());
    let stage = stage(server.address, "3gpp-ro");
    retrieve(&stage);
    drop(stage);
    let filter = format!("tcp.dstport == {} && diameter.cmd.code == 272", server.address.port());
    let types = capture.read(&filter, &["diameter.CC-Request-Type", "diameter.CC-Request-Number"]);
    let types: Vec<&str> = types.lines().collect();
    assert_eq!(types, ["1\t0", "2\t1", "2\t2", "3\t3"]);
}

#[test]
fn tshark_reports_malformed_messages() {
    let server = Scripted::erlang(100, "rfc8506");
    let capture = Capture::start(server.address.port());
    let mut client = RawClient::connect(server.address);
    for (wrong, ..) in raw::wrong_requests() {
        client.ask(&wrong);
    }
    let complaints = capture.complaints().join("\n");
    for word in ["Bad Unsigned32 Length (3)", "Unknown AVP 4000000"] {
        assert!(complaints.contains(word), "{word}: {complaints}");
    }
}

#[test]
fn python_diameter_keeps_the_account_to_the_last_unit() {
    for profile in ["rfc8506", "3gpp-ro"] {
        let mut server = Scripted::python(&format!("{ALICE}=100"));
        let _judged = Judged::start(server.address.port());
        let stage = stage(server.address, profile);
        retrieve(&stage);
        assert_eq!(server.becomes(98, 2), Ok(()), "{profile}");
    }
}

#[test]
fn erlang_finds_no_rule_of_the_grammar_broken_and_keeps_the_account_to_the_last_unit() {
    for profile in ["rfc8506", "3gpp-ro"] {
        let mut server = Scripted::erlang(100, profile);
        let capture = Capture::start(server.address.port());
        let stage = stage(server.address, profile);
        retrieve(&stage);
        assert_eq!(server.becomes(98, 2), Ok(()), "{profile}");
        drop(stage);
        // The stack keeps what it finds in a message of the base protocol to itself, but for the answer.
        let answers = format!("tcp.srcport == {} && diameter.flags.request == 0", server.address.port());
        let results = capture.read(&answers, &["diameter.Result-Code"]);
        assert!(
            !results.is_empty() && results.split_terminator(['\n', ',']).all(|result| result == "2001"),
            "{profile}: {results}"
        );
    }
}

#[test]
fn erlang_takes_units_of_each_kind() {
    for (unit, tariff, debited) in [("octets", "kilobyte:1", 6), ("money", "message:3", 6)] {
        for profile in ["rfc8506", "3gpp-ro"] {
            let mut server = Scripted::erlang(100_000, profile);
            let _judged = Judged::start(server.address.port());
            let stage = changed_stage(server.address, profile, |setup| {
                let setup = setup.defined("TARIFF", format!("\"{tariff}\"")).parameter("currency_code", "978");
                setup.parameter("unit", &format!("\"{unit}\"")).parameter("rating_group", "9")
            });
            until_open(&stage);
            retrieve(&stage);
            assert_eq!(server.becomes(100_000 - debited, debited), Ok(()), "{unit} {profile}");
        }
    }
}

#[test]
fn erlang_takes_the_debits_of_what_was_granted_without_it() {
    for profile in ["rfc8506", "3gpp-ro"] {
        let address = free();
        let _judged = Judged::start(address.port());
        let stage = changed_stage(address, profile, |setup| setup.parameter("on_failure", "\"grant\""));
        let _messages = stage.server(&["one"], |_| {});
        let mut client = stage.bound(|_| {});
        client.take(1, Reaction::Answer(200));
        client.bye();
        let mut server = Scripted::erlang_at(address, 100, profile);
        assert_eq!(server.becomes(99, 1), Ok(()), "{profile}\n{}", stage.proxy.log());
        assert!(stage.proxy.statistic("event_ccrs") > 0, "{profile}");
    }
}

#[test]
fn erlang_takes_no_message_that_breaks_a_rule() {
    let mut server = Scripted::erlang(100, "rfc8506");
    let mut client = RawClient::connect(server.address);
    let mut wanted = vec![format!("account={ALICE} balance=100 held=0 debited=0")];
    for (wrong, code, at) in raw::wrong_requests() {
        assert_eq!(client.ask(&wrong), code, "{at}");
        wanted.push(format!("violation={code} at={at}"));
    }
    assert_eq!(server.accounts(), wanted);
    assert_eq!(client.ask(&raw::right_request()), 2001);
}

#[test]
fn script_of_ims_diameter_server_grants_and_receives_every_debit() {
    let server = OtherKamailio::start("ims_diameter_server.cfg");
    let _judged = Judged::start(server.address.port());
    let stage = stage(server.address, "3gpp-ro");
    retrieve(&stage);
    assert_eq!(stage.proxy.debits(ALICE).len(), 2);
    let wanted = [
        "272 type 1 number 0 used none wanted 000000000000000a",
        "272 type 2 number 1 used 0000000000000001 wanted 0000000000000009",
        "272 type 2 number 2 used 0000000000000001 wanted 0000000000000008",
        "272 type 3 number 3 used 0000000000000000 wanted none",
    ];
    assert_eq!(server.logged(), wanted);
    assert_eq!(stage.proxy.statistic("ccr_answers"), 4);
}

/// ims_ocs can answer with no unit but CC-Time (`ocs_build_answer`), whatever the script decides: no unit can be granted
/// messages there, and an EVENT_REQUEST ends it (`process_ccr` continues with the message that `faked_aaa_msg` did not
/// make). What is left is that a grant of seconds is worth nothing and is given back, and that the script's other
/// decisions are understood.
#[test]
fn ims_ocs_grants_seconds_and_those_buy_no_messages() {
    let server = OtherKamailio::start("ims_ocs.cfg");
    let _judged = Judged::start(server.address.port());
    let stage = stage(server.address, "3gpp-ro");
    let _server = stage.server(&["one"], |_| {});
    let line = |method: &str, who: &str| format!("{method} by {who} for sip:deferred@im.example.org, service 7");
    let [broke, free] = ["sip:broke@example.org", "sip:free@example.org"];
    let mut wanted = Vec::new();
    // Of ten messages not one, and then of one not one.
    for (who, methods) in [(ALICE, ["INVITE", "BYE"]), (broke, ["INVITE", "INVITE"])] {
        let mut client = stage.client(who, |_| {});
        assert_eq!(client.invite(), 402, "{who}\n{}", stage.proxy.log());
        assert!(stage.proxy.log().contains(&format!("{} refused: no-credit", client.call_id)));
        wanted.extend(methods.map(|method| line(method, who)));
        assert!(eventually(SOON, || server.logged() == wanted), "{:?}", server.logged());
    }
    let mut client = stage.client(free, |_| {});
    assert_eq!(client.invite(), 200, "{}", stage.proxy.log());
    client.bind();
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
    client.bye();
    let rests = || stage.proxy.statistic("sessions_active") == 0 && stage.proxy.statistic("outbox_depth") == 0;
    assert!(eventually(SOON, rests), "{}", stage.proxy.log());
    wanted.push(line("INVITE", free));
    assert_eq!(server.logged(), wanted);
    assert_eq!(stage.proxy.count("SELECT count(*) FROM debits"), 0);
}
