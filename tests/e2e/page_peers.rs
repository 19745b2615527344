//! Page mode with parties that this project did not write: SIPp of Debian (package sip-tester) as sender and receiver, and
//! Kamailio's own msilo as the store.

use super::capture::Process;
use super::page::{impatient, paging};
use super::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::page::{PageReceiver, PageSender};
use imcharge_testkit::proxy::Setup;
use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// Scenario of a receiver that answers each MESSAGE with this status.
fn receiver(code: u16) -> String {
    format!(
        r#"<?xml version="1.0"?>
<scenario name="receiver">
  <recv request="MESSAGE" crlf="true"/>
  <send>
    <![CDATA[
      SIP/2.0 {code} Answer
      [last_Via:]
      [last_From:]
      [last_To:];tag=[call_number]
      [last_Call-ID:]
      [last_CSeq:]
      Content-Length: 0

    ]]>
  </send>
</scenario>
"#
    )
}

/// Scenario of a sender that expects this status.
fn sender(code: u16) -> String {
    format!(
        r#"<?xml version="1.0"?>
<scenario name="sender">
  <send retrans="500">
    <![CDATA[
      MESSAGE sip:bob@im.example.org SIP/2.0
      Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
      Max-Forwards: 70
      From: <{ALICE}>;tag=[pid]SIPpTag[call_number]
      To: <sip:bob@im.example.org>
      Call-ID: [call_id]
      CSeq: 1 MESSAGE
      P-Asserted-Identity: <{ALICE}>
      Content-Type: text/plain
      Content-Length: [len]

      hello from SIPp
    ]]>
  </send>
  <recv response="100" optional="true"/>
  <recv response="{code}"/>
</scenario>
"#
    )
}

/// Returns SIPp with this scenario, which it reads from the folder, on a port of loopback.
fn sipp(folder: &Path, name: &str, scenario: &str, port: u16) -> Command {
    let file = folder.join(format!("{name}.xml"));
    fs::write(&file, scenario).expect("written");
    let mut command = Command::new("sipp");
    command.current_dir(folder).arg("-sf").arg(file).args(["-i", "127.0.0.1", "-p", &port.to_string(), "-nostdin"]);
    command
}

/// Returns a port of loopback that is free for UDP and TCP: baresip listens on both.
pub fn free_port() -> u16 {
    let free = || {
        let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
        let address = socket.local_addr().ok()?;
        TcpListener::bind(address).ok().map(|_| address.port())
    };
    std::iter::repeat_with(free).take(100).flatten().next().expect("a free port")
}

#[test]
fn messages_between_two_sipps_are_charged() {
    const MESSAGES: i64 = 200;
    for (code, debited) in [(200, MESSAGES), (202, MESSAGES), (486, 0)] {
        let Stage { proxy, place } = Stage::new(|setup| setup);
        proxy.set_account(ALICE, 1000);
        let port = place.local_addr().expect("a bound socket has an address").port();
        drop(place);
        let folder = tempfile::tempdir().expect("a folder");
        let _receiver = Process::start(&mut sipp(folder.path(), "receiver", &receiver(code), port));
        let mut sends = sipp(folder.path(), "sender", &sender(code), free_port());
        sends.args(["-m", &MESSAGES.to_string(), "-r", "100", "-timeout", "60s", &proxy.sip.to_string()]);
        let result = sends.output().expect("sipp starts: install sip-tester");
        let report = String::from_utf8_lossy(&result.stdout).into_owned();
        assert!(result.status.success(), "{:?}\n{report}\n{}", result.status, proxy.log());
        let found = proxy.account_becomes(ALICE, 1000 - debited, 0, debited);
        assert_eq!(found.map(|account| account.debited), Some(debited), "{code}\n{}", proxy.log());
    }
}

/// Adds msilo with a store in files. MESSAGEs to `offline` are stored and answered 202; a REGISTER of that user delivers them
/// to the receiver.
fn with_store(setup: Setup, folder: &Path, receiver: SocketAddr) -> Setup {
    for table in ["silo", "version"] {
        let shipped = Path::new("/usr/share/kamailio/dbtext/kamailio").join(table);
        let text = fs::read_to_string(shipped).expect("the tables of Kamailio's package");
        // msilo leaves these empty.
        let text = text.replace("callid(string)", "callid(string,null)").replace("status(int)", "status(int,null)");
        fs::write(folder.join(table), text).expect("written");
    }
    let modules = format!(
        "loadmodule \"db_text.so\"\nloadmodule \"msilo.so\"\nmodparam(\"msilo\", \"db_url\", \"text://{}\")\n\
         modparam(\"msilo\", \"outbound_proxy\", \"sip:{receiver}\")\nmodparam(\"msilo\", \"add_date\", 0)\n\
         loadmodule \"imcharge.so\"",
        folder.display()
    );
    let registers = "    if (is_method(\"REGISTER\")) { m_dump(); sl_send_reply(\"200\", \"OK\"); exit; }\n";
    let stores = "        if ($rU == \"offline\") {\n            if (m_store()) t_reply(\"202\", \"Accepted\");\n            \
                  else t_reply(\"480\", \"Not stored\");\n            exit;\n        }\n";
    let granted = "route[MESSAGE_CHARGED] {\n    if ($imcharge(result) == \"granted\") {\n";
    let cancel = "    if (is_method(\"CANCEL\")) {";
    setup
        .changed("loadmodule \"imcharge.so\"", &modules)
        .changed(cancel, &format!("{registers}{cancel}"))
        .changed(granted, &format!("{granted}{stores}"))
}

#[test]
fn message_that_msilo_stores_is_charged_once_at_acceptance() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let stage = Stage::new(|setup| {
        let receiver = setup.server;
        with_store(impatient(setup), &path, receiver)
    });
    stage.proxy.set_account(ALICE, 100);
    let receiver = PageReceiver::start(&stage.place);
    let sender = PageSender::new(stage.proxy.sip, ALICE);
    assert_eq!(sender.text("sip:offline@im.example.org", "for later"), 202, "{}", stage.proxy.log());
    stage.expect(ALICE, 99, 0, 1);
    assert_eq!(receiver.count(), 0);
    let mut register = sender.message("sip:offline@im.example.org", "");
    register.start = "REGISTER sip:im.example.org SIP/2.0".into();
    for (name, value) in &mut register.headers {
        *value = match name.as_str() {
            "CSeq" => "1 REGISTER".into(),
            "From" => value.replace(ALICE, "sip:offline@im.example.org"),
            _ => continue,
        };
    }
    register.headers.retain(|(name, _)| name != "Content-Type");
    let register = register.with("Contact", format!("<sip:offline@{}>", receiver.address)).with("Expires", "300");
    assert_eq!(sender.request(&register, SOON), 200, "{}", stage.proxy.log());
    assert!(eventually(SOON, || !receiver.texts().is_empty()), "{}", stage.proxy.log());
    assert!(receiver.texts()[0].contains("for later"), "{:?}", receiver.texts());
    stage.expect(ALICE, 99, 0, 1);
    assert_eq!(stage.triggers(ALICE), ["response"]);
}

#[test]
fn message_that_cannot_be_stored_costs_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let (stage, _receiver, sender) = paging(|setup| {
        let receiver = setup.server;
        with_store(setup, &path, receiver).changed("if (m_store())", "if (m_store(\"not a uri\"))")
    });
    assert_eq!(sender.text("sip:offline@im.example.org", "for later"), 480, "{}", stage.proxy.log());
    stage.expect(ALICE, 100, 0, 0);
}
