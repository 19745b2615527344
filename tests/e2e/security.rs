//! What the manual's chapter on security says, line by line.

use super::diameter::Charged;
use super::{ALICE, Stage};
use imcharge_testkit::parties::client::Reaction;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Mode of a file, as chmod takes it.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o7777
}

/// A retrieval of this text.
fn retrieve(stage: &Stage, text: &str) {
    let _server = stage.server(&[text], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    stage.until_debited(ALICE, 1);
    assert_eq!(client.bye(), 200);
}

#[test]
fn no_file_of_ours_is_open_to_others() {
    let stage = Stage::plain();
    retrieve(&stage, "one");
    let state = stage.proxy.state_dir();
    for name in ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "journal-a", "journal-b", "lock"] {
        assert_eq!(mode(&state.join(name)), 0o640, "{name}");
    }
    let process = fs::read_to_string(format!("/proc/{}/maps", stage.proxy.pid())).expect("its maps");
    let regions: Vec<&str> = process.split_whitespace().filter(|word| word.starts_with("/dev/shm/imcharge-")).collect();
    assert!(!regions.is_empty(), "{process}");
    for region in regions {
        assert_eq!(mode(Path::new(region)), 0o600, "{region}");
    }
}

#[test]
fn state_directory_open_to_others_is_logged() {
    for open_to in [0o750, 0o755, 0o701] {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(open_to)).expect("our own folder");
        let state = format!("\"state_dir\", \"{}\"", folder.path().display());
        let stage = Stage::new(|setup| setup.changed("\"state_dir\", STATE_DIR", &state));
        let log = stage.proxy.log();
        let logged = log.contains("is accessible to every user of this machine");
        assert_eq!(logged, open_to & 0o007 != 0, "{open_to:o}\n{log}");
    }
}

/// Secrets that must not appear in a log: the content of a message, the answer to a challenge, and what a charging system sends
/// when it has gone mad.
const SECRETS: [&str; 3] = ["the-treasure-is-under-the-oak", "6629fae49393a05397450978507c4ef1", "GARBAGE"];

/// An Authorization header.
fn authorization() -> String {
    let [_, digest, _] = SECRETS;
    format!("Digest username=\"alice\", realm=\"r\", nonce=\"n\", uri=\"sip:r\", response=\"{digest}\"")
}

/// Makes the proxy see secrets: in a retrieval, in an AUTH, and in an invalid frame.
fn tempt(stage: &Stage) {
    let [content, ..] = SECRETS;
    let server = stage.server(&[content], |_| {});
    let mut client = stage.bound(|options| {
        options.headers.extend(["Authorization", "Proxy-Authorization"].map(|name| (name.to_owned(), authorization())));
    });
    client.take(1, Reaction::Answer(200));
    stage.until_debited(ALICE, 1);
    assert_eq!(client.bye(), 200);
    drop(server);
    let mut raw = std::net::TcpStream::connect(stage.proxy.msrp).expect("the relay takes a connection");
    let paths = "To-Path: msrp://im.example.org;tcp\r\nFrom-Path: msrp://c.example.org:9/c;tcp\r\n";
    let auth = format!("MSRP aut1 AUTH\r\n{paths}Authorization: {}\r\n-------aut1$\r\n", authorization());
    let bad = format!("MSRP bad1 SEND\r\nTo-Path: nonsense {content}\r\n\r\n{content}\r\n-------bad1$\r\n");
    for frame in [auth, bad] {
        std::io::Write::write_all(&mut raw, frame.as_bytes()).expect("sent");
    }
    // Until this is over, what came before is read as well.
    let _server = stage.server(&["two"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    stage.until_debited(ALICE, 2);
    client.bye();
}

/// Returns the length of the longest run of hexadecimal digits, whatever separates the octets.
fn hexadecimal(line: &str) -> usize {
    let digits: String = line.chars().filter(|letter| !" :,-".contains(*letter)).collect();
    digits.split(|letter: char| !letter.is_ascii_hexdigit()).map(str::len).max().unwrap_or(0)
}

/// Splits a log into the module's messages with their lines: the first line of a message has the process before it, as
/// in `12(345) INFO: imcharge: `.
fn ours(log: &str) -> Vec<Vec<&str>> {
    let begins = |line: &str| {
        let number = |text: &str| text.trim_start().parse::<u32>().is_ok();
        line.split_once('(')
            .is_some_and(|(process, rest)| number(process) && rest.split(')').next().is_some_and(number))
    };
    let mut said: Vec<Vec<&str>> = Vec::new();
    for line in log.lines() {
        match said.last_mut().filter(|_| !begins(line)) {
            Some(last) => last.push(line),
            None => said.push(vec![line]),
        }
    }
    said.retain(|lines| lines[0].contains("imcharge"));
    said
}

/// The module's own lines have no secret, and no octets as they came.
#[track_caller]
fn expect_silence(log: &str) {
    // No name in a line has as many digits as 32 octets.
    let is_leak = |line: &&str| {
        let printable = line.chars().all(|letter| !letter.is_control() && letter != char::REPLACEMENT_CHARACTER);
        !printable || hexadecimal(line) >= 64 || SECRETS.iter().any(|secret| line.contains(secret))
    };
    let ours = ours(log);
    assert!(ours.iter().any(|lines| lines[0].contains(": imcharge: ")), "the module logs something");
    let leaks: Vec<&str> = ours.into_iter().flatten().filter(is_leak).collect();
    assert!(leaks.is_empty(), "{leaks:?}");
}

#[test]
fn log_lines_contain_no_message_content_at_any_level() {
    let stage = Stage::new(|setup| setup.changed("debug=2", "debug=4"));
    stage.proxy.set_account(ALICE, 100);
    tempt(&stage);
    expect_silence(&stage.proxy.log());
}

#[test]
fn log_lines_with_an_ocs_contain_no_content_and_no_packet() {
    let charged = Charged::new(&[], |setup| setup.changed("debug=2", "debug=4"));
    for fault in ["garbage on=update", "avp-length=beyond on=termination"] {
        charged.ocs.command(&format!("fault {fault} times=1"));
    }
    tempt(&charged.stage);
    charged.expect(98, 0, 2);
    charged.expect_rest();
    let log = charged.stage.proxy.log();
    for said in ["the stream is not Diameter", "INVALID_AVP_LENGTH"] {
        assert!(log.contains(said), "{said} is what it says of such an answer");
    }
    expect_silence(&log);
}
