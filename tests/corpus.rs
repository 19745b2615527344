//! Runs the files of `fuzz/corpus` through the checks of their fuzz targets, without a fuzzer, and random input of
//! proptest through the models of those checks.

// The C ABI is one of the targets.
#![cfg(feature = "capi")]

#[path = "../fuzz/checks/lib.rs"]
mod checks;
#[path = "corpus/conversations.rs"]
mod conversations;
#[path = "corpus/peers.rs"]
mod peers;

use imcharge::config::Config;
use imcharge::engine;
use imcharge::engine::preflight;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// The files of a target's corpus; at least one.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    let read = |file: PathBuf| fs::read(&file).map(|bytes| (file, bytes)).expect("a readable file");
    files.into_iter().map(read).collect()
}

fn replay(target: &str, check: fn(&[u8])) {
    for (file, bytes) in corpus(target) {
        let checked = std::panic::catch_unwind(|| check(&bytes));
        assert!(checked.is_ok(), "fails on {}", file.display());
    }
}

/// An engine that finds all these records in one ring, as if written by faulty workers, skips those that it cannot
/// decode, settles the sessions of the others, and stops normally.
#[test]
fn engine_survives_hostile_records() {
    let state = tempfile::tempdir().expect("a folder");
    let config = Config { state_dir: state.path().to_owned(), default_balance: Some(100), ..Config::default() };
    let region = preflight::create_region(config, 1).unwrap_or_else(|error| panic!("{error}"));
    let corpus = corpus("ring_contents");
    let records = corpus.iter().flat_map(|(_, bytes)| checks::ring_contents::records_of(bytes));
    let mut ring = region.event_producer(0).expect("not attached yet");
    let mut written = 0;
    for record in records {
        let fill = |space: &mut [u8]| space.get_mut(..record.len()).map(|space| space.copy_from_slice(record));
        if ring.write(0, |space| fill(space).map(|()| record.len())) == Ok(true) {
            ring.publish();
            written += 1;
        }
    }
    assert!(written > 50, "{written} records");
    engine::run(&region, &AtomicBool::new(true)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ring.used(), 0, "every record is read");
}

macro_rules! targets {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target), checks::$target::check);
            }
        )*

        /// The targets of cargo-fuzz and the folders of the corpus are exactly these.
        #[test]
        fn every_target_is_replayed() {
            let targets = [$(stringify!($target)),*];
            let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
            for (folder, ending) in [("corpus", ""), ("fuzz_targets", ".rs")] {
                let entries = fs::read_dir(fuzz.join(folder)).expect("a readable folder");
                let names = entries.map(|entry| entry.expect("a readable folder").file_name());
                let mut names: Vec<_> = names.map(|name| name.to_string_lossy().replace(ending, "")).collect();
                names.sort();
                let mut wanted = targets.map(str::to_owned);
                wanted.sort();
                assert_eq!(names, wanted, "{folder}");
            }
        }
    };
}

targets! {
    c_abi
    diameter_message
    diameter_peer
    postgres_client
    msrp_frame
    cpim
    rcs_file
    ring_contents
    sdp
    session_events
    sip_message
}
