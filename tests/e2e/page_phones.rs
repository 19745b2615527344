//! Page mode between phones that this project did not write: baresip and Linphone of Debian (packages baresip-core and
//! linphone-cli), as senders and receivers of real MESSAGEs.

use super::capture::Process;
use super::page_peers::free_port;
use super::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::page::{PageReceiver, PageSender};
use imcharge_testkit::proxy::Setup;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
const BOB: &str = "sip:bob@example.org";

/// The shipped configuration with what a registrar would do: it accepts every REGISTER, and sends MESSAGEs for these users to
/// these ports of loopback; all others go to the IM server. The phones assert no identity, so From pays.
fn between(setup: Setup, phones: &[(&str, u16)]) -> Setup {
    let registers = "    if (is_method(\"REGISTER\")) {\n        append_to_reply(\"Contact: $ct;expires=600\\r\\n\");\n        \
                     sl_send_reply(\"200\", \"OK\");\n        exit;\n    }\n";
    let cancel = "    if (is_method(\"CANCEL\")) {";
    let routed = "    if (is_method(\"MESSAGE\")) {\n        $du = IM_SERVER;\n";
    // The phones write the proxy into a Route header.
    let located = phones.iter().fold(format!("{routed}        remove_hf(\"Route\");\n"), |script, (user, port)| {
        script + &format!("        if ($rU == \"{user}\") $du = \"sip:127.0.0.1:{port}\";\n")
    });
    setup.parameter("subscriber", "\"from\"").changed(cancel, &format!("{registers}{cancel}")).changed(routed, &located)
}

fn is_settled(stage: &Stage) -> bool {
    eventually(SOON, || stage.proxy.statistic("sessions_active") == 0)
}

/// A running baresip, controlled by its module ctrl_tcp.
struct Baresip {
    _process: Process,
    _folder: tempfile::TempDir,
    control: TcpStream,
}

impl Baresip {
    /// Starts one that is this user at this port, and knows these contacts.
    fn start(user: &str, port: u16, proxy: SocketAddr, contacts: &[&str]) -> Baresip {
        let folder = tempfile::tempdir().expect("a folder");
        let control = super::capture::free();
        let modules = ["account", "contact", "menu", "ctrl_tcp"].map(|name| format!("module_app {name}.so\n")).concat();
        let contacts: String = contacts.iter().map(|user| format!("\"{user}\" <sip:{user}@example.org>\n")).collect();
        for (name, text) in [
            (
                "config",
                format!(
                    "poll_method epoll\nsip_listen 127.0.0.1:{port}\nmodule_path /usr/lib/baresip/modules\n{modules}ctrl_tcp_listen {control}\n"
                ),
            ),
            ("accounts", format!("<sip:{user}@example.org>;regint=0;outbound=\"sip:{proxy}\"\n")),
            ("contacts", contacts),
        ] {
            fs::write(folder.path().join(name), text).expect("written");
        }
        let log = File::create(folder.path().join("log")).expect("a log");
        let mut command = Command::new("baresip");
        command
            .args(["-4", "-f"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log);
        let process = Process::start(&mut command);
        let mut connected = None;
        eventually(SOON, || {
            connected = TcpStream::connect(control).ok();
            connected.is_some()
        });
        let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        let control = connected.unwrap_or_else(|| panic!("baresip does not listen: install baresip-core\n{log}"));
        control.set_read_timeout(Some(SOON)).expect("a timeout");
        Baresip { _process: process, _folder: folder, control }
    }

    /// Runs a command. Returns the answer.
    fn run(&mut self, command: &str, parameters: &str) -> String {
        let text = format!("{{\"command\":\"{command}\",\"params\":\"{parameters}\",\"token\":\"{command}\"}}");
        self.control.write_all(format!("{}:{text},", text.len()).as_bytes()).expect("baresip reads");
        let (mut answer, mut octets) = (String::new(), [0; 4096]);
        while !answer.contains(&format!("\"token\":\"{command}\"")) {
            let count = self.control.read(&mut octets).expect("baresip answers");
            assert_ne!(count, 0, "baresip closes the connection: {answer}");
            answer += &String::from_utf8_lossy(&octets[..count]);
        }
        assert!(answer.contains("\"ok\":true"), "{command}: {answer}");
        answer
    }

    /// Sends a text to one of up to three contacts.
    fn text(&mut self, user: &str, text: &str) {
        // Neither command goes past the end of the list.
        for _ in 0..2 {
            self.run("contact_prev", "");
        }
        for _ in 0..3 {
            if self.run("contacts", "").contains(&format!("> {user} ")) {
                self.run("message", text);
                return;
            }
            self.run("contact_next", "");
        }
        panic!("{user} is no contact");
    }
}

#[test]
fn messages_between_two_baresips_are_charged_by_their_outcome() {
    let (alice_port, bob_port) = (free_port(), free_port());
    let stage = Stage::new(|setup| between(setup, &[("bob", bob_port), ("unknown", bob_port)]));
    stage.proxy.set_account(ALICE, 100);
    let others = PageReceiver::start(&stage.place);
    let mut alice = Baresip::start("alice", alice_port, stage.proxy.sip, &["bob", "unknown", "480"]);
    let _bob = Baresip::start("bob", bob_port, stage.proxy.sip, &[]);
    for (number, (user, debited)) in [("bob", 1), ("unknown", 1), ("480", 1), ("bob", 2)].into_iter().enumerate() {
        alice.text(user, "hello from baresip");
        let is_reserved = eventually(SOON, || stage.proxy.statistic("messages") == number as i64 + 1);
        assert!(is_reserved && is_settled(&stage), "{user}\n{}", stage.proxy.log());
        stage.expect(ALICE, 100 - debited, 0, debited);
    }
    assert_eq!(others.texts(), ["hello from baresip"]);
    assert_eq!(stage.triggers(ALICE), ["response", "response"]);
    // 404 of a baresip that has no such user, and 480.
    assert_eq!(stage.proxy.count("SELECT count(*) FROM undebited WHERE rule='not-delivered'"), 2);
}

#[test]
fn composing_indication_that_baresip_does_not_accept_is_free() {
    let bob_port = free_port();
    let stage = Stage::new(|setup| between(setup, &[("bob", bob_port)]));
    stage.proxy.set_account(ALICE, 100);
    let _bob = Baresip::start("bob", bob_port, stage.proxy.sip, &[]);
    let sender = PageSender::new(stage.proxy.sip, ALICE);
    let mut message = sender.message(BOB, "<isComposing/>");
    message.headers.retain(|(name, _)| name != "Content-Type");
    let message = message.with("Content-Type", "application/im-iscomposing+xml");
    assert_eq!(sender.request(&message, SOON), 415, "{}", stage.proxy.log());
    assert_eq!((stage.proxy.statistic("messages"), stage.proxy.statistic("messages_free")), (0, 1));
    stage.expect(ALICE, 100, 0, 0);
}

/// A running program on liblinphone, controlled over standard input.
struct Linphone {
    process: Process,
    folder: tempfile::TempDir,
}

impl Linphone {
    /// Starts linphone-daemon.
    fn daemon(user: &str, port: u16, proxy: SocketAddr) -> Linphone {
        let mut command = Command::new("linphone-daemon");
        command.arg("--config");
        Linphone::start(command, user, port, proxy)
    }

    /// Starts `linphone_party.py`.
    fn party(user: &str, port: u16, proxy: SocketAddr) -> Linphone {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/linphone_party.py"));
        let party = Linphone::start(command, user, port, proxy);
        assert!(party.prints("ready"), "install linphone-cli\n{}", party.output());
        party
    }

    /// Starts a program that takes a configuration as its last argument, and registers it.
    fn start(mut command: Command, user: &str, port: u16, proxy: SocketAddr) -> Linphone {
        let folder = tempfile::tempdir().expect("a folder");
        // Without a database, liblinphone 5.1 crashes at the first message.
        for name in [".local/share/linphone", ".config/linphone"] {
            fs::create_dir_all(folder.path().join(name)).expect("a folder");
        }
        let configuration = folder.path().join("linphonerc");
        let text = format!(
            "[sip]\nsip_port={port}\nsip_tcp_port=0\nsip_tls_port=0\ndefault_proxy=0\nguess_hostname=0\nuse_ipv6=0\n\
             [proxy_0]\nreg_proxy=<sip:{proxy}>\nreg_route=<sip:{proxy};lr>\nreg_identity=<sip:{user}@example.org>\n\
             reg_sendregister=1\nreg_expires=600\n"
        );
        fs::write(&configuration, text).expect("written");
        let output = File::create(folder.path().join("output")).expect("a file");
        command.arg(&configuration).env("HOME", folder.path()).stdin(Stdio::piped());
        command.stdout(output.try_clone().expect("a handle")).stderr(output);
        Linphone { process: Process::start(&mut command), folder }
    }

    fn run(&mut self, command: &str) {
        let input = self.process.0.stdin.as_mut().expect("piped");
        writeln!(input, "{command}").expect("it reads");
    }

    fn output(&self) -> String {
        let output: &Path = &self.folder.path().join("output");
        String::from_utf8_lossy(&fs::read(output).unwrap_or_default()).into_owned()
    }

    /// Waits until it has printed these words.
    fn prints(&self, words: &str) -> bool {
        eventually(SOON, || self.output().contains(words))
    }
}

#[test]
fn texts_between_two_linphones_are_charged_once() {
    let (alice_port, bob_port) = (free_port(), free_port());
    let stage = Stage::new(|setup| between(setup, &[("alice", alice_port), ("bob", bob_port)]));
    stage.proxy.set_account(ALICE, 100);
    let others = PageReceiver::start(&stage.place);
    let mut alice = Linphone::daemon("alice", alice_port, stage.proxy.sip);
    let bob = Linphone::daemon("bob", bob_port, stage.proxy.sip);
    let listens =
        |party: &Linphone| assert!(party.prints("daemon-linphone>"), "install linphone-cli\n{}", party.output());
    listens(&alice);
    listens(&bob);
    alice.run("message sip:bob@example.org hello from linphone");
    assert!(bob.prints("hello from linphone"), "{}\n{}", alice.output(), stage.proxy.log());
    assert!(alice.prints("LinphoneChatMessageStateDelivered"), "{}", alice.output());
    stage.expect(ALICE, 99, 0, 1);
    alice.run("message sip:480@example.org is anyone there");
    assert!(alice.prints("LinphoneChatMessageStateNotDelivered"), "{}", alice.output());
    assert!(is_settled(&stage), "{}", stage.proxy.log());
    stage.expect(ALICE, 99, 0, 1);
    assert_eq!((others.texts().len(), stage.proxy.statistic("messages")), (1, 2));
}

#[test]
fn notifications_of_linphone_are_free() {
    let (alice_port, bob_port) = (free_port(), free_port());
    let stage = Stage::new(|setup| between(setup, &[("alice", alice_port), ("bob", bob_port)]));
    for id in [ALICE, BOB] {
        stage.proxy.set_account(id, 10);
    }
    let mut alice = Linphone::party("alice", alice_port, stage.proxy.sip);
    let mut bob = Linphone::party("bob", bob_port, stage.proxy.sip);
    bob.run("open sip:alice@example.org");
    alice.run("compose sip:bob@example.org");
    assert!(bob.prints("composing"), "{}\n{}", alice.output(), stage.proxy.log());
    assert_eq!(stage.proxy.statistic("messages_free"), 1, "{}", stage.proxy.log());
    alice.run("text sip:bob@example.org hello in CPIM");
    assert!(bob.prints("received hello in CPIM"), "{}\n{}", alice.output(), stage.proxy.log());
    // Alice's own phone has got the notification.
    assert!(alice.prints("StateDisplayed"), "{}\n{}", alice.output(), stage.proxy.log());
    assert!(is_settled(&stage), "{}", stage.proxy.log());
    stage.expect(ALICE, 9, 0, 1);
    stage.expect(BOB, 10, 0, 0);
    let statistic = |name: &str| stage.proxy.statistic(name);
    assert_eq!((statistic("messages"), statistic("messages_unclassified")), (1, 0), "{}", stage.proxy.log());
    assert!(statistic("messages_free") >= 2, "{} free messages", statistic("messages_free"));
}
