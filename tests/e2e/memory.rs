//! The whole proxy under valgrind's memcheck: the module accesses no foreign and no uninitialised memory. Only memory from
//! malloc is checked, which the module uses; memcheck does not see into the pools of the host.

use super::diameter::Charged;
use super::{ALICE, Stage};
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::Setup;
use std::path::Path;

/// Runs the proxy under memcheck, with one log file per process.
fn checked(setup: Setup, folder: &Path) -> Setup {
    let log = format!("--log-file={}/%p", folder.display());
    let words = ["valgrind", "--tool=memcheck", "--trace-children=yes", "--leak-check=no", "--error-limit=no", &log];
    Setup { under: words.map(str::to_owned).into(), ..setup }
}

/// Returns the errors reported by memcheck that involve the module.
fn errors(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    let texts: Vec<String> = files.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    assert!(texts.len() > 10, "every process of the proxy is checked, not {}", texts.len());
    assert!(texts.iter().all(|text| text.contains("Memcheck, a memory error detector")));
    // Reports are separated by lines that contain only the process number.
    let blocks = texts.iter().flat_map(|text| text.split("== \n").map(str::to_owned).collect::<Vec<_>>());
    let ours = |block: &String| block.contains("   at 0x") && block.to_lowercase().contains("imcharge");
    blocks.filter(ours).collect()
}

/// Retrieves four messages: one is answered, one rejected, one times out, and one is without an answer at the BYE.
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
fn memcheck_reports_no_error_of_the_module_with_the_ledger() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stage = Stage::new(|setup| checked(setup, folder.path()));
    stage.proxy.set_account(ALICE, 100);
    retrieve(&stage);
    stage.expect(ALICE, 96, 0, 4);
    stage.proxy.terminate();
    assert_eq!(errors(folder.path()), [""; 0]);
}

#[test]
fn memcheck_reports_no_error_of_the_module_with_diameter() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut charged = Charged::new(&[], |setup| checked(setup, folder.path()));
    retrieve(&charged.stage);
    charged.expect(96, 0, 4);
    charged.expect_rest();
    charged.stage.proxy.terminate();
    assert_eq!(errors(folder.path()), [""; 0]);
}
