//! What the manual's chapter on security says, line by line.

use super::parties::client::Reaction;
use super::{ALICE, Stage};
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
    let state = stage.kamailio.state_dir();
    for name in ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "lock"] {
        assert_eq!(mode(&state.join(name)), 0o640, "{name}");
    }
    let process = fs::read_to_string(format!("/proc/{}/maps", stage.kamailio.pid())).expect("its maps");
    let regions: Vec<&str> = process.split_whitespace().filter(|word| word.starts_with("/dev/shm/imcharge-")).collect();
    assert!(!regions.is_empty(), "{process}");
    for region in regions {
        assert_eq!(mode(Path::new(region)), 0o600, "{region}");
    }
}

#[test]
fn a_state_directory_that_is_open_to_others_is_told() {
    for open_to in [0o750, 0o755, 0o701] {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(open_to)).expect("our own folder");
        let state = format!("\"state_dir\", \"{}\"", folder.path().display());
        let stage = Stage::new(|setup| setup.changed("\"state_dir\", STATE_DIR", &state));
        let log = stage.kamailio.log();
        let told = log.contains("is open to every user of this machine");
        assert_eq!(told, open_to & 0o007 != 0, "{open_to:o}\n{log}");
    }
}

#[test]
fn nothing_of_a_message_is_in_our_log_lines_even_at_their_finest() {
    const SECRET: &str = "the-treasure-is-under-the-oak";
    let stage = Stage::new(|setup| setup.changed("debug=2", "debug=4"));
    stage.kamailio.set_account(ALICE, 100);
    retrieve(&stage, SECRET);
    // And what is no frame.
    let mut raw = std::net::TcpStream::connect(stage.kamailio.msrp).expect("the relay takes a connection");
    let bad = format!("MSRP bad1 SEND\r\nTo-Path: nonsense {SECRET}\r\n\r\n{SECRET}\r\n-------bad1$\r\n");
    std::io::Write::write_all(&mut raw, bad.as_bytes()).expect("sent");
    retrieve_again(&stage);
    let log = stage.kamailio.log();
    let ours: Vec<&str> = log.lines().filter(|line| line.contains("imcharge")).collect();
    assert!(!ours.is_empty(), "the module says something");
    let told: Vec<&&str> = ours.iter().filter(|line| line.contains(SECRET)).collect();
    assert!(told.is_empty(), "{told:?}");
}

/// Until this is over, what came before is read as well.
fn retrieve_again(stage: &Stage) {
    let _server = stage.server(&["two"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    stage.until_debited(ALICE, 2);
    client.bye();
}
