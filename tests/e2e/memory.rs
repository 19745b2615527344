//! The whole proxy under valgrind's memcheck: no access of the module to memory that is not its own or not yet written.
//! The host takes its memory from its own pools, which memcheck does not look into; ours comes from malloc.

use super::diameter::Charged;
use super::{ALICE, Stage};
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::Setup;
use std::path::Path;

/// Runs Kamailio under memcheck; each process writes a separate file.
fn checked(setup: Setup, folder: &Path) -> Setup {
    let log = format!("--log-file={}/%p", folder.display());
    let words = ["valgrind", "--tool=memcheck", "--trace-children=yes", "--leak-check=no", "--error-limit=no", &log];
    Setup { under: words.map(str::to_owned).into(), ..setup }
}

/// Findings of memcheck that involve the module.
fn complaints(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    let texts: Vec<String> = files.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    assert!(texts.len() > 10, "every process of the proxy is checked, not {}", texts.len());
    assert!(texts.iter().all(|text| text.contains("Memcheck, a memory error detector")));
    // Blocks are separated by lines with nothing after the process number.
    let blocks = texts.iter().flat_map(|text| text.split("== \n").map(str::to_owned).collect::<Vec<_>>());
    let ours = |block: &String| block.contains("   at 0x") && block.to_lowercase().contains("imcharge");
    blocks.filter(ours).collect()
}

/// One message answered, one refused, one in silence, one left behind at the BYE.
fn retrieve(stage: &Stage) {
    let _server = stage.server(&["one", "two", "three", "four"], |_| {});
    let mut client = stage.bound(|_| {});
    for reaction in [Reaction::Answer(200), Reaction::Answer(415), Reaction::Silence, Reaction::Silence] {
        assert_eq!(client.take(1, reaction).len(), 1, "{}", stage.proxy.log());
    }
    client.bye();
    stage.until_debited(ALICE, 4);
}

#[test]
fn on_the_ledger_memcheck_has_nothing_against_us() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stage = Stage::new(|setup| checked(setup, folder.path()));
    stage.proxy.set_account(ALICE, 100);
    retrieve(&stage);
    stage.expect(ALICE, 96, 0, 4);
    stage.proxy.terminate();
    assert_eq!(complaints(folder.path()), [""; 0]);
}

#[test]
fn before_a_charging_system_memcheck_has_nothing_against_us() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut charged = Charged::new(&[], |setup| checked(setup, folder.path()));
    retrieve(&charged.stage);
    charged.expect(96, 0, 4);
    charged.expect_rest();
    charged.stage.proxy.terminate();
    assert_eq!(complaints(folder.path()), [""; 0]);
}
